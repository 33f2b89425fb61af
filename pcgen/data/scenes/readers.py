"""A scene from whatever holds one: a file, or a folder in one of three published layouts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ..files import UnreadableFile
from .columns import features_of, label_name
from .folders import read_pointcept_table, read_s3dis_table, read_scannet_table
from .las import read_las_table
from .scene import Scene, make_scene
from .tables import Table, class_names, read_npy_table, read_npz_table, read_ply_table

__all__ = ["STUFF", "find_scenes", "read_scene"]

STUFF = ("wall", "floor", "ceiling")

_READERS: dict[str, Callable[[Path], Table]] = {
    ".ply": read_ply_table,
    ".npz": read_npz_table,
    ".npy": read_npy_table,
    ".las": read_las_table,
    ".laz": read_las_table,
}
_SCANNET, _LABEL_MAP = "_vh_clean_2.ply", "scannetv2-labels.combined.tsv"


def read_scene(
    path: str | Path,
    *,
    semantic: str | None = None,
    instance: str | None = None,
    classes: Mapping[int, str] | None = None,
    stuff: tuple[str, ...] = STUFF,
    zero_unannotated: bool = False,
    labelled: bool = False,
    label_map: str | Path | None = None,
) -> Scene:
    """Read a scan, with labels if it has them, in the file's own unit.

    - ``.ply`` (ASCII, both byte orders), ``.npz`` and ``.npy`` with columns or arrays of the usual names, ``.las`` and
      ``.laz`` (these need laspy);
    - a Pointcept folder: ``coord.npy``, and ``color.npy``, ``normal.npy``, ``segment.npy``, ``instance.npy`` if there;
    - ScanNet: the folder of a scan, or its ``*_vh_clean_2.ply``; ``label_map`` is ``scannetv2-labels.combined.tsv``,
      looked for in the folders above when not given;
    - S3DIS: the folder of a room, which has ``Annotations``.

    Label columns are found by name or named by ``semantic`` and ``instance``. Class names come from ``classes``, the
    file, or a ``classes.json`` beside it. Instances of classes in ``stuff`` count as background. With
    ``zero_unannotated`` label 0 means that nobody annotated the point. Points with NaN or infinite coordinates are
    dropped and counted, ``scene.dropped``.

    :class:`~pcgen.data.files.UnreadableFile`, a ``ValueError``, for what is broken, empty, or no scan, and with
    ``labelled`` for a scan without instances; ``FileNotFoundError`` when there is nothing at ``path``.

    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", points=np.eye(3), instance=[5, 0, 9], colour=np.eye(3))
    ...     scene = read_scene(f"{folder}/a.npz")
    >>> len(scene), scene.instances, list(scene.features)
    (3, 2, ['colour'])
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    try:
        table = _read_table(path, None if label_map is None else Path(label_map))
        table = _with_labels_named(table, semantic, instance)
        if labelled and "instance" not in table.source.names:
            there = ", ".join(table.columns) or "x, y, z"
            raise ValueError(f"no instance labels, which are needed here; it has the columns {there}")
        labels = {kind: table.columns[name] for kind, name in table.source.names.items()}
        others = {name: c for name, c in table.columns.items() if name not in table.source.names.values()}
        return make_scene(
            table.points,
            **labels,
            features=features_of(table.columns),
            classes=classes or table.classes or class_names(path),
            attributes=others,
            source=table.source,
            stuff=stuff,
            zero_unannotated=zero_unannotated,
        )
    except UnreadableFile:
        raise
    except ValueError as error:
        raise UnreadableFile(path, str(error)) from None


def find_scenes(path: str | Path) -> list[Path]:
    """What :func:`read_scene` can be given in ``path`` and below, by name; ``path`` itself if that is a scene.

    In a folder with the files of several ScanNet scans each ``*_vh_clean_2.ply`` is one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.ply", "a.las", "notes.txt"):
    ...         Path(folder, name).touch()
    ...     [scene.name for scene in find_scenes(folder)]
    ['a.las', 'b.ply']
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    if path.is_file() or _layout(path):
        return [path]
    found = []
    for root, folders, files in os.walk(path):
        scenes = [f for f in folders if not f.startswith(".") and _layout(Path(root, f))]
        folders[:] = [f for f in folders if not f.startswith(".") and f not in scenes]
        found += [Path(root, name) for name in scenes]
        found += [Path(root, f) for f in files if f.lower().endswith(tuple(_READERS)) and not _is_beside(f)]
    if not found:
        raise ValueError(
            f"no scenes in {path}: expected {' '.join(_READERS)} files, or Pointcept, ScanNet or S3DIS folders"
        )
    return sorted(found)


def _is_beside(name: str) -> bool:
    """Whether a file is hidden, or the labels of a ScanNet scan, drawn as another mesh."""
    return name.startswith(".") or name.endswith(_SCANNET.replace(".ply", ".labels.ply"))


def _layout(folder: Path) -> str | None:
    """Which published layout of one scene a folder has, if any."""
    if (folder / "coord.npy").is_file():
        return "pointcept"
    if len(list(folder.glob(f"*{_SCANNET}"))) == 1:
        return "scannet"
    return "s3dis" if (folder / "Annotations").is_dir() else None


def _read_table(path: Path, label_map: Path | None) -> Table:
    if path.is_dir():
        layout = _layout(path)
        if layout == "pointcept":
            return read_pointcept_table(path)
        if layout == "s3dis":
            return read_s3dis_table(path)
        if layout is None:
            expected = f"coord.npy (Pointcept), *{_SCANNET} (ScanNet) or Annotations (S3DIS)"
            raise UnreadableFile(path, f"not the folder of a scene: expected {expected}")
        path = next(path.glob(f"*{_SCANNET}"))
    if path.name.endswith(_SCANNET):
        above = (folder / _LABEL_MAP for folder in path.absolute().parents[:3])
        return read_scannet_table(path, label_map or next((file for file in above if file.is_file()), None))
    if path.suffix.lower() not in _READERS:
        raise UnreadableFile(path, f"not a scan: expected one of {' '.join(_READERS)}, or the folder of a scene")
    return _READERS[path.suffix.lower()](path)


def _with_labels_named(table: Table, semantic: str | None, instance: str | None) -> Table:
    """The table whose source says which columns hold the labels, and their types."""
    numbers = [name for name, column in table.columns.items() if column.dtype.kind in "fiub"]
    names = {
        kind: label_name(numbers, kind, wanted or table.source.names.get(kind))
        for kind, wanted in (("semantic", semantic), ("instance", instance))
    }
    names = {kind: name for kind, name in names.items() if name}
    types = {kind: table.columns[name].dtype.name for kind, name in names.items()}
    return replace(table, source=replace(table.source, names=names, types=types))
