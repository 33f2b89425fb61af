"""Pictures of segmented clouds: one view of the same points for each labelling, a colour for each instance."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from pcgen.data.scenes import box_without_strays
from pcgen.viz.drawing import MOST_POINTS, draw, half_extent, project
from pcgen.viz.gallery import compose

__all__ = ["instance_colours", "instance_picture"]

BACKGROUND = (0.80, 0.80, 0.78)
UNANNOTATED = (0.93, 0.93, 0.95)
HALO = 0.02  # of half a picture: how near to an instance background may stand before it, on the picture and in depth


def instance_colours(labels: ArrayLike) -> np.ndarray:
    """Colours (N, 3) from 0 to 1 of instance numbers (N,): greys for 0, the background, and −1, not annotated.

    A number always has the same colour, and numbers that follow each other have colours far apart.

    >>> instance_colours([0, 1, 2]).round(2).tolist()
    [[0.8, 0.8, 0.78], [0.9, 0.36, 0.3], [0.33, 0.41, 0.75]]
    """
    labels = np.asarray(labels)
    distinct, number = np.unique(labels, return_inverse=True)
    return np.array([_colour(int(label)) for label in distinct]).reshape(-1, 3)[number]


def numbered_alike(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The labels ``found`` (N,) with the numbers, and so the colours, of the true instances that they match.

    At an IoU above ½, so that no two have the same; others have numbers beyond.

    >>> numbered_alike(np.array([1, 1, 2, 2, 2]), np.array([2, 2, 0, 1, 1]))
    array([1, 1, 0, 2, 2])
    """
    known = max(int(truth.max()), 0)
    shared = np.zeros((int(found.max()) + 1, known + 1))
    np.add.at(shared, (found, np.maximum(truth, 0)), 1)
    union = shared.sum(1)[:, None] + shared.sum(0) - shared
    iou = (shared / np.maximum(union, 1))[1:, 1:]
    number = np.arange(known + 1, known + 1 + len(iou))
    rows, columns = np.nonzero(iou > 0.5)
    number[rows] = columns + 1
    return np.append(0, number)[found]


def instance_picture(
    path: str | Path,
    points: ArrayLike,
    labellings: Mapping[str, ArrayLike],
    *,
    up: str = "z",
    view: tuple[float, float] = (50.0, 30.0),
    size: float = 5.0,
) -> Path:
    """Draws ``points`` (N, 3) once for each of ``labellings``, name -> (N,) instance numbers, side by side as a PNG.

    Background that hides an instance, such as a ceiling or the nearer walls, is left out, and so are strays. ``view``
    and ``size`` as in :func:`pcgen.viz.gallery`. ``ValueError`` for labels that do not fit the points.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     instance_picture(f"{folder}/two.png", np.eye(3), {"truth": [1, 1, 2], "found": [1, 2, 2]}).name
    'two.png'
    """
    points = np.asarray(points, np.float64)
    finite = np.isfinite(points).all(1)
    if finite.any():
        low, high = box_without_strays(points[finite])
        finite &= ((points >= low) & (points <= high)).all(1)
        points = np.where(finite[:, None], points, np.nan)
    views = project(points, up, view, "the points")
    stride = -(-int(finite.sum()) // MOST_POINTS)  # as project() thins the points out
    pixels = np.array([1, 1]) * int(100 * size)
    tiles, extent = [], half_extent(views) if len(views) else None
    for name, labels in labellings.items():
        labels = np.asarray(labels)
        if labels.shape != finite.shape:
            raise ValueError(f"labelling {name!r} must be ({len(points)},), one for each point, got {labels.shape}")
        labels = labels[finite][::stride]
        shown = ~_hiding(views, labels > 0)
        tiles.append(draw(views[shown], extent, pixels, instance_colours(labels[shown])))
    return compose([""], [tiles], pixels, None, Path(path), list(labellings))


def _hiding(views: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Which of the projected points (N, 4) are no ``instance`` (N,) and stand before one."""
    from scipy.spatial import cKDTree

    hiding = np.zeros(len(views), bool)
    if instance.any():
        reach = HALO * half_extent(views).max()
        gap, nearest = cKDTree(views[instance, :2]).query(views[~instance, :2])
        hiding[~instance] = (gap < reach) & (views[~instance, 2] > views[instance, 2][nearest] + reach)
    return hiding


def _colour(label: int) -> tuple[float, float, float]:
    if label <= 0:
        return BACKGROUND if label == 0 else UNANNOTATED
    turn = (label - 1) * 0.61803398875 + 0.017  # the golden ratio keeps successive hues apart
    return colorsys.hsv_to_rgb(turn % 1, (0.67, 0.56, 0.78)[label % 3 - 1], (0.9, 0.75, 0.62)[label % 3 - 1])
