"""Sets of clouds: checked, in a common frame, and scored against each other by their distances."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "AS_IS",
    "Clouds",
    "DistanceScores",
    "Frame",
    "as_clouds",
    "distance_scores",
    "precision",
    "unit_frame",
    "warn_copies",
]

Clouds = np.ndarray | Tensor | Sequence  # (S, N, 3), or a sequence of S clouds (N, 3)


def as_clouds(clouds: Clouds, name: str, points: int | None = None, at_least: int = 1) -> Tensor:
    """``clouds`` as one float64 tensor (S, N, 3), each cut to its first ``points`` points where that is given.

    ``ValueError`` for fewer than ``at_least`` clouds, another shape, unequal or too small clouds, NaN and
    infinity; ``TypeError`` for what is no array of numbers.

    >>> as_clouds([np.zeros((5, 3)), np.ones((4, 3))], "samples", points=4).shape
    torch.Size([2, 4, 3])
    """
    if points is not None and points < 1:
        raise ValueError(f"points must be at least 1, got {points}")
    if not isinstance(clouds, (np.ndarray, Tensor, Sequence)):
        raise TypeError(f"{name} must be an array (S, N, 3) or a sequence of clouds, got {type(clouds).__name__}")
    parts = [_as_cloud(cloud, f"{name}[{i}]") for i, cloud in enumerate(clouds)]
    if len(parts) < at_least:
        raise ValueError(f"{name} must hold at least {at_least} clouds, got {len(parts)}")
    sizes = [len(part) for part in parts]
    if points is None and min(sizes) != max(sizes):
        raise ValueError(
            f"{name} must hold clouds of equal size, got {min(sizes)} to {max(sizes)} points "
            f"(points={min(sizes)} takes the first {min(sizes)} of each)"
        )
    if points is not None and min(sizes) < points:
        small = sizes.index(min(sizes))
        raise ValueError(f"{name}[{small}] must hold at least points={points} points, got {sizes[small]}")
    together = torch.stack([part[:points] for part in parts])
    if not together.isfinite().all():
        bad = (~together.isfinite()).any(-1).any(-1).nonzero()[0].item()
        raise ValueError(f"{name}[{bad}] must be finite, got NaN or infinite coordinates")
    return together


def precision(*sets: Clouds) -> torch.dtype:
    """The type to measure sets of clouds in: float64 if some cloud came in it, float32 for all others.

    >>> precision(np.zeros((2, 5, 3), np.float32), [np.zeros((5, 3), np.float16)])
    torch.float32
    """
    given = [cloud for clouds in sets for cloud in ([clouds] if hasattr(clouds, "dtype") else clouds)]
    doubles = any(getattr(cloud, "dtype", None) in (np.float64, torch.float64) for cloud in given)
    return torch.float64 if doubles else torch.float32


def _as_cloud(cloud: np.ndarray | Tensor, name: str) -> Tensor:
    try:
        tensor = cloud.detach() if isinstance(cloud, Tensor) else torch.tensor(np.asarray(cloud, dtype=np.float64))
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be an array of numbers (N, 3), got {type(cloud).__name__}") from None
    if tensor.ndim != 2 or tensor.shape[1] != 3 or len(tensor) == 0:
        raise ValueError(f"{name} must be a cloud (N, 3) with at least one point, got {tuple(tensor.shape)}")
    return tensor.double()


def warn_copies(sets: Sequence[tuple[str, Tensor]], stacklevel: int = 3) -> None:
    """A ``UserWarning`` for clouds, point by point the same, that stand twice in a named set or in two of them."""
    before: list[tuple[str, set[bytes]]] = []
    for name, clouds in sets:
        each = [hashlib.sha256((cloud + 0.0).cpu().numpy()).digest() for cloud in clouds]  # -0 is 0
        if copies := len(each) - len(set(each)):
            warnings.warn(
                f"{copies} of the {len(each)} clouds of {name} are copies of others there: they are each other's "
                f"nearest neighbours, which spoils COV and 1-NNA",
                stacklevel=stacklevel,
            )
        for other, theirs in before:
            if common := sum(one in theirs for one in each):
                warnings.warn(f"{common} of the {len(each)} clouds of {name} are among {other}", stacklevel=stacklevel)
        before.append((name, set(each)))


class DistanceScores(NamedTuple):
    """The scores that rest on a distance; fractions lie in [0, 1]."""

    mmd: float  # mean over the references of the distance to the closest sample
    mmd_samples: float  # mean over the samples of the distance to the closest reference
    cov: float  # share of the references that are closest to some sample
    one_nna: float  # leave-one-out 1-nearest-neighbour accuracy; 0.5 is ideal where |S| = |R|
    one_nna_samples: float  # the same, over the samples only
    one_nna_references: float  # the same, over the references only


def distance_scores(rr: Tensor, rs: Tensor, ss: Tensor) -> DistanceScores:
    """MMD, COV and 1-NNA from distances (R, R), (R, S), (S, S), the row's cloud being the left one.

    1-NNA looks for the nearest neighbour down the columns of [[rr, rs], [rsᵀ, ss]], as the published programs
    do, which matters for the asymmetric annealed EMDs. Ties go to the lowest index, references first.

    >>> d = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> scores = distance_scores(d, d, d)           # two identical sets
    >>> scores.mmd, scores.cov, scores.one_nna
    (0.0, 1.0, 0.0)
    """
    nearest_reference = rs.min(0)
    everything = torch.cat([torch.cat([rr, rs], 1), torch.cat([rs.T, ss], 1)])
    is_reference = torch.arange(len(everything), device=rs.device) < len(rr)
    neighbour = everything.fill_diagonal_(float("inf")).argmin(0)
    right = (is_reference[neighbour] == is_reference).double()
    return DistanceScores(
        mmd=rs.min(1).values.mean().item(),
        mmd_samples=nearest_reference.values.mean().item(),
        cov=len(nearest_reference.indices.unique()) / len(rr),
        one_nna=right.mean().item(),
        one_nna_samples=right[len(rr) :].mean().item(),
        one_nna_references=right[: len(rr)].mean().item(),
    )


class Frame(NamedTuple):
    """Clouds are measured as (x − shift) · factor."""

    name: str
    shift: tuple[float, float, float]  # data units
    factor: float  # 1 / data unit

    def place(self, clouds: Tensor) -> Tensor:
        """The clouds as they are measured."""
        return (clouds - clouds.new_tensor(self.shift)) * self.factor


AS_IS = Frame("as-is", (0.0, 0.0, 0.0), 1.0)


def unit_frame(references: Tensor) -> Frame:
    """The shift and the factor that put clouds (R, N, 3) into the ball of radius 1/2, box centre at 0."""
    points = references.flatten(0, 1)
    shift = (points.amin(0) + points.amax(0)) / 2
    radius = (points - shift).norm(dim=1).max().item()
    if radius == 0:
        raise ValueError(f"references {tuple(references.shape)} are one point: expected a set with an extent")
    return Frame("unit", tuple(shift.tolist()), 0.5 / radius)
