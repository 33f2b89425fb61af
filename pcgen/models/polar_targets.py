"""What PolarMask3D learns from: labelled clouds in a batch, their stars, and what each voxel and vote should say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen import ops
from pcgen.geometry import targets
from pcgen.geometry.rays import Rays

__all__ = [
    "InstanceStars",
    "LabelledCloud",
    "PolarBatch",
    "collate",
    "instance_extents",
    "instance_stars",
    "lengths_from",
    "positives",
    "rank_within",
    "sample_near",
    "voxel_labels",
]

SHORTEST = 0.02  # of a star's mean length: what a ray keeps when it is seen from a vote beyond it


class InstanceStars(NamedTuple):
    """The true stars of K instances."""

    centres: Tensor  # (K, 3) m
    lengths: Tensor  # (K, n) m
    valid: Tensor  # (K, n) bool, whether the length is known

    def radii(self) -> Tensor:
        """(K,) the mean of the valid lengths, in metres; 0 where none is valid."""
        return torch.where(self.valid, self.lengths, 0.0).sum(1) / self.valid.sum(1).clamp_min(1)


class Drawn(NamedTuple):
    """Voxels around each of S centres."""

    rows: Tensor  # (S, P) int64
    counts: Tensor  # (S, P) bool, whether the row is one, or fills up


class LabelledCloud(NamedTuple):
    """A scene, or a crop of one, and what is known of it."""

    points: Tensor  # (N, 3) m
    instance: Tensor  # (N,) int64, 1 … K; 0 background; −1 unannotated
    semantic: Tensor | None = None  # (N,) int64, 1 … classes; 0 background; −1 unannotated; None: one class
    features: Mapping[str, Tensor] = {}  # (N,) or (N, C) by name
    stars: InstanceStars | None = None  # of whole instances, where the points show less of them; None: from the points


class PolarBatch(NamedTuple):
    """Labelled clouds, packed."""

    points: Tensor  # (ΣN, 3) m
    offsets: Tensor  # (B + 1,) int64, the first row of each cloud
    instance: Tensor  # (ΣN,) int64, 1 … ΣK; 0 background; −1 unannotated
    semantic: Tensor  # (ΣN,) int64, 1 … classes; 0 background; −1 unannotated
    features: Mapping[str, Tensor]  # (ΣN, …) by name
    stars: InstanceStars  # of the ΣK instances

    def to(self, device: torch.device | str) -> PolarBatch:
        """The batch on another device."""
        features = {name: column.to(device) for name, column in self.features.items()}
        stars = InstanceStars(*(part.to(device) for part in self.stars))
        moved = (part.to(device) for part in (self.points, self.offsets, self.instance, self.semantic))
        return PolarBatch(*moved, features, stars)


def instance_stars(rays: Rays, points: Tensor, instance: Tensor) -> InstanceStars:
    """The stars of a labelled cloud about the mean of each instance's points, their lengths optimal for the IoU.

    ``instance`` (N,) as in :class:`LabelledCloud`. An instance that has no point has no valid ray.
    """
    centres = targets.centres_of(points, instance)
    found = targets.optimal(rays, centres, points, instance)
    return InstanceStars(centres, found.lengths, found.valid)


def instance_extents(points: Tensor, number: Tensor, count: int) -> Tensor:
    """(count, 3) edges of the boxes of the points (N, 3) that have each ``number`` (N,) from 0, negative for none.

    >>> instance_extents(torch.tensor([[0.0, 1.0, 2.0], [4.0, 1.0, 1.0], [9.0, 9.0, 9.0]]), torch.tensor([0, 0, -1]), 1)
    tensor([[4., 0., 1.]])
    """
    upper, lower = (ops.segment_reduce(points, number, count, end).value for end in ("max", "min"))
    return upper - lower


def collate(clouds: Sequence[LabelledCloud], rays: Rays) -> PolarBatch:
    """A batch of ``clouds``; stars that none brings are computed. ``ValueError`` for arrays that do not fit."""
    if not clouds:
        raise ValueError("a batch needs at least 1 cloud, got 0")
    for cloud in clouds:
        _check(cloud)
    names = set.intersection(*(set(cloud.features) for cloud in clouds))
    stars = [cloud.stars or instance_stars(rays, cloud.points, cloud.instance) for cloud in clouds]
    instance, first = [], 0
    for cloud, known in zip(clouds, stars):
        if int(cloud.instance.max()) > len(known.centres):
            highest, count = int(cloud.instance.max()), len(known.centres)
            raise ValueError(f"instance must be at most {count}, the number of stars, got {highest}")
        instance.append(torch.where(cloud.instance > 0, cloud.instance + first, cloud.instance))
        first += len(known.centres)
    semantic = [cloud.instance.clamp(max=1) if cloud.semantic is None else cloud.semantic for cloud in clouds]
    sizes = torch.tensor([0, *(len(cloud.points) for cloud in clouds)])
    return PolarBatch(
        torch.cat([cloud.points for cloud in clouds]),
        sizes.cumsum(0),
        torch.cat(instance),
        torch.cat(semantic),
        {name: torch.cat([cloud.features[name] for cloud in clouds]) for name in sorted(names)},
        InstanceStars(*(torch.cat(part) for part in zip(*stars))),
    )


def _check(cloud: LabelledCloud) -> None:
    rows = len(cloud.points)
    columns = {"instance": cloud.instance, "semantic": cloud.semantic, **cloud.features}
    for name, column in columns.items():
        if column is not None and len(column) != rows:
            raise ValueError(f"{name} must have a row for each of {rows} points, got {tuple(column.shape)}")
    if not rows or int(cloud.instance.min()) < -1:
        lowest = int(cloud.instance.min()) if rows else "none"
        raise ValueError(f"a cloud needs at least 1 point and instances from -1, got {rows} points and {lowest}")


def voxel_labels(labels: Sequence[Tensor], voxel: Tensor, count: int) -> list[Tensor]:
    """What most points of each voxel say, (count,) of every one of ``labels`` (N,); of several, the lowest.

    The labels, integers from −1, are taken together: a voxel's combination is one that some point of it has.
    """
    code = torch.zeros_like(voxel)
    sizes = [int(label.max()) + 2 for label in labels]
    for label, size in zip(labels, sizes):
        code = code * size + label + 1
    distinct, code = torch.unique(code, return_inverse=True)
    pairs, votes = torch.unique(voxel * len(distinct) + code, return_counts=True)
    winner = ops.segment_reduce(votes.double(), pairs // len(distinct), count, "max").argmax
    code = distinct[pairs[winner] % len(distinct)]
    columns = []
    for size in reversed(sizes):
        columns.append(code % size - 1)
        code = code // size
    return columns[::-1]


def positives(
    apart: Tensor, instance: Tensor, radius: float, nearest: int, most: int, generator: torch.Generator | None
) -> Tensor:
    """Rows of the votes that are to predict a star: at most ``most`` of each instance, drawn at random.

    They land within ``radius`` of its centre or are the ``nearest`` of its votes to do so, so that there are some
    before offsets are learned.

    Args:
        apart: (M,) distance of each vote from the centre of its instance, in radii of the instance.
        instance: (M,) int64, which one that is.
    """
    good = (apart <= radius) | (rank_within(instance, apart) < nearest)
    rows = good.nonzero()[:, 0]
    lottery = torch.rand(len(rows), generator=generator).to(apart)
    return rows[rank_within(instance[rows], lottery) < most]


def rank_within(group: Tensor, key: Tensor) -> Tensor:
    """(N,) how many rows of the same group (N,) have a lower key (N,), equal ones in the order of the rows.

    >>> rank_within(torch.tensor([7, 3, 7, 7]), torch.tensor([0.5, 0.1, 0.2, 0.5]))
    tensor([1, 0, 0, 2])
    """
    order = key.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    ordered = group[order].contiguous()
    return place - torch.searchsorted(ordered, group)


def lengths_from(rays: Rays, lengths: Tensor, shift: Tensor) -> Tensor:
    """Lengths (M, n) of stars seen from ``shift`` (M, 3) beside their centres: d − v · shift, and not below a little.

    Exact to first order in the shift for a sphere, whose ray from there is d − v · shift + O(shift² / d).
    """
    seen = lengths - shift @ rays.to(lengths.device).directions.to(lengths.dtype).T
    return seen.maximum(SHORTEST * lengths.mean(1, keepdim=True))


def sample_near(
    positions: Tensor,
    allowed: Tensor,
    centres: Tensor,
    reach: Tensor,
    most: int,
    generator: torch.Generator | None,
) -> Drawn:
    """At most ``most`` voxels within ``reach`` (S,) of each of the ``centres`` (S, 3), at random.

    Drawn among ``positions`` (V, 3) that ``allowed`` (S, V) admits.
    """
    near = (torch.cdist(centres, positions) <= reach[:, None]) & allowed
    lottery = torch.rand(near.shape, generator=generator).to(positions)
    drawn = lottery.masked_fill(~near, -1.0).topk(min(most, near.shape[1]), dim=1)
    return Drawn(drawn.indices, drawn.values >= 0)
