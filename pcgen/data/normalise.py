"""Standardising coordinates: subtract a mean, divide by a scale, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch

__all__ = ["Kind", "Normalisation", "fit", "normalisation_of"]

Kind = Literal["set", "set-axis", "shape"]
Points = TypeVar("Points", np.ndarray, torch.Tensor)


@dataclass(frozen=True, eq=False)
class Normalisation:
    """The map x ↦ (x − mean) / scale from data units to standardised coordinates.

    >>> metres = Normalisation(mean=np.array([0.0, 1.0, 0.0]), scale=np.array([2.0, 2.0, 2.0]))
    >>> metres.apply(np.array([[2.0, 1.0, -2.0]]))
    array([[ 1.,  0., -1.]])
    >>> round(metres.log_det, 4)
    2.0794
    """

    mean: np.ndarray  # (3,) float64, data units
    scale: np.ndarray  # (3,) float64, data units, positive

    def __post_init__(self) -> None:
        for name in ("mean", "scale"):
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.shape != (3,) or not np.isfinite(value).all():
                raise ValueError(f"{name} must be three finite numbers, got {value.tolist()}")
            value.flags.writeable = False
            object.__setattr__(self, name, value)
        if not (self.scale > 0).all():
            raise ValueError(f"scale must be positive, got {self.scale.tolist()}")

    def apply(self, points: Points) -> Points:
        """Standardise (…,3) points, an array or a tensor; dtype and device are kept."""
        return (points - _like(self.mean, points)) / _like(self.scale, points)

    def invert(self, points: Points) -> Points:
        """Bring standardised (…,3) points back to data units."""
        return points * _like(self.scale, points) + _like(self.mean, points)

    @property
    def log_det(self) -> float:
        """Σ log scale: a log-density of standardised points, minus this, is that of points in data units."""
        return float(np.log(self.scale).sum())


def fit(clouds: Sequence[np.ndarray], kind: Kind = "set") -> Normalisation:
    """The statistics of the training ``clouds``, (N_i,3) each, in float64 whatever their dtype.

    - ``"set"``: the mean of each axis over all points, and one scale for all axes, the standard deviation
      (ddof 0) of all coordinates about their grand mean, as in PointFlow.
    - ``"set-axis"``: the same means, and the standard deviation of each axis about its mean.
    - ``"shape"``: every shape is standardised by its own ``"set"`` statistics (:func:`normalisation_of`); what is
      returned are their averages over the clouds, which bring a generated shape, that has none of its own, to
      a typical place and size.

    ``ValueError`` when there are no points or no spread to divide by.

    >>> fit([np.array([[0, 0, 0], [2, 0, 0.0]]), np.array([[4, 0, 0.0]])]).mean.tolist()
    [2.0, 0.0, 0.0]
    """
    if not len(clouds) or not all(len(cloud) for cloud in clouds):
        raise ValueError(f"statistics need at least one cloud and no empty one, got {len(clouds)} clouds")
    if kind == "shape":
        own = [fit([cloud], "set") for cloud in clouds]
        return Normalisation(np.mean([n.mean for n in own], axis=0), np.mean([n.scale for n in own], axis=0))
    if kind not in ("set", "set-axis"):
        raise ValueError(f"normalise must be 'set', 'set-axis' or 'shape', got {kind!r}")
    count = sum(len(cloud) for cloud in clouds)
    mean = sum(cloud.sum(axis=0, dtype=np.float64) for cloud in clouds) / count
    centre = mean.mean() if kind == "set" else mean
    variance = sum(np.square(cloud.astype(np.float64) - centre).sum(axis=0) for cloud in clouds) / count
    scale = np.sqrt(np.full(3, variance.mean()) if kind == "set" else variance)
    if not (scale > 0).all():
        raise ValueError(f"the points have no spread along {_axes(scale <= 0)}: nothing to divide by")
    return Normalisation(mean, scale)


def normalisation_of(cloud: np.ndarray, kind: Kind, of_set: Normalisation) -> Normalisation:
    """What standardises this (N,3) cloud: its own statistics if ``kind`` is ``"shape"``, else ``of_set``.

    >>> of_set = Normalisation(np.zeros(3), np.ones(3))
    >>> normalisation_of(np.eye(3), "set", of_set) is of_set
    True
    """
    return fit([cloud], "set") if kind == "shape" else of_set


def _like(values: np.ndarray, points: Points) -> Points:
    if isinstance(points, torch.Tensor):
        return torch.tensor(values.tolist(), dtype=points.dtype, device=points.device)
    dtype = points.dtype if np.issubdtype(points.dtype, np.floating) else np.float64
    return values.astype(dtype)


def _axes(flags: np.ndarray) -> str:
    return ", ".join(axis for axis, flag in zip("xyz", flags) if flag)
