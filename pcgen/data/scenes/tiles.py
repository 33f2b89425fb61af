"""Parts of a scan: boxes, and overlapping tiles in which every point is owned once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .scene import Scene

__all__ = ["Tile", "crop", "tiles"]

_ROWS = 1 << 20  # points handled at a time while they are counted into cells


class Tile(NamedTuple):
    """A column of the scan, as wide as asked, and a margin around it."""

    index: np.ndarray  # (M,) int64 rows of the points in the tile and its margin, ascending
    owned: np.ndarray  # (M,) bool: in the tile itself. Every point of the scan is owned by exactly one tile
    low: np.ndarray  # (2,) float64 corner of the tile without margin, along the horizontal axes
    high: np.ndarray  # (2,) float64


def tiles(
    scene: Scene | ArrayLike,
    size: float,
    overlap: float = 0.0,
    up: Literal["x", "y", "z"] = "z",
    start: ArrayLike | None = None,
) -> Iterator[Tile]:
    """Cut a scene, or (N, 3) points, into square tiles of edge ``size``, seen along ``up``, with a margin around each.

    A tile holds the points up to ``overlap`` outside it too, but owns only its own. Tiles that own none are left out;
    the others come row by row, the first from ``start`` (2,), else from the smallest coordinates. The points are sorted
    into cells once: each tile then costs what it and its neighbours hold, and memory is some 50 bytes a point.

    ``ValueError`` for a size that is not positive, a negative overlap, points that are not (N, 3) or not finite, or a
    size too small for the extent.

    >>> first, second = tiles([[0, 0, 0], [0.9, 0, 5], [1.1, 0, 0]], size=1.0, overlap=0.2)
    >>> first.index, first.owned, second.index, second.owned
    (array([0, 1, 2]), array([ True,  True, False]), array([1, 2]), array([False,  True]))
    """
    points = scene.points if isinstance(scene, Scene) else np.asarray(scene)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points to tile must be (N, 3), got {points.shape}")
    if not 0 < size < np.inf or not 0 <= overlap < np.inf:
        raise ValueError(f"size must be positive and overlap not negative, got {size} and {overlap}")
    if up not in "xyz":
        raise ValueError(f"up must be 'x', 'y' or 'z', got {up!r}")
    flat = points[:, [axis for axis in range(3) if "xyz"[axis] != up]]
    if not len(flat):
        return iter(())
    if not np.isfinite(flat).all():
        raise ValueError("points to tile must be finite")
    corner = flat.min(axis=0).astype(np.float64) if start is None else np.broadcast_to(np.asarray(start, float), 2)
    reach = max(np.abs(bound - corner).max() / size for bound in (flat.min(axis=0), flat.max(axis=0)))
    if not reach < 2**30:
        raise ValueError(f"tiles of {size} are too small for these points: {reach:.3g} of them in a row")
    return _tiles(flat, float(size), float(overlap), corner)


def crop(scene: Scene, low: ArrayLike, high: ArrayLike) -> Scene:
    """The points of ``scene`` in the box from ``low`` to ``high``, both included, (3,) as ``scene.points`` are.

    Infinite corners leave an axis uncut. The result can be empty.

    >>> from pcgen.data.scenes import make_scene
    >>> len(crop(make_scene(np.eye(3)), (0, 0, 0), (0.5, np.inf, np.inf)))
    2
    """
    low, high = np.broadcast_to(np.asarray(low, float), 3), np.broadcast_to(np.asarray(high, float), 3)
    inside = np.ones(len(scene), bool)
    for axis in range(3):
        inside &= (scene.points[:, axis] >= low[axis]) & (scene.points[:, axis] <= high[axis])
    return scene.take(np.flatnonzero(inside))


def _tiles(points: np.ndarray, size: float, overlap: float, corner: np.ndarray) -> Iterator[Tile]:
    key, first, columns = _cells(points, size, corner)
    order = np.argsort(key, kind="stable")
    key, points = key[order].astype(np.int64), points[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(key)]):
        cell = np.array(divmod(int(key[start]), columns)) + first
        low, high = corner + cell * size, corner + (cell + 1) * size
        kept = [np.arange(start, stop)]
        for a, b in _neighbourhood(key, int(key[start]), columns, int(np.ceil(overlap / size))):
            near = ((points[a:b] >= low - overlap) & (points[a:b] <= high + overlap)).all(axis=1)
            near[max(start - a, 0) : max(stop - a, 0)] = False  # the tile's own are there already
            kept.append(a + np.flatnonzero(near))
        rows = np.concatenate(kept)
        ascending = np.argsort(order[rows])
        yield Tile(order[rows][ascending], ascending < stop - start, low, high)


def _cells(points: np.ndarray, size: float, corner: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(N,) the number of each point's tile, row by row; the first row and column; how many columns there are."""
    cells = np.empty(points.shape, np.int32)
    for rows in (slice(i, i + _ROWS) for i in range(0, len(points), _ROWS)):
        cells[rows] = np.floor((points[rows] - corner) / size)
    first = cells.min(axis=0).astype(np.int64)
    columns = int(cells[:, 1].max() - first[1]) + 1
    key = (cells[:, 0] - first[0]) * columns + (cells[:, 1] - first[1])
    # NumPy sorts 16-bit numbers five times as fast.
    return key.astype(np.uint16) if key.max() < 2**16 else key, first, columns


def _neighbourhood(key: np.ndarray, here: int, columns: int, reach: int) -> Iterator[tuple[int, int]]:
    """The stretches of the sorted ``key`` that hold the cells at most ``reach`` rows and columns away."""
    row, column = divmod(here, columns)
    left, right = max(column - reach, 0), min(column + reach, columns - 1)
    for r in range(max(row - reach, 0), min(row + reach, int(key[-1]) // columns) + 1):
        yield tuple(np.searchsorted(key, [r * columns + left, r * columns + right + 1]))
