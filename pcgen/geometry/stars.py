"""Stars: a centre and one length along each ray. Volume, boundary, what lies inside, and the surface as a mesh."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pcgen.geometry.balls import balls
from pcgen.geometry.checks import check_choice, check_finite, check_floats
from pcgen.geometry.rays import Rays

__all__ = ["Assembly", "StarMesh", "VolumeKind", "inside", "membership", "mesh", "radius", "volume"]

Assembly = Literal["nearest", "facet", "interpolated"]
VolumeKind = Literal["triangulated", "cell"]
ROUNDING = 1e-13  # of a facet's weights in float64, relative: a few units in the last place times its inverse's size


class StarMesh(NamedTuple):
    """The surfaces of stars as one mesh; the i-th star has vertices i·n to (i + 1)·n."""

    vertices: Tensor  # (S·n, D)
    faces: Tensor  # (S·F, D) int64, counter-clockwise from outside; edges in 2-D


def volume(rays: Rays, lengths: Tensor, kind: VolumeKind = "triangulated") -> Tensor:
    """The volumes (...), areas in 2-D, of stars with ``lengths`` (..., n) ≥ 0; differentiable.

    ``"triangulated"`` is that of the polyhedron over the facets of the rays' hull, exactly:
    V = 1/D! Σ_f |det(v_f1, …, v_fD)| Π_k d_fk, the one :func:`mesh` shows and ``inside(..., "facet")`` decides.
    ``"cell"`` is 1/D Σ_i w_i d_i^D: every cell is a piece of a ball, as in ``inside(..., "nearest")``.

    Rotations of the set that permute the lengths leave both as they are. Of ``"triangulated"`` there is an exception,
    which no fixed triangulation can avoid: facets that are turned into themselves by a quarter or less, the poles of
    lat-lon sets and the middles of a cube's faces with an even number of cells an edge. There the mean over
    ``lengths[..., rays.rotations().permutations]`` survives.

    >>> from pcgen.geometry import rays
    >>> [round(float(volume(rays(name), torch.ones(n))) / (4 / 3 * torch.pi), 3)
    ...  for name, n in (("icosphere-42", 42), ("fibonacci-96", 96), ("icosphere-162", 162))]
    [0.873, 0.939, 0.966]
    """
    check_choice("kind", kind, VolumeKind)
    check_floats("lengths", lengths, len(rays))
    here, dim = rays.to(lengths.device), rays.dimension
    if kind == "cell":
        return (lengths**dim * here.weights.to(lengths.dtype)).sum(-1) / dim
    pieces = _unit_pieces(rays, lengths.device).to(lengths.dtype)
    for corner in here.faces.unbind(1):
        pieces = pieces * lengths[..., corner]
    return pieces.sum(-1)


@cache
def _unit_pieces(rays: Rays, device: torch.device) -> Tensor:
    """The volumes (F,) between the origin and each facet."""
    here = rays.to(device)
    return torch.linalg.det(here.directions[here.faces]) / math.factorial(rays.dimension)


def radius(rays: Rays, lengths: Tensor, x: Tensor, assembly: Assembly = "interpolated") -> Tensor:
    """How far (..., P) stars of ``lengths`` (..., n) ≥ 0 reach in the directions of ``x`` (..., P, D), ≠ 0.

    Leading axes broadcast: (S, n) with (S, P, D) or (1, P, D). With x = Σ λ_k v_k over the facet that x hits,

    - ``"nearest"``: the length of the ray in whose cell x falls (A1);
    - ``"facet"``: ‖x‖ / Σ λ_k/d_k, the flat facet of the triangulated body (A2, as in StarDist);
    - ``"interpolated"``: Σ λ_k d_k / Σ λ_k (A3).

    Differentiable in lengths and, but for the nearest ray, in x. The zero vector is taken for the first ray.

    >>> from pcgen.geometry import rays
    >>> x = torch.tensor([[[1.0, 1.0]]])
    >>> [radius(rays("circle-4"), torch.tensor([[1.0, 2.0, 1.0, 1.0]]), x, name).item()
    ...  for name in ("nearest", "facet", "interpolated")]
    [1.0, 0.942809..., 1.5]
    """
    check_choice("assembly", assembly, Assembly)
    check_floats("lengths", lengths, len(rays))
    check_floats("x", x, "P", rays.dimension)
    lead = torch.broadcast_shapes(lengths.shape[:-1], x.shape[:-2])
    spread = lengths.expand(*lead, len(rays))
    return _boundary(rays, x, lambda ray: spread.gather(-1, ray.expand(*lead, ray.shape[-1])), assembly)


def _boundary(rays: Rays, x: Tensor, take: Callable[[Tensor], Tensor], assembly: Assembly) -> Tensor:
    """The reach along ``x`` (..., D) of stars, of which ``take`` gives the lengths of rays (...)."""
    if assembly == "nearest":
        return take(rays.nearest(x))
    first = rays.directions[0].to(x)
    facet, weights = rays.facet(torch.where((x == 0).all(-1, keepdim=True), first, x))
    corners = rays.to(x.device).faces[facet]
    terms = [(weights[..., k], take(corners[..., k])) for k in range(rays.dimension)]
    if assembly == "interpolated":
        return sum(weight * length for weight, length in terms) / weights.sum(-1)
    cut = sum(weight / torch.where(length > 0, length, 1) for weight, length in terms)
    blocked = torch.stack([(weight > 0) & (length <= 0) for weight, length in terms]).any(0)
    reach = (cut**-1) * torch.where((x == 0).all(-1), 1, torch.linalg.vector_norm(x, dim=-1))
    return torch.where(blocked, 0, reach)


@torch.no_grad()
def inside(rays: Rays, centres: Tensor, lengths: Tensor, points: Tensor, assembly: Assembly = "nearest") -> Tensor:
    """Which ``points`` (P, D) lie in which stars, ``centres`` (S, D) and ``lengths`` (S, n): (S, P) bool.

    A point is inside where it is no farther from the centre than :func:`radius` in its direction; the boundary belongs
    to the body, to four roundings of float32 lengths or 1e-13 of float64 ones, and so does the centre. Computed in
    float64, over the pairs that bounding spheres leave, in blocks: memory beyond the answer does not grow with S · P.
    ``ValueError`` for shapes that do not fit and values that are not finite.

    >>> from pcgen.geometry import rays
    >>> points = torch.tensor([[0.9, 0.0], [0.6, 0.6], [0.8, 0.8]])
    >>> [inside(rays("circle-4"), torch.zeros(1, 2), torch.ones(1, 4), points, name).tolist()
    ...  for name in ("nearest", "facet")]
    [[[True, True, False]], [[True, False, False]]]
    """
    check_choice("assembly", assembly, Assembly)
    _check_stars(rays, centres, lengths)
    check_floats("points", points, rays.dimension)
    if centres.ndim != 2 or points.ndim != 2:
        raise ValueError(f"centres and points must be tables, got {tuple(centres.shape)} and {tuple(points.shape)}")
    for name, given in (("centres", centres), ("lengths", lengths), ("points", points)):
        check_finite(name, given)
    slack = 1 + max(ROUNDING, 4 * torch.finfo(lengths.dtype).eps)
    centres, points, lengths = centres.double(), points.double(), lengths.double() * slack
    found = torch.zeros(len(centres), len(points), dtype=torch.bool, device=points.device)
    for pairs in balls(centres, lengths.amax(1), points):
        reach = _boundary(rays, pairs.x, lambda ray, star=pairs.ball: lengths[star, ray], assembly)
        held = pairs.distance <= reach
        found[pairs.ball[held], pairs.point[held]] = True
    return found


def membership(
    rays: Rays,
    centres: Tensor,
    lengths: Tensor,
    points: Tensor,
    tau: float = 10.0,
    assembly: Assembly = "interpolated",
) -> Tensor:
    """How much (S, P), from 0 to 1, ``points`` (P, D) or (S, P, D) belong to stars: σ(τ (log ρ − log r)) (A4).

    r is the distance from ``centres`` (S, D), ρ the :func:`radius` that ``lengths`` (S, n) reach in that direction: ½
    on the boundary, 1 at the centre, sharper for greater ``tau``. Differentiable in lengths, centres and points, with
    finite gradients everywhere. Memory is that of S · P pairs.

    >>> from pcgen.geometry import rays
    >>> points = torch.tensor([[0.0, 0.5], [0.0, 1.0], [0.0, 2.0]])
    >>> membership(rays("circle-36"), torch.zeros(1, 2), torch.ones(1, 36), points, tau=2.0)
    tensor([[0.8000, 0.5000, 0.2000]])
    """
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    _check_stars(rays, centres, lengths)
    check_floats("points", points, rays.dimension)
    x = points - centres[..., None, :]
    tiny = torch.finfo(x.dtype).tiny
    reach = radius(rays, lengths, x, assembly).clamp_min(tiny)
    away = torch.linalg.vector_norm(x, dim=-1).clamp_min(tiny)
    return torch.sigmoid(tau * (reach.log() - away.log()))


def mesh(rays: Rays, centres: Tensor, lengths: Tensor) -> StarMesh:
    """The surfaces of the triangulated stars, ``centres`` (..., D) and ``lengths`` (..., n), as one mesh.

    >>> from pcgen.geometry import rays
    >>> star = mesh(rays("icosphere-42"), torch.zeros(2, 3), torch.ones(2, 42))
    >>> tuple(star.vertices.shape), tuple(star.faces.shape)
    ((84, 3), (160, 3))
    """
    _check_stars(rays, centres, lengths)
    here, dim = rays.to(centres.device), rays.dimension
    arms = lengths[..., None] * here.directions.to(lengths.dtype)
    vertices = (centres[..., None, :] + arms).reshape(-1, dim)
    first = torch.arange(0, len(vertices), len(rays), device=centres.device)
    return StarMesh(vertices, (first[:, None, None] + here.faces).reshape(-1, dim))


def _check_stars(rays: Rays, centres: Tensor, lengths: Tensor) -> None:
    check_floats("centres", centres, rays.dimension)
    check_floats("lengths", lengths, len(rays))
    if centres.shape[:-1] != lengths.shape[:-1]:
        given = f"{tuple(centres.shape)} and {tuple(lengths.shape)}"
        raise ValueError(f"centres and lengths must be of the same stars, got shapes {given}")
