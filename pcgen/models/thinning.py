"""Scans denser than those that a model has learnt from, thinned to what it knows.

Of generated rooms with a point for each square of 5 cm, voxels of 8 cm hold 2.5 points. In the same rooms with one for
each 1.25 cm they hold 32, and near a sensor hundreds: there the network sees foreground that is none, and a speck that
used to have too few points passes for an object. Thinned, the scan is again one that it was trained on.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcgen import ops
from pcgen.models.polar_targets import rank_within

__all__ = ["Thinned", "points_per_voxel", "thinned"]


class Thinned(NamedTuple):
    """A part of N points that stands for all."""

    kept: Tensor  # (M,) int64, ascending
    nearest: Tensor  # (N,) int64, which of the kept points, 0 … M − 1, is nearest to each


def points_per_voxel(x: Tensor, size: float) -> float:
    """How many of the points (N, 3) a voxel of edge ``size`` holds that holds any, in the mean.

    >>> points_per_voxel(torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.1, 0.1], [0.9, 0.1, 0.1]]), 0.5)
    1.5
    """
    return len(x) / max(1, len(ops.voxel_groups(x, size).counts))


def thinned(x: Tensor, size: float, density: float) -> Thinned | None:
    """The points (N, 3) without as many as makes voxels of edge ``size`` hold ``density`` in the mean, at least 1.

    Fullest voxels lose theirs first: all are cut at one number of points, and, as that is no whole number, some chosen
    at random keep one more. Which points stay is random too, always the same for the same points in the same order.
    None where the scan is no denser.

    >>> found = thinned(torch.tensor([[0.1], [0.2], [0.3], [0.9]]).expand(4, 3), 0.5, 1.5)
    >>> len(found.kept), bool(found.nearest[3] == 1 + found.nearest[:3].max())
    (3, True)
    """
    voxels = ops.voxel_groups(x, size)
    counts = voxels.counts
    if len(x) <= density * len(counts):
        return None
    whole, share = _cut(counts, density)
    generator = torch.Generator().manual_seed(0)
    place = torch.randperm(len(x), generator=generator).argsort().to(x.device)
    room = whole + (torch.rand(len(counts), generator=generator) < share).to(counts)
    kept = (rank_within(voxels.group, place) < room[voxels.group]).nonzero()[:, 0]
    return Thinned(kept, ops.nearest(x, x[kept]).index)


def _cut(counts: Tensor, density: float) -> tuple[int, float]:
    """The number at which ``counts`` (V,), cut off there, have the mean ``density``: whole part, and the rest of it."""
    more = 1 - torch.bincount(counts).cumsum(0).double() / len(counts)  # share of voxels with more than 0, 1, … points
    means = more.cumsum(0)  # of counts cut at 1, 2, …
    whole = int(torch.searchsorted(means, density, right=True))
    before = float(means[whole - 1]) if whole else 0.0
    return whole, (density - before) / float(more[whole])
