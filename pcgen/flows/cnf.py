"""Continuous normalizing flows: a chain of norms and ODE blocks between data and a standard normal prior.

Raw time t runs over [0, T], data at 0 and prior at T, with T = ``sqrt_end_time``² as in PointFlow (Yang et al. 2019,
arXiv 1906.12320). Solvers see the unit interval, s = t / T, so that T is an ordinary parameter of the velocity.
Log-densities follow the instantaneous change of variables (Chen et al. 2018, arXiv 1806.07366),

    log p(x) = log N(y; 0, I) + ∫₀ᵀ Tr(∂f/∂x) dt + Σ log|det| of the norms,

with the trace exact, or estimated without bias by Hutchinson's e·(∂f/∂x)e (Grathwohl et al. 2019, arXiv 1810.01367).
The same solve gives, where asked, what a path costs (Finlay et al. 2020, arXiv 2002.02798), as it is travelled in unit
time: its kinetic energy ∫ |T f|² ds and its Jacobian's ∫ |T ∂f/∂x|²_F ds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pcgen.config import Settings
from pcgen.flows import fused
from pcgen.flows.layers import LayerName, Modulation, NonlinearityName, VelocityNet
from pcgen.flows.norm import MovingBatchNorm
from pcgen.flows.solver import Evaluations, SolverConfig, solve

__all__ = ["CNF", "Energies", "Flow", "FlowConfig", "Trace", "Transport", "divergence", "standard_normal_log_density"]


@dataclass(frozen=True)
class FlowConfig(Settings):
    """A flow of k blocks. The defaults are the paper's point flow; the latent flow has ``dims`` (256, 256)."""

    dims: tuple[int, ...] = (512, 512, 512)  # widths of the velocity network's hidden layers
    blocks: int = 1
    layer: LayerName = "concatsquash"
    nonlinearity: NonlinearityName = "tanh"
    time_length: float = 0.5  # T, or its first value where it trains
    train_time: bool = True
    norm: Literal["moving", "frozen", "none"] = "moving"  # before, between and after the blocks
    solver: SolverConfig = field(default_factory=SolverConfig)
    frequencies: int = 0  # octaves of Fourier features that the velocity sees beside a state; the paper has none

    def __post_init__(self):
        super().__post_init__()
        if not self.dims or min(self.dims) < 1:
            raise ValueError(f"dims must be positive layer widths, got {self.dims}")
        if self.blocks < 1:
            raise ValueError(f"blocks must be at least 1, got {self.blocks}")
        if self.frequencies < 0:
            raise ValueError(f"frequencies must not be negative, got {self.frequencies}")
        if not 0 < self.time_length < math.inf:
            raise ValueError(f"time_length must be positive and finite, got {self.time_length}")


class Trace(NamedTuple):
    """How Tr(∂f/∂x) is found: exactly, or by Hutchinson's estimate with this noise, drawn once per solve."""

    kind: Literal["exact", "hutchinson"] = "exact"
    noise: Literal["gaussian", "rademacher"] = "gaussian"
    generator: torch.Generator | None = None
    energies: bool = False  # integrate them along, the Jacobian's estimated where the trace is

    def directions(self, x: Tensor) -> Tensor | None:
        """Noise like x for Hutchinson (drawn on the CPU, the same for every device), None for the exact trace."""
        if self.kind == "exact":
            return None
        if self.noise == "gaussian":
            e = torch.randn(x.shape, generator=self.generator, dtype=torch.float32)
        else:
            e = torch.randint(0, 2, x.shape, generator=self.generator, dtype=torch.float32) * 2 - 1
        return e.to(x)


class Energies(NamedTuple):
    """What paths cost, summed over blocks."""

    kinetic: Tensor  # (B, N) ∫ |dx/ds|² ds over the unit of time
    jacobian: Tensor  # (B, N) ∫ |∂(dx/ds)/∂x|²_F ds, or an unbiased estimate of it


class Transport(NamedTuple):
    """States carried through a flow."""

    x: Tensor  # (B, N, D)
    log_det: Tensor | None  # (B, N) log |det ∂(prior)/∂(data)|; None where nobody asked for a density
    evaluations: int  # velocity evaluations, all blocks together
    energies: Energies | None = None  # where the trace asks for them


def standard_normal_log_density(y: Tensor) -> Tensor:
    """log N(y; 0, I) over the last axis.

    >>> round(float(standard_normal_log_density(torch.zeros(3))), 4)
    -2.7568
    """
    return -0.5 * (y * y).sum(-1) - 0.5 * y.shape[-1] * math.log(2 * math.pi)


def divergence(
    net: VelocityNet, t: Tensor, x: Tensor, modulation: Modulation, e: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Velocity (B, N, D) and its divergence (B, N): exact where ``e`` is None, else Hutchinson's e·Je."""
    v, div, _ = _differentials(net, t, x, modulation, e)
    return v, div


def _differentials(
    net: VelocityNet, t: Tensor, x: Tensor, modulation: Modulation, e: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Velocity, divergence, and the squared Frobenius norm of ∂f/∂x (B, N), or its estimate |Je|²."""
    dim = x.shape[-1]
    basis = torch.eye(dim, dtype=x.dtype, device=x.device).reshape(dim, 1, 1, dim) if e is None else e[None]
    if fused.pays(net, x):
        evaluate = fused.velocity if torch.is_grad_enabled() else fused.infer
        v, jv = evaluate(net, t, x, modulation, basis.expand(len(basis), *x.shape))
    else:
        v, jv = net.jvp(t, x, basis, modulation)  # jv[k, b, n, i] = ∂f_i/∂x_k
    div = jv.diagonal(dim1=0, dim2=-1).sum(-1) if e is None else (e * jv[0]).sum(-1)
    return v, div, jv.square().sum((0, -1))


class CNF(nn.Module):
    """One ODE block."""

    def __init__(self, dim: int, context: int, config: FlowConfig):
        super().__init__()
        self.net = VelocityNet(dim, config.dims, context, config.layer, config.nonlinearity, config.frequencies)
        end = torch.tensor(math.sqrt(config.time_length))
        if config.train_time:
            self.sqrt_end_time = nn.Parameter(end)
        else:
            self.register_buffer("sqrt_end_time", end)

    @property
    def end_time(self) -> Tensor:
        """T, a scalar."""
        return self.sqrt_end_time * self.sqrt_end_time

    def transport(
        self, x: Tensor, context: Tensor | None, solver: SolverConfig, trace: Trace | None, reverse: bool
    ) -> tuple[tuple[Tensor, ...], Evaluations]:
        """x (B, N, D) from 0 to T, or from T to 0 if ``reverse``.

        Returns:
            the state; with a trace also ∫₀ᵀ Tr dt, and with energies the kinetic and the Jacobian's, (B, N) each.
        """
        modulation, end = self.net.modulation(context), self.end_time
        depends_on = (*self.net.direct_parameters(), *modulation.tensors(), end)
        if trace is None:
            hidden = _hidden_type(solver, (x, *depends_on))

            def velocity(s: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                return (end * evaluate(self.net, s * end, state[0], modulation, hidden),)

            return solve(velocity, (x,), solver, reverse=reverse, parameters=depends_on)
        if solver.precision != "float32":
            raise ValueError(f"densities need precision 'float32', got {solver.precision!r}, which is for sampling")
        e = trace.directions(x)

        def differentials(s: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            v, div, squared = _differentials(self.net, s * end, state[0], modulation, e)
            if not trace.energies:
                return end * v, end * div
            return end * v, end * div, (end * v).square().sum(-1), end * end * squared

        sums = (x.new_zeros(x.shape[:-1]),) * (3 if trace.energies else 1)
        final, evaluations = solve(
            differentials, (x, *sums), solver, reverse=reverse, parameters=depends_on, controlled=2
        )
        return (final[0], *(-each if reverse else each for each in final[1:])), evaluations


def evaluate(
    net: VelocityNet, t: Tensor, x: Tensor, modulation: Modulation, hidden: torch.dtype | None = None
) -> Tensor:
    """``net``'s velocity (B, N, D) by the fastest way there is; ``hidden``: see :func:`pcgen.flows.fused.infer`."""
    if not fused.pays(net, x):
        return net(t, x, modulation) if hidden is None else net(t, x, modulation, hidden)
    if torch.is_grad_enabled():
        return fused.velocity(net, t, x, modulation, hidden=hidden)[0]
    return fused.infer(net, t, x, modulation, hidden=hidden)[0]


def _hidden_type(solver: SolverConfig, tensors: tuple[Tensor, ...]) -> torch.dtype | None:
    if solver.precision == "float32":
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        raise ValueError(f"gradients need precision 'float32', got {solver.precision!r}, which is for sampling")
    return torch.bfloat16


class Flow(nn.Module):
    """norm, (CNF, norm) × k: an invertible map between states (B, N, D) and a standard normal prior.

    The map acts on each of the N states of a shape alike, given the shape's context (B, C).

    >>> flow = Flow(3, context=4, config=FlowConfig(dims=(8,))).eval()
    >>> x, c = torch.randn(2, 5, 3), torch.randn(2, 4)
    >>> there = flow.to_prior(x, c, trace=Trace("exact"))
    >>> back = flow.from_prior(there.x, c)
    >>> torch.allclose(back.x, x, atol=1e-4), tuple(there.log_det.shape), back.log_det
    (True, (2, 5), None)
    """

    def __init__(self, dim: int, context: int, config: FlowConfig):
        super().__init__()
        self.dim, self.context, self.solver = dim, context, config.solver
        chain: list[nn.Module] = []
        for _ in range(config.blocks):
            chain.append(CNF(dim, context, config))
        if config.norm != "none":
            norms = [MovingBatchNorm(dim, frozen=config.norm == "frozen") for _ in range(config.blocks + 1)]
            chain = [norms[0], *(module for pair in zip(chain, norms[1:]) for module in pair)]
        self.chain = nn.ModuleList(chain)
        self.last_solves: tuple[Evaluations, ...] = ()

    def to_prior(
        self,
        x: Tensor,
        context: Tensor | None = None,
        trace: Trace | None = None,
        solver: SolverConfig | None = None,
    ) -> Transport:
        """Data to prior; a density only if ``trace`` says how. ``solver`` in place of the flow's own."""
        return self._carry(x, context, trace, solver or self.solver, reverse=False)

    def from_prior(
        self,
        y: Tensor,
        context: Tensor | None = None,
        trace: Trace | None = None,
        solver: SolverConfig | None = None,
    ) -> Transport:
        """Prior to data; ``log_det`` is that of the map data → prior all the same."""
        return self._carry(y, context, trace, solver or self.solver, reverse=True)

    def _carry(
        self, x: Tensor, context: Tensor | None, trace: Trace | None, solver: SolverConfig, reverse: bool
    ) -> Transport:
        if x.dim() != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"states must be (B, N, {self.dim}), got {tuple(x.shape)}")
        given = (len(x), 0) if context is None else tuple(context.shape)
        if given != (len(x), self.context):
            raise ValueError(f"the context must be {(len(x), self.context)}, got {given}")
        log_det, energies = (None if trace is None else x.new_zeros(x.shape[:-1])), None
        solves = []
        for module in reversed(self.chain) if reverse else self.chain:
            if isinstance(module, MovingBatchNorm):
                change = module.log_det()
                x = module.inverse(x) if reverse else module(x)
            else:
                (x, *integrals), evaluations = module.transport(x, context, solver, trace, reverse)
                solves.append(evaluations)
                change, *paths = integrals or (None,)
                if paths:
                    energies = Energies(*(map(torch.add, energies, paths) if energies else paths))
            if log_det is not None:
                log_det = log_det + change
        self.last_solves = tuple(solves)
        return Transport(x, log_det, sum(s.forward for s in solves), energies)

    def evaluations(self) -> tuple[int, int]:
        """Velocity evaluations of the latest call, forward and (once gradients were taken) backward."""
        return sum(s.forward for s in self.last_solves), sum(s.backward for s in self.last_solves)
