"""Scans in one file: PLY, NPZ and NPY, as a table of columns."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import UnreadableFile, reading
from ..ply import load_ply, triangulate
from .columns import feature_names, label_name, position_of
from .scene import Source

__all__ = [
    "Table",
    "class_comments",
    "class_names",
    "read_npy_table",
    "read_npz_table",
    "read_ply_table",
    "split_extras",
]


@dataclass(frozen=True, eq=False)
class Table:
    """What a reader finds before anything is interpreted."""

    points: np.ndarray  # (N, 3) numbers
    columns: dict[str, np.ndarray]  # (N, …) each, by the file's names: labels, features, everything else
    source: Source
    classes: Mapping[int, str] = field(default_factory=dict)


def read_ply_table(path: Path) -> Table:
    """The vertices of a PLY; its faces go to ``extras`` as triangles, its comments may name classes and the CRS."""
    ply = load_ply(path)
    columns = {name: _native(values) for name, values in ply.elements.get("vertex", {}).items() if _is_flat(values)}
    points, columns, kind = _split_position(path, columns)
    face = ply.elements.get("face", {})
    polygons = next((face[key] for key in ("vertex_indices", "vertex_index") if key in face), ())
    words = [comment.split(maxsplit=2) for comment in ply.comments]
    classes = {int(w[1]): w[2] for w in words if len(w) == 3 and w[0] == "class" and w[1].isdecimal()}
    crs = next((comment[4:] for comment in ply.comments if comment.startswith("crs ")), None)
    comments = tuple(c for c in ply.comments if c not in class_comments(classes) and not c.startswith("crs "))
    extras = {"faces": triangulate(polygons)} if len(polygons) else {}
    source = Source(path, "ply", ply.encoding, kind, comments=comments, crs=crs, extras=extras)
    return Table(points, columns, source, classes)


def class_comments(classes: Mapping[int, str]) -> list[str]:
    """How a PLY of ours names its classes.

    >>> class_comments({3: "office chair"})
    ['class 3 office chair']
    """
    return [f"class {number} {' '.join(name.split())}" for number, name in classes.items()]


def read_npz_table(path: Path) -> Table:
    """The arrays of an archive: those with a row for each point are columns, others go to ``extras``."""
    with reading(path), path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):  # np.load takes garbage for a pickle
            raise UnreadableFile(path, "truncated or not a valid .npz file (no archive)")
        stream.seek(0)
        archive = np.load(stream, allow_pickle=False)
        arrays = {name: archive[name] for name in archive.files}
        classes = {}
        if "class_id" in arrays and "class_name" in arrays:
            classes = dict(zip(arrays.pop("class_id").tolist(), map(str, arrays.pop("class_name"))))
        crs = str(arrays.pop("crs")) if "crs" in arrays else None
        if position_of(arrays) is None:
            features = sum(feature_names(arrays).values(), ())
            clouds = [n for n, a in arrays.items() if a.dtype.kind == "f" and a.ndim == 2 and a.shape[1] == 3]
            clouds = [name for name in clouds if name not in features]
            if len(clouds) != 1:
                raise UnreadableFile(path, f"no array 'points', it holds {', '.join(arrays) or 'nothing'}")
            arrays = {"points": arrays.pop(clouds[0]), **arrays}
        points, arrays, kind = _split_position(path, arrays)
        columns, extras = split_extras(path, arrays, len(points))
        return Table(points, columns, Source(path, "npz", position=kind, crs=crs, extras=extras), classes)


def read_npy_table(path: Path) -> Table:
    """An array (N, 3 or more) whose first three columns are x, y, z, or a structured one with fields x, y, z."""
    with reading(path), path.open("rb") as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)  # np.load takes garbage for a pickle
        if array.dtype.names:
            columns = {name: _native(array[name]) for name in array.dtype.names}
            points, columns, kind = _split_position(path, columns)
        else:
            if array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind not in "fiu":
                raise UnreadableFile(path, f"expected points (N, 3), got {array.shape} of {array.dtype}")
            points, kind = array[:, :3], array.dtype.name
            columns = {f"column_{i}": array[:, i] for i in range(3, array.shape[1])}
        return Table(points, columns, Source(path, "npy", position=kind))


def class_names(path: Path) -> dict[int, str]:
    """The names in a ``classes.json`` beside ``path``, ``{"3": "chair"}`` or ``["wall", …]``; {} without one."""
    file = path.parent / "classes.json"
    if not file.is_file():
        return {}
    with reading(file):
        names = json.loads(file.read_text(encoding="utf-8"))
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(number): str(name) for number, name in pairs}


def split_extras(path: Path, arrays: Mapping[str, np.ndarray], points: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays with a row for each point, and the others; of these none may be a feature or the instances.

    >>> [list(part) for part in split_extras(Path("a.npz"), {"label": np.zeros(5), "pose": np.eye(4)}, 5)]
    [['label'], ['pose']]
    """
    columns = {name: a for name, a in arrays.items() if a.ndim and len(a) == points}
    extras = {name: a for name, a in arrays.items() if name not in columns}
    features = feature_names(name for name, a in extras.items() if a.ndim > 1)
    instance = label_name((name for name, a in extras.items() if a.ndim), "instance")
    for name in (*sum(features.values(), ()), *filter(None, [instance])):
        raise UnreadableFile(path, f"{points} points need as many rows of {name}, got {extras[name].shape}")
    return columns, extras


def _split_position(path: Path, columns: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any], str]:
    """The coordinates, the other columns, and the type of the coordinates."""
    names = position_of(columns)
    if names is None:
        raise UnreadableFile(path, f"no columns x, y, z, it holds {', '.join(columns) or 'nothing'}")
    parts = [np.asarray(columns[name]) for name in names]
    points = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
    return points, {name: c for name, c in columns.items() if name not in names}, points.dtype.name


def _native(values: np.ndarray) -> np.ndarray:
    """A column of its own, in this machine's byte order, which is all that PyTorch takes."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))


def _is_flat(values: np.ndarray | Sequence[np.ndarray]) -> bool:
    return isinstance(values, np.ndarray) and values.ndim == 1
