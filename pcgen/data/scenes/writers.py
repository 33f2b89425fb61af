"""A scene to a file, with everything that the file it came from had."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np

from ..files import free_folder, replacing
from ..ply import save_ply
from .columns import feature_columns, feature_names, features_of
from .las import save_las, vectors
from .scene import Scene
from .tables import class_comments

__all__ = ["write_scene"]

_SUFFIXES = ".ply, .npz, .npy, .las or .laz, or a folder without a suffix (Pointcept's layout)"
_POINTCEPT = {"colour": "color", "normals": "normal", "intensity": "strength"}


def write_scene(path: str | Path, scene: Scene) -> None:
    """Write the scene in the form that the suffix of ``path`` says; without a suffix as a Pointcept folder.

    Coordinates are those of the scene's own file, to the last bit where the form allows, in its type and encoding;
    so are its other columns, its numbers of the instances, the class names, the coordinate reference system, a mesh's
    faces and a LAS header, as far as the form has a place for them. Columns that are no numbers stay behind, with a
    warning, where it has none. Everything appears complete or not at all.

    ``ValueError`` for another suffix, a scene without points, or a folder that holds something already.

    >>> import tempfile
    >>> from pcgen.data.scenes import make_scene, read_scene
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_scene(f"{folder}/a.ply", make_scene(np.eye(3), instance=[0, 7, 7]))
    ...     read_scene(f"{folder}/a.ply").instance_ids
    array([7])
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not len(scene):
        raise ValueError(f"a scene needs points to be written, the one for {path} has none")
    columns = {**scene.attributes, **_missing_features(scene), **_label_columns(scene, suffix)}
    if suffix == ".ply":
        _write_ply(path, scene, _flat(columns))
    elif suffix in (".las", ".laz"):
        save_las(path, scene, _flat(columns, vectors(scene.source.header)))
    elif suffix == ".npz":
        _write_npz(path, scene, columns)
    elif suffix == ".npy":
        _write_npy(path, scene, columns)
    elif not suffix:
        _write_pointcept(path, scene, columns)
    else:
        raise ValueError(f"a scene is written as {_SUFFIXES}, got {path.name!r}")


def _missing_features(scene: Scene) -> dict[str, np.ndarray]:
    """Columns for the features that the attributes do not hold already."""
    there = features_of(scene.attributes)
    return feature_columns({name: values for name, values in scene.features.items() if name not in there})


def _label_columns(scene: Scene, suffix: str) -> dict[str, np.ndarray]:
    """The labels by the file's names, numbers and types; 32-bit integers where the values do not fit its type."""
    foreign = suffix in (".las", ".laz") and scene.source.header is None  # a name of its own there: "classification"
    names = {} if foreign else scene.source.names
    labels = {"semantic": scene.semantic}
    if scene.instance is not None:
        ids = np.concatenate([[0], scene.instance_ids])
        labels["instance"] = np.where(scene.instance > 0, ids[np.maximum(scene.instance, 0)], scene.instance)
    columns = {}
    for kind, values in labels.items():
        if values is not None:
            kept = values.astype(scene.source.types.get(kind, "int32"))
            fits = (kept == values).all()
            columns[names.get(kind, kind)] = kept if fits else values
    return columns


def _positions(scene: Scene) -> np.ndarray:
    """(N, 3) coordinates, in the type that the file had them in if that is enough."""
    xyz = scene.coordinates
    kept = xyz.astype(scene.source.position)
    return kept if (kept == xyz).all() else xyz


def _flat(columns: dict[str, np.ndarray], whole: Collection[str] = ()) -> dict[str, np.ndarray]:
    """One column for each number of a point, but of those that may stay ``whole``."""
    left_out = [name for name, column in columns.items() if column.dtype.kind not in "fiub"]
    if left_out:
        warnings.warn(f"columns that are no numbers are not written: {', '.join(left_out)}", stacklevel=3)
    flat: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        rows = column.reshape(len(column), -1)
        if name in whole:
            flat[name] = column
        elif name not in left_out:
            flat |= {name if column.ndim == 1 else f"{name}_{i}": rows[:, i] for i in range(rows.shape[1])}
    return flat


def _write_ply(path: Path, scene: Scene, columns: dict[str, np.ndarray]) -> None:
    comments = [*scene.source.comments, *class_comments(scene.classes)]
    if scene.source.crs:
        comments.append("crs " + " ".join(scene.source.crs.split()))
    vertex = {**dict(zip("xyz", _positions(scene).T)), **columns}
    save_ply(path, vertex, scene.source.extras.get("faces"), scene.source.encoding, comments)


def _write_npz(path: Path, scene: Scene, columns: dict[str, np.ndarray]) -> None:
    arrays = {"points": _positions(scene), **columns}
    if scene.classes:
        arrays["class_id"] = np.array(list(scene.classes))
        arrays["class_name"] = np.array(list(scene.classes.values()), str)
    if scene.source.crs:
        arrays["crs"] = np.array(scene.source.crs)
    with replacing(path) as stream:
        np.savez(stream, **{**scene.source.extras, **arrays})


def _write_npy(path: Path, scene: Scene, columns: dict[str, np.ndarray]) -> None:
    """(N, 3) if there is nothing else, a structured array otherwise."""
    points = _positions(scene)
    if columns:
        columns = {**dict(zip("xyz", points.T)), **columns}
        table = np.empty(len(scene), [(name, c.dtype, c.shape[1:]) for name, c in columns.items()])
        for name, column in columns.items():
            table[name] = column
        points = table
    with replacing(path) as stream:
        np.save(stream, points, allow_pickle=False)


def _write_pointcept(path: Path, scene: Scene, columns: dict[str, np.ndarray]) -> None:
    """One array a file; classes and instances count from 0 there, with -1 for none."""
    path = free_folder(path)
    labels = {kind: scene.source.names.get(kind, kind) for kind in ("semantic", "instance")}
    arrays = {name: c for name, c in columns.items() if name not in labels.values()}
    if scene.source.format != "pointcept":
        arrays = {name: c for name, c in arrays.items() if name not in sum(feature_names(arrays).values(), ())}
        arrays |= {_POINTCEPT.get(name, name): values for name, values in scene.features.items()}
    arrays["coord"] = _positions(scene)
    if scene.semantic is not None:
        arrays["segment"] = np.maximum(columns[labels["semantic"]].astype(np.int64) - 1, -1)
    if scene.instance is not None:
        arrays["instance"] = np.maximum(columns[labels["instance"]].astype(np.int64) - 1, -1)
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        for name, array in arrays.items():
            with replacing(new / f"{name}.npy") as stream:
                np.save(stream, array, allow_pickle=False)
        os.replace(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
