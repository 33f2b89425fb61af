"""Matrices of distances between two sets, block by block: kept on disk, resumed after a kill, spread over processes."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcgen import ops
from pcgen._version import __version__
from pcgen.ops.kernels import fingerprint

__all__ = ["Distance", "Matrix", "Progress", "Side", "distance_matrix"]

Distance = Literal["cd", "exact", "pointflow", "pvd"]
Progress = Callable[[int, int], object]  # called as progress(done, total), in pairs of clouds

# Clouds a side of a block. Half a minute of work at most is lost by a kill, and preparing 2 × 128 clouds for the
# Chamfer distance costs 2 % of their 128 × 128 distances.
_BLOCK = {"cd": 128, "exact": 32, "pointflow": 32, "pvd": 32}
_SYMMETRIC = ("cd", "exact")


class Side(NamedTuple):
    """A set of clouds as it is measured."""

    clouds: Tensor  # (S, N, 3), in the frame
    sha256: str  # of their content

    @classmethod
    def of(cls, clouds: Tensor) -> Side:
        return cls(clouds, content_hash(clouds))


class Matrix(NamedTuple):
    """Distances between two sets, the row's cloud being the left one."""

    value: Tensor  # (S, R) float64, on the clouds' device
    moved: Tensor | None  # (S, R) share of the mass that an annealed EMD moves


class Block(NamedTuple):
    """Rows and columns of a matrix that are computed together."""

    rows: slice
    columns: slice

    def size(self, S: int, R: int) -> int:
        return len(range(*self.rows.indices(S))) * len(range(*self.columns.indices(R)))


class Crew(NamedTuple):
    """This process among those that ``torchrun`` or ``accelerate launch`` started."""

    rank: int
    size: int
    device: torch.device | None  # of this process; None: wherever the clouds are


def content_hash(clouds: Tensor) -> str:
    """SHA-256 of the clouds as little-endian float64."""
    return hashlib.sha256(clouds.cpu().numpy().astype("<f8").tobytes()).hexdigest()


def distance_matrix(
    distance: Distance,
    left: Side,
    right: Side,
    tolerance: float = 0.0,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Matrix:
    """Distances between all clouds of two sets, Chamfer ("cd") or the named variant of the earth mover's.

    ``tolerance`` is the proven relative gap at which the exact variant may stop.

    With ``cache``, a folder, every finished block is a file there, under a name that follows from the content of both
    sets, the distance and this library, its version and its kernels: a second run, or one after a kill, computes what
    is missing. In a crew of processes each computes its share and all get the whole matrix; they need no common disk.
    Of a set against itself one triangle is computed where the distance is symmetric.

    >>> side = Side.of(torch.tensor([[[0.0, 0, 0]], [[1.0, 0, 0]]], dtype=torch.float64))
    >>> distance_matrix("exact", side, side).value
    tensor([[0., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    crew, device = find_crew(), left.clouds.device
    S, R = len(left.clouds), len(right.clouds)
    symmetric = left is right and distance in _SYMMETRIC
    blocks = list(_blocks(S, R, _BLOCK[distance], symmetric))
    gap = tolerance if distance == "exact" else 0.0
    compute = functools.partial(_compute, distance, gap)
    folder = cache and _folder(cache, distance, gap, left, right, symmetric)
    X = left.clouds.to(crew.device or device)
    Y = X if left is right else right.clouds.to(X.device)
    found = torch.zeros(2, S, R, dtype=torch.float64, device=X.device)  # distances, and the mass moved
    total, done = sum(block.size(S, R) for block in blocks), 0
    for number, block in enumerate(blocks):
        if number % crew.size == crew.rank:
            found[:, block.rows, block.columns] = _block(compute, X, Y, block, folder).to(X.device)
        done += block.size(S, R)
        if progress:
            progress(done, total)
    if crew.size > 1:
        found = _sum_over(found)  # of zeros, but for one process: exact
    if symmetric:
        found = torch.where(torch.ones(S, R, device=X.device).triu().bool(), found, found.mT)
    value, moved = found.to(device)
    return Matrix(value, moved if distance in ("pointflow", "pvd") else None)


def find_crew() -> Crew:
    """The processes that share the work; a process that nobody launched is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Crew(0, 1, None)
    from accelerate import PartialState

    # Without a GPU accelerate takes launched processes for single ones unless it is told.
    state = PartialState(cpu=not torch.cuda.is_available())
    return Crew(state.process_index, state.num_processes, state.device)


def _sum_over(found: Tensor) -> Tensor:
    from accelerate.utils import reduce

    return reduce(found, reduction="sum")


def _blocks(S: int, R: int, size: int, symmetric: bool) -> Iterator[Block]:
    for s in range(0, S, size):
        for r in range(s if symmetric else 0, R, size):
            yield Block(slice(s, s + size), slice(r, r + size))


def _block(compute: Callable, X: Tensor, Y: Tensor, block: Block, folder: Path | None) -> Tensor:
    """A block (2, s, r) of distances and mass moved, from its file where there is one."""
    path = folder and folder / f"{block.rows.start}-{block.columns.start}.npy"
    x = X[block.rows]
    y = x if X is Y and block.rows == block.columns else Y[block.columns]
    kept = path and _kept(path, (2, len(x), len(y)))
    if kept is not None:
        return kept
    computed = compute(x, y)
    if path:
        _write(path, functools.partial(np.save, arr=computed.cpu().numpy(), allow_pickle=False))
    return computed


def _kept(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """A block from its file; None if there is none, or if the file is not whole."""
    try:
        kept = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(kept) if kept.shape == shape and kept.dtype == np.float64 else None


def _compute(distance: Distance, tolerance: float, x: Tensor, y: Tensor) -> Tensor:
    if distance == "cd":
        value, moved = ops.chamfer_matrix(x, y), None
    else:
        value, _, moved = ops.emd_matrix(x, y, distance, tolerance=tolerance)
    return torch.stack([value, torch.ones_like(value) if moved is None else moved.to(value)])


def _folder(cache: Path, distance: Distance, tolerance: float, left: Side, right: Side, symmetric: bool) -> Path:
    """Where the blocks of this matrix are kept, beside a note of what they are."""
    about = {
        "distance": distance,
        "tolerance": tolerance,
        "left": left.sha256,
        "right": right.sha256,
        "shapes": [list(left.clouds.shape), list(right.clouds.shape)],
        "symmetric": symmetric,
        "block": _BLOCK[distance],
        "device": left.clouds.device.type,
        "dtype": str(left.clouds.dtype),
        "pcgen": __version__,
        "kernels": fingerprint(),
    }
    text = json.dumps(about, indent=1)
    folder = Path(cache) / hashlib.sha256(text.encode()).hexdigest()[:24]
    if not (folder / "about.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "about.json", lambda stream: stream.write(text.encode()))
    return folder


def _write(path: Path, write: Callable) -> None:
    """A file that is there complete or not at all, whichever process writes it first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())  # or a crash of the machine might leave the name without the content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
