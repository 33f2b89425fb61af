"""Neighbourhoods and farthest point sampling on CUDA: launches of ``cuda/neighbours.cu`` and ``cuda/sampling.cu``."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.ops import gpu, reference
from pcgen.ops.gpu_distances import kernel, not_finite, work

__all__ = ["farthest_point_sampling", "neighbours"]

THREADS, WARP = 256, 32  # of neighbours.cu
LONGEST = 128  # neighbours that a warp keeps in registers
SAMPLE_THREADS, POINTS = 1024, 8  # of sampling.cu; points of a thread


def neighbours(
    x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, k: int, radius: float, by_index: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`pcgen.ops.reference.neighbours`, which serves more than 128 nearest neighbours."""
    if k > LONGEST and not by_index:
        return reference.neighbours(x, x_spans, y, y_spans, k, radius, by_index)
    # Each kernel and how many queries its warps take at once.
    name, queries = ("first", 1) if by_index else ("nearest_32", 4) if k <= 32 else ("nearest_128", 2)
    first, blocks = work(x_spans, len(x), THREADS // WARP * queries)
    clouds = x, x_spans, not_finite(x, x_spans), first, y, y_spans, not_finite(y, y_spans), len(x_spans)
    distance, index, count = x.new_zeros(len(x), k), x_spans.new_full((len(x), k), -1), x_spans.new_zeros(len(x))
    gpu.launch("neighbours", kernel(name, x), blocks, THREADS, *clouds, k, radius, distance, index, count)
    return distance, index, count


def farthest_point_sampling(x: Tensor, spans: Tensor, start: Tensor, count: int) -> Tensor:
    """See :func:`pcgen.ops.reference.farthest_point_sampling`."""
    index, bad, start = spans.new_empty(len(spans), count), not_finite(x, spans), start.contiguous()
    per_block = SAMPLE_THREADS * POINTS
    if int(spans[:, 1].max()) <= per_block:
        gpu.launch("sampling", kernel("sample", x), len(spans), SAMPLE_THREADS, x, spans, bad, start, count, index)
        return index
    first, blocks = work(spans, len(x), per_block)
    clouds = x, spans, bad, first, len(spans), start, count
    best, where = x.new_empty(2, blocks), torch.empty(2, blocks, dtype=torch.int32, device=x.device)
    scratch = x.new_empty(len(x)), blocks, best, where
    name = kernel("sample_step", x)
    gpu.launch("sampling", name, blocks, SAMPLE_THREADS, *clouds, *scratch, index, steps=count)
    return index
