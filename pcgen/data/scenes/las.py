"""LAS and LAZ files through laspy, an optional dependency."""

from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..files import UnreadableFile, reading, replacing
from .scene import Scene, Source
from .tables import Table

__all__ = ["read_las_table", "save_las", "vectors"]

# ASPRS, LAS specification 1.4 R15, table 17.
_CLASSES = (
    *("never classified", "unclassified", "ground", "low vegetation", "medium vegetation", "high vegetation"),
    *("building", "low point", "reserved", "water", "rail", "road surface", "reserved", "wire guard"),
    *("wire conductor", "transmission tower", "wire connector", "bridge deck", "high noise"),
)
_WITH_RGB = {0: 2, 1: 3, 4: 5, 6: 7, 9: 10}  # point formats and their twins that have a colour


def read_las_table(path: Path) -> Table:
    """All dimensions of all points, but no ``classification`` that is 0, never classified, throughout."""
    laspy = _laspy(path)
    with reading(path), laspy.open(path) as reader:
        declared = reader.header.point_count
        las = reader.read()
        if len(las.points) < declared:
            raise UnreadableFile(path, f"cut short: it has {len(las.points)} of its {declared} points")
        points = np.stack([np.asarray(las[axis], np.float64) for axis in "xyz"], axis=1)
        columns = {
            name: np.asarray(las[name]) for name in las.point_format.dimension_names if name not in ("X", "Y", "Z")
        }
        if not columns["classification"].any():
            del columns["classification"]
        source = Source(path, path.suffix.lower()[1:], header=las.header, crs=_crs(las.header))
        return Table(points, columns, source, dict(enumerate(_CLASSES)))


def save_las(path: Path, scene: Scene, columns: dict[str, np.ndarray]) -> None:
    """Write the coordinates and ``columns``, with the header of the scene's own file if that was LAS or LAZ.

    A column that does not fit the standard dimension of its name is called ``given_<name>``; names are cut to 32 bytes.
    """
    laspy = _laspy(path)
    header = copy.deepcopy(scene.source.header) or _new_header(laspy, scene)
    if "red" in columns and header.point_format.id in _WITH_RGB:
        _change_format(laspy, header, _WITH_RGB[header.point_format.id])
    columns = {name: _fitting(name, column) for name, column in columns.items()}
    classes, limit = columns.get("semantic", columns.get("classification")), 255 if header.point_format.id > 5 else 31
    if classes is not None:
        columns = {name: c for name, c in columns.items() if name not in ("semantic", "classification")}
        fits = 0 <= classes.min() <= classes.max() <= limit
        columns["classification" if fits else "semantic"] = classes
    columns = _with_places(laspy, header, columns)
    las = laspy.LasData(header, laspy.ScaleAwarePointRecord.zeros(len(scene), header=header))
    for axis, values in zip("xyz", scene.coordinates.T):
        setattr(las, axis, values)
    for name, column in columns.items():
        las[name] = column
    with replacing(path) as stream:
        las.write(stream, do_compress=path.suffix.lower() == ".laz")


def vectors(header: Any) -> set[str]:
    """The names of the dimensions that have several numbers a point; ``header`` is laspy's, or None."""
    return set() if header is None else {d.name for d in header.point_format.dimensions if d.num_elements > 1}


def _laspy(path: Path) -> ModuleType:
    try:
        import laspy
    except ImportError:
        raise UnreadableFile(path, f"{path.suffix} files need laspy: pip install 'laspy[lazrs]'") from None
    return laspy


def _new_header(laspy: ModuleType, scene: Scene) -> Any:
    header = laspy.LasHeader(point_format=6, version="1.4")
    extent = float(np.ptp(scene.points, axis=0).max())
    header.scales = np.full(3, 10.0 ** np.floor(np.log10(extent or 1.0) - 6))  # a millionth of the extent, or finer
    header.offsets = scene.offset
    if scene.source.crs and not scene.source.crs.startswith("EPSG"):
        header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr(scene.source.crs))
        header.global_encoding.wkt = True
    return header


def _change_format(laspy: ModuleType, header: Any, number: int) -> None:
    new = laspy.PointFormat(number)
    new.dimensions.extend(header.point_format.extra_dimensions)
    header.set_version_and_point_format(header.version, new)


def _with_places(laspy: ModuleType, header: Any, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns, named as the dimensions that they go to; those that are missing are added to the header."""
    columns = {name.encode()[:32].decode(errors="ignore"): column for name, column in columns.items()}
    narrow = {d.name for d in header.point_format.dimensions if d.name in columns and not _holds(d, columns[d.name])}
    if extra := narrow & set(header.point_format.extra_dimension_names):
        header.remove_extra_dims(list(extra))
    columns = {f"given_{name}" if name in narrow - extra else name: column for name, column in columns.items()}
    known = set(header.point_format.dimension_names)
    header.add_extra_dims([laspy.ExtraBytesParams(n, c.dtype) for n, c in columns.items() if n not in known])
    return columns


def _holds(dimension: Any, column: np.ndarray) -> bool:
    """Whether values fit a dimension: of integers or bits the range matters."""
    if dimension.is_scaled or dimension.num_elements > 1 or dimension.kind.name == "FloatingPoint":
        return True
    return column.dtype.kind in "iu" and dimension.min <= column.min() <= column.max() <= dimension.max


def _fitting(name: str, column: np.ndarray) -> np.ndarray:
    """A column in a type that LAS has for it: colours and intensity have 16 bits."""
    if name in ("red", "green", "blue") and column.dtype == np.uint8:
        return column.astype(np.uint16) * 257
    if name == "intensity" and column.dtype.kind == "f":
        scale = 65535 if column.max(initial=0) <= 1 else 1
        return np.rint(np.clip(column * scale, 0, 65535)).astype(np.uint16)
    if column.dtype.kind == "f" and column.dtype.itemsize < 4:
        return column.astype(np.float32)
    return column.astype(np.uint8) if column.dtype.kind == "b" else column


def _crs(header: Any) -> str | None:
    """The coordinate reference system of a header: its WKT, or the EPSG code among its GeoTIFF keys."""
    for record in (*header.vlrs, *(header.evlrs or ())):
        if hasattr(record, "string") and record.record_id == 2112:
            return record.string.rstrip("\0") or None
    for record in header.vlrs:
        keys = {key.id: key.value_offset for key in getattr(record, "geo_keys", ()) if key.tiff_tag_location == 0}
        code = keys.get(3072, keys.get(2048))  # projected, else geographic
        if code not in (None, 0, 32767):  # 32767: defined by the user
            return f"EPSG:{code}"
    return None
