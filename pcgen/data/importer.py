"""People's own meshes and clouds, written once in PointFlow's layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .clouds import read_shape, shape_rng
from .files import UnreadableFile, filling_folder, free_folder, replacing
from .splits import SYNSETS, ShapeFile, Skipped, Split, find_shapes

__all__ = ["ImportReport", "import_folder"]


@dataclass(frozen=True)
class ImportReport:
    """What :func:`import_folder` did."""

    out: Path
    counts: dict[tuple[str, Split], int]  # shapes written, by category and split
    skipped: tuple[Skipped, ...]  # what was found and not written, with the reason


def import_folder(
    folder: str | Path,
    out: str | Path,
    points: int = 15000,
    seed: int = 0,
    val_share: float = 0.1,
    test_share: float = 0.1,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Turn the meshes and clouds of ``folder`` into ``out/<category>/{train,val,test}/<name>.npy``.

    Each file written holds (points,3) float32 in the unit of its source: ``points`` points sampled from a mesh,
    or as many of a cloud without repetition; a cloud that has fewer is skipped. Categories and splits are found
    as in :func:`~pcgen.data.splits.find_shapes`. What is sampled depends on ``seed`` and the name of the file
    alone. ``progress(done, total)`` is called after each file.

    ``ValueError`` when ``out`` holds something already or nothing can be imported; with ``strict`` the first
    unusable file raises. ``FileNotFoundError`` without ``folder``. After an error ``out`` is as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in "abcd":
    ...         np.save(f"{folder}/{name}.npy", np.eye(3))
    ...     sum(import_folder(folder, f"{folder}/out", points=3).counts.values())
    4
    """
    out = free_folder(out)
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    files, left_out = find_shapes(folder, val_share=val_share, test_share=test_share)
    counts: Counter[tuple[str, Split]] = Counter()
    skipped = list(left_out)
    with filling_folder(out):
        for done, file in enumerate(files, start=1):
            try:
                _import_file(file, out, points, shape_rng(seed, file.name))
                counts[file.category, file.split] += 1
            except (UnreadableFile, FileNotFoundError) as error:
                if strict:
                    raise
                skipped.append(Skipped(file.path, getattr(error, "reason", "no such file")))
            if progress:
                progress(done, len(files))
        if not counts:
            raise ValueError(f"nothing in {folder} can be imported, the first: {skipped[0].path}: {skipped[0].reason}")
    return ImportReport(out, dict(counts), tuple(skipped))


def _import_file(file: ShapeFile, out: Path, points: int, rng: np.random.Generator) -> None:
    target = out / file.category / file.split / f"{_flat_name(file)}.npy"
    if target.exists():
        raise UnreadableFile(file.path, f"another shape was written as {target.relative_to(out)} already")
    cloud = read_shape(file.path, points, rng)
    if len(cloud) < points:
        raise UnreadableFile(file.path, f"{len(cloud)} points, {points} are needed")
    if len(cloud) > points:
        cloud = rng.choice(cloud, points, replace=False)
    with replacing(target) as stream:
        np.save(stream, cloud, allow_pickle=False)


def _flat_name(file: ShapeFile) -> str:
    """The name within category and split, in one word."""
    *folders, stem = file.name.split("/")
    inner = [f for i, f in enumerate(folders) if i > 1 or SYNSETS.get(f, f) not in (file.category, file.split)]
    return "_".join([*inner, stem])
