"""What every reader and writer here shares: one error for broken files, and writing that leaves no half file."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

__all__ = [
    "TOO_FAR",
    "UnreadableFile",
    "filling_folder",
    "free_folder",
    "keeps_shape",
    "reading",
    "replacing",
    "replacing_folder",
]

TOO_FAR = "coordinates too far from the origin for float32, which would spoil its shape: subtract an offset"


class UnreadableFile(ValueError):
    """A file that is no usable shape; the message is the one line ``<path>: <reason>``.

    >>> raise UnreadableFile("chair.npy", "empty file")
    Traceback (most recent call last):
    pcgen.data.files.UnreadableFile: chair.npy: empty file
    """

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[Path]:
    """Run a parser on ``path``: whatever it raises on a broken file becomes :class:`UnreadableFile`.

    Parsers answer garbage with anything from ``IndexError`` to ``MemoryError``, hence the broad ``except``.
    ``FileNotFoundError`` is raised when ``path`` is not a file at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if not path.stat().st_size:
        raise UnreadableFile(path, "empty file")
    try:
        yield path
    except UnreadableFile:
        raise
    except OSError as error:
        raise UnreadableFile(path, error.strerror or f"not a valid {path.suffix} file") from error
    except Exception as error:
        detail = f" ({' '.join(str(error).split())[:150]})" if isinstance(error, ValueError) else ""
        raise UnreadableFile(path, f"truncated or not a valid {path.suffix} file{detail}") from error


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A binary stream that becomes ``path`` when the block ends well, and vanishes when it does not.

    The temporary file stands in the same folder (created if missing), so that the last step is a rename.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``folder`` when the block ends well, and vanishes when it fails.

    A folder cannot be replaced in one call: it steps aside as ``<name>.old`` first, so that at any moment one of the
    two is whole. Readers fall back to ``.old`` should we stop in between.
    """
    folder = Path(folder)
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    _remove(fresh)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        for path in fresh.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    except BaseException:
        _remove(fresh)
        raise
    if folder.exists():  # else `.old` is the only one that is whole, and stays until the new one stands
        _remove(old)
        folder.rename(old)
    fresh.rename(folder)
    _remove(old)


def free_folder(folder: str | Path) -> Path:
    """``folder``, if nothing is in its way; ``ValueError`` unless it is missing or empty."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder: name a new one")
    return folder


@contextlib.contextmanager
def filling_folder(folder: str | Path) -> Iterator[Path]:
    """A folder, missing or empty, to fill with several files; it is missing or empty again when the block fails.

    Errors are those of :func:`free_folder`.
    """
    folder = free_folder(folder)
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        for path in folder.iterdir():
            _remove(path)
        if not was_there:
            folder.rmdir()
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def keeps_shape(points: np.ndarray) -> np.ndarray:
    """Whether float32 moves no point of (…,N,3) finite clouds by more than a thousandth of their extent, (…).

    Map coordinates do not pass: near 5,000,000 m float32 knows half metres.

    >>> square = np.array([[0, 0, 0], [1.3, 0, 0], [1.3, 1.3, 0]])
    >>> bool(keeps_shape(square)), bool(keeps_shape(square + 5e6))
    (True, False)
    """
    if points.dtype.kind == "f" and points.dtype.itemsize <= 4:
        return np.ones(points.shape[:-2], bool)
    points = points.astype(np.float64, copy=False)
    with np.errstate(over="ignore"):
        moved = np.abs(points - points.astype(np.float32)).max(axis=(-2, -1))
    return moved <= 1e-3 * np.ptp(points, axis=-2).max(axis=-1)
