"""Shapes where they come from: made, or read from a folder or a file, each with its category and split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .clouds import ARRAY_SUFFIXES, read_arrays, read_shape, shape_rng
from .files import UnreadableFile, reading
from .splits import SPLITS, Skipped, find_shapes, hash_splits, nearest, select_categories

if TYPE_CHECKING:
    from .shapes import DataConfig

__all__ = ["DIVIDED", "Progress", "SourceShape", "make_shapes", "read_file", "read_folder"]

Progress = Callable[[int, int], None]  # shapes done, shapes in all

DIVIDED = 15000  # points of a cloud in PointFlow's layout, see `shapes`


class SourceShape(NamedTuple):
    """One that is to be in a split."""

    name: str
    category: str
    split: str
    cloud: np.ndarray  # (P,3) float32


def _shuffled(cloud: np.ndarray, name: str, seed: int) -> np.ndarray:
    return shape_rng(seed, f"order of {name}").permutation(cloud)


def _divided(path: Path, cloud: np.ndarray) -> bool:
    """Whether its first 10,000 points are to be seen and the others not: 15,000 in PointFlow's layout."""
    return path.suffix.lower() == ".npy" and path.parent.name in SPLITS and len(cloud) == DIVIDED


def make_shapes(config: DataConfig, progress: Progress) -> list[SourceShape]:
    from .synthetic import CATEGORIES, sample_shape

    categories = config.categories or ("chair",)
    for name in categories:
        if name not in CATEGORIES:
            raise ValueError(f"no synthetic category {name!r}{nearest(name, CATEGORIES)}")
    few = max(1, config.shapes // 10)
    plan = [(split, i) for split, n in zip(SPLITS, (config.shapes, few, few)) for i in range(n)]
    shapes = []
    for split, i in plan:
        category = categories[i % len(categories)]
        # No two (seed, split, i) share a seed, so no shape is in two splits, however many are asked for.
        seed = (config.seed * 2**32 + i) * len(SPLITS) + SPLITS.index(split)
        cloud = sample_shape(category, seed, config.mesh_points).points
        shapes.append(SourceShape(f"{category}/{split}/{i:04d}", category, split, cloud))
        progress(len(shapes), len(plan))
    return shapes


def read_folder(path: Path, config: DataConfig, progress: Progress) -> tuple[list[SourceShape], tuple[Skipped, ...]]:
    files, left_out = find_shapes(path, config.categories, config.val_share, config.test_share)
    shapes, unusable = [], []
    for done, file in enumerate(files, start=1):
        try:
            cloud = read_shape(file.path, config.mesh_points, shape_rng(config.seed, file.name))
            if not _divided(file.path, cloud):
                cloud = _shuffled(cloud, file.name, config.seed)
            shapes.append(SourceShape(file.name, file.category, file.split, cloud))
        except (UnreadableFile, FileNotFoundError) as error:  # a dangling link is not found
            if config.strict:
                raise
            unusable.append(Skipped(file.path, getattr(error, "reason", "no such file")))
        progress(done, len(files))
    if not shapes and unusable:
        first = f"{unusable[0].path}: {unusable[0].reason}"
        raise ValueError(f"none of the {len(files)} shapes in {path} is usable, the first: {first}")
    return shapes, (*left_out, *unusable)


def read_file(path: Path, config: DataConfig) -> list[SourceShape]:
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        raise UnreadableFile(path, f"expected a folder, or a file of clouds: {' '.join(ARRAY_SUFFIXES)}")
    points, labels = read_arrays(path)
    if points.ndim == 2:
        raise UnreadableFile(path, f"expected clouds (S,N,3), got {points.shape}")
    names = labels.get("name", tuple(f"{i:04d}" for i in range(len(points))))
    category = labels.get("category", (path.stem,) * len(points))
    if config.column != "category":
        category = _column(path, config.column, len(points))
    hashed = hash_splits(names, config.val_share, config.test_share)
    split = labels.get("split", tuple(hashed[name] for name in names))
    if unknown := sorted(set(split) - set(SPLITS)):
        raise UnreadableFile(path, f"'split' must say train, val or test, it says {unknown[0]!r}")
    chosen = select_categories(config.categories, category)
    rows = (row for row in zip(names, category, split, points) if row[1] in chosen)
    return [SourceShape(name, of, part, _shuffled(cloud, name, config.seed)) for name, of, part, cloud in rows]


def _column(path: Path, name: str, count: int) -> tuple[str, ...]:
    """The strings of an npz's array ``name``, one for each shape."""
    with reading(path), np.load(path, allow_pickle=False) as archive:
        if name not in archive.files:
            raise UnreadableFile(path, f"no column {name!r}{nearest(name, archive.files)}")
        values = archive[name]
    if values.shape != (count,):
        raise UnreadableFile(path, f"{count} shapes need as many entries in column {name!r}, got {values.shape}")
    return tuple(map(str, values))
