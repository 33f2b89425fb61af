"""Scans in folders: Pointcept's arrays, ScanNet's meshes with aggregations, S3DIS's rooms of text files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..files import UnreadableFile, reading
from .scene import BACKGROUND, UNANNOTATED, Source
from .tables import Table, read_ply_table, split_extras

__all__ = ["S3DIS_CLASSES", "read_pointcept_table", "read_s3dis_table", "read_scannet_table"]

# Armeni et al., 3D semantic parsing of large-scale indoor spaces, 2016; stairs are commonly counted as clutter.
S3DIS_CLASSES = (
    *("ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa", "bookcase"),
    *("board", "clutter"),
)


def read_pointcept_table(folder: Path) -> Table:
    """``coord.npy`` with ``color.npy``, ``normal.npy``, ``segment.npy`` (or ``segment20.npy``), ``instance.npy`` ….

    Its classes and instances count from 0, with -1 for none: here one is added to both. A point with a class but no
    instance is background.
    """
    arrays = {file.stem: _read_array(file) for file in sorted(folder.glob("*.npy"))}
    points = arrays.pop("coord")
    if points.ndim != 2:
        raise UnreadableFile(folder / "coord.npy", f"expected points (N, 3), got {points.shape}")
    columns, extras = split_extras(folder, arrays, len(points))
    segment = next((name for name in ("segment", "segment20", "segment200") if name in columns), None)
    if "instance" in columns:
        columns["instance"] = _from_minus_one(columns["instance"])
    if segment:
        columns[segment] = _from_minus_one(columns[segment])
        if "instance" in columns:
            stuff = (columns["instance"] == UNANNOTATED) & (columns[segment] != UNANNOTATED)
            columns["instance"][stuff] = BACKGROUND
    names = {"semantic": segment} if segment else {}
    source = Source(folder, "pointcept", position=points.dtype.name, names=names, extras=extras)
    return Table(points, columns, source)


def read_scannet_table(path: Path, label_map: Path | None = None) -> Table:
    """A ``<scan>_vh_clean_2.ply`` with the ``.aggregation.json`` and ``.segs.json`` beside it, if there.

    An instance is an object of the aggregation. With ScanNet's ``scannetv2-labels.combined.tsv`` classes are NYU40's;
    without it they are the scan's own labels, numbered from 1 by name. Vertices in no object are unannotated.
    """
    table = read_ply_table(path)
    # Not <scan>_vh_clean.aggregation.json, which counts the segments of the finer mesh.
    aggregation = path.with_name(path.name.removesuffix("_vh_clean_2.ply") + ".aggregation.json")
    if not aggregation.is_file():
        return table
    group, objects = _scannet_objects(path, aggregation, len(table.points))
    number, classes = _scannet_classes([label for _, label in objects], label_map)
    semantic = np.array([*(number.get(label, UNANNOTATED) for _, label in objects), UNANNOTATED])
    instance = np.array([*(1 + identity for identity, _ in objects), UNANNOTATED])
    columns = {**table.columns, "semantic": semantic[group], "instance": instance[group]}
    return Table(table.points, columns, replace(table.source, format="scannet"), classes)


def read_s3dis_table(folder: Path) -> Table:
    """A room of S3DIS: each text file in ``Annotations`` is an instance, ``x y z r g b`` a line, named by its class."""
    files = sorted((folder / "Annotations").glob("*.txt"))
    parts, semantic = [], []
    for file in files:
        with reading(file):
            # A published file has a control character between two numbers, hence the translation.
            text = file.read_bytes().translate(bytes(c if c >= 32 or c in b"\n" else 32 for c in range(256)))
            parts.append(np.loadtxt(io.BytesIO(text), usecols=range(6), ndmin=2))
        name = file.stem.rpartition("_")[0].lower()
        semantic.append(S3DIS_CLASSES.index(name if name in S3DIS_CLASSES else "clutter") + 1)
    if not parts:
        raise UnreadableFile(folder, "no annotated objects: expected Annotations/<class>_<number>.txt")
    rows, lengths = np.concatenate(parts), [len(part) for part in parts]
    colour = np.nan_to_num(rows[:, 3:6]).clip(0, 255).astype(np.uint8)
    columns = dict(zip(("red", "green", "blue"), colour.T))
    columns["semantic"] = np.repeat(semantic, lengths)
    columns["instance"] = np.repeat(np.arange(1, 1 + len(parts)), lengths)
    return Table(rows[:, :3], columns, Source(folder, "s3dis"), dict(enumerate(S3DIS_CLASSES, start=1)))


def _read_array(file: Path) -> np.ndarray:
    with reading(file), file.open("rb") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _from_minus_one(labels: np.ndarray) -> np.ndarray:
    """Labels that count from 0, with -1 for none, as ours that count from 1."""
    labels = labels.reshape(len(labels)).astype(np.int64)
    return np.where(labels < 0, UNANNOTATED, labels + 1)


def _scannet_objects(path: Path, aggregation: Path, points: int) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """For each point the row of the object it belongs to, -1 for none, and the objects' numbers and labels."""
    segments = path.with_name(path.name.removesuffix(".ply") + ".0.010000.segs.json")
    with reading(segments):
        segment = np.array(json.loads(segments.read_text())["segIndices"], np.int64)
        if len(segment) != points:
            raise UnreadableFile(segments, f"{points} vertices need as many segIndices, it has {len(segment)}")
    with reading(aggregation):
        groups = json.loads(aggregation.read_text())["segGroups"]
        known, of_point = np.unique(segment, return_inverse=True)
        owner = np.full(len(known), -1)
        for row, group in enumerate(groups):  # of several that claim a segment the last has it
            owner[np.isin(known, group["segments"])] = row
        return owner[of_point.reshape(-1)], [(int(group["objectId"]), str(group["label"])) for group in groups]


def _scannet_classes(labels: list[str], label_map: Path | None) -> tuple[dict[str, int], dict[int, str]]:
    """The number of each label, and the name of each number."""
    if label_map is None:
        names = sorted(set(labels))
        return {name: i for i, name in enumerate(names, 1)}, dict(enumerate(names, 1))
    with reading(label_map), label_map.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if int(row["nyu40id"] or 0) > 0]
        number = {row["raw_category"]: int(row["nyu40id"]) for row in rows}
        return number, {int(row["nyu40id"]): row["nyu40class"] for row in rows}
