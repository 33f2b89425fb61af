"""Predictions made on one sampling of a scene, carried over to another one."""

from __future__ import annotations

import numpy as np
import torch

from pcgen import ops
from pcgen.metrics.overlaps import Masks, members
from pcgen.metrics.truth import Array, as_array

__all__ = ["transfer_labels", "transfer_masks"]


def transfer_labels(
    labels: Array, source: Array, target: Array, max_distance: float | None = None, fill: int = 0
) -> np.ndarray:
    """Labels (N,) of ``target`` points (N, D): those (M,) of their nearest ``source`` points (M, D).

    Points farther than ``max_distance`` from all of them, a length in the unit of the coordinates, get ``fill``.
    Distances are computed in float64; of equally near points the lowest index wins. ``ValueError`` for shapes that do
    not fit, NaN or infinity.

    >>> transfer_labels([5, 7], [[0.0, 0.0], [1.0, 0.0]], [[0.9, 0.0], [0.2, 0.0], [9.0, 0.0]], max_distance=1.0)
    array([7, 5, 0])
    """
    nearest, near = _nearest(source, target, max_distance)
    values = as_array(labels)
    values = values.astype(np.int64) if values.dtype.kind in "iu" else values  # `fill` may be negative
    if len(values) != len(source):
        raise ValueError(f"labels must be one for each of {len(source)} source points, got {values.shape}")
    return np.where(near, values[nearest], np.asarray(fill, values.dtype))


def transfer_masks(masks: Masks, source: Array, target: Array, max_distance: float | None = None) -> list[np.ndarray]:
    """Masks of ``source`` points (M, D) as P arrays with the numbers of ``target`` points (N, D).

    ``masks`` are (P, M) bool, or P arrays of masks or of point numbers; for one array of numbers 1 … P there is
    :func:`transfer_labels`. :func:`pcgen.metrics.scannet_ap` takes what is returned. A target point belongs to the
    predictions of its nearest source point, and to none if that is farther than ``max_distance``.
    Errors as in :func:`transfer_labels` and for masks that do not fit.

    >>> transfer_masks([[0], [0, 1]], [[0.0], [1.0]], [[0.9], [0.2], [9.0]], max_distance=1.0)
    [array([1]), array([0, 1])]
    """
    nearest, near = _nearest(source, target, max_distance)
    reached = np.flatnonzero(near)
    order = reached[np.argsort(nearest[reached])]  # target points by their source point
    count = np.bincount(nearest[reached], minlength=len(source))
    start = np.cumsum(count) - count
    found = []
    for points in members(masks, len(source), "masks"):
        size = count[points]
        shift = start[points] - (np.cumsum(size) - size)
        found.append(np.sort(order[np.repeat(shift, size) + np.arange(size.sum())]))
    return found


def _nearest(source: Array, target: Array, max_distance: float | None) -> tuple[np.ndarray, np.ndarray]:
    """The nearest source point (N,) of each target point, and whether it is near enough (N,)."""
    if max_distance is not None and not max_distance >= 0:
        raise ValueError(f"max_distance must be a length, got {max_distance}")
    x, y = _cloud(target, "target"), _cloud(source, "source")
    if not len(y) or x.shape[1] != y.shape[1]:
        raise ValueError(f"source must be (M, {x.shape[1]}) with at least one point, got {tuple(y.shape)}")
    if not len(x):
        return np.zeros(0, np.int64), np.zeros(0, bool)
    distance, index = ops.nearest(x, y)
    near = torch.ones_like(index, dtype=torch.bool) if max_distance is None else distance.sqrt() <= max_distance
    return index.numpy(), near.numpy()


def _cloud(points: Array, name: str) -> torch.Tensor:
    x = torch.tensor(as_array(points), dtype=torch.float64)
    if x.ndim != 2 or not x.shape[1] or not bool(x.isfinite().all()):
        raise ValueError(f"{name} must be (N, D) finite coordinates, got {tuple(x.shape)}, {int(x.isnan().sum())} NaN")
    return x
