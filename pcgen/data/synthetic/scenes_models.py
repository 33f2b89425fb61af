"""The objects that scenes are made of: meshes of a folder, or synthetic shapes, kept apart by split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..meshes import MESH_SUFFIXES, Mesh, read_mesh
from ..splits import SPLITS, ShapeFile, Split, find_shapes, nearest, select_categories
from .shapes import CATEGORIES, make_shape

__all__ = ["Catalogue", "Model", "catalogue", "draw_model"]

# Box diagonals in metres: vehicles as toys, so that all belong in one room. Other shapes keep their nominal size.
_DIAGONALS = {"chair": (0.9, 1.3), "table": (0.9, 2.0), "lamp": (0.4, 1.7), "airplane": (0.3, 0.8), "car": (0.3, 0.7)}

# What stands up along z when it stood up along this axis: proper rotations.
_UPRIGHT = {
    "x": np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    "y": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "z": np.eye(3),
}


class Model(NamedTuple):
    """An object before it is placed."""

    name: str  # "chair/51", or the file's name within its folder
    category: str
    mesh: Mesh  # z up, standing on z = 0, its box centred on the z axis; in metres, but for the scale of its placement


@dataclass(frozen=True)
class Catalogue:
    """What may be drawn: the categories, and of a folder its files."""

    categories: tuple[str, ...]  # all that the source has, whatever the split, by name
    chosen: tuple[str, ...]  # those to draw from
    split: Split
    files: tuple[ShapeFile, ...] = ()  # empty for synthetic shapes, of which there is no end


def catalogue(source: str, categories: tuple[str, ...], split: Split) -> Catalogue:
    """The objects of ``source``, ``"synthetic"`` or a folder of meshes, that this split may use.

    Splits share no object: synthetic seeds are dealt out by remainder, files as
    :func:`~pcgen.data.splits.find_shapes` says. ``ValueError`` for an unknown category, or nothing to draw.
    """
    if source == "synthetic":
        for name in categories:
            if name not in CATEGORIES:
                raise ValueError(f"no synthetic category {name!r}{nearest(name, CATEGORIES)}")
        return Catalogue(CATEGORIES, categories or CATEGORIES, split)
    everything = [file for file in find_shapes(source).files if file.path.suffix.lower() in MESH_SUFFIXES]
    chosen = select_categories(categories, (file.category for file in everything))
    files = tuple(file for file in everything if file.split == split and file.category in chosen)
    if not files:
        raise ValueError(f"no meshes for the split {split!r} in {source}, of {len(everything)} there")
    there = tuple(sorted({file.category for file in everything}))
    return Catalogue(there, tuple(sorted({file.category for file in files})), split, files)


def draw_model(things: Catalogue, size: tuple[float, float] | None, up: str, rng: np.random.Generator) -> Model:
    """A model of a category drawn evenly, scaled to a box diagonal in ``size`` metres.

    Without ``size`` a synthetic shape has a size usual for its category, and a mesh of a folder keeps its own.
    """
    category = things.chosen[rng.integers(len(things.chosen))]
    if things.files:
        files = [file for file in things.files if file.category == category]
        file = files[rng.integers(len(files))]
        name, mesh = file.name, read_mesh(file.path)
        vertices = mesh.vertices @ _UPRIGHT[up].T
    else:
        seed = int(rng.integers(2**40)) * len(SPLITS) + SPLITS.index(things.split)
        mesh, name = make_shape(category, seed), f"{category}/{seed}"
        size = size or _DIAGONALS.get(category, (mesh.diagonal, mesh.diagonal))
        vertices = mesh.vertices @ _UPRIGHT["y"].T
    used, faces = np.unique(mesh.faces, return_inverse=True)  # stray vertices would spoil the box
    vertices = vertices[used]
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    scale = 1.0 if size is None else rng.uniform(*size) / np.linalg.norm(high - low)
    base = np.array([*(low + high)[:2] / 2, low[2]])
    return Model(name, category, Mesh((vertices - base) * scale, faces.reshape(-1, 3)))
