"""PLY files, ASCII and binary of both byte orders, with any elements and properties.

The layout is Greg Turk's: a text header that declares elements (``vertex``, ``face`` …), each with a count and
typed properties, then their rows. Rows of one length are read as one array; only elements whose lists differ in
length, such as faces of mixed triangles and quads, are walked row by row.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import UnreadableFile, reading, replacing

__all__ = ["Ply", "load_ply", "read_ply", "save_ply", "triangulate", "write_ply"]

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
    **{"int64": "i8", "uint64": "u8"},  # not PLY's, but some programs write them
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "<"}
# The other way round: the names that every program knows. PLY has no 64-bit integers.
_NAMES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint"}
_NAMES |= {"f4": "float", "f8": "double"}
_BLOCK = 1 << 18  # rows at a time: as text or packed they take more memory than the columns


class Ply(NamedTuple):
    """A PLY file."""

    elements: dict[str, dict[str, np.ndarray | list[np.ndarray]]]  # as `read_ply` returns them
    encoding: str  # "ascii", "binary_little_endian" or "binary_big_endian"
    comments: tuple[str, ...]  # lines of the header, without the word "comment"


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
    return load_ply(path).elements


def load_ply(path: str | Path) -> Ply:
    """A PLY file with what its header says besides; errors are those of :func:`read_ply`.

    A column of an ASCII file is float64 in place of its declared type where its text says more than that holds, such
    as ``432100.123`` in a ``float`` or ``0.5`` in an ``int``; so are lists of unequal lengths.
    """
    with reading(path) as path:
        data = path.read_bytes()
        elements, body, encoding, comments = _header(path, data)
        rows = elements
        if encoding == "ascii":  # every token as a float64: from here on ASCII is one more binary layout
            data, body = _numbers(data[body:]), 0
            rows = [e._replace(properties=[_as_float64(p) for p in e.properties]) for e in elements]
        columns = {}
        for element, row in zip(elements, rows):
            columns[element.name], body = _read_rows(path, data, body, row)
            if encoding == "ascii":
                columns[element.name] |= _as_declared(element, columns[element.name])
        return Ply(columns, encoding, comments)


def write_ply(path: str | Path, points: np.ndarray) -> None:
    """Write (N,3) points as the vertices (float x, y, z) of a binary little-endian PLY, atomically."""
    save_ply(path, dict(zip("xyz", np.asarray(points, np.float32).T)))


def save_ply(
    path: str | Path,
    vertex: Mapping[str, np.ndarray],
    faces: np.ndarray | None = None,
    encoding: str = "binary_little_endian",
    comments: Sequence[str] = (),
) -> None:
    """Write columns of equal length, each in its own type, as the vertices of a PLY, and (F,k) faces, atomically.

    64-bit integers become 32-bit ones or, beyond their range, doubles, ``ValueError`` if those do not hold them either;
    booleans become uchar, other floats double.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_ply(f"{folder}/a.ply", {"x": np.array([0.1, 2])}, encoding="ascii", comments=["made by hand"])
    ...     print(Path(folder, "a.ply").read_text())
    ply
    format ascii 1.0
    comment made by hand
    element vertex 2
    property double x
    end_header
    0.1
    2.0
    """
    columns = {name: _storable(name, np.asarray(column)) for name, column in vertex.items()}
    rows = len(next(iter(columns.values()), ()))
    header = ["ply", f"format {encoding} 1.0", *(f"comment {line}" for line in comments)]
    header += [f"element vertex {rows}"]
    header += [f"property {_NAMES[column.dtype.str[1:]]} {'_'.join(name.split())}" for name, column in columns.items()]
    tables = [list(columns.values())]
    if faces is not None and len(faces):
        tables += [[np.full(len(faces), faces.shape[1], np.uint8), *np.asarray(faces, np.int32).T]]
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    with replacing(path) as stream:
        stream.write("\n".join([*header, "end_header\n"]).encode())
        for table in tables:
            for start in range(0, len(table[0]) if table else 0, _BLOCK):
                stream.write(_rows([column[start : start + _BLOCK] for column in table], encoding))


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


def _storable(name: str, column: np.ndarray) -> np.ndarray:
    """``column`` in the nearest type that PLY has."""
    if column.ndim != 1 or column.dtype.kind not in "fiub":
        raise ValueError(f"PLY column {name!r} must be (N,) numbers, got {column.shape} of {column.dtype}")
    if column.dtype.kind == "f":
        return column.astype(np.float32 if column.dtype.itemsize <= 4 else np.float64, copy=False)
    if column.dtype.kind == "b":
        return column.astype(np.uint8)
    if column.dtype.itemsize == 8:
        if not len(column) or -(2**31) <= column.min() <= column.max() < 2**31:
            return column.astype(np.int32)
        if not -(2**53) <= column.min() <= column.max() <= 2**53:
            raise ValueError(f"PLY column {name!r} must fit 53 bits, it reaches from {column.min()} to {column.max()}")
        return column.astype(np.float64)
    return column


def _rows(columns: Sequence[np.ndarray], encoding: str) -> bytes:
    """The rows of a table as they stand in a file."""
    if encoding == "ascii":
        texts = [column.astype(str) for column in columns]
        return "".join(" ".join(row) + "\n" for row in zip(*texts)).encode("ascii")
    order = _ORDERS[encoding]
    table = np.empty(len(columns[0]), [(str(i), c.dtype.newbyteorder(order)) for i, c in enumerate(columns)])
    for i, column in enumerate(columns):
        table[str(i)] = column
    return table.tobytes()


def _numbers(text: bytes) -> bytes:
    """The numbers in a text as float64, little-endian."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # NumPy's word for something that is no number
        return np.fromstring(text, dtype=np.float64, sep=" ").astype("<f8", copy=False).tobytes()


def _as_declared(element: _Element, columns: dict) -> dict[str, np.ndarray]:
    """The columns of an ASCII file whose declared type holds what their text says, in that type."""
    declared = {}
    for p in element.properties:
        values = columns[p.name]
        if isinstance(values, np.ndarray):
            with np.errstate(invalid="ignore", over="ignore"):
                cast = values.astype(p.value)
            blocks = (slice(start, start + _BLOCK) for start in range(0, len(values), _BLOCK))
            if all(_says_no_more(values[block], cast[block]) for block in blocks):
                declared[p.name] = cast
    return declared


def _says_no_more(values: np.ndarray, cast: np.ndarray) -> bool:
    """Whether each of the ``values`` is its ``cast``, or what rounding that to some number of decimals gives."""
    cast = cast.astype(np.float64)
    odd = (cast != values) & ~(np.isnan(cast) & np.isnan(values))
    for decimals in (*range(23), *range(-22, 0)):  # powers of ten are exact up to 10²²
        values, cast = values[odd], cast[odd]
        odd = cast.round(decimals) != values
    return not odd.any()


def _header(path: Path, data: bytes) -> tuple[list[_Element], int, str, tuple[str, ...]]:
    """The declared elements, where their rows begin, their encoding, and the comments."""
    if data[:16].split()[:1] != [b"ply"]:
        raise UnreadableFile(path, "not a PLY file (it does not begin with 'ply')")
    lines = _header_lines(path, data)
    order, layout, elements, comments = "", "", [], []
    for line, stop in lines:
        words = line.split() or ["comment"]
        if words[0] == "format":
            layout, order = words[1], _ORDERS[words[1]]
        elif words[0] == "element":
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[0] == "property":
            elements[-1].properties.append(_property(words[1:], order))
        elif words[0] == "comment":
            text = line.strip().removeprefix("comment").strip()
            comments.append(text.encode("latin-1").decode("utf-8", "replace"))
        elif words[0] == "end_header":
            return elements, stop, layout, tuple(filter(None, comments))
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
        return {p.name: np.empty((0, 0) if p.count else 0, p.value) for p in element.properties}, start
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
