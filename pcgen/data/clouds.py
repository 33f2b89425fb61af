"""One shape from one file: the points of a cloud, or points drawn from a mesh."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import TOO_FAR, UnreadableFile, keeps_shape, reading
from .meshes import MESH_SUFFIXES, checked_mesh, read_mesh, read_ply_mesh, sample_surface

__all__ = ["ARRAY_SUFFIXES", "SHAPE_SUFFIXES", "Arrays", "read_arrays", "read_cloud", "read_shape", "shape_rng"]

ARRAY_SUFFIXES = (".npy", ".npz", ".pt")
_CLOUD_SUFFIXES = (*ARRAY_SUFFIXES, ".ply", ".pcd", ".xyz", ".txt")
# What is taken for a shape inside a folder: no .txt, which there is a list of names or a note.
SHAPE_SUFFIXES = tuple(sorted({*_CLOUD_SUFFIXES, *MESH_SUFFIXES} - {".txt"}))


class Arrays(NamedTuple):
    """What a file of arrays holds."""

    points: np.ndarray  # (S,N,3) or (N,3) float32
    labels: Mapping[str, tuple[str, ...]]  # "name", "split", "category" as far as the file has them, S each


def read_cloud(path: str | Path) -> np.ndarray:
    """The points (N,3) float32 of one cloud, in the file's own unit and order.

    ``.npy``, ``.npz`` (see :func:`read_arrays`) and ``.pt`` hold (N,3) numbers of any precision; of ``.ply`` the
    vertices are read, faces or not; ``.xyz`` and ``.txt`` hold one point a line, three numbers first, separated
    by spaces, commas or semicolons, under a line of titles or none; ``.pcd`` needs Open3D.
    :class:`~pcgen.data.files.UnreadableFile` is raised for a file that is broken or cut short, of another shape, not
    finite, or whose points are all equal.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.eye(3, dtype=np.float16))
    ...     read_cloud(f"{folder}/a.npy").dtype
    dtype('float32')
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _CLOUD_SUFFIXES:
        raise UnreadableFile(path, f"not a cloud file: expected one of {' '.join(_CLOUD_SUFFIXES)}")
    with reading(path):
        if suffix in ARRAY_SUFFIXES:
            return _one_cloud(path, read_arrays(path).points)
        if suffix == ".ply":
            return _one_cloud(path, read_ply_mesh(path).vertices)
        return _one_cloud(path, _read_pcd(path) if suffix == ".pcd" else _read_text(path))


def read_shape(path: str | Path, points: int, rng: np.random.Generator) -> np.ndarray:
    """A cloud (N,3) float32 from a file of either kind: a cloud's own points, ``points`` from a mesh's surface.

    The points of a scan (``.ply`` without faces, ``.pcd``, ``.xyz``) are shuffled, since scanners write them in
    an order in which any slice is one part of the shape; arrays keep their order. Errors are those of
    :func:`read_cloud` and :func:`~pcgen.data.meshes.read_mesh`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".ply":
        mesh = read_ply_mesh(path)
        if len(mesh.faces):
            return _one_cloud(path, sample_surface(checked_mesh(path, mesh), points, rng))
        return rng.permutation(_one_cloud(path, mesh.vertices))
    if suffix in MESH_SUFFIXES:
        return _one_cloud(path, sample_surface(read_mesh(path), points, rng))
    cloud = read_cloud(path)
    return cloud if suffix in ARRAY_SUFFIXES else rng.permutation(cloud)


def read_arrays(path: str | Path) -> Arrays:
    """The clouds in a ``.npy``, ``.npz`` or ``.pt`` file; nothing is ever unpickled.

    In an npz they are called ``points`` or ``samples``, or are its only floating-point array (S,N,3) or (N,3);
    ``name`` (or ``names``), ``split`` and ``category`` label them. A ``.pt`` holds one tensor.
    """
    path = Path(path)
    with reading(path):
        labels = {}
        if path.suffix.lower() == ".npz":
            points, labels = _read_npz(path)
        elif path.suffix.lower() == ".npy":
            with path.open("rb") as stream:  # not np.load, which takes garbage for a pickle and advises to open it
                points = np.lib.format.read_array(stream, allow_pickle=False)
        else:
            points = _read_pt(path)
        points = _checked(path, points)
        count = len(points) if points.ndim == 3 else 1
        for key, values in labels.items():
            if len(values) != count:
                raise UnreadableFile(path, f"{count} clouds need as many entries in {key!r}, got {len(values)}")
        return Arrays(points, labels)


def _checked(path: str | Path, points: np.ndarray) -> np.ndarray:
    """(N,3) or (S,N,3) ``points`` as float32; ``UnreadableFile`` for another shape or a cloud that is none."""
    points = np.asarray(points)
    if points.dtype.kind not in "fiu":
        raise UnreadableFile(path, f"expected numbers, got an array of {points.dtype}")
    if points.ndim not in (2, 3) or points.shape[-1] != 3:
        raise UnreadableFile(path, f"expected points (N,3) or (S,N,3), got {points.shape}")
    if not points.size:
        raise UnreadableFile(path, f"no points, an array {points.shape}")
    exact = points
    with np.errstate(over="ignore"):
        points = points.astype(np.float32, copy=False)
    finite = np.isfinite(points).all(axis=(-2, -1))
    if not finite.all():
        raise UnreadableFile(path, f"{_which(finite)} coordinates that are NaN, infinite or beyond float32")
    spread = (exact != exact[..., :1, :]).any(axis=(-2, -1))
    if not spread.all():
        raise UnreadableFile(path, f"{_which(spread)} no extent, all points are equal")
    kept = keeps_shape(exact)
    if not kept.all():
        raise UnreadableFile(path, f"{_which(kept)} {TOO_FAR}")
    return points


def shape_rng(seed: int, name: str) -> np.random.Generator:
    """The random stream of the shape called ``name``: it does not depend on which other shapes there are."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng((seed, int.from_bytes(digest[:8], "little")))


def _which(good: np.ndarray) -> str:
    """Which clouds of a set are not good, as the beginning of a sentence."""
    bad = np.flatnonzero(~good)
    return "the cloud has" if good.ndim == 0 else f"cloud {bad[0]} of {len(good)} (and {len(bad) - 1} more) has"


def _one_cloud(path: Path, points: np.ndarray) -> np.ndarray:
    if points.ndim != 2:
        raise UnreadableFile(path, f"expected one cloud (N,3), got {points.shape}")
    return _checked(path, points)


def _read_npz(path: Path) -> tuple[np.ndarray, dict[str, tuple[str, ...]]]:
    # Opened here, since np.load leaves the file open when it is no archive.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        labels = {
            key.removesuffix("s") if key == "names" else key: tuple(map(str, np.atleast_1d(archive[key])))
            for key in ("names", "name", "split", "category")
            if key in archive.files
        }
        for key in ("points", "samples"):
            if key in archive.files:
                return archive[key], labels
        arrays = {key: archive[key] for key in archive.files if key not in labels}
    clouds = [key for key, a in arrays.items() if a.dtype.kind == "f" and a.ndim in (2, 3) and a.shape[-1] == 3]
    if len(clouds) != 1:
        raise UnreadableFile(path, f"no array 'points' or 'samples', it holds {', '.join(arrays) or 'nothing'}")
    return arrays[clouds[0]], labels


def _read_pt(path: Path) -> np.ndarray:
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):  # as all files that torch.save has written since 2020
            raise
        raise UnreadableFile(path, "holds Python objects, which are not loaded: expected one tensor") from None
    if not isinstance(tensor, torch.Tensor):
        keys = f" with {', '.join(map(repr, list(tensor)[:5]))}" if isinstance(tensor, Mapping) else ""
        raise UnreadableFile(path, f"expected one tensor, got a {type(tensor).__name__}{keys}: save the clouds alone")
    return tensor.detach().to(torch.float64).numpy()


def _read_text(path: Path) -> np.ndarray:
    with path.open(encoding="utf-8-sig", errors="replace") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a file without rows is told by its shape
        lines = (line for line in stream if line.strip() and not line.lstrip().startswith(("#", "//")))
        first = next(lines, "")
        delimiter = next((mark for mark in ",;" if mark in first), None)
        rows = itertools.chain([first] if _is_number(first.split(delimiter)[:1]) else [], lines)
        return np.loadtxt(rows, dtype=np.float64, delimiter=delimiter, usecols=(0, 1, 2), ndmin=2)


def _is_number(words: list[str]) -> bool:
    """Whether the words can be read as numbers, NaN among them; titles cannot."""
    try:
        return bool([float(word) for word in words])
    except ValueError:
        return False


def _read_pcd(path: Path) -> np.ndarray:
    try:
        import open3d
    except (ImportError, OSError) as error:  # OSError: installed, but libGL or libusb is missing
        detail = " ".join(str(error).split())
        raise UnreadableFile(path, f"reading .pcd needs Open3D (pip install open3d): {detail}") from error
    return np.asarray(open3d.io.read_point_cloud(str(path)).points)
