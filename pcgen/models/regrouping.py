"""Where stars and votes disagree, distance decides: what is found there is clustered instead.

A star cut out of a long desk fits its points well, but they vote elsewhere. Such stars are given up, and their points,
with the foreground that no star holds, are grouped as DBSCAN does. That is strong where objects stand apart, and joins
those that touch, where stars that agree remain.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pcgen import ops
from pcgen.geometry.stars import volume
from pcgen.models.dbscan import cluster
from pcgen.models.polar_targets import instance_extents, instance_stars

if TYPE_CHECKING:
    from pcgen.models.instances import DecodingConfig, Instances, Scan
    from pcgen.models.polarmask3d import PolarMask3D

__all__ = ["agreement", "regrouped"]

NEAR = 0.5  # of the mean distance of an object's points from its centre: votes that land so near mean this object
CORE = 5  # points within a voxel's edge, itself one of them, that make a point extend its cluster


def agreement(scan: Scan, found: Instances) -> Tensor:
    """(K,) the share of each object's points that vote for its centre."""
    point = (found.labels > 0).nonzero()[:, 0]
    own = found.labels[point] - 1
    centre = (found.centres - scan.origin).to(scan.x)[own]
    radius = ops.segment_reduce((scan.x[point] - centre).norm(dim=1), own, len(found), "mean").value
    votes = scan.said.seen.votes()[scan.said.seen.voxel[point]]
    near = (votes - centre).norm(dim=1) <= NEAR * radius[own]
    return ops.segment_reduce(near.to(scan.x), own, len(found), "mean").value


def regrouped(
    model: PolarMask3D, scan: Scan, found: Instances, probability: Tensor, config: DecodingConfig
) -> Instances:
    """``found`` without the objects of less than ``config.agreement``, then the clusters of the points left over.

    ``probability`` (V, classes) is that of the voxels. A cluster's star is the best one for its points, its score the
    mean probability of its class.
    """
    kept = found.take(agreement(scan, found) >= config.agreement)
    likely = (probability.amax(1) >= config.foreground)[scan.said.seen.voxel]
    rest = (likely & (kept.labels == 0)).nonzero()[:, 0]
    label = cluster(scan.points[rest], model.config.backbone.voxel, CORE).to(rest.device)
    large = torch.bincount(label, minlength=1)[1:] >= config.least
    number = torch.cat([large.new_zeros(1, dtype=torch.int64), torch.where(large, large.cumsum(0), 0)])[label]
    rest, number = rest[number > 0], number[number > 0]
    return _with_clusters(model, scan, kept, rest, number, probability) if len(rest) else kept


def _with_clusters(
    model: PolarMask3D, scan: Scan, kept: Instances, point: Tensor, number: Tensor, probability: Tensor
) -> Instances:
    """``kept`` and after them the clusters: rows (P,) of points, and the ``number`` (P,) from 1 that each has."""
    count = int(number.max())
    stars = instance_stars(model.rays, scan.x[point], number)
    mean = ops.segment_reduce(probability[scan.said.seen.voxel[point]], number - 1, count, "mean").value
    new = {
        "classes": 1 + mean.argmax(1),
        "scores": mean.amax(1),
        "centres": stars.centres.double() + scan.origin,
        "lengths": stars.lengths,
        "valid": stars.valid,
        "extents": instance_extents(scan.points[point], number - 1, count),
        "volumes": volume(model.rays, stars.lengths),
        "points": torch.bincount(number, minlength=count + 1)[1:],
    }
    both = {name: torch.cat([getattr(kept, name), column]) for name, column in new.items()}
    return replace(kept, labels=kept.labels.index_copy(0, point, number + len(kept)), **both)
