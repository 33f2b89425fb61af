"""What a flow is trained on: the likelihood of its data, or straight paths from data to noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.flows.cnf import Energies, Flow, Trace, evaluate, standard_normal_log_density
from pcgen.flows.norm import MovingBatchNorm

__all__ = ["LogDensity", "flow_matching_error", "log_density", "stratified_times"]


class LogDensity(NamedTuple):
    """States at the prior, and the log-density of where they came from."""

    y: Tensor  # (B, N, D)
    value: Tensor  # (B, N) log p of each state
    evaluations: int
    energies: Energies | None = None  # where the trace asks for them


def log_density(flow: Flow, x: Tensor, context: Tensor | None = None, trace: Trace | None = None) -> LogDensity:
    """log p(x) of each state x (B, N, D) given its shape's context (B, C); exact trace unless told otherwise."""
    y, log_det, evaluations, energies = flow.to_prior(x, context, trace or Trace("exact"))
    return LogDensity(y, standard_normal_log_density(y) + log_det, evaluations, energies)


def stratified_times(shapes: int, times: int, generator: torch.Generator | None = None) -> Tensor:
    """(shapes, times) moments of [0, 1]: one uniform draw in each of ``times`` equal intervals.

    Each is uniform on [0, 1] if picked at random, and together they cover the path evenly, which lowers the
    variance of a mean over them.
    """
    u = torch.rand(shapes, times, generator=generator)
    return (torch.arange(times) + u) / times


def flow_matching_error(
    flow: Flow, x: Tensor, context: Tensor | None, noise: Tensor, s: Tensor, hidden: torch.dtype | None = None
) -> Tensor:
    """Squared error (B, N, D) of the flow's velocity on straight paths (Lipman et al. 2022, arXiv 2210.02747).

    The path of a state is x_t = (1 − s) x + s ε at raw time t = sT, its velocity (ε − x) / T. Both are taken
    between the flow's end norms, and the error is that of T·f, so its size does not depend on T.

    Args:
        x: (B, N, D) data.
        context: (B, C) or None.
        noise: (B, N, D) the prior's draw that each state is joined to.
        s: (B,) moments in [0, 1], one per row.
        hidden: the type of the products between hidden layers, where it is not that of x.

    Raises:
        ValueError: the flow has more than one block, or norms that move or train while paths are drawn.
    """
    cnf, norms = _single_block(flow)
    if norms:
        x, noise = norms[0](x), norms[1].inverse(noise)
    s = s.to(x)
    weight = s[:, None, None]
    end = cnf.end_time
    velocity = evaluate(cnf.net, s * end, torch.lerp(x, noise, weight), cnf.net.modulation(context), hidden)
    return (end * velocity - (noise - x)).square()


def _single_block(flow: Flow):
    norms = [m for m in flow.chain if isinstance(m, MovingBatchNorm)]
    cnfs = [m for m in flow.chain if not isinstance(m, MovingBatchNorm)]
    if len(cnfs) != 1:
        raise ValueError(f"flow matching draws straight paths through one block, this flow has {len(cnfs)}")
    if not all(norm.frozen for norm in norms):
        raise ValueError("flow matching needs fixed ends: set the flow's norm to 'frozen' or 'none', not 'moving'")
    return cnfs[0], norms
