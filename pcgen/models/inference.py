"""Decoding and densities in pieces that fit in memory: any number of points, from any number of shapes."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pcgen.flows import FIXED_STEP, Replayed, SolverConfig, Trace, log_density
from pcgen.models.noise import point_noise, seed_of

if TYPE_CHECKING:
    from pcgen.models.pointflow import PointFlow

__all__ = [
    "Progress",
    "as_tensor",
    "at_least_one",
    "decode",
    "evaluating",
    "finite",
    "point_log_density",
    "shapes_per_solve",
    "trace_of",
]

Progress = Callable[[int, int], None]  # (points done, points in all)

# Points in one solve: bounds the memory of sampling and of exact densities (which carry three tangents).
POINTS_PER_SOLVE = 32_768
POINTS_PER_DENSITY = 8_192


def shapes_per_solve(points: int) -> int:
    """How many clouds of so many points :func:`decode` solves together."""
    return max(1, POINTS_PER_SOLVE // points)


def decode(
    model: PointFlow,
    z: Tensor,
    points: int,
    seed: int,
    noise: Mapping[str, Any],
    shared_noise: bool,
    solver: SolverConfig | None,
    progress: Progress | None,
    number: int = 0,
) -> Tensor:
    """See :meth:`PointFlow.decode`: small clouds are solved many at a time, large ones in parts."""
    per_solve, carry = shapes_per_solve(points), _carrier(model, solver, z.device)
    clouds = torch.empty(len(z), points, 3, dtype=z.dtype, device=z.device)
    with evaluating(model):
        for first in range(0, len(z), per_solve):
            codes = z[first : first + per_solve]
            streams = {"shapes": 1, "first": 0} if shared_noise else {"shapes": len(codes), "first": number + first}
            y = point_noise(seed, points=points, **streams, **noise).expand(len(codes), -1, -1)
            for start in range(0, points, POINTS_PER_SOLVE):
                part = slice(start, min(start + POINTS_PER_SOLVE, points))
                clouds[first : first + per_solve, part] = carry(y[:, part].to(clouds), codes)
                if progress:
                    progress(first * points + len(codes) * part.stop, len(z) * points)
    return clouds


def _carrier(model: PointFlow, solver: SolverConfig | None, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Prior points (B, N, 3) and codes (B, Z) to points in data units; by replays where steps are known beforehand."""
    solver = solver or model.point_flow.solver

    def carry(y: Tensor, z: Tensor) -> Tensor:
        return model.to_data(model.point_flow.from_prior(y, z, solver=solver).x)

    return Replayed(carry) if device.type == "cuda" and solver.method in FIXED_STEP else carry


def point_log_density(model: PointFlow, x: Tensor, z: Tensor, trace: Trace) -> Tensor:
    """(N,) log-density of the points of one standardised cloud (N, 3) given its code (Z,)."""
    parts = [log_density(model.point_flow, p[None], z[None], trace).value[0] for p in x.split(POINTS_PER_DENSITY)]
    return torch.cat(parts)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients, and batch norms with their running statistics, whatever modes its parts are in and go back to."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def as_tensor(x: Any) -> Tensor:
    """A tensor of a tensor, or of whatever NumPy makes numbers of: lists of arrays, read-only or reversed views."""
    return x if isinstance(x, Tensor) else torch.from_numpy(np.array(x, dtype=np.float64))


def at_least_one(**numbers: int) -> None:
    """``TypeError`` that names the first that is no whole number, or ``ValueError`` the first below one."""
    for name, value in numbers.items():
        try:
            operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be a whole number, got {value!r}") from None
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def finite(x: Tensor, name: str) -> Tensor:
    """``x``; ``ValueError`` if it holds NaN or infinity."""
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} must be finite, got {int((~x.isfinite()).sum())} values that are not")
    return x


def trace_of(kind: str, generator: torch.Generator | int | None) -> Trace:
    """The trace of this kind, its noise drawn from the generator or seed."""
    if kind not in ("exact", "hutchinson"):
        raise ValueError(f"trace must be 'exact' or 'hutchinson', got {kind!r}")
    if kind == "exact":
        return Trace(kind)
    return Trace(kind, generator=torch.Generator().manual_seed(seed_of(generator)))
