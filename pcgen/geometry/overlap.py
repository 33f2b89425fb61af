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
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.geometry.checks import check_finite, check_floats
from pcgen.geometry.filling import GRID, Filling, filling_of, grid_cell
from pcgen.geometry.rays import Rays
from pcgen.ops import native

__all__ = ["Overlap", "Stars", "ball_overlap", "check_stars", "star_overlap"]

BLOCK = 1 << 17  # points at once: what is computed of them stays in the cache
POINTS = 8192  # in a star, unless told
DIRECTIONS = 1024  # to measure a star
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
    usual: Tensor  # (S,) float64, radius of a ball of the star's volume
    evenness: Tensor  # (S,) float64, mean(ρ^D)² / mean(ρ^2D) over directions: 1 of a ball, 0 of a needle

    @classmethod
    def of(cls, rays: Rays, centres: Tensor, lengths: Tensor) -> Stars:
        dimension, filling = rays.dimension, filling_of(rays, DIRECTIONS, lengths.device)
        radius = lengths.double().amax(1) if len(lengths) else lengths.double().sum(1)
        relative = (lengths.double() / torch.where(radius > 0, radius, 1.0)[:, None]).float().contiguous()
        first, second = (_compiled_moments if _compiled(relative) else _moments)(relative, filling).unbind(1)
        volume = first * radius**dimension * _ball(dimension)
        usual = radius * first ** (1 / dimension)
        return cls(rays, centres.double(), relative, radius, volume, usual, _ratio(first**2, second))

    def bound(self, i: Tensor, j: Tensor) -> Tensor:
        """What the intersection (P,) does not exceed: the smaller star, and what the balls around both share."""
        # A little more, so that rounding takes nothing from equal balls.
        balls = (1 + 1e-6) * self._balls(self.radius, i, j)
        return torch.minimum(balls, torch.minimum(self.volume[i], self.volume[j]))

    def guess(self, i: Tensor, j: Tensor) -> Tensor:
        """What balls of the stars' volumes would share (P,)."""
        return self._balls(self.usual, i, j)

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
        filling = filling_of(self.rays, points, self.centres.device)
        share = (_compiled_shares if _compiled(self.lengths) else _shares)(self, a, b, filling)
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


def _reach(lengths: Tensor, filling: Filling) -> Tensor:
    """The radius (S, M) of stars ``lengths`` (S, n) towards the points."""
    terms = (lengths.index_select(1, ray).mul_(share) for ray, share in zip(filling.corners, filling.shares))
    return _total(terms).clamp_min_(0)


def _forms(lengths: Tensor, filling: Filling) -> list[Tensor]:
    """D tables (S, F) for stars ``lengths`` (S, n): Σ_k λ_k d_k = Σ_j forms[j][:, facet] x_j."""
    corners = [lengths.index_select(1, ray) for ray in filling.faces]
    return [_total(d * weight for d, weight in zip(corners, column)) for column in filling.inverses.unbind(1)]


def _total(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(Tensor.add_, terms)


def _moments(lengths: Tensor, filling: Filling) -> Tensor:
    """The means of ρ^D and ρ^2D (S, 2) float64 of stars ``lengths`` (S, n) over the directions of a filling."""
    blocks = lengths.split(max(1, BLOCK // filling.points.shape[1]))
    powers = [_reach(part, filling).pow_(len(filling.points)).double() for part in blocks]
    return torch.cat([torch.stack([part.mean(1), part.square().mean(1)], 1) for part in powers])


def _shares(stars: Stars, a: Tensor, b: Tensor, filling: Filling) -> Tensor:
    """The share (P,) float64 of stars ``a`` that is in stars ``b``."""
    rows = max(1, BLOCK // filling.points.shape[1])
    return torch.cat([_share(stars, x, y, filling) for x, y in zip(a.split(rows), b.split(rows))])


def _compiled(lengths: Tensor) -> bool:
    """Whether cuda/stars.cpp computes moments and shares, many times faster; it rounds otherwise here and there."""
    return lengths.device.type == "cpu" and native.available()


def _compiled_moments(lengths: Tensor, filling: Filling) -> Tensor:
    (dimension, count), moments = filling.points.shape, lengths.new_empty(len(lengths), 2, dtype=torch.float64)
    native.call("star_moments", dimension, lengths, *lengths.shape, count, filling.corners, filling.shares, moments)
    return moments


def _compiled_shares(stars: Stars, a: Tensor, b: Tensor, filling: Filling) -> Tensor:
    points, corners, shares, table, faces, inverses, sums = filling
    centre, ratio = _seen_from(stars, a, b)
    share = ratio.new_empty(len(a), dtype=torch.float64)
    ball = *points.shape[1:], points, corners, shares, GRID, table, faces.shape[1], faces, inverses, sums
    pairs = len(a), a.contiguous(), b.contiguous(), centre, ratio
    native.call("star_shares", len(points), stars.lengths, stars.lengths.shape[1], *ball, *pairs, share)
    return share


def _seen_from(stars: Stars, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (P, D) of stars ``a`` as seen from ``b``, and their radii (P,), over the radii of ``b``.

    So nothing overflows, and float32 is enough.
    """
    unit = torch.where(stars.radius[b] > 0, stars.radius[b], 1.0)
    centre = (stars.centres[a] - stars.centres[b]) / unit[:, None]
    return centre.float(), (stars.radius[a] / unit).float()


def _share(stars: Stars, a: Tensor, b: Tensor, filling: Filling) -> Tensor:
    # Written for speed: index_select and a comparison into floats take a fraction of the time of an index in brackets
    # and of torch.where.
    centre, ratio = _seen_from(stars, a, b)
    own = _reach(stars.lengths[a], filling)
    reach = own * ratio[:, None]
    x = [torch.addcmul(c[:, None], reach, p) for c, p in zip(centre.T, filling.points)]
    length = _total(c * c for c in x).add_(1e-30).sqrt_()
    u = [c.div_(length) for c in x]
    cell = grid_cell(u)
    facet = filling.table.index_select(0, cell.view(-1))
    # Inside is where ‖x‖ Σ λ_k ≤ Σ λ_k d_k; both sums are linear in x, by facet, and by star and facet.
    outer = _total(plane.index_select(0, facet).view_as(c).mul_(c) for plane, c in zip(filling.sums, u)).mul_(length)
    facet = facet.view_as(cell).long()
    inner = _total(form.gather(1, facet).mul_(c) for form, c in zip(_forms(stars.lengths[b], filling), u))
    outside = torch.gt(outer, inner, out=outer)
    weight = own.pow_(stars.rays.dimension)
    return 1 - _ratio(torch.linalg.vecdot(outside, weight), weight.sum(1)).double()
