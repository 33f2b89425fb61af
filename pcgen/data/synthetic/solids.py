"""A small vocabulary of solids, each a triangle mesh made by joining rings of points.

Everything rests on :func:`sheet`, a grid of points joined by triangles, and :func:`loft`, a sheet closed into a
solid. Leading dimensions are copies: four legs are one call. y is up; lengths are in any one unit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "Mesh",
    "box",
    "cushion",
    "ellipsoid",
    "extrude",
    "loft",
    "merge",
    "oval",
    "revolve",
    "sheet",
    "strut",
    "tube",
]


class Mesh(NamedTuple):
    """Triangles with shared corners."""

    vertices: np.ndarray  # (V, 3) float64
    faces: np.ndarray  # (F, 3) int64, counter-clockwise seen from outside


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of several, their triangles in order.

    >>> merge([box((0, 0, 0), (1, 1, 1)), box((2, 0, 0), (1, 1, 1))]).faces.shape
    (24, 3)
    """
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    faces = np.concatenate([m.faces + start for m, start in zip(meshes, starts)])
    return Mesh(np.concatenate([m.vertices for m in meshes]), faces)


@functools.lru_cache(maxsize=256)
def _grid_faces(rows: int, columns: int, closed: bool) -> np.ndarray:
    """Two triangles for every cell of a grid; ``closed`` also joins the last column to the first."""
    corner = np.arange(rows * columns).reshape(rows, columns)
    if closed:
        corner = np.concatenate([corner, corner[:, :1]], axis=1)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


@functools.lru_cache(maxsize=256)
def _loft_faces(rows: int, columns: int, caps: bool) -> np.ndarray:
    """The closed grid, and for each end a fan around its centre, stored after the grid."""
    sides = _grid_faces(rows, columns, True)
    if not caps:
        return sides
    here, after = np.arange(columns), np.roll(np.arange(columns), -1)
    first = np.stack([np.full(columns, rows * columns), after, here], -1)
    top = (rows - 1) * columns
    last = np.stack([np.full(columns, rows * columns + 1), top + here, top + after], -1)
    return np.concatenate([sides, first, last])


def _copies(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """The triangles ``faces`` (F, 3) on every copy of ``vertices`` (B, V, 3)."""
    count, size, _ = vertices.shape
    faces = faces + size * np.arange(count)[:, None, None]
    return Mesh(vertices.reshape(-1, 3), faces.reshape(-1, 3))


def _volume(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The signed volume of every copy (B, V, 3), by the divergence theorem."""
    a, b, c = np.moveaxis((vertices - vertices.mean(1, keepdims=True))[:, faces], 2, 0)
    return np.einsum("bfi,bfi->b", a, np.cross(b, c)) / 6


def sheet(grid: ArrayLike) -> Mesh:
    """An open surface through a ``(..., rows, columns, 3)`` grid of points.

    The triangles face the side from which the columns run counter-clockwise about the rows' direction.

    >>> sheet(np.zeros((4, 3, 3))).faces.shape
    (12, 3)
    """
    grid = np.asarray(grid, dtype=float)
    rows, columns = grid.shape[-3:-1]
    return _copies(grid.reshape(-1, rows * columns, 3), _grid_faces(rows, columns, False))


def loft(rings: ArrayLike, caps: bool = True) -> Mesh:
    """Closed rings of points joined one to the next, ``(..., rings, corners, 3)``, turned outward.

    ``caps`` closes both ends by fans around the rings' centres, from which their corners must be visible.

    >>> square = np.array([(0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)])
    >>> loft([square, square + (0, 1, 0)]).faces.shape
    (16, 3)
    """
    rings = np.asarray(rings, dtype=float)
    rows, columns = rings.shape[-3:-1]
    rings = rings.reshape(-1, rows, columns, 3)
    vertices = rings.reshape(len(rings), -1, 3)
    if caps:
        vertices = np.concatenate([vertices, rings[:, [0, -1]].mean(2)], axis=1)
    faces = _loft_faces(rows, columns, caps)
    mesh = _copies(vertices, faces)
    inverted = np.repeat(_volume(vertices, faces) < 0, len(faces))
    mesh.faces[inverted] = mesh.faces[inverted, ::-1]
    return mesh


@functools.lru_cache(maxsize=64)
def _unit_oval(sides: int, exponent: float) -> np.ndarray:
    angle = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    unit = np.stack([np.cos(angle), np.sin(angle)], -1)
    return unit / (np.abs(unit) ** exponent).sum(-1, keepdims=True) ** (1 / exponent)


def oval(size: ArrayLike, exponent: float = 2.0, sides: int = 24) -> np.ndarray:
    """A superellipse |2x/w|ᵉ + |2y/h|ᵉ = 1 with full ``size`` (w, h), as ``(sides, 2)`` points.

    An exponent of 2 is an ellipse; larger ones are rounded rectangles, and from 8 on nearly sharp ones if
    ``sides`` is 4, 12, 20, … so that a point falls on each corner.

    >>> np.abs(oval((4.0, 2.0), exponent=50, sides=4)).round(1).tolist()
    [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]
    """
    return _unit_oval(sides, float(exponent)) * np.asarray(size, dtype=float) / 2


_BOX = np.array([[(-1, y, -1), (1, y, -1), (1, y, 1), (-1, y, 1)] for y in (-1, 1)]) / 2
_BOX_QUADS = np.array([(0, 1, 2, 3), (7, 6, 5, 4), (4, 5, 1, 0), (5, 6, 2, 1), (6, 7, 3, 2), (7, 4, 0, 3)])
_BOX_FACES = np.concatenate([_BOX_QUADS[:, [0, 1, 2]], _BOX_QUADS[:, [0, 2, 3]]])


def box(centre: ArrayLike, size: ArrayLike) -> Mesh:
    """Boxes along the axes with ``centre`` and full ``size``, each ``(..., 3)``.

    >>> box((0, 1, 0), (2, 2, 2)).vertices.min(0)
    array([-1.,  0., -1.])
    """
    corners = np.asarray(centre, dtype=float)[..., None, :] + _BOX.reshape(8, 3) * np.asarray(size)[..., None, :]
    return _copies(corners.reshape(-1, 8, 3), _BOX_FACES)


def extrude(outline: ArrayLike, heights: Sequence[float], scales: Sequence[float] | None = None) -> Mesh:
    """A horizontal ``outline`` (K, 2) of (x, z), star-shaped about its mean, raised through ``heights``.

    ``scales`` enlarges the outline at each height: a rim, a taper, a rounded edge.

    >>> np.unique(extrude(oval((2, 1)), [0.0, 0.5]).vertices[:, 1]).tolist()
    [0.0, 0.5]
    """
    scales = np.ones(len(heights)) if scales is None else np.asarray(scales)
    outline = np.asarray(outline, dtype=float)[None] * scales[:, None, None]
    levels = np.broadcast_to(np.asarray(heights, dtype=float)[:, None], outline.shape[:2])
    return loft(np.stack([outline[..., 0], levels, outline[..., 1]], -1))


def cushion(centre: ArrayLike, size: ArrayLike, exponent: float = 6.0, edge: float = 0.35) -> Mesh:
    """A box with rounded corners and edges; ``edge`` is the rounded part of the height, 0 to 0.5.

    >>> cushion((0, 0, 0), (1, 0.2, 1)).vertices.max(0).round(1)
    array([0.5, 0.1, 0.5])
    """
    (x, y, z), (width, height, depth) = centre, size
    mesh = extrude(
        oval((width, depth), exponent, 28),
        y + height * np.array([-0.5, edge - 0.5, 0.5 - edge, 0.5]),
        [1 - height * edge / width, 1, 1, 1 - height * edge / width],
    )
    return Mesh(mesh.vertices + np.array([x, 0, z]), mesh.faces)


def _normalise(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt((vectors * vectors).sum(-1, keepdims=True))


def tube(path: ArrayLike, radius: ArrayLike, sides: int = 10, up: ArrayLike | None = None) -> Mesh:
    """A solid around each path ``(..., M, 3)``; ``radius`` is one number, ``(M,)``, or ``(M, 2)``.

    Two radii make an elliptic section: the first across ``up``, the second along it. Without ``up`` the axis
    least aligned with the path is taken, so that the section does not twist on plane curves.

    >>> tube([(0, 0, 0), (0, 1, 0), (0, 2, 1)], 0.1).vertices.shape
    (32, 3)
    """
    path = np.asarray(path, dtype=float)
    radius = np.asarray(radius, dtype=float)
    if radius.shape[-1:] != (2,) or radius.ndim < 2:
        radius = np.stack([radius, radius], -1)
    tangent = np.empty_like(path)
    tangent[..., 1:-1, :] = path[..., 2:, :] - path[..., :-2, :]
    tangent[..., 0, :] = path[..., 1, :] - path[..., 0, :]
    tangent[..., -1, :] = path[..., -1, :] - path[..., -2, :]
    tangent = _normalise(tangent)
    if up is None:
        up = np.eye(3)[np.abs(tangent).reshape(-1, 3).max(0).argmin()]
    across = _normalise(np.cross(tangent, np.asarray(up, dtype=float)))
    along = np.cross(across, tangent)
    section = _unit_oval(sides, 2.0)
    offset = (across * radius[..., :1])[..., None, :] * section[:, :1]
    offset = offset + (along * radius[..., 1:])[..., None, :] * section[:, 1:]
    return loft(path[..., None, :] + offset)


def strut(start: ArrayLike, end: ArrayLike, radius: float, end_radius: float | None = None, sides: int = 10) -> Mesh:
    """Cylinders, or cone frusta, from ``start`` to ``end``, each ``(..., 3)``.

    >>> strut((0, 0, 0), (0, 1, 0), 0.1, 0.05).vertices.shape
    (22, 3)
    """
    start, end = np.broadcast_arrays(np.asarray(start, dtype=float), np.asarray(end, dtype=float))
    return tube(np.stack([start, end], -2), [radius, radius if end_radius is None else end_radius], sides)


def ellipsoid(centre: ArrayLike, radii: ArrayLike, sides: int = 16) -> Mesh:
    """Ellipsoids along the axes with ``centre`` and ``radii``, each ``(..., 3)``.

    >>> ellipsoid((0, 0, 0), (1, 2, 3)).vertices.max(0).round(1)
    array([1., 2., 3.])
    """
    polar = np.linspace(0, np.pi, sides // 2 + 1)
    azimuth = 2 * np.pi * np.arange(sides) / sides
    unit = np.stack(
        [
            np.sin(polar)[:, None] * np.sin(azimuth),
            np.broadcast_to(np.cos(polar)[:, None], (len(polar), sides)),
            np.sin(polar)[:, None] * np.cos(azimuth),
        ],
        -1,
    )
    centre, radii = (np.asarray(v, dtype=float)[..., None, None, :] for v in (centre, radii))
    return loft(centre + radii * unit, caps=False)


def revolve(profile: ArrayLike, base: ArrayLike = (0, 0, 0), axis: ArrayLike = (0, 1, 0), sides: int = 24) -> Mesh:
    """A ``profile`` (M, 2) of (radius, height) turned about ``axis`` through ``base`` (..., 3).

    The result is closed if the profile starts and ends at radius 0, or ends where it started (a thin wall).

    >>> revolve([(0, 0), (1, 0), (1, 2), (0, 2)]).vertices.max(0).round(2)
    array([0.99, 2.  , 0.99])
    """
    radius, height = np.asarray(profile, dtype=float).T[..., None, None]
    axis = _normalise(np.asarray(axis, dtype=float))
    across = _normalise(np.cross(axis, np.eye(3)[np.abs(axis).argmin()]))
    circle = _unit_oval(sides, 2.0) @ np.stack([across, np.cross(axis, across)])
    base = np.asarray(base, dtype=float)[..., None, None, :]
    return loft(base + radius * circle + height * axis, caps=False)
