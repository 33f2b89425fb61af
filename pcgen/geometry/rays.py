"""Directions on the circle or the sphere as one object: a star is a centre and one length along each of them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from functools import cache
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.geometry import ray_sets
from pcgen.geometry.checks import check_finite, check_floats
from pcgen.geometry.hull import facets, polygons, solid_angles
from pcgen.geometry.lookup import ConeTable, cone_table, find_cones
from pcgen.geometry.symmetry import Rotations, find_rotations

__all__ = ["Facet", "Rays", "circle", "cube_sphere", "fibonacci", "icosphere", "lat_lon", "rays"]


class Facet(NamedTuple):
    """Where directions meet the hull of the rays: x = Σ weights_k · directions[faces[index]]_k."""

    index: Tensor  # (...) int64, the facet hit
    weights: Tensor  # (..., D) of x's type, ≥ 0, of the facet's corners in their order; they keep the scale of x


@dataclass(frozen=True)
class Rays:
    """A set of n directions in D = 2 or 3 dimensions. Make one with :func:`rays`; equal names are equal sets.

    >>> v = rays("icosphere-42")
    >>> len(v), v.dimension, v
    (42, 3, Rays(name='icosphere-42'))
    >>> v.nearest(10 * v.directions[[7, 3]])
    tensor([7, 3])
    >>> len(v.rotations().matrices)
    60
    """

    name: str
    directions: Tensor = field(compare=False, repr=False)  # (n, D) float64, unit vectors
    weights: Tensor = field(compare=False, repr=False)  # (n,) float64, solid angles of their cells; 4π, or 2π, in all
    faces: Tensor = field(compare=False, repr=False)  # (F, D) int64, facets of the hull, counter-clockwise from outside
    sectors: tuple[int, int] | None = field(default=None, compare=False, repr=False)  # rows and columns of lat_lon

    def __len__(self) -> int:
        return len(self.directions)

    @property
    def dimension(self) -> int:
        """2 on the circle, 3 on the sphere."""
        return self.directions.shape[1]

    def nearest(self, x: Tensor) -> Tensor:
        """The ray (...) int64 in whose cell each direction ``x`` (..., D) falls: the nearest, or the sector's.

        ``x`` need not be normalised. Rays equally near, to 2e-15, tie to the lowest index; the zero vector gives 0.
        Sectors of :func:`lat_lon` hold their first boundaries. ``TypeError`` unless x is float32 or float64,
        ``ValueError`` for another dimension or values that are not finite.
        """
        flat = self._checked(x)
        if self.sectors:
            return _sector(flat, *self.sectors).reshape(x.shape[:-1])
        directions = self.to(x.device).directions[:, None]
        return find_cones(_cell_table(self, x.device), directions, flat).reshape(x.shape[:-1])

    def facet(self, x: Tensor) -> Facet:
        """The facet of the hull that each direction ``x`` (..., D) hits, and x in terms of its corners.

        The weights are differentiable in x. On an edge the lowest facet is taken; the zero vector gives facet 0 and
        weights 0. Errors as in :meth:`nearest`.
        """
        flat = self._checked(x)
        inverses = _inverses(self, x.device)
        index = find_cones(_facet_table(self, x.device), inverses, flat.detach())
        weights = (inverses.to(x.dtype)[index] * flat[:, None]).sum(-1).clamp_min(0)
        return Facet(index.reshape(x.shape[:-1]), weights.reshape(x.shape))

    def rotations(self) -> Rotations:
        """The proper rotations of space that permute the rays, the identity first, as matrices and permutations."""
        return _rotations(self)

    def to(self, device: torch.device | str) -> Rays:
        """The same set with its tensors on ``device``; look-ups follow their argument and need no moving."""
        device = torch.device(device)
        return self if self.directions.device == device else _moved(self, device)

    def _checked(self, x: Tensor) -> Tensor:
        check_floats("directions", x, self.dimension)
        check_finite("directions", x)
        return x.reshape(-1, self.dimension)


def _sector(x: Tensor, rows: int, columns: int) -> Tensor:
    """The sector (N,) of each direction (N, 3), in float64."""
    x, y, z = x.double().unbind(1)
    row = (torch.atan2(torch.hypot(x, y), z) * (rows / math.pi)).long().clamp_(0, rows - 1)
    turn = torch.atan2(y, x) / (2 * math.pi)
    column = (torch.where(turn < 0, turn + 1, turn) * columns).long().clamp_(0, columns - 1)
    return row * columns + column


@cache
def circle(n: int) -> Rays:
    """``n`` ≥ 3 rays of equal steps in the plane, 36 in PolarMask; the facets are the polygon's edges.

    >>> circle(4).faces.tolist()
    [[0, 1], [1, 2], [2, 3], [3, 0]]
    """
    _check_count("circle", n, 3)
    i = torch.arange(n)
    faces = torch.stack([i, (i + 1) % n], 1)
    weights = torch.full((n,), 2 * math.pi / n, dtype=torch.float64)
    return Rays(f"circle-{n}", ray_sets.circle_directions(n), weights, faces)


@cache
def fibonacci(n: int) -> Rays:
    """``n`` ≥ 4 rays of the Fibonacci lattice, any number, almost equal solid angles.

    >>> fibonacci(96).weights.sum() / torch.pi
    tensor(4., dtype=torch.float64)
    """
    _check_count("fibonacci", n, 4)
    return _on_sphere(f"fibonacci-{n}", ray_sets.fibonacci_directions(n))


@cache
def icosphere(n: int) -> Rays:
    """The n = 12, 42, 162, 642, … rays of a subdivided icosahedron: nested, antipodal, with its 60 rotations.

    >>> bool((icosphere(162).directions[:42] == icosphere(42).directions).all())
    True
    """
    sizes = [10 * 4**level + 2 for level in range(6)]
    if n not in sizes:
        raise ValueError(f"icosphere must have one of {', '.join(map(str, sizes))} rays, got {n}")
    return _on_sphere(f"icosphere-{n}", ray_sets.icosphere_directions(sizes.index(n)))


@cache
def cube_sphere(k: int) -> Rays:
    """The 6 k² cell centres of an equiangular cube with ``k`` ≥ 1 cells along an edge.

    >>> len(cube_sphere(4))
    96
    """
    _check_count("cube_sphere", k, 1)
    return _on_sphere(f"cube-sphere-{k}", ray_sets.cube_directions(k))


@cache
def lat_lon(rows: int, columns: int) -> Rays:
    """The middles of ``rows`` ≥ 2 by ``columns`` ≥ 3 sectors of equal polar angle and azimuth, row by row from +z.

    A ray's cell is its sector; 5 × 5 are the rays of Spherical Mask (Shin et al., CVPR 2024).

    >>> lat_lon(5, 5).weights[::5] * 25 / (4 * torch.pi)
    tensor([0.4775, 1.2500, 1.5451, 1.2500, 0.4775], dtype=torch.float64)
    """
    _check_count("lat_lon rows", rows, 2)
    _check_count("lat_lon columns", columns, 3)
    polar = torch.arange(rows + 1, dtype=torch.float64) * (math.pi / rows)
    # cos a − cos b = 2 sin((a + b)/2) sin((b − a)/2) loses nothing at the poles.
    heights = 2 * ((polar[1:] + polar[:-1]) / 2).sin() * math.sin(math.pi / (2 * rows))
    weights = (heights * (2 * math.pi / columns)).repeat_interleave(columns)
    found = _on_sphere(f"lat-lon-{rows}x{columns}", ray_sets.sector_directions(rows, columns))
    return Rays(found.name, found.directions, weights, found.faces, (rows, columns))


FORMS = {
    r"circle-(\d+)": circle,
    r"fibonacci-(\d+)": fibonacci,
    r"icosphere-(\d+)": icosphere,
    r"cube-sphere-(\d+)": cube_sphere,
    r"lat-lon-(\d+)x(\d+)": lat_lon,
}


def rays(name: str) -> Rays:
    """The set of rays of that name, the same object each time.

    >>> rays("lat-lon-5x5") is lat_lon(5, 5)
    True
    >>> rays("icosahedron")
    Traceback (most recent call last):
    ValueError: rays must be circle-N, fibonacci-N, icosphere-N, cube-sphere-K or lat-lon-RxC, got 'icosahedron'
    """
    for form, construct in FORMS.items():
        if match := re.fullmatch(form, str(name), re.ASCII):
            return construct(*map(int, match.groups()))
    raise ValueError(f"rays must be circle-N, fibonacci-N, icosphere-N, cube-sphere-K or lat-lon-RxC, got {name!r}")


def _check_count(name: str, given: int, least: int) -> None:
    if not isinstance(given, Integral) or given < least:
        raise ValueError(f"{name} must be an integer, at least {least}, got {given!r}")


def _on_sphere(name: str, directions: Tensor) -> Rays:
    """The rays with the cells and facets that their directions alone decide."""
    planes = polygons(directions)
    fans = [(p[0], p[k], p[k + 1]) for p in planes for k in range(1, len(p) - 1)]
    weights = solid_angles(directions, torch.tensor(fans))
    cut = any(len(plane) > 3 for plane in planes)
    permutations = find_rotations(directions, weights).permutations if cut else torch.arange(len(directions))[None]
    return Rays(name, directions, weights, facets(planes, permutations))


# What a set needs once, on each device. Sets of one name are equal, so the name is the key.


@cache
def _rotations(rays: Rays) -> Rotations:
    here = rays.to("cpu")
    return find_rotations(here.directions, here.weights)


@cache
def _moved(rays: Rays, device: torch.device) -> Rays:
    tensors = {name: getattr(rays, name).to(device) for name in ("directions", "weights", "faces")}
    return replace(rays, **tensors)


@cache
def _inverses(rays: Rays, device: torch.device) -> Tensor:
    """(F, D, D): the weights of x on the corners of facet f are ``inverses[f] @ x``."""
    here = rays.to("cpu")
    return torch.linalg.inv(here.directions[here.faces].transpose(1, 2)).to(device)


@cache
def _facet_table(rays: Rays, device: torch.device) -> ConeTable:
    normals = _inverses(rays, torch.device("cpu"))
    return cone_table(normals / normals.norm(dim=-1, keepdim=True)).to(device)


@cache
def _cell_table(rays: Rays, device: torch.device) -> ConeTable:
    return cone_table(_cells(rays.to("cpu"))).to(device)


def _cells(rays: Rays) -> Tensor:
    """The cells as cones (n, k, D): their planes halve the angles to the rays that share an edge of the hull."""
    edges = torch.cat([rays.faces[:, [i, j]] for i in range(rays.dimension) for j in range(rays.dimension) if i != j])
    edges = edges.unique(dim=0)
    count = torch.bincount(edges[:, 0])
    rank = torch.arange(len(edges)) - (count.cumsum(0) - count)[edges[:, 0]]
    normals = rays.directions[edges[:, 0]] - rays.directions[edges[:, 1]]
    cones = normals[(count.cumsum(0) - count)[:, None]].repeat(1, int(count.max()), 1)
    cones[edges[:, 0], rank] = normals
    return cones / cones.norm(dim=-1, keepdim=True)
