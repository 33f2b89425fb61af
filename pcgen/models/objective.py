"""The two ways to train one PointFlow: the paper's bound on the likelihood, and flow matching."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from pcgen.config import Settings
from pcgen.flows import (
    exact_coupling,
    flow_matching_error,
    kd_coupling,
    log_density,
    standard_normal_log_density,
    stratified_times,
)
from pcgen.models.draws import Generators, ShapeTrace, drawn

if TYPE_CHECKING:
    from pcgen.models.pointflow import PointFlow

__all__ = ["Loss", "ObjectiveConfig", "pointflow_loss"]


@dataclass(frozen=True)
class ObjectiveConfig(Settings):
    """What is minimised.

    ``likelihood``: − E log p(X|z) − E log p(z) − H[q(z|X)], sums over points and coordinates, means over the batch
    (PointFlow, eq. 9); an autoencoder has the first term alone. ``kinetic`` and ``jacobian`` weigh what the paths of
    points and of codes cost (Finlay et al. 2020, arXiv 2002.02798): flows that stay easy to solve as training goes on.

    ``flow_matching``: the mean squared error of the point flow's velocity on straight paths, the same of the
    latent flow's on codes detached from the encoder (or the codes collapse to please their prior), and
    ``kl_weight`` · KL(q(z|X) ‖ N(0, I)), which keeps the posterior at a scale.
    """

    name: Literal["flow_matching", "likelihood"] = "flow_matching"
    trace: Literal["hutchinson", "exact"] = "hutchinson"  # likelihood: the divergence while training
    noise: Literal["gaussian", "rademacher"] = "gaussian"  # likelihood: Hutchinson's
    kinetic: float = 0.0  # likelihood: nats per ∫ |dx/ds|² ds of a path, travelled in unit time
    jacobian: float = 0.0  # likelihood: nats per ∫ |∂(dx/ds)/∂x|²_F ds of a path
    kl_weight: float = 1e-4  # flow matching: weight of the posterior's divergence from N(0, I), in nats per shape
    coupling: Literal["kd", "exact", "independent"] = "kd"  # flow matching: which noise a point's path leads to
    times: int = 8  # flow matching: moments of the path per shape and step, its points dealt out among them
    prior_draws: int = 16  # flow matching: pairs of noise and moment for each code and step

    def __post_init__(self):
        super().__post_init__()
        if self.times < 1 or self.prior_draws < 1:
            raise ValueError(f"times and prior_draws must be at least 1, got {self.times} and {self.prior_draws}")
        for name in ("kl_weight", "kinetic", "jacobian"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


class Loss(NamedTuple):
    """What a model answers to a batch."""

    total: Tensor  # scalar, to be minimised
    terms: dict[str, Tensor]  # detached scalars that add up to the total


def pointflow_loss(
    model: PointFlow,
    x: Tensor,
    generator: Generators = None,
    prior_only: bool = False,
    condition: Tensor | None = None,
) -> Loss:
    """The objective of ``model`` on a batch of standardised clouds x (B, N, 3), which ``condition`` describes.

    With ``prior_only`` the encoder is taken as it is, and only the latent flow is trained on its codes.
    """
    config = model.config.objective
    context = None if model.condition is None else model.condition.training_context(condition, len(x), generator)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not prior_only):
        posterior = model.encoder(x)
        z = posterior.sample(_normal(posterior.mean.shape, generator, x))
    parts = _likelihood_terms if config.name == "likelihood" else _matching_terms
    terms = parts(model, config, x, posterior, z, generator, prior_only, context)
    return Loss(sum(terms.values()), {name: term.detach() for name, term in terms.items()})


def _normal(shape, generator: Generators, like: Tensor) -> Tensor:
    """Normal noise drawn on the CPU, so that a seed means the same on every device."""
    noise = drawn(lambda n, g: torch.randn(n, *shape[1:], generator=g, dtype=torch.float32), shape[0], generator)
    return noise.to(like)


@contextlib.contextmanager
def _naming(term: str) -> Iterator[None]:
    """A solver that gives up says for which term."""
    try:
        yield
    except ArithmeticError as error:
        raise ArithmeticError(f"the {term!r} term of the loss: {error}") from None


def _likelihood_terms(model, config, x, posterior, z, generator, prior_only, context) -> dict[str, Tensor]:
    trace = ShapeTrace(config.trace, config.noise, generator, energies=bool(config.kinetic or config.jacobian))
    terms, solved = {}, []
    if not prior_only:
        with _naming("points"):
            solved.append(log_density(model.point_flow, x, z, trace))
        terms["points"] = -solved[0].value.sum(1).mean()
    if prior_only or posterior.logvar is not None:  # an autoencoder's codes would be pulled into one point
        if model.latent_flow is None:
            terms["prior"] = -standard_normal_log_density(z).mean()
        else:
            with _naming("prior"):
                solved.append(log_density(model.latent_flow, z.unsqueeze(1), context, trace))
            terms["prior"] = -solved[-1].value.mean()
    if not prior_only and posterior.logvar is not None:
        terms["entropy"] = -0.5 * (posterior.logvar + 1 + math.log(2 * math.pi)).sum(1).mean()
    for name in ("kinetic", "jacobian"):
        if weight := getattr(config, name):
            terms[name] = weight * sum(getattr(each.energies, name).sum(1).mean() for each in solved)
    return terms


def _matching_terms(model, config, x, posterior, z, generator, prior_only, context) -> dict[str, Tensor]:
    terms = {}
    if not prior_only:
        terms["points"] = _point_matching(model, config, x, z, generator)
        if posterior.logvar is not None and config.kl_weight:
            mean, logvar = posterior
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
            terms["kl"] = config.kl_weight * kl
    if model.latent_flow is not None:
        codes = z.detach().unsqueeze(1).repeat_interleave(config.prior_draws, 0)  # (B·K, 1, Z)
        s = drawn(lambda n, g: stratified_times(n, config.prior_draws, g), len(z), generator).reshape(-1)
        noise = _normal(codes.shape, generator, x)
        context = None if context is None else context.repeat_interleave(config.prior_draws, 0)
        terms["prior"] = flow_matching_error(model.latent_flow, codes, context, noise, s).mean()
    return terms


def _point_matching(model, config, x, z, generator) -> Tensor:
    """Points are exchangeable, so each shape's cloud is dealt out among several moments of the path."""
    shapes, points, _ = x.shape
    times = next(k for k in range(min(config.times, points), 0, -1) if points % k == 0)
    s = drawn(lambda n, g: stratified_times(n, times, g), shapes, generator).reshape(-1)
    noise = _normal(x.shape, generator, x)
    if config.coupling != "independent":
        x, noise = {"kd": kd_coupling, "exact": exact_coupling}[config.coupling](x, noise)
        # A coupling may sort points by place, which must say nothing of the moment they are dealt to.
        shuffle = drawn(lambda n, g: torch.rand(n, points, generator=g), shapes, generator).argsort(1).to(x.device)
        x, noise = (v.gather(1, shuffle.unsqueeze(-1).expand_as(v)) for v in (x, noise))
    x, noise = (v.reshape(shapes * times, points // times, 3) for v in (x, noise))
    return flow_matching_error(model.point_flow, x, z.repeat_interleave(times, 0), noise, s).mean()
