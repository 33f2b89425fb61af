"""PLY files, ASCII and binary of both byte orders, with any elements and properties.

The layout is Greg Turk's: a text header that declares elements (``vertex``, ``face`` …), each with a count and
typed properties, then their rows. Rows of one length are read as one array; only elements whose lists differ in
length, such as faces of mixed triangles and quads, are walked row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import UnreadableFile, reading, replacing

__all__ = ["read_ply", "triangulate", "write_ply"]

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "<"}


class _Property(NamedTuple):
    name: str
    value: np.dtype
    count: np.dtype | None  # of a list: the type of its length


class _Element(NamedTuple):
    name: str
    rows: int
    properties: list[_Property]


def read_ply(path: str | Path) -> dict[str, dict[str, np.ndarray | list[np.ndarray]]]:
    """The columns of a PLY file: ``{"vertex": {"x": (V,), …}, "face": {"vertex_indices": …}}``.

    A list property is an (N,k) array when all its rows have k entries, else a list of N arrays.
    :class:`UnreadableFile` is raised for a file that is cut short or is no PLY.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_ply(f"{folder}/two.ply", np.array([[0, 0, 0], [1, 2, 3]]))
    ...     read_ply(f"{folder}/two.ply")["vertex"]["z"]
    array([0., 3.], dtype=float32)
    """
    with reading(path) as path:
        data = path.read_bytes()
        elements, body, ascii_text = _header(path, data)
        if ascii_text:  # every token as a float64: from here on ASCII is one more binary layout
            data = np.array(data[body:].split(), dtype="<f8").tobytes()
            body = 0
            elements = [e._replace(properties=[_as_float64(p) for p in e.properties]) for e in elements]
        columns = {}
        for element in elements:
            columns[element.name], body = _read_rows(path, data, body, element)
        return columns


def write_ply(path: str | Path, points: np.ndarray) -> None:
    """Write (N,3) points as the vertices (float x, y, z) of a binary little-endian PLY, atomically."""
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    with replacing(path) as stream:
        stream.write(header.encode("ascii"))
        stream.write(np.ascontiguousarray(points, "<f4").tobytes())


def triangulate(polygons: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
    """Convex polygons, given by their vertex numbers, as (F,3) int64 triangles: a fan around each first corner.

    Polygons of fewer than three corners (points and edges) are left out.

    >>> triangulate([[0, 1, 2, 3], [4, 5, 6]]).tolist()
    [[4, 5, 6], [0, 1, 2], [0, 2, 3]]
    """
    if isinstance(polygons, np.ndarray):
        groups = [polygons]
    else:
        groups = [[p for p in polygons if len(p) == corners] for corners in {len(p) for p in polygons}]
    triangles = [np.empty((0, 3), np.int64)]
    for group in (np.asarray(group, dtype=np.int64) for group in groups):
        fan = [group[:, [0, i, i + 1]] for i in range(1, group.shape[1] - 1)]
        triangles += [np.stack(fan, axis=1).reshape(-1, 3)] if fan else []
    return np.concatenate(triangles)


def _header(path: Path, data: bytes) -> tuple[list[_Element], int, bool]:
    """The declared elements, where their rows begin, and whether these are text."""
    lines = _header_lines(path, data)
    if next(lines)[0].strip() != "ply":
        raise UnreadableFile(path, "not a PLY file (it does not begin with 'ply')")
    order, elements = "", []
    for line, stop in lines:
        words = line.split() or ["comment"]
        if words[0] == "format":
            layout, order = words[1], _ORDERS[words[1]]
        elif words[0] == "element":
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[0] == "property":
            elements[-1].properties.append(_property(words[1:], order))
        elif words[0] == "end_header":
            return elements, stop, layout == "ascii"
    raise UnreadableFile(path, "the PLY header has no end")


def _header_lines(path: Path, data: bytes) -> Iterator[tuple[str, int]]:
    """Lines of text and the offset behind each, while they end in a newline."""
    start = 0
    while (stop := data.find(b"\n", start)) >= 0:
        yield data[start:stop].decode("latin-1"), stop + 1
        start = stop + 1
    raise UnreadableFile(path, "the PLY header has no end")


def _property(words: list[str], order: str) -> _Property:
    if words[0] == "list":
        return _Property(words[3], np.dtype(order + _TYPES[words[2]]), np.dtype(order + _TYPES[words[1]]))
    return _Property(words[1], np.dtype(order + _TYPES[words[0]]), None)


def _as_float64(p: _Property) -> _Property:
    return p._replace(value=np.dtype("<f8"), count=None if p.count is None else np.dtype("<f8"))


def _read_rows(path: Path, data: bytes, start: int, element: _Element) -> tuple[dict, int]:
    """The columns of one element and the offset behind it."""
    if not element.rows:
        return {p.name: np.empty(0, p.value) for p in element.properties}, start
    sizes = [size for _, size, _ in _walk_row(path, data, start, element)]
    fields: list[tuple] = []
    for i, (p, size) in enumerate(zip(element.properties, sizes)):
        if p.count:
            fields += [(f"count {i}", p.count), (f"value {i}", p.value, (size,))]
        else:
            fields.append((f"value {i}", p.value))
    row = np.dtype(fields)
    stop = start + element.rows * row.itemsize
    lists = [i for i, p in enumerate(element.properties) if p.count]
    if stop <= len(data):
        table = np.frombuffer(data, row, element.rows, start)
        if all((table[f"count {i}"] == sizes[i]).all() for i in lists):
            return {p.name: table[f"value {i}"] for i, p in enumerate(element.properties)}, stop
    elif not lists:
        raise UnreadableFile(path, f"cut short: it ends within its {element.rows} {element.name} rows")
    return _read_uneven_rows(path, data, start, element)


def _read_uneven_rows(path: Path, data: bytes, start: int, element: _Element) -> tuple[dict, int]:
    columns: list[list] = [[] for _ in element.properties]
    for _ in range(element.rows):
        row = list(_walk_row(path, data, start, element))
        for column, (p, size, stop) in zip(columns, row):
            value = np.frombuffer(data, p.value, size, stop - size * p.value.itemsize)
            column.append(value if p.count else value[0])
        start = row[-1][2]
    return {p.name: column if p.count else np.array(column) for p, column in zip(element.properties, columns)}, start


def _walk_row(path: Path, data: bytes, start: int, element: _Element) -> Iterator[tuple[_Property, int, int]]:
    """For each property of the row at ``start``: how many values it has, and the offset behind them."""
    for p in element.properties:
        size = 1
        if p.count:
            size = int(np.frombuffer(data, p.count, 1, start)[0]) if start < len(data) else 0
            start += p.count.itemsize
        start += size * p.value.itemsize
        if size < 0 or start > len(data):
            raise UnreadableFile(path, f"cut short: it ends within its {element.rows} {element.name} rows")
        yield p, size, start
