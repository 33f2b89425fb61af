"""The annealed earth mover's distances of the published evaluations."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.ops.reference.distances import squared_distances

__all__ = ["ANNEALING", "annealed_emd", "annealed_match"]

# Levels λ of the annealing, in 1/length²; both were made for shapes about one unit long.
ANNEALING = {
    "pointflow": tuple(-(4.0**j) for j in range(7, -2, -1)),
    "pvd": (*(-(4.0**j) for j in range(7, -2, -1)), 0.0),
}


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
