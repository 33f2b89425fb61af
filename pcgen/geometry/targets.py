"""Ray lengths of labelled instances: what a network learns, and what an oracle decodes.

All take centres (K, D), points (N, D) and ``instance`` (N,): 1 … K for the instances of the centres in turn, 0 for the
background, −1 for points that nobody annotated. With ``ids`` (K,) centre k belongs to instance ids[k] instead; several
may share one. A point at the centre has no direction and counts for no ray. Ray casting against meshes, T5, is in
:mod:`pcgen.geometry.raycast`.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcgen.geometry.balls import BallPairs, balls
from pcgen.geometry.checks import check_choice
from pcgen.geometry.labelled import Labelled, check_labels
from pcgen.geometry.pairs import Pairs, own_points
from pcgen.geometry.prefixes import choices, prefixes
from pcgen.geometry.rays import Rays
from pcgen.ops import segment_reduce

__all__ = ["Centre", "Targets", "cap", "centres_of", "furthest", "hull", "optimal", "quantile"]

Centre = Literal["mass", "box"]
DOTS = 1 << 21  # dot products of points and rays at once


class Targets(NamedTuple):
    """The rays of K stars."""

    lengths: Tensor  # (K, n), of the points' type and unit; 0 where not valid
    valid: Tensor  # (K, n) bool


def centres_of(points: Tensor, instance: Tensor, count: int | None = None, kind: Centre = "mass") -> Tensor:
    """The centres (count, D) of instances 1 … ``count``: the mean of their points, or the middle of their box.

    ``count`` is the largest label unless given. An instance without points has its centre at 0. ``TypeError`` and
    ``ValueError`` as in :func:`furthest`.

    >>> points, instance = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 3.0], [9.0, 9.0]]), torch.tensor([1, 1, 1, 0])
    >>> centres_of(points, instance), centres_of(points, instance, kind="box")
    (tensor([[2., 1.]]), tensor([[2.5000, 1.5000]]))
    """
    check_choice("kind", kind, Centre)
    check_labels(points, instance)
    highest = int(instance.max()) if len(instance) else 0
    count = max(0, highest) if count is None else count
    if count < highest:
        raise ValueError(f"instance must hold labels up to count = {count}, got {highest}")
    segment = torch.where(instance > 0, instance.long() - 1, -1)
    if kind == "mass":
        return segment_reduce(points, segment, count, "mean").value
    lower, upper = (segment_reduce(points, segment, count, extreme).value for extreme in ("min", "max"))
    return lower + (upper - lower) / 2


def furthest(rays: Rays, centres: Tensor, points: Tensor, instance: Tensor, ids: Tensor | None = None) -> Targets:
    """T1: the distance of the furthest point of the instance in each ray's cell; empty cells are not valid.

    ``ValueError`` for shapes that do not fit, coordinates that are not finite, and labels below −1 or, without ``ids``,
    beyond K; ``TypeError`` for other types.

    >>> from pcgen.geometry.rays import circle
    >>> points = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    >>> furthest(circle(4), torch.zeros(1, 2), points, torch.tensor([1, 1, 1, 0])).lengths
    tensor([[3., 1., 0., 0.]])
    """
    return _furthest(Labelled.of(rays, centres, points, instance, ids)).to(points.dtype)


def cap(
    rays: Rays,
    centres: Tensor,
    points: Tensor,
    instance: Tensor,
    angle: float | None = None,
    ids: Tensor | None = None,
) -> Targets:
    """T2: the distance of the furthest point of the instance within ``angle`` radians of each ray.

    Such caps overlap, and leave fewer rays empty than cells do. Unless given, the angle is the smallest with which caps
    cover all directions. Errors as in :func:`furthest`, and for an angle outside (0, π].

    >>> from pcgen.geometry.rays import circle
    >>> cap(circle(4), torch.zeros(1, 2), torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([1, 1])).lengths
    tensor([[2.0000, 1.4142, 0.0000, 0.0000]])
    """
    if angle is not None and not 0 < angle <= math.pi:
        raise ValueError(f"angle must lie in (0, π], got {angle}")
    scene = Labelled.of(rays, centres, points, instance, ids)
    found = _Found.none(scene)
    directions = rays.directions.to(points.device).T
    # A point on the edge of a cap is in it, whatever rounding does.
    cosine = (_covering_cosine(rays) if angle is None else math.cos(angle)) - 1e-14
    rows = max(1, DOTS // len(rays))
    for pairs in own_points(scene.instance, scene.ids):
        most = found.lengths.new_zeros(pairs.count, len(rays))
        for x, star in zip(scene.offsets(pairs).split(rows), pairs.star.split(rows)):
            radius = _radius(x)[:, None]
            reach = torch.where(x @ directions >= cosine * radius, radius, 0.0)
            most = torch.maximum(most, segment_reduce(reach, star, pairs.count, "max").value)
        found.put(pairs, most, most > 0)
    return found.to(points.dtype)


def quantile(
    rays: Rays, centres: Tensor, points: Tensor, instance: Tensor, q: float = 0.95, ids: Tensor | None = None
) -> Targets:
    """T3: the ``q``-quantile of the distances in each ray's cell, interpolated linearly: deaf to stray points.

    Errors as in :func:`furthest`, and for q outside [0, 1].

    >>> from pcgen.geometry.rays import circle
    >>> points = torch.tensor([[1.0, 0.0], [2.0, 0.0], [9.0, 0.0]])
    >>> quantile(circle(4), torch.zeros(1, 2), points, torch.tensor([1, 1, 1]), q=0.5).lengths
    tensor([[2., 0., 0., 0.]])
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q must lie in [0, 1], got {q}")
    scene = Labelled.of(rays, centres, points, instance, ids)
    found = _Found.none(scene)
    for pairs in own_points(scene.instance, scene.ids):
        radius, cell = _in_cells(scene, pairs)
        radius, cell = radius[cell >= 0], cell[cell >= 0]
        order = radius.argsort()
        order = order[cell[order].argsort(stable=True)]
        filled, number = cell[order].unique_consecutive(return_counts=True)
        place = q * (number - 1).double()
        below = number.cumsum(0) - number + place.long()
        above = (below + 1).clamp_max(len(radius) - 1)
        lengths = found.lengths.new_zeros(pairs.count * len(rays))
        lengths[filled] = torch.lerp(radius[order[below]], radius[order[above]], place.frac())
        found.put(pairs, lengths, lengths > 0)
    return found.to(points.dtype)


def hull(rays: Rays, centres: Tensor, points: Tensor, instance: Tensor, ids: Tensor | None = None) -> Targets:
    """T4: the distance along each ray to the convex hull of the instance's points, min b_k / (n_k · v) over its facets.

    All rays are valid where the centre is strictly inside the hull, and none where it is not. Points that span no
    volume (fewer than D + 1, or in one plane) have no hull; they give what :func:`furthest` gives. Errors as there.

    >>> from pcgen.geometry.rays import circle
    >>> square = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    >>> hull(circle(8), torch.zeros(1, 2), square, torch.ones(4, dtype=torch.int64)).lengths[0, :3]
    tensor([1.0000, 1.4142, 1.0000])
    """
    scene = Labelled.of(rays, centres, points, instance, ids)
    found = _furthest(scene)
    directions = rays.directions.cpu().numpy()
    for pairs in own_points(scene.instance, scene.ids):
        sizes = torch.bincount(pairs.star, minlength=pairs.count).tolist()
        for k, own in enumerate(scene.offsets(pairs).cpu().split(sizes), pairs.first):
            reach = _hull_radius(own.numpy(), directions)
            if reach is not None:
                found.lengths[k] = torch.from_numpy(reach).to(found.lengths)
                found.valid[k] = bool(reach.all())
    return found.to(points.dtype)


def optimal(rays: Rays, centres: Tensor, points: Tensor, instance: Tensor, ids: Tensor | None = None) -> Targets:
    """T6: the lengths whose star, by nearest rays, has the largest IoU with the instance among the points of the scene.

    Points of other instances and of the background are outside; those labelled −1 are neither inside nor outside. The
    best star is found exactly (:mod:`pcgen.geometry.prefixes`), the smallest of several; rays of length 0 are not
    valid. Errors as in :func:`furthest`.

    >>> from pcgen.geometry.rays import circle
    >>> points = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0], [5.0, 0.0]])
    >>> optimal(circle(4), torch.zeros(1, 2), points, torch.tensor([1, 1, 0, 0, 1])).lengths
    tensor([[2., 0., 0., 0.]])
    """
    scene = Labelled.of(rays, centres, points, instance, ids).annotated()
    found = _Found.none(scene)
    own = _furthest(scene).lengths
    ends = torch.searchsorted(scene.instance.sort().values, torch.stack([scene.ids, scene.ids + 1]))
    for pairs in balls(scene.centres, own.amax(1), scene.points):
        stars = slice(pairs.first, pairs.first + pairs.count)
        ray = rays.nearest(pairs.x)
        # No best star reaches beyond the instance's own furthest point of a cell.
        near = pairs.distance <= own[pairs.ball, ray]
        star, ray, radius = pairs.ball[near] - pairs.first, ray[near], pairs.distance[near]
        inside = scene.instance[pairs.point[near]] == scene.ids[stars][star]
        options = prefixes(len(rays), star, ray, radius, inside, ends.diff(dim=0)[0, stars])
        *_, best = choices(options)
        lengths = torch.cat([options.length, radius.new_zeros(1)])[best.prefix]  # −1 is the 0 at the end
        found.put(pairs, lengths, lengths > 0)
    return found.to(points.dtype)


class _Found(NamedTuple):
    """Targets in the making, float64."""

    lengths: Tensor
    valid: Tensor

    @classmethod
    def none(cls, scene: Labelled) -> _Found:
        shape = len(scene.centres), len(scene.rays)
        return cls(scene.points.new_zeros(shape), scene.points.new_zeros(shape, dtype=torch.bool))

    def put(self, pairs: Pairs | BallPairs, lengths: Tensor, valid: Tensor) -> None:
        stars = slice(pairs.first, pairs.first + pairs.count)
        self.lengths[stars], self.valid[stars] = lengths.view(pairs.count, -1), valid.view(pairs.count, -1)

    def to(self, dtype: torch.dtype) -> Targets:
        return Targets(self.lengths.to(dtype), self.valid)


def _furthest(scene: Labelled) -> _Found:
    found = _Found.none(scene)
    for pairs in own_points(scene.instance, scene.ids):
        radius, cell = _in_cells(scene, pairs)
        most = segment_reduce(radius, cell, pairs.count * len(scene.rays), "max").value
        found.put(pairs, most, most > 0)
    return found


def _in_cells(scene: Labelled, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The distance (P,) of points from their centres, and their cells star · n + ray (P,), −1 at the centre."""
    x = scene.offsets(pairs)
    radius = _radius(x)
    return radius, torch.where(radius > 0, pairs.star * len(scene.rays) + scene.rays.nearest(x), -1)


def _radius(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _covering_cosine(rays: Rays) -> float:
    """The cosine of the angle between the rays and the direction farthest from all, which is normal to a facet."""
    corners = rays.directions[rays.faces]
    normals = torch.linalg.solve(corners, torch.ones(*corners.shape[:2], 1, dtype=torch.float64))[..., 0]
    return float(1 / _radius(normals).max())


def _hull_radius(x: np.ndarray, directions: np.ndarray) -> np.ndarray | None:
    """The hull's radius (n,) about the origin; zeros where that is not strictly inside, None for no hull."""
    from scipy.spatial import ConvexHull, QhullError

    if len(x) <= x.shape[1]:
        return None
    try:
        planes = ConvexHull(x).equations  # n · x + b <= 0 inside
    except QhullError:
        return None
    if planes[:, -1].max() > -1e-12 * np.abs(x).max():
        return np.zeros(len(directions))
    slope = planes[:, :-1] @ directions.T
    with np.errstate(divide="ignore"):
        return np.where(slope > 0, -planes[:, -1:] / slope, np.inf).min(0)
