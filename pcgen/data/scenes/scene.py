"""A labelled scan: points without loss of precision, named features, two labels a point, and its file's own extras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["BACKGROUND", "UNANNOTATED", "Scene", "Source", "make_scene"]

UNANNOTATED, BACKGROUND = -1, 0

# Nearer to 0 than this many extents, float32 is off by less than 2⁻²⁴ · 64 ≈ 4 · 10⁻⁶ of the extent.
_FAR = 64


@dataclass(frozen=True, eq=False)
class Source:
    """Where a scene comes from, as far as a writer needs it to write another file like it."""

    path: Path | None = None
    format: str = "npz"  # "ply", "npz", "npy", "las", "laz", "pointcept", "scannet", "s3dis", "generated"
    encoding: str = "binary_little_endian"  # of a PLY; the others are "ascii" and "binary_big_endian"
    position: str = "float64"  # NumPy's name of the type that the coordinates have in the file
    names: Mapping[str, str] = field(default_factory=dict)  # what the file calls "semantic" and "instance"
    types: Mapping[str, str] = field(default_factory=dict)  # NumPy's names of the types of these two
    comments: tuple[str, ...] = ()  # of a PLY's header
    crs: str | None = None  # coordinate reference system: "EPSG:25832", or its WKT
    header: Any = None  # of a LAS file, laspy's: scale, offset, CRS and all other records
    extras: Mapping[str, Any] = field(default_factory=dict)  # what is not per point: a PLY's faces, other arrays

    def __str__(self) -> str:
        return "the scene" if self.path is None else str(self.path)


@dataclass(frozen=True, eq=False)
class Scene:
    """N labelled points; :func:`make_scene` and :func:`~pcgen.data.scenes.read_scene` make one.

    Labels are -1 where nobody annotated (no loss, no false positive) and 0 on the background. The ``offset`` is 0
    unless the scan is far from the origin for its extent, as map coordinates are; ``points`` + ``offset`` is then
    what the file says, to the last bit, and ``points`` keep their shape in float32.
    """

    points: np.ndarray  # (N, 3) float64, finite, in the file's unit, relative to `offset`
    offset: np.ndarray  # (3,) float64, whole numbers
    # float32, those that the file has of "colour" (N, 3) in 0 … 1, "normals" (N, 3), "intensity" (N,) in its own unit
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    semantic: np.ndarray | None = None  # (N,) int64, the class: -1 unannotated, 0 background
    instance: np.ndarray | None = None  # (N,) int64, the object, 1 … K without gaps: -1 unannotated, 0 background
    # (K,) int64: what the file calls each instance; instance i is `instance_ids[i - 1]`
    instance_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    classes: Mapping[int, str] = field(default_factory=dict)  # names of the values of `semantic`
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)  # (N, …) every other column, as in the file
    dropped: int = 0  # points of the file that were left out because a coordinate was NaN or infinite
    source: Source = field(default_factory=Source)

    def __post_init__(self) -> None:
        if self.points.shape[1:] != (3,) or self.points.ndim != 2:
            raise ValueError(f"the points of a scene must be (N, 3), got {self.points.shape}")
        labels = {"semantic": self.semantic, "instance": self.instance}
        for name, column in {**self.features, **self.attributes, **labels}.items():
            if column is not None:
                _per_point(name, column, len(self))

    def __len__(self) -> int:
        return len(self.points)

    @property
    def instances(self) -> int:
        """K, the number of annotated instances."""
        return len(self.instance_ids)

    @property
    def coordinates(self) -> np.ndarray:
        """(N, 3) float64, as the file says them."""
        return self.points + self.offset

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each thing that was changed on the way from the file, for people to read.

        >>> for note in make_scene([[0, 0, 0], [1, 1, 1], [np.nan, 0, 0]], instance=[3, 8, 8]).notes:
        ...     print(note)
        1 of 3 points dropped: NaN or infinite coordinates
        2 instances renumbered from 1: the file has numbers 3 to 8
        """
        notes = []
        if self.dropped:
            notes.append(f"{self.dropped} of {len(self) + self.dropped} points dropped: NaN or infinite coordinates")
        if self.offset.any():
            notes.append(f"coordinates shifted by {', '.join(f'{value:.0f}' for value in self.offset)}")
        if self.instances and self.instance_ids[-1] != self.instances:
            low, high = self.instance_ids[[0, -1]]
            notes.append(f"{self.instances} instances renumbered from 1: the file has numbers {low} to {high}")
        return tuple(notes)

    def take(self, index: ArrayLike) -> Scene:
        """The scene of the points that ``index`` selects: (M,) row numbers, or (N,) bool.

        Its instances are numbered anew without gaps; ``instance_ids`` still says the file's numbers. What is not per
        point (``source.extras``, such as a mesh's faces) does not follow.

        >>> scene = make_scene(np.eye(3), instance=[4, 0, 9]).take([2, 1])
        >>> scene.instance, scene.instance_ids
        (array([1, 0]), array([9]))
        """
        index = np.asarray(index)
        index = index if index.size else index.astype(np.int64)  # NumPy takes [] for numbers with a fraction
        semantic = None if self.semantic is None else self.semantic[index]
        instance, ids = self.instance, self.instance_ids
        if instance is not None:
            instance, kept = _renumbered(instance[index])
            ids = ids[kept - 1]
        return replace(
            self,
            points=self.points[index],
            features={name: column[index] for name, column in self.features.items()},
            semantic=semantic,
            instance=instance,
            instance_ids=ids,
            attributes={name: column[index] for name, column in self.attributes.items()},
            source=replace(self.source, extras={}),
        )

    def with_labels(
        self,
        semantic: ArrayLike | None = None,
        instance: ArrayLike | None = None,
        classes: Mapping[int, str] | None = None,
        **attributes: np.ndarray,
    ) -> Scene:
        """The scene with these labels instead of its own, and with more columns, such as ``score`` or ``red``.

        What is None stays. Labels are checked and numbered as :func:`make_scene` does.

        >>> scene = make_scene(np.eye(3)).with_labels(instance=[1, 1, 0], score=np.array([0.9, 0.9, 0.0]))
        >>> scene.instances, list(scene.attributes)
        (1, ['score'])
        """
        new: dict[str, Any] = {"attributes": {**self.attributes, **attributes}}
        if semantic is not None:
            new["semantic"] = _labels("semantic", semantic, len(self))
        if instance is not None:
            new["instance"], new["instance_ids"] = _renumbered(_labels("instance", instance, len(self)))
        if classes is not None:
            new["classes"] = dict(classes)
        return replace(self, **new)


def make_scene(
    points: ArrayLike,
    *,
    features: Mapping[str, ArrayLike] | None = None,
    semantic: ArrayLike | None = None,
    instance: ArrayLike | None = None,
    classes: Mapping[int, str] | None = None,
    attributes: Mapping[str, ArrayLike] | None = None,
    source: Source | None = None,
    stuff: tuple[str, ...] = (),
    zero_unannotated: bool = False,
) -> Scene:
    """A scene of (N, 3) ``points``: non-finite ones dropped and counted, shifted if far away, instances 1 … K.

    Labels may be of any type that holds whole numbers; negative and NaN ones count as -1, unannotated. With
    ``zero_unannotated`` 0 does too. Instances of the classes named in ``stuff`` become background.
    ``ValueError`` for arrays of other shapes or types, no point, or no finite one.

    >>> scene = make_scene([[432100.5, 5412000.25, 80.0], [np.nan, 0, 0]], instance=[7, 8])
    >>> scene.dropped, scene.offset.tolist(), scene.points.tolist(), scene.instance_ids.tolist()
    (1, [432100.0, 5412000.0, 80.0], [[0.5, 0.25, 0.0]], [7])
    """
    source = source or Source()
    xyz = np.asarray(points)
    if xyz.dtype.kind not in "fiu" or xyz.ndim != 2 or xyz.shape[1] != 3:
        raise ValueError(f"points must be (N, 3) numbers, got {xyz.shape} of {xyz.dtype}")
    finite = np.isfinite(xyz).all(axis=1)
    if not finite.any():
        raise ValueError(f"no points: none of {len(xyz)} is finite" if len(xyz) else "no points")
    keep = slice(None) if finite.all() else finite
    columns = [
        {name: _per_point(name, column, len(xyz))[keep] for name, column in (group or {}).items()}
        for group in (features, attributes)
    ]
    semantic = None if semantic is None else _labels("semantic", semantic, len(xyz))[keep]
    instance = None if instance is None else _labels("instance", instance, len(xyz))[keep]
    if zero_unannotated:
        semantic, instance = (None if v is None else np.where(v == 0, UNANNOTATED, v) for v in (semantic, instance))
    if semantic is not None and instance is not None:
        of_stuff = [i for i, name in (classes or {}).items() if name.lower() in stuff]
        instance = np.where(np.isin(semantic, of_stuff), BACKGROUND, instance)
    instance, ids = (None, np.empty(0, np.int64)) if instance is None else _renumbered(instance)
    xyz = xyz[keep].astype(np.float64)
    offset = _offset(xyz)
    return Scene(
        xyz - offset if offset.any() else xyz,
        offset,
        {name: np.nan_to_num(column.astype(np.float32), posinf=0, neginf=0) for name, column in columns[0].items()},
        semantic,
        instance,
        ids,
        dict(classes or {}),
        columns[1],
        int(len(finite) - finite.sum()),
        source if finite.all() else replace(source, extras={}),
    )


def _offset(points: np.ndarray) -> np.ndarray:
    """(3,) what to subtract: whole numbers near the middle of the axes that are far from 0, else 0.

    A whole number no larger than the coordinates, which lie close to it, is subtracted without error.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    with np.errstate(over="ignore"):
        far = np.abs(points[0]) > _FAR * (high - low).max()
    return np.where(far, np.trunc(low / 2 + high / 2), 0.0)


def _per_point(name: str, values: ArrayLike, count: int) -> np.ndarray:
    values = np.asarray(values)
    if not values.ndim or len(values) != count:
        raise ValueError(f"{name} needs one row for each of {count} points, got {values.shape}")
    return values


def _labels(name: str, values: ArrayLike, count: int) -> np.ndarray:
    """(N,) int64 labels, everything negative as -1; floats, as some programs write them, must be whole."""
    values = np.asarray(values)
    if values.size != count or values.dtype.kind not in "fiub":
        given = f"{values.shape} of {values.dtype}"
        raise ValueError(f"{name} must be one whole number for each of {count} points, got {given}")
    values = values.reshape(count)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), UNANNOTATED, values)
        broken = values[(values != np.trunc(values)) | (np.abs(values) >= 2**53)]
        if len(broken):
            raise ValueError(f"{name} must be whole numbers, got {broken[0]}")
    elif values.dtype == np.uint64 and values.max(initial=0) >= 2**63:
        raise ValueError(f"{name} must be below 2⁶³, got {values.max()}")
    return np.maximum(values.astype(np.int64), UNANNOTATED)


def _renumbered(instance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) positive ids as 1 … K in their order, and (K,) what they were."""
    ids = np.unique(instance[instance > 0])
    new = 1 + np.searchsorted(ids, instance)
    return np.where(instance > 0, new, instance), ids
