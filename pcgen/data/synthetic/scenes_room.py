"""The room of a scene: its floor, its walls, and the frames of windows and doors in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..meshes import Mesh
from .solids import box, merge

__all__ = ["FLOOR", "WALL", "Room", "make_room"]

FLOOR, WALL = 1, 2  # classes

_SILL, _LINTEL = (0.3, 1.1), (1.9, 2.3)  # metres above the floor; a door has no sill
_WIDTH, _BAR, _DEPTH = (0.6, 2.0), (0.03, 0.12), (0.02, 0.1)  # metres; the depth is what stands out of the wall


class Room(NamedTuple):
    """Triangles and what they are."""

    mesh: Mesh  # z up, the floor on z = 0 about the origin
    part: np.ndarray  # (F,) int64, the class of each triangle


def make_room(
    floor: tuple[float, float], height: float, thickness: float, openings: tuple[int, int], rng: np.random.Generator
) -> Room:
    """A ``floor`` (width, depth) with four walls of this ``height``, or none of height 0; lengths in metres.

    Floor and walls are one-sided and face inward; walls with a ``thickness`` have outer faces besides. ``rng`` draws
    the frames, so many as ``openings`` (fewest, most) says; they stand out of the wall, to which they belong.
    """
    (x, y), (a, b) = np.array(floor) / 2, np.array(floor) / 2 + thickness
    ground = Mesh(np.array([(-x, -y, 0.0), (x, -y, 0.0), (x, y, 0.0), (-x, y, 0.0)]), np.array([(0, 1, 2), (0, 2, 3)]))
    meshes = [ground]
    if height:
        meshes.append(_ring(x, y, height))
        if thickness:
            outer = _ring(a, b, height)
            meshes.append(Mesh(outer.vertices, outer.faces[:, ::-1]))
        meshes += [_frame(floor, height, thickness, rng) for _ in range(rng.integers(openings[0], openings[1] + 1))]
    mesh = merge(meshes)
    return Room(Mesh(*mesh), np.where(np.arange(len(mesh.faces)) < len(ground.faces), FLOOR, WALL))


def _ring(x: float, y: float, height: float) -> Mesh:
    """Four walls through the corners (±x, ±y), facing inward."""
    corners = np.array([(-x, -y), (x, -y), (x, y), (-x, y)])
    vertices = np.concatenate([np.column_stack([corners, np.full(4, z)]) for z in (0.0, height)])
    quads = [(i, i + 4, (i + 1) % 4 + 4, (i + 1) % 4) for i in range(4)]
    return Mesh(vertices, np.array([corner for a, b, c, d in quads for corner in ((a, b, c), (a, c, d))]))


def _frame(floor: tuple[float, float], height: float, thickness: float, rng: np.random.Generator) -> Mesh:
    """The bars around a window or a door and between its panes, in one of the walls."""
    wall, door = int(rng.integers(4)), rng.random() < 0.3
    length, away = floor[wall % 2], floor[1 - wall % 2] / 2 + thickness / 2
    width = min(rng.uniform(*_WIDTH), 0.8 * length)
    bar, depth = rng.uniform(*_BAR), thickness + 2 * rng.uniform(*_DEPTH)
    low, high = 0.0 if door else rng.uniform(*_SILL), min(rng.uniform(*_LINTEL), height)
    low, middle = min(low, high / 2), (low + high) / 2
    at = rng.uniform(-1, 1) * (length - width - bar) / 2
    posts = np.linspace(-width / 2, width / 2, 2 + int(rng.integers(3)))
    rails = np.linspace(low, high, 2 + int(rng.integers(2)))[int(door) :]
    upright = box([(at + u, 0.0, middle) for u in posts], (bar, depth, high - low + bar))
    level = box([(at, 0.0, z) for z in rails], (width + bar, depth, bar))
    frame = merge([upright, level])
    # Along x beyond y; then turned by quarters.
    x, y, z = frame.vertices.T
    y = y - away
    for _ in range(wall):
        x, y = -y, x
    return Mesh(np.column_stack([x, y, z.clip(min=0.0)]), frame.faces)
