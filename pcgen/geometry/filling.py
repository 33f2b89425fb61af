"""Points that fill the unit ball evenly, and the table that finds their facets: what stars are measured with."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.geometry.rays import Rays

__all__ = ["GRID", "Filling", "filling_of", "grid_cell"]

GRID = 63  # odd, so that no axis is on a boundary


class Filling(NamedTuple):
    """Points that fill the unit ball, M of them, and what finds their facet again; float32 but for indices."""

    points: Tensor  # (D, M)
    corners: Tensor  # (D, M) int32, the rays of the facet in whose direction a point lies
    shares: Tensor  # (D, M), λ_k / Σ λ_k
    table: Tensor  # (GRID^D,) int32, the facet of the directions in each cell of a grid on [−1, 1]^D
    faces: Tensor  # (D, F) int32
    inverses: Tensor  # (D, D, F): λ_k = Σ_j inverses[k, j, facet] x_j
    sums: Tensor  # (D, F): Σ_k λ_k = Σ_j sums[j, facet] x_j


@functools.cache
def filling_of(rays: Rays, count: int, device: torch.device) -> Filling:
    u, t = _lattice(count, rays.dimension)
    inverses = torch.linalg.inv(rays.directions[rays.faces].transpose(1, 2))
    table = _facet_table(rays)
    facet = table[grid_cell(u.T.float())]
    weights = (inverses[facet] * u[:, None]).sum(-1)
    tensors = (
        (t[:, None] ** (1 / rays.dimension) * u).T.float(),
        rays.faces[facet].T.int(),
        (weights / weights.sum(1, keepdim=True)).T.float(),
        table.int(),
        rays.faces.T.int(),
        inverses.permute(1, 2, 0).float(),
        inverses.sum(1).T.float(),
    )
    return Filling(*(x.contiguous().to(device) for x in tensors))


def _lattice(count: int, dimension: int) -> tuple[Tensor, Tensor]:
    """Directions (M, D) and levels (M,) in (0, 1): a Kronecker lattice with the generalised golden ratio."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    root = {2: 1.618033988749895, 3: 1.324717957244746}[dimension]  # x^D = x + 1
    t = (i / root ** (dimension - 1)).frac()
    t = (t.argsort().argsort() + 0.5) / count
    if dimension == 2:
        angle = i * (2 * math.pi / count)
        return torch.stack([angle.cos(), angle.sin()], 1), t
    z, angle = 1 - 2 * i / count, i * (2 * math.pi / root)
    across = (1 - z * z).sqrt()
    return torch.stack([across * angle.cos(), across * angle.sin(), z], 1), t


@functools.cache
def _facet_table(rays: Rays) -> Tensor:
    """The facet that the direction to the middle of each cell of the grid hits.

    Elsewhere in the cell it may be a neighbour: its interpolation goes on past the edge, where both agree.
    """
    steps = (torch.arange(GRID, dtype=torch.float64) * 2 + 1) / GRID - 1
    middles = torch.cartesian_prod(*[steps] * rays.dimension)
    near = (middles.norm(dim=1) - 1).abs() < 2 / GRID * rays.dimension**0.5  # unit vectors are in these cells
    table = torch.zeros(len(middles), dtype=torch.int64)
    table[near] = rays.facet(middles[near]).index
    return table


def grid_cell(u: Sequence[Tensor] | Tensor) -> Tensor:
    """The cell of the grid that unit vectors (D, ...) lie in."""
    half = GRID / 2 * (1 - 1e-6)
    cell = (u[0] * half).add_(GRID / 2).floor_()
    for coordinate in u[1:]:
        cell.mul_(GRID).add_((coordinate * half).add_(GRID / 2).floor_())
    return cell.long()
