"""Decoding and densities in pieces that fit in memory: any number of points, from any number of shapes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pcgen.flows import SolverConfig
from pcgen.models.noise import point_noise

if TYPE_CHECKING:
    from pcgen.models.pointflow import PointFlow

__all__ = ["Progress", "at_least_one", "decode", "evaluating", "point_log_density"]

Progress = Callable[[int, int], None]  # (points done, points in all)

# Points in one solve: bounds the memory of sampling and of exact densities (which carry three tangents).
POINTS_PER_SOLVE = 32_768
POINTS_PER_DENSITY = 8_192


def decode(
    model: PointFlow,
    z: Tensor,
    points: int,
    seed: int,
    noise: Mapping[str, Any],
    shared_noise: bool,
    solver: SolverConfig | None,
    progress: Progress | None,
) -> Tensor:
    """See :meth:`PointFlow.decode`: small clouds are solved many at a time, large ones in parts."""
    per_solve = max(1, POINTS_PER_SOLVE // points)
    clouds = torch.empty(len(z), points, 3, dtype=z.dtype, device=z.device)
    with evaluating(model):
        for first in range(0, len(z), per_solve):
            codes = z[first : first + per_solve]
            streams = {"shapes": 1, "first": 0} if shared_noise else {"shapes": len(codes), "first": first}
            y = point_noise(seed, points=points, **streams, **noise).expand(len(codes), -1, -1)
            for start in range(0, points, POINTS_PER_SOLVE):
                part = slice(start, min(start + POINTS_PER_SOLVE, points))
                x = model.points_from_prior(y[:, part], codes, solver)
                clouds[first : first + per_solve, part] = model.to_data(x)
                if progress:
                    progress(first * points + len(codes) * part.stop, len(z) * points)
    return clouds


def point_log_density(model: PointFlow, x: Tensor, z: Tensor, trace: str) -> Tensor:
    """(N,) log-density, in data units, of the points of one standardised cloud (N, 3) given its code (Z,)."""
    parts = [model.points_to_prior(part[None], z[None], trace)[1][0] for part in x.split(POINTS_PER_DENSITY)]
    return torch.cat(parts) - model.data_scale.log().sum()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients, and batch norms with their running statistics, whatever mode the model is in."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def at_least_one(**numbers: int) -> None:
    """``ValueError`` that names the first number below one."""
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
