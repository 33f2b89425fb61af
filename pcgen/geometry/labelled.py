"""Points with labels and the centres of their instances, checked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.geometry.checks import check_finite, check_floats
from pcgen.geometry.pairs import Pairs
from pcgen.geometry.rays import Rays

__all__ = ["Labelled", "check_labels"]

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Labelled(NamedTuple):
    """What targets are made of, checked; in float64, as :func:`pcgen.geometry.stars.inside` computes."""

    rays: Rays
    centres: Tensor  # (K, D)
    points: Tensor  # (N, D)
    instance: Tensor  # (N,) int64
    ids: Tensor  # (K,) int64

    @classmethod
    def of(cls, rays: Rays, centres: Tensor, points: Tensor, instance: Tensor, ids: Tensor | None) -> Labelled:
        check_floats("centres", centres, "K", rays.dimension)
        check_finite("centres", centres)
        check_labels(points, instance)
        if centres.ndim != 2 or points.shape[1] != rays.dimension:
            raise ValueError(
                f"centres must be (K, {rays.dimension}) and points (N, {rays.dimension}) for {rays.name}, "
                f"got {tuple(centres.shape)} and {tuple(points.shape)}"
            )
        if not centres.device == points.device == instance.device:
            given = f"{centres.device}, {points.device} and {instance.device}"
            raise ValueError(f"centres, points and instance must share the device, got {given}")
        ids = _ids(len(centres), instance, ids)
        return cls(rays, centres.double(), points.double(), instance.long(), ids)

    def annotated(self) -> Labelled:
        """The scene without points that nobody annotated."""
        known = self.instance >= 0
        return self._replace(points=self.points[known], instance=self.instance[known])

    def offsets(self, pairs: Pairs) -> Tensor:
        """The points (P, D) seen from the centres of their stars."""
        return self.points[pairs.point] - self.centres[pairs.first + pairs.star]


def check_labels(points: Tensor, instance: Tensor) -> None:
    check_floats("points", points, "N", "D")
    check_finite("points", points)
    if not isinstance(instance, Tensor) or instance.dtype not in INTEGERS:
        raise TypeError(
            f"instance must be a tensor of integers, got {getattr(instance, 'dtype', type(instance).__name__)}"
        )
    if points.ndim != 2 or instance.shape != points.shape[:1]:
        given = f"{tuple(points.shape)} and {tuple(instance.shape)}"
        raise ValueError(f"points must be (N, D) and instance (N,), got {given}")
    if len(instance) and int(instance.min()) < -1:
        raise ValueError(f"instance must be -1 (unannotated), 0 (background) or above, got {int(instance.min())}")


def _ids(count: int, instance: Tensor, ids: Tensor | None) -> Tensor:
    """The instances (K,) of the centres."""
    if ids is None:
        highest = int(instance.max()) if len(instance) else 0
        if highest > count:
            raise ValueError(f"instance must hold labels up to {count}, one for each centre, got {highest}")
        return torch.arange(1, count + 1, device=instance.device)
    if not isinstance(ids, Tensor) or ids.dtype not in INTEGERS:
        raise TypeError(f"ids must be a tensor of integers, got {getattr(ids, 'dtype', type(ids).__name__)}")
    if ids.shape != (count,):
        raise ValueError(f"ids must be ({count},), an instance for each centre, got {tuple(ids.shape)}")
    if count and int(ids.min()) < 1:
        raise ValueError(f"ids must be instances, from 1, got {int(ids.min())}")
    return ids.long()
