"""Sets of clouds from files and to files; single clouds and meshes come from the modules beside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .clouds import ARRAY_SUFFIXES, SHAPE_SUFFIXES, read_arrays, read_cloud, read_shape, shape_rng
from .files import UnreadableFile, filling_folder, free_folder, replacing
from .meshes import Mesh, read_mesh, sample_surface
from .ply import write_ply

__all__ = [
    "Clouds",
    "Mesh",
    "UnreadableFile",
    "ply_folder",
    "read_cloud",
    "read_clouds",
    "read_mesh",
    "read_shape",
    "sample_surface",
    "shape_files",
    "write_clouds",
]


class Clouds(NamedTuple):
    """A set of clouds."""

    points: list[np.ndarray]  # S arrays (N_i,3) float32
    names: tuple[str, ...]  # S


def read_clouds(path: str | Path, mesh_points: int = 15000, seed: int = 0) -> Clouds:
    """A set of clouds from one file or a folder, the files of a folder by sorted name, subfolders included.

    - ``.npy``, ``.npz``, ``.pt``: an array (S,N,3), or (N,3) for a set of one, see
      :func:`~pcgen.data.clouds.read_arrays`; clouds without a name are called ``0000``, ``0001`` …
    - any other file that :func:`~pcgen.data.clouds.read_shape` takes: one cloud, named as the file;
      ``mesh_points`` points are drawn from a mesh by the stream of (``seed``, name).

    The first unusable file raises :class:`UnreadableFile`: a set to be measured is complete or refused.
    ``FileNotFoundError`` when there is nothing at ``path``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_clouds(f"{folder}/set.npz", np.stack([np.eye(3), 2 * np.eye(3)]), names=("a", "b"))
    ...     read_clouds(f"{folder}/set.npz").names
    ('a', 'b')
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    if not path.is_dir():
        return _read_set(path, path.stem, mesh_points, seed)
    files = shape_files(path)
    if not files:
        raise UnreadableFile(path, f"no shapes in this folder: expected {' '.join(SHAPE_SUFFIXES)} files")
    points, names = [], []
    for file in files:
        stem = file.relative_to(path).with_suffix("").as_posix()
        clouds = _read_set(file, stem, mesh_points, seed)
        points += clouds.points
        names += [stem] if len(clouds.points) == 1 else [f"{stem}/{name}" for name in clouds.names]
    return Clouds(points, tuple(names))


def write_clouds(
    path: str | Path,
    points: np.ndarray,
    names: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
) -> None:
    """Write clouds (S,N,3) as float32, in the form that the suffix of ``path`` says.

    ``.npz``: ``points``, and ``name`` and ``category`` if given; ``.npy``: the array; ``.ply``: binary, one file if S
    is 1, else a folder of that name without the suffix, ``0000.ply`` … inside. Every file appears complete or
    not at all. ``ValueError`` for points of another shape or not finite, a wrong number of names, an unknown
    suffix, or a folder that holds something already.
    """
    path, points = Path(path), np.asarray(points, dtype=np.float32)
    if points.ndim != 3 or points.shape[2] != 3:
        raise ValueError(f"clouds to write must be (S,N,3), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"clouds to write to {path} must be finite, they have NaN or infinite coordinates")
    labels = {key: value for key, value in (("name", names), ("category", categories)) if value is not None}
    for key, values in labels.items():
        if len(values) != len(points):
            raise ValueError(f"{len(points)} clouds need as many entries of {key!r}, got {len(values)}")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        with replacing(path) as stream:
            np.savez(stream, points=points, **{key: np.array(values, dtype=str) for key, values in labels.items()})
    elif suffix == ".npy":
        with replacing(path) as stream:
            np.save(stream, points, allow_pickle=False)
    elif suffix == ".ply":
        _write_ply_files(path, points)
    else:
        raise ValueError(f"clouds are written as .npz, .npy or .ply, got {path.name!r}")


def shape_files(folder: str | Path) -> list[Path]:
    """The clouds and meshes in ``folder`` and below by suffix, sorted; hidden files and macOS's copies left out.

    Links are followed, but not back to a folder on the way: its shapes would be found again and again.
    """
    found: list[Path] = []
    way: dict[str, set[str]] = {}  # the real folders on the way to each folder that is still to be visited
    for root, folders, files in os.walk(folder, followlinks=True):
        here = way.pop(root, set()) | {os.path.realpath(root)}
        below = {f: os.path.join(root, f) for f in folders if not f.startswith((".", "__MACOSX"))}
        folders[:] = [f for f, path in below.items() if os.path.realpath(path) not in here]
        way |= {below[f]: here for f in folders}
        found += [Path(root, f) for f in files if not f.startswith(".") and f.lower().endswith(SHAPE_SUFFIXES)]
    return sorted(found)


def ply_folder(path: str | Path) -> Path:
    """Where several clouds written as ``path`` go; ``ValueError`` if that is not free."""
    return free_folder(Path(path).with_suffix(""))


def _read_set(path: Path, stem: str, mesh_points: int, seed: int) -> Clouds:
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        return Clouds([read_shape(path, mesh_points, shape_rng(seed, stem))], (stem,))
    points, labels = read_arrays(path)
    if points.ndim == 2:
        return Clouds([points], labels.get("name", (stem,)))
    return Clouds(list(points), labels.get("name", tuple(f"{i:04d}" for i in range(len(points)))))


def _write_ply_files(path: Path, points: np.ndarray) -> None:
    if len(points) == 1:
        return write_ply(path, points[0])
    with filling_folder(ply_folder(path)) as folder:
        for i, cloud in enumerate(points):
            write_ply(folder / f"{i:04d}.ply", cloud)
