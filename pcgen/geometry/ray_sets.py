"""Sets of directions: unit vectors (n, D), float64, spread over the circle or the sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["circle_directions", "cube_directions", "fibonacci_directions", "icosphere_directions", "sector_directions"]


def circle_directions(n: int) -> Tensor:
    """``n`` directions of equal steps, counter-clockwise from +x.

    >>> circle_directions(4).round(decimals=12) + 0.0
    tensor([[ 1.,  0.],
            [ 0.,  1.],
            [-1.,  0.],
            [ 0., -1.]], dtype=torch.float64)
    """
    angle = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    return _unit(torch.stack([angle.cos(), angle.sin()], -1))


def fibonacci_directions(n: int) -> Tensor:
    """The Fibonacci lattice: z = 1 − (2i + 1)/n, turned by the golden angle π(3 − √5) from each to the next."""
    i = torch.arange(n, dtype=torch.float64)
    z, angle = 1 - (2 * i + 1) / n, i * (math.pi * (3 - math.sqrt(5)))
    across = (1 - z.square()).sqrt()
    return _unit(torch.stack([across * angle.cos(), across * angle.sin(), z], -1))


def icosphere_directions(level: int) -> Tensor:
    """The icosahedron's corners, its edges halved ``level`` times; each level begins with the one before."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [(0.0, a, b * golden) for a in (1, -1) for b in (1, -1)]
    points = _unit(torch.tensor([c[k:] + c[:k] for k in (0, 2, 1) for c in corners], dtype=torch.float64))
    for _ in range(level):
        apart = torch.cdist(points, points)
        nearest = apart.fill_diagonal_(math.inf).amin(1)
        # The edges of one level differ in length by 18 % at most, the next neighbours are 1.5 times as far.
        edges = (apart < 1.3 * nearest.maximum(nearest[:, None])).triu().nonzero()
        points = torch.cat([points, _unit(points[edges].sum(1))])
    return points


def cube_directions(k: int) -> Tensor:
    """The centres of k × k cells on each face of a cube, of equal angles (equiangular cubed sphere, Ronchi 1996)."""
    steps = ((torch.arange(k, dtype=torch.float64) + 0.5) / k - 0.5) * (math.pi / 2)
    u, v = torch.meshgrid(steps.tan(), steps.tan(), indexing="ij")
    face = torch.stack([torch.ones_like(u), u, v], -1).reshape(-1, 3)
    faces = [sign * face.roll(axis, -1) for axis in range(3) for sign in (1, -1)]
    return _unit(torch.cat(faces))


def sector_directions(rows: int, columns: int) -> Tensor:
    """The middles of sectors of equal polar angle and azimuth, row by row from +z, each row from +x towards +y."""
    polar = (torch.arange(rows, dtype=torch.float64) + 0.5) * (math.pi / rows)
    azimuth = (torch.arange(columns, dtype=torch.float64) + 0.5) * (2 * math.pi / columns)
    polar, azimuth = torch.meshgrid(polar, azimuth, indexing="ij")
    parts = polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()
    return _unit(torch.stack(parts, -1).reshape(-1, 3))


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)
