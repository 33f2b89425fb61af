"""Shapes of familiar categories, drawn by seed, as labelled meshes and as labelled point clouds.

The frame is ShapeNetCore.v2's: y up, the front towards +z, the bounding box centred at the origin with a diagonal
of 1. Sizes are therefore relative to the shape; metres do not apply.
"""

from __future__ import annotations

import dataclasses
import difflib
import zlib
from typing import Any

import numpy as np

from pcgen.data.synthetic import airplane, bed, cabinet, car, chair, lamp, sofa, table
from pcgen.data.synthetic.solids import merge
from pcgen.data.synthetic.streams import stream

__all__ = ["CATEGORIES", "PARTS", "LabelledCloud", "SyntheticShape", "make_shape", "sample_shape"]

# New ones go to the end: a scene numbers its classes, and draws its objects, by this order.
_MODULES = {
    **{"chair": chair, "table": table, "airplane": airplane, "car": car, "lamp": lamp},
    **{"cabinet": cabinet, "sofa": sofa, "bed": bed},
}

CATEGORIES: tuple[str, ...] = tuple(_MODULES)
PARTS: dict[str, tuple[str, ...]] = {name: module.PARTS for name, module in _MODULES.items()}


@dataclasses.dataclass(frozen=True)
class SyntheticShape:
    """A shape as triangles, each of which belongs to a part; solids may overlap where they are joined."""

    category: str
    seed: int
    vertices: np.ndarray  # (V, 3) float64, box centred at 0, box diagonal 1
    faces: np.ndarray  # (F, 3) int64, counter-clockwise seen from outside
    face_part: np.ndarray  # (F,) int64, index into PARTS[category]
    parameters: dict[str, Any]  # what was drawn: numbers and names, sizes before scaling
    diagonal: float  # of the box before scaling, in nominal metres


@dataclasses.dataclass(frozen=True)
class LabelledCloud:
    """Points of a surface and the part that each lies on."""

    points: np.ndarray  # (N, 3) float32
    part: np.ndarray  # (N,) int64, index into PARTS[category]


def make_shape(category: str, seed: int) -> SyntheticShape:
    """The shape of this ``category`` and ``seed`` (0, 1, 2, … without end), always the same.

    Raises ``ValueError`` for an unknown category or a negative seed, ``TypeError`` for a seed that is no integer.

    >>> shape = make_shape("chair", 0)
    >>> float(np.linalg.norm(np.ptp(shape.vertices, axis=0)).round(6))
    1.0
    >>> make_shape("chiar", 0)
    Traceback (most recent call last):
    ValueError: no category 'chiar' (nearest: 'chair'); expected one of chair, table, airplane, ...
    """
    module = _module(category)
    drawn = module.draw(_stream(category, seed, 0))
    solids = [(part, mesh) for part, meshes in module.build(drawn).items() for mesh in meshes]
    vertices, faces = merge([mesh for _, mesh in solids])
    label = np.repeat([module.PARTS.index(part) for part, _ in solids], [len(m.faces) for _, m in solids])
    diagonal = float(np.linalg.norm(np.ptp(vertices, axis=0)))
    vertices = _framed(vertices)
    solid = _areas(vertices, faces) > 1e-12  # poles and pointed ends leave triangles without area
    return SyntheticShape(
        category, int(seed), vertices, faces[solid], label[solid], dataclasses.asdict(drawn), diagonal
    )


def sample_shape(category: str, seed: int, points: int = 2048) -> LabelledCloud:
    """``points`` independent draws, uniform by area, from the surface of :func:`make_shape`.

    Asking for more points extends the cloud: the first ones stay. Raises as :func:`make_shape` does, and
    ``ValueError`` for a negative number of points.

    >>> few, more = sample_shape("lamp", 3, 5), sample_shape("lamp", 3, 2048)
    >>> more.points.shape, bool((more.points[:5] == few.points).all())
    ((2048, 3), True)
    """
    if points < 0:
        raise ValueError(f"the number of points must be 0 or more, got {points}")
    shape = make_shape(category, seed)
    face, u, v = _stream(category, seed, 1).random((points, 3)).T
    cumulative = np.cumsum(_areas(shape.vertices, shape.faces))
    face = np.searchsorted(cumulative[:-1], face * cumulative[-1], side="right")
    a, b, c = np.moveaxis(shape.vertices[shape.faces[face]], 1, 0)
    u = np.sqrt(u)  # Osada et al., "Shape distributions", 2002, eq. 1
    xyz = a + u[:, None] * (b - a) + (u * v)[:, None] * (c - b)
    return LabelledCloud(xyz.astype(np.float32), shape.face_part[face])


def _module(category: str) -> Any:
    if category not in _MODULES:
        near = difflib.get_close_matches(str(category), CATEGORIES, n=1, cutoff=0.0)[0]
        raise ValueError(f"no category {category!r} (nearest: {near!r}); expected one of {', '.join(CATEGORIES)}")
    return _MODULES[category]


def _stream(category: str, seed: int, purpose: int) -> np.random.Generator:
    """Random numbers of one shape: ``purpose`` 0 draws its parameters, 1 its points."""
    # The name, not its position in CATEGORIES, so that a new category changes no old shape.
    return stream(seed, zlib.crc32(category.encode()), purpose)


def _framed(vertices: np.ndarray) -> np.ndarray:
    low, high = vertices.min(0), vertices.max(0)
    return (vertices - (low + high) / 2) / np.linalg.norm(high - low)


def _areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2
