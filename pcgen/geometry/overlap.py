"""How much two stars overlap, by quadrature.

A star is the body of interpolated radius here: ρ = Σ λ_k d_k / Σ λ_k over the facet of the rays that a direction hits,
as in ``inside(assembly="interpolated")``; equal lengths make a ball. The smaller of two stars is filled with points

    c_A + ρ_A(u_m) t_m^(1/D) u_m,   m = 1 … M,   each of which stands for the volume ρ_A(u_m)^D Ω / D,

and those within the other one are counted: V∩ ≈ Σ_m Ω ρ_A(u_m)^D / D · 1_B. Directions u_m and levels t_m together are
a lattice, so that the error falls faster than by chance. Two equal stars share all of their volume, exactly, and no
two share more than the balls around them do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.geometry.checks import check_finite, check_floats
from pcgen.geometry.rays import Rays

__all__ = ["Overlap", "Stars", "ball_overlap", "check_stars", "star_overlap"]

BLOCK = 1 << 17  # points at once: what is computed of them stays in the cache
POINTS = 8192  # in a star, unless told
DIRECTIONS = 1024  # to measure a star
GRID = 63  # odd, so that no axis is on a boundary
INTEGERS = (torch.int64, torch.int32)


@dataclass(frozen=True)
class Overlap:
    """What pairs of stars share."""

    intersection: Tensor  # (P,), unit^D
    volumes: Tensor  # (P, 2), of the two stars

    @property
    def iou(self) -> Tensor:
        """Intersection over union (P,); 0 where both stars are empty."""
        union = self.volumes.sum(1) - self.intersection
        return _ratio(self.intersection, union)

    @property
    def minimum(self) -> Tensor:
        """Intersection over the smaller of the two (P,), as StarDist has it; 0 where that is empty."""
        return _ratio(self.intersection, self.volumes.amin(1))


def star_overlap(rays: Rays, centres: Tensor, lengths: Tensor, pairs: Tensor, points: int = POINTS) -> Overlap:
    """What stars ``pairs[:, 0]`` and ``pairs[:, 1]``, (P, 2) integers, of ``centres`` (S, D), ``lengths`` (S, n) share.

    The smaller star is filled with ``points`` points. The order of a pair does not matter.

    ``ValueError`` for shapes that do not fit, pairs that name no star, negative lengths and values that are not finite;
    ``TypeError`` for other types.

    >>> from pcgen.geometry.rays import fibonacci
    >>> centres = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    >>> overlap = star_overlap(fibonacci(96), centres, torch.ones(3, 96), torch.tensor([[0, 0], [0, 1], [0, 2]]))
    >>> overlap.iou                                     # the middle one is 5/27
    tensor([1.0000, 0.1849, 0.0000])
    """
    check_stars(rays, centres, lengths)
    if not isinstance(pairs, Tensor) or pairs.dtype not in INTEGERS:
        raise TypeError(f"pairs must be a tensor of integers, got {getattr(pairs, 'dtype', type(pairs).__name__)}")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs must be (P, 2), got {tuple(pairs.shape)}")
    if pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < len(centres):
        raise ValueError(f"pairs must name stars 0 to {len(centres) - 1}, got {int(pairs.min())} to {int(pairs.max())}")
    if not isinstance(points, int) or points < 1:
        raise ValueError(f"points must be an integer, at least 1, got {points!r}")
    stars = Stars.of(rays, centres, lengths)
    return Overlap(stars.intersection(pairs[:, 0], pairs[:, 1], points).to(lengths), stars.volume[pairs].to(lengths))


@dataclass(frozen=True)
class Stars:
    """Stars ready to be compared."""

    rays: Rays
    centres: Tensor  # (S, D) float64
    lengths: Tensor  # (S, n) float32, over the radius
    radius: Tensor  # (S,) float64, of the ball around the star
    volume: Tensor  # (S,) float64
    evenness: Tensor  # (S,) float64, mean(ρ^D)² / mean(ρ^2D) over directions: 1 of a ball, 0 of a needle

    @classmethod
    def of(cls, rays: Rays, centres: Tensor, lengths: Tensor) -> Stars:
        dimension, filling = rays.dimension, _filling(rays, DIRECTIONS, lengths.device)
        radius = lengths.double().amax(1) if len(lengths) else lengths.double().sum(1)
        relative = (lengths.double() / torch.where(radius > 0, radius, 1.0)[:, None]).float()
        blocks = relative.split(max(1, BLOCK // DIRECTIONS))
        moments = [_reach(part, filling).pow_(dimension).double() for part in blocks]
        first = torch.cat([part.mean(1) for part in moments])
        second = torch.cat([part.square().mean(1) for part in moments])
        volume = first * radius**dimension * _ball(dimension)
        return cls(rays, centres.double(), relative, radius, volume, _ratio(first**2, second))

    def bound(self, i: Tensor, j: Tensor) -> Tensor:
        """What the intersection (P,) does not exceed: the smaller star, and what the balls around both share."""
        # A little more, so that rounding takes nothing from equal balls.
        balls = (1 + 1e-6) * self._balls(self.radius, i, j)
        return torch.minimum(balls, torch.minimum(self.volume[i], self.volume[j]))

    def guess(self, i: Tensor, j: Tensor) -> Tensor:
        """What balls of the stars' volumes would share (P,)."""
        return self._balls((self.volume / _ball(self.rays.dimension)) ** (1 / self.rays.dimension), i, j)

    def doubt(self, points: int) -> Tensor:
        """A volume (S,) by which an estimate of a shared part of a star from so many points may be wrong.

        The star's, over the root of the number of equal points that are worth as much: at least twice the standard
        deviation if the points were drawn at random, and those of a lattice err less.
        """
        return self.volume / (points * self.evenness.clamp_min(1 / points)).sqrt()

    def intersection(self, i: Tensor, j: Tensor, points: int) -> Tensor:
        """The volume (P,) float64 that stars i and j share."""
        # Filled is the smaller one, so that the order of a pair does not matter; of two equal ones the first.
        swap = (self.volume[j] < self.volume[i]) | ((self.volume[j] == self.volume[i]) & (j < i))
        a, b = torch.where(swap, j, i), torch.where(swap, i, j)
        filling = _filling(self.rays, points, self.centres.device)
        rows = max(1, BLOCK // points)
        share = torch.cat([_share(self, x, y, filling) for x, y in zip(a.split(rows), b.split(rows))])
        return torch.minimum(share.clamp_min(0) * self.volume[a], self.bound(i, j))

    def _balls(self, radius: Tensor, i: Tensor, j: Tensor) -> Tensor:
        distance = (self.centres[i] - self.centres[j]).norm(dim=1)
        return ball_overlap(radius[i], radius[j], distance, self.rays.dimension)


def ball_overlap(r: Tensor, s: Tensor, distance: Tensor, dimension: int) -> Tensor:
    """The volume that balls of radius ``r`` and ``s`` share at a ``distance`` of their centres; discs in the plane.

    >>> r = torch.tensor(1.0)
    >>> ball_overlap(r, r, torch.tensor([0.0, 1.0, 2.0]), 3) / torch.pi * 12
    tensor([16.,  5.,  0.])
    """
    r, s = torch.maximum(r, s), torch.minimum(r, s)
    d = torch.minimum(torch.maximum(distance, r - s), r + s)  # from one inside the other to touching
    safe = torch.where(d > 0, d, 1.0)
    # Heights of the two caps that the plane of intersection cuts off, free of cancellation.
    p, q = ((s - r + d) * (s + r - d) / (2 * safe) for r, s in ((r, s), (s, r)))
    if dimension == 3:
        volume = math.pi / 3 * (p * p * (3 * r - p) + q * q * (3 * s - q))
    else:
        volume = _segment(r, p) + _segment(s, q)
    return torch.where(distance <= r - s, s**dimension * _ball(dimension), volume)


def _ball(dimension: int) -> float:
    return {2: math.pi, 3: 4 / 3 * math.pi}[dimension]


def check_stars(rays: Rays, centres: Tensor, lengths: Tensor) -> None:
    """``TypeError`` or ``ValueError`` unless these are stars."""
    check_floats("centres", centres, "S", rays.dimension)
    check_floats("lengths", lengths, "S", len(rays))
    if centres.ndim != 2 or lengths.ndim != 2 or len(centres) != len(lengths):
        given = f"{tuple(centres.shape)} and {tuple(lengths.shape)}"
        raise ValueError(f"centres and lengths must be (S, {rays.dimension}) and (S, {len(rays)}), got {given}")
    if centres.device != lengths.device:
        raise ValueError(f"centres and lengths must share the device, got {centres.device} and {lengths.device}")
    check_finite("centres", centres)
    check_finite("lengths", lengths)
    if len(lengths) and float(lengths.min()) < 0:
        raise ValueError(f"lengths must not be negative, got {float(lengths.min()):g}")


def _segment(r: Tensor, height: Tensor) -> Tensor:
    """The area of a circle's segment."""
    angle = (1 - height / torch.where(r > 0, r, 1.0)).clamp(-1, 1).acos()
    return r * r * (angle - angle.sin() * angle.cos())


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / torch.where(b > 0, b, 1.0), 0.0)


class _Filling(NamedTuple):
    """Points that fill the unit ball, M of them, and what finds their facet again; float32 but for indices."""

    points: Tensor  # (D, M)
    corners: Tensor  # (D, M) int64, the rays of the facet in whose direction a point lies
    shares: Tensor  # (D, M), λ_k / Σ λ_k
    table: Tensor  # (GRID^D,) int64, the facet of the directions in each cell of a grid on [−1, 1]^D
    faces: Tensor  # (D, F) int64
    inverses: Tensor  # (D, D, F): λ_k = Σ_j inverses[k, j, facet] x_j
    sums: Tensor  # (D, F): Σ_k λ_k = Σ_j sums[j, facet] x_j


@functools.cache
def _filling(rays: Rays, count: int, device: torch.device) -> _Filling:
    u, t = _lattice(count, rays.dimension)
    inverses = torch.linalg.inv(rays.directions[rays.faces].transpose(1, 2))
    table = _facet_table(rays)
    facet = table[_grid(u.T.float())]
    weights = (inverses[facet] * u[:, None]).sum(-1)
    tensors = (
        (t[:, None] ** (1 / rays.dimension) * u).T.float(),
        rays.faces[facet].T,
        (weights / weights.sum(1, keepdim=True)).T.float(),
        table,
        rays.faces.T,
        inverses.permute(1, 2, 0).float(),
        inverses.sum(1).T.float(),
    )
    return _Filling(*(x.contiguous().to(device) for x in tensors))


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


def _grid(u: Sequence[Tensor] | Tensor) -> Tensor:
    """The cell of the grid that unit vectors (D, ...) lie in."""
    half = GRID / 2 * (1 - 1e-6)
    cell = (u[0] * half).add_(GRID / 2).floor_()
    for coordinate in u[1:]:
        cell.mul_(GRID).add_((coordinate * half).add_(GRID / 2).floor_())
    return cell.long()


def _reach(lengths: Tensor, filling: _Filling) -> Tensor:
    """The radius (S, M) of stars ``lengths`` (S, n) towards the points."""
    terms = (lengths.index_select(1, ray).mul_(share) for ray, share in zip(filling.corners, filling.shares))
    return _total(terms).clamp_min_(0)


def _forms(lengths: Tensor, filling: _Filling) -> list[Tensor]:
    """D tables (S, F) for stars ``lengths`` (S, n): Σ_k λ_k d_k = Σ_j forms[j][:, facet] x_j."""
    corners = [lengths.index_select(1, ray) for ray in filling.faces]
    return [_total(d * weight for d, weight in zip(corners, column)) for column in filling.inverses.unbind(1)]


def _total(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(Tensor.add_, terms)


def _share(stars: Stars, a: Tensor, b: Tensor, filling: _Filling) -> Tensor:
    """The share (P,) of stars ``a`` that is in stars ``b``."""
    # Over the radius of b nothing overflows, and float32 is enough. Written for speed: index_select and a comparison
    # into floats take a fraction of the time of an index in brackets and of torch.where.
    unit = torch.where(stars.radius[b] > 0, stars.radius[b], 1.0)[:, None]
    centre = ((stars.centres[a] - stars.centres[b]) / unit).float()
    own = _reach(stars.lengths[a], filling)
    reach = own * (stars.radius[a, None] / unit).float()
    x = [torch.addcmul(c[:, None], reach, p) for c, p in zip(centre.T, filling.points)]
    length = _total(c * c for c in x).add_(1e-30).sqrt_()
    u = [c.div_(length) for c in x]
    cell = _grid(u)
    facet = filling.table.index_select(0, cell.view(-1))
    # Inside is where ‖x‖ Σ λ_k ≤ Σ λ_k d_k; both sums are linear in x, by facet, and by star and facet.
    outer = _total(plane.index_select(0, facet).view_as(c).mul_(c) for plane, c in zip(filling.sums, u)).mul_(length)
    facet = facet.view_as(cell)
    inner = _total(form.gather(1, facet).mul_(c) for form, c in zip(_forms(stars.lengths[b], filling), u))
    outside = torch.gt(outer, inner, out=outer)
    weight = own.pow_(stars.rays.dimension)
    return 1 - _ratio(torch.linalg.vecdot(outside, weight), weight.sum(1)).double()
