"""Nearest neighbours and Chamfer distances on CUDA: launches of ``cuda/nearest.cu`` and ``cuda/chamfer_matrix.cu``."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.ops import gpu

__all__ = ["chamfer_matrix", "kernel", "nearest", "nearest_both", "not_finite", "work"]

THREADS, TILE = 128, 512  # of nearest.cu
QUERIES = {torch.float32: 8, torch.float64: 4}  # of a thread
WAVES = 16  # blocks for each multiprocessor, before the points are shared out among more
MATRIX_THREADS, COLUMNS = 256, 4096  # of chamfer_matrix.cu


def kernel(name: str, x: Tensor) -> str:
    """The name of the kernel for the type and dimension of the rows ``x``."""
    return f"{name}_{_type(x)}_{x.shape[1]}"


def work(spans: Tensor, rows: int, per_block: int) -> tuple[Tensor, int]:
    """Blocks that never hold points of two clouds: the first block (B + 1,) of each cloud, and how many suffice.

    Nothing here waits for the device: of the number of blocks only a bound is known, and the blocks left over return.
    """
    blocks = (spans[:, 1] + (per_block - 1)) // per_block
    return torch.nn.functional.pad(blocks.cumsum(0), (1, 0)), rows // per_block + len(spans)


def not_finite(x: Tensor, spans: Tensor) -> Tensor:
    """Which clouds (B,), int32, have a coordinate that is NaN or infinite."""
    first, blocks = work(spans, len(x), THREADS * QUERIES[x.dtype])
    bad = torch.zeros(len(spans), dtype=torch.int32, device=x.device)
    gpu.launch("nearest", f"mark_{_type(x)}", blocks, THREADS, x, spans, first, len(spans), x.shape[1], bad)
    return bad


def nearest(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`pcgen.ops.reference.nearest`."""
    return _nearest(x, x_spans, not_finite(x, x_spans), y, y_spans, not_finite(y, y_spans))


def nearest_both(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See :func:`pcgen.ops.reference.nearest_both`."""
    x_bad, y_bad = not_finite(x, x_spans), not_finite(y, y_spans)
    return *_nearest(x, x_spans, x_bad, y, y_spans, y_bad), *_nearest(y, y_spans, y_bad, x, x_spans, x_bad)


def chamfer_matrix(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool, symmetric: bool) -> Tensor:
    """See :func:`pcgen.ops.reference.chamfer_matrix`."""
    if int(y_spans[:, 1].max()) > COLUMNS:
        return _matrix_of_large_clouds(x, x_spans, y, y_spans, squared)
    S, R = len(x_spans), len(y_spans)
    out = torch.empty(S, R, dtype=torch.float64, device=x.device)
    clouds = x, x_spans, not_finite(x, x_spans), y, y_spans, not_finite(y, y_spans)
    name = kernel("chamfer_matrix", x)
    gpu.launch("chamfer_matrix", name, S * R, MATRIX_THREADS, *clouds, R, squared, symmetric, out)
    return out


def _nearest(x: Tensor, x_spans: Tensor, x_bad: Tensor, y: Tensor, y_spans: Tensor, y_bad: Tensor):
    rows, batch = len(x), len(x_spans)
    first, blocks = work(x_spans, rows, THREADS * QUERIES[x.dtype])
    # Few queries leave most of the device idle: then each block takes a share of the points.
    wanted = WAVES * gpu.multiprocessors(x.device) // blocks
    shares = max(1, min(wanted, len(y) // batch // TILE))
    distance, index = x.new_zeros(shares, rows), x_spans.new_full((shares, rows), -1)
    clouds = x, x_spans, x_bad, first, y, y_spans, y_bad, batch
    gpu.launch("nearest", kernel("nearest", x), (blocks, shares), THREADS, *clouds, rows, distance, index)
    if shares == 1:
        return distance[0], index[0]
    best, where = x.new_empty(rows), x_spans.new_empty(rows)
    blocks = -(-rows // THREADS)
    gpu.launch("nearest", f"combine_{_type(x)}", blocks, THREADS, distance, index, shares, rows, best, where)
    return best, where


def _matrix_of_large_clouds(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool) -> Tensor:
    """Pair by pair, each of which fills the device."""
    left = [x[start : start + n] for start, n in x_spans.tolist()]
    right = [y[start : start + m] for start, m in y_spans.tolist()]
    return torch.stack([torch.stack([_chamfer(a, b, squared) for b in right]) for a in left])


def _chamfer(x: Tensor, y: Tensor, squared: bool) -> Tensor:
    spans = [torch.tensor([[0, len(points)]], device=x.device) for points in (x, y)]
    there, _, back, _ = nearest_both(x, spans[0], y, spans[1])
    return sum((square if squared else square.sqrt()).double().mean() for square in (there, back))


def _type(x: Tensor) -> str:
    return "double" if x.dtype == torch.float64 else "float"
