"""The nearest point of one cloud to each point of another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.ops import gpu_distances, native, reference
from pcgen.ops.clouds import check_pair, clouds, rows_of
from pcgen.ops.kernels import define

__all__ = ["Nearest", "add_rows", "nearest", "nearest_both"]


class Nearest(NamedTuple):
    """For every point of one cloud its nearest point in another."""

    distance: Tensor  # (..., N) squared distance, differentiable
    index: Tensor  # (..., N) int64, into the cloud of y, the lowest of several nearest ones; −1 for padding


def nearest(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_offsets: Tensor | None = None,
    y_offsets: Tensor | None = None,
    validate: bool = True,
) -> Nearest:
    """Nearest point of ``y`` (M, D) or (B, M, D) to each point of ``x`` (N, D) or (B, N, D).

    Returns the *squared* distances (..., N) and int64 indices (..., N), the lowest of several nearest points. The
    gradient of the distances holds the neighbours constant. Clouds of a batch may be padded, with ``lengths`` (B,), or
    packed into one (ΣN, D) with ``offsets`` (B + 1,).

    On the CPU: a tree of boxes around sixteen points each, built within the call; on CUDA: every pair. Half precision
    is computed in float32. ``ValueError`` for shapes, dtypes and devices that do not fit, empty clouds, NaN or infinity
    (looked for on CUDA only if ``validate``, never under ``torch.compile``, where they give NaN and −1); ``TypeError``
    for other types.

    >>> nearest(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 2.0], [2.0, 0.0]]))
    Nearest(distance=tensor([4.]), index=tensor([1]))
    """
    left, right = clouds("x", x, x_lengths, x_offsets, validate), clouds("y", y, y_lengths, y_offsets, validate)
    check_pair(left, right)
    distance, index = _NEAREST(left.points, left.spans, right.points, right.spans)
    return Nearest(left.like_points(distance), left.like_points(index))


def _shapes(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x)), x_spans.new_empty(len(x))


def _shapes_both(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *_shapes(x, x_spans, y, y_spans), *_shapes(y, y_spans, x, x_spans)


def _cpu(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor) -> tuple[Tensor, Tensor]:
    distance, index = _padding(x, x_spans)
    native.call_on("nearest", x, x_spans, y, y_spans, len(x_spans), distance, index, None, None)
    return distance, index


def _cpu_both(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    there, back = _padding(x, x_spans), _padding(y, y_spans)
    native.call_on("nearest", x, x_spans, y, y_spans, len(x_spans), *there, *back)
    return *there, *back


def _padding(x: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
    """The answer for rows that belong to no cloud."""
    return x.new_zeros(len(x)), spans.new_full((len(x),), -1)


def _saved(ctx, inputs, output) -> None:
    x, x_spans, y, y_spans = inputs
    ctx.save_for_backward(x, x_spans, y, y_spans, *output[1::2])
    ctx.mark_non_differentiable(*output[1::2])


def _backward(ctx, gradient: Tensor, _) -> tuple[Tensor, None, Tensor, None]:
    x, x_spans, y, y_spans, index = ctx.saved_tensors
    of_x, of_y = _pull(gradient, x, x_spans, y, y_spans, index)
    return of_x, None, of_y, None


def _backward_both(ctx, there: Tensor, _, back: Tensor, __) -> tuple[Tensor, None, Tensor, None]:
    x, x_spans, y, y_spans, x_index, y_index = ctx.saved_tensors
    of_x, of_y = _pull(there, x, x_spans, y, y_spans, x_index)
    of_y_too, of_x_too = _pull(back, y, y_spans, x, x_spans, y_index)
    return of_x + of_x_too, None, of_y + of_y_too, None


def _pull(gradient: Tensor, x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, index: Tensor):
    """Gradients for x and y of the squared distances (rows of x,) to the neighbours ``index``."""
    rows = rows_of(index, x_spans, y_spans)
    difference = torch.where(index[:, None] < 0, 0.0, 2.0 * gradient[:, None] * (x - y[rows.clamp_min(0)]))
    return difference, add_rows(rows, -difference, len(y))


def add_rows(rows: Tensor, values: Tensor, count: int) -> Tensor:
    """Sums (count, C) of the values (..., C) that go to each row; −1 is none.

    In the order of the values: index_put and index_add would in float32, or on CUDA, make two runs differ.
    """
    values = values.reshape(-1, values.shape[-1]).contiguous()
    return torch.ops.pcgen.segment_sum(rows.reshape(-1).contiguous(), values, count, False)


_SIGNATURE = "Tensor x, Tensor x_spans, Tensor y, Tensor y_spans"
_NEAREST = define(
    f"nearest({_SIGNATURE}) -> (Tensor, Tensor)",
    reference.nearest,
    _shapes,
    cpu=_cpu,
    cuda=gpu_distances.nearest,
    backward=_backward,
    saved=_saved,
)
nearest_both = define(
    f"nearest_both({_SIGNATURE}) -> (Tensor, Tensor, Tensor, Tensor)",
    reference.nearest_both,
    _shapes_both,
    cpu=_cpu_both,
    cuda=gpu_distances.nearest_both,
    backward=_backward_both,
    saved=_saved,
)
