"""The soft minimum of Sinkhorn's iterations on CUDA: launches of ``cuda/softmin.cu``."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.ops import gpu
from pcgen.ops.gpu_distances import kernel, not_finite, work

__all__ = ["softmin", "softmin_pull"]

THREADS, ROWS = 128, 2  # rows of a thread


def softmin(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, h: Tensor, eps: Tensor, power: int) -> Tensor:
    """See :func:`pcgen.ops.reference.softmin`."""
    h, out = h.contiguous(), torch.zeros_like(x[:, 0])
    bad = _any_not_finite((x, x_spans), (y, y_spans), (h, y_spans))
    first, blocks = work(x_spans, len(x), THREADS * ROWS)
    rows = x, x_spans, bad, first, len(x_spans)
    gpu.launch("softmin", kernel("softmin", x), blocks, THREADS, *rows, y, y_spans, h, eps.contiguous(), power, out)
    return out


def softmin_pull(
    x: Tensor,
    x_spans: Tensor,
    a: Tensor,
    y: Tensor,
    y_spans: Tensor,
    h: Tensor,
    w: Tensor,
    eps: Tensor,
    power: int,
) -> tuple[Tensor, Tensor]:
    """See :func:`pcgen.ops.reference.softmin_pull`."""
    a, h, w = a.contiguous(), h.contiguous(), w.contiguous()
    mass, pull = torch.zeros_like(a), torch.zeros_like(x)
    bad = _any_not_finite((x, x_spans), (a, x_spans), (y, y_spans), (h, y_spans))
    first, blocks = work(x_spans, len(x), THREADS * ROWS)
    rows = x, x_spans, bad, first, len(x_spans), a
    others = y, y_spans, h, w, eps.contiguous()
    gpu.launch("softmin", kernel("softmin_pull", x), blocks, THREADS, *rows, *others, power, mass, pull)
    return mass, pull


def _any_not_finite(*given: tuple[Tensor, Tensor]) -> Tensor:
    """Which pairs (B,) have a number that is NaN or infinite, among values (rows,) or (rows, D) with their spans."""
    marks = [not_finite(values[:, None] if values.ndim == 1 else values, spans) for values, spans in given]
    return torch.stack(marks).amax(0)
