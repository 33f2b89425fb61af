"""The rays' own rotations: turning a scene by one of them permutes the lengths of its stars and changes nothing else.

So augmentation by them needs no new targets, and predictions from several sides can be averaged ray by ray. All of
them at once are much to ask of a short training: on one crop of a dendrite the cost of the offsets went from 2.2 to 0.3
in 60 steps without turning, and to 2.0 with all 60 rotations of the icosphere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from pcgen import ops
from pcgen.geometry.rays import Rays
from pcgen.models.polar_targets import InstanceStars, PolarBatch

if TYPE_CHECKING:
    from pcgen.models.polarmask3d import PolarMask3D, StarPrediction, VoxelPrediction

__all__ = ["Averaged", "Turns", "Which", "averaged", "randomly_turned", "turned", "turns"]

Which = Literal["none", "upright", "all"]


class Turns(NamedTuple):
    """Rotations of space that permute the rays, the identity first."""

    matrices: Tensor  # (G, 3, 3), x @ M.T turns
    permutations: Tensor  # (G, n) int64, where each ray goes


def turns(rays: Rays, which: Which, up: str = "z") -> Turns:
    """Those of the rays' rotations that keep ``up`` where it is, or all of them, or none but the identity.

    >>> from pcgen.geometry.rays import icosphere
    >>> [len(turns(icosphere(42), which).matrices) for which in ("none", "upright", "all")]
    [1, 2, 60]
    """
    matrices, permutations = rays.rotations()
    axis = "xyz".index(up)
    kept = torch.arange(len(matrices)) == 0 if which == "none" else matrices[:, axis, axis] > 1 - 1e-9
    kept |= torch.tensor(which == "all")
    return Turns(matrices[kept], permutations[kept])


def turned(batch: PolarBatch, matrix: Tensor, permutation: Tensor) -> PolarBatch:
    """``batch`` turned about the origin by ``matrix`` (3, 3), which takes ray i to ray ``permutation[i]``."""
    matrix = matrix.to(batch.points)
    origin = permutation.argsort().to(batch.points.device)  # which ray comes to each
    centres, lengths, valid = batch.stars
    return batch._replace(
        points=batch.points @ matrix.T,
        features=_turned_features(batch.features, matrix),
        stars=InstanceStars(centres @ matrix.T, lengths[:, origin], valid[:, origin]),
    )


def randomly_turned(batch: PolarBatch, model: PolarMask3D, generator: torch.Generator | None) -> PolarBatch:
    """``batch`` turned by one of the rotations that the model's settings allow."""
    allowed = turns(model.rays, model.config.turns, model.config.up)
    draw = int(torch.randint(len(allowed.matrices), (), generator=generator))
    return turned(batch, allowed.matrices[draw], allowed.permutations[draw])


def _turned_features(features: Mapping[str, Tensor], matrix: Tensor) -> dict[str, Tensor]:
    return {name: x.to(matrix) @ matrix.T if name == "normals" else x for name, x in features.items()}


class Averaged(NamedTuple):
    """A prediction, and the same voxels' features as seen in each turn."""

    seen: VoxelPrediction
    features: list[Tensor]  # (V, C) in each turn
    permutations: Tensor  # (G, n)

    def stars(self, model: PolarMask3D, rows: Tensor) -> StarPrediction:
        """The stars (M, n) that voxels ``rows`` (M,) propose, the mean of all turns' logarithms of lengths."""
        each = [model.stars(features[rows]) for features in self.features]
        means = [torch.stack([x[:, p] for x, p in zip(part, self.permutations)]).mean(0) for part in zip(*each)]
        return type(each[0])(*means)


def averaged(model: PolarMask3D, x: Tensor, features: Mapping[str, Tensor], count: int) -> Averaged:
    """What ``model`` says of ``x`` (N, 3), averaged over the first ``count`` rotations that its settings allow."""
    seen = model(x, features=features)
    allowed = turns(model.rays, model.config.turns, model.config.up)
    matrices, permutations = allowed.matrices[:count].to(x), allowed.permutations[:count].to(x.device)
    said = [(seen.logits, seen.votes(), seen.quality, seen.features)]
    first = ops.segment_reduce(torch.ones_like(x[:, 0]), seen.voxel, len(seen.positions), "max").argmax
    for matrix in matrices[1:]:
        other = model(x @ matrix.T, features=_turned_features(features, matrix))
        rows = other.voxel[first]
        said.append((other.logits[rows], other.votes()[rows] @ matrix, other.quality[rows], other.features[rows]))
    logits, votes, quality, _ = (torch.stack(part).mean(0) for part in zip(*said))
    seen = seen._replace(logits=logits, offset=votes - seen.positions, quality=quality)
    return Averaged(seen, [features for *_, features in said], permutations)
