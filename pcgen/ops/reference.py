"""What every kernel of :mod:`pcgen.ops` computes, in plain PyTorch: the definition faster code must meet.

Nothing here checks its arguments (:mod:`pcgen.ops.distances` does); everything runs on any device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ANNEALING", "Nearest", "annealed_emd", "annealed_match", "chamfer_matrix", "nearest"]

# Levels λ of the annealing, in 1/length²; both were made for shapes about one unit long.
ANNEALING = {
    "pointflow": tuple(-(4.0**j) for j in range(7, -2, -1)),
    "pvd": (*(-(4.0**j) for j in range(7, -2, -1)), 0.0),
}


class Nearest(NamedTuple):
    """For every point of one cloud its nearest point in another."""

    distance: Tensor  # (..., N) squared distance
    index: Tensor  # (..., N) int64, the lowest of several nearest ones


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """All squared distances (..., N, M) between (..., N, D) and (..., M, D), by explicit differences.

    Not as |x|² + |y|² − 2 x·y, which cancels: two points 1e-4 apart would be at distance 0 in float32.
    """
    d2 = x.new_zeros(*x.shape[:-1], y.shape[-2])
    for k in range(x.shape[-1]):
        difference = x[..., :, None, k] - y[..., None, :, k]
        d2.addcmul_(difference, difference)
    return d2


def nearest(x: Tensor, y: Tensor) -> Nearest:
    """Nearest neighbour in y (..., M, D) of each point of x (..., N, D), N × M distances never held at once.

    >>> nearest(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 2.0], [2.0, 0.0]]))
    Nearest(distance=tensor([4.]), index=tensor([1]))
    """
    if x.ndim == 3:
        clouds = [nearest(a, b) for a, b in zip(x, y)]
        return Nearest(*(torch.stack(part) for part in zip(*clouds)))
    # On the CPU a block stays in the cache; a GPU wants enough work for a launch.
    block = 2**18 if x.device.type == "cpu" else 2**26
    blocks = [squared_distances(rows, y).min(-1) for rows in x.detach().split(max(1, block // len(y)))]
    return Nearest(torch.cat([b.values for b in blocks]), torch.cat([b.indices for b in blocks]))


def chamfer_matrix(X: Tensor, Y: Tensor) -> Tensor:
    """Squared Chamfer distance (S, R), float64, between the clouds of X (S, N, D) and of Y (R, M, D)."""
    return one_way(X, Y) + one_way(Y, X).T


def one_way(X: Tensor, clouds: Iterable[Tensor]) -> Tensor:
    """Mean squared distance (S, R), float64, from the points of X[s] (N, D) to the r-th of ``clouds``."""
    points = X.flatten(0, 1)
    means = [nearest(points, y).distance.unflatten(0, X.shape[:2]).double().mean(1) for y in clouds]
    return torch.stack(means, dim=1)


def annealed_match(d2: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Mass (B, N, M) that the "approxmatch" annealing moves from N left to M right points.

    ``d2`` (B, N, M) holds squared distances, ``levels`` the λ of the kernels exp(λ d²). The algorithm is
    the one of the published evaluation programs (PointFlow, Yang et al., ICCV 2019; from the point-set
    generation network of Fan et al., CVPR 2017). It is neither symmetric nor a complete transport plan.
    """
    _, N, M = d2.shape
    left = d2.new_full(d2.shape[:2], max(1, M // N))
    right = d2.new_full((d2.shape[0], M), max(1, N // M))
    match = torch.zeros_like(d2)
    for level in levels:
        K = torch.exp(level * d2)
        ratio_left = left / (1e-9 + torch.einsum("bnm,bm->bn", K, right))
        demand = torch.einsum("bnm,bn->bm", K, ratio_left) * right
        ratio_right = (right / (demand + 1e-9)).clamp_max(1) * right
        right = (right - demand).clamp_min(0)
        moved = K * ratio_left[:, :, None] * ratio_right[:, None, :]
        match += moved
        left = (left - moved.sum(2)).clamp_min(0)
    return match


def annealed_emd(x: Tensor, y: Tensor, variant: str) -> Tensor:
    """The two approximate EMDs of the literature, (B,) float64, x (B, N, D) left and y (B, M, D) right.

    ``"pointflow"`` pays the Euclidean distance, ``"pvd"`` the *squared* one; both divide by N.

    >>> x = torch.rand(1, 16, 3, generator=torch.Generator().manual_seed(0))
    >>> annealed_emd(x, x, "pointflow") > 0     # not a distance: a cloud is not at 0 from itself
    tensor([True])
    """
    d2 = squared_distances(x.detach().double(), y.detach().double())
    match = annealed_match(d2, ANNEALING[variant])
    cost = d2 if variant == "pvd" else d2.sqrt()
    return (match * cost).sum((1, 2)) / x.shape[1]
