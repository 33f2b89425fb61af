"""The Jensen–Shannon divergence between where the points of two sets lie."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from scipy.special import rel_entr
from torch import Tensor

from pcgen.metrics.sets import Clouds, as_clouds

__all__ = ["cell_counts", "divergence", "jsd", "outside_ball", "warn_outside"]


@functools.cache
def _cells() -> cKDTree:
    """The 10,144 centres of norm ≤ 1/2 among −1/2 + i/27, i = 0 … 27, in each coordinate."""
    axis = np.arange(28) / 27 - 0.5
    centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return cKDTree(centres[np.square(centres).sum(1) <= 0.25])


def cell_counts(clouds: Tensor) -> csr_array:
    """How many points of each cloud of (S, N, 3) have each cell's centre as their nearest, (S, 10144)."""
    S, N, _ = clouds.shape
    _, cell = _cells().query(clouds.cpu().numpy().reshape(-1, 3), workers=torch.get_num_threads())
    return csr_array((np.ones(S * N), (np.repeat(np.arange(S), N), cell)), shape=(S, _cells().n))


def divergence(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Jensen–Shannon divergence, base 2, of counts (..., C) and (..., C).

    >>> divergence(np.array([[4, 0], [2, 2]]), np.array([0, 4]))
    array([1.        , 0.31127812])
    """
    p, q = (counts / counts.sum(-1, keepdims=True) for counts in (left, right))
    middle = (p + q) / 2
    return (rel_entr(p, middle).sum(-1) + rel_entr(q, middle).sum(-1)) / 2 / np.log(2)


def outside_ball(clouds: Tensor) -> float:
    """Share of the points of ``clouds`` (S, N, 3) that lie outside the JSD grid's ball of radius 1/2."""
    return (clouds.norm(dim=-1) > 0.5 * (1 + 1e-6)).double().mean().item()


def warn_outside(share: float, name: str, stacklevel: int = 3) -> None:
    """A ``UserWarning`` if the divergence says little: more than 1 % of a set's points lie outside the ball."""
    if share > 0.01:
        warnings.warn(
            f"{share:.1%} of the points of {name} lie outside the JSD grid's ball of radius 1/2 "
            f"and count for its boundary cells",
            stacklevel=stacklevel,
        )


def jsd(samples: Clouds, references: Clouds, names: tuple[str, str] = ("samples", "references")) -> float:
    """Jensen–Shannon divergence, in [0, 1] (base 2), between where the points of two sets lie.

    Every point of (S, N, 3) and (R, M, 3) clouds goes to the nearest of 10,144 cell centres in the ball of
    radius 1/2, wherever it lies; a ``UserWarning`` says so if more than 1 % of a set's points lie outside.

    >>> corner = torch.zeros(2, 5, 3) + 0.2
    >>> jsd(corner, -corner), jsd(corner, corner)
    (1.0, 0.0)
    """
    sides = [as_clouds(clouds, name) for clouds, name in zip((samples, references), names)]
    for clouds, name in zip(sides, names):
        warn_outside(outside_ball(clouds), name)
    left, right = (cell_counts(clouds).sum(0) for clouds in sides)
    return float(divergence(left, right))
