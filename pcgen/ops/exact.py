"""The exact earth mover's distance: the optimal assignment and the prices that prove it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.ops import native, reference
from pcgen.ops.closest import add_rows
from pcgen.ops.clouds import Clouds, batch_of, check_sizes, rows_of
from pcgen.ops.kernels import define
from pcgen.ops.matrix import Progress, tiled

__all__ = ["Exact", "exact", "exact_matrix"]

TILE = 8  # clouds: at 2048 points some 2 s between two calls of `progress`
POINT_TO_POINT = "the exact EMD assigns point to point"


class Exact(NamedTuple):
    """An optimal assignment, or one that is proven to be nearly so."""

    value: Tensor  # (B,) or (S, R) float64, mean cost
    dual: Tensor  # (B,) or (S, R) float64, no assignment costs less
    assignment: Tensor | None  # (rows,) int64, into the right cloud; −1 for padding; None of a matrix


def exact(left: Clouds, right: Clouds, squared: bool, tolerance: float) -> Exact:
    """The assignments of as many pairs, see :func:`pcgen.ops.emd`; computed on the CPU, wherever the clouds are."""
    check_sizes(left, right, POINT_TO_POINT)
    device = left.points.device
    arguments = (each.cpu() for each in (left.points, left.spans, right.points, right.spans))
    value, dual, assignment = _EXACT(*arguments, squared, tolerance)
    return Exact(value.to(device), dual.to(device), assignment.to(device))


def exact_matrix(
    left: Clouds, right: Clouds, squared: bool, tolerance: float, progress: Progress | None = None
) -> Exact:
    """:func:`exact` of all left clouds with all right ones, one triangle where these are one set; no gradient."""
    check_sizes(left, right, POINT_TO_POINT, every=True)
    symmetric = left is right
    x, y = left.points.detach().cpu(), right.points.detach().cpu()

    def compute(x_spans: Tensor, y_spans: Tensor, same: bool) -> Tensor:
        return _MATRIX(x, x_spans.cpu(), y, y_spans.cpu(), squared, tolerance, same)

    value, dual = tiled(left, right, compute, symmetric, TILE, progress).to(left.points.device)
    return Exact(value, dual, None)


def _shapes(x: Tensor, x_spans: Tensor, *_) -> tuple[Tensor, Tensor, Tensor]:
    value, dual = (x.new_empty(len(x_spans), dtype=torch.float64) for _ in range(2))
    return value, dual, x_spans.new_empty(len(x))


def _matrix_shapes(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, *_) -> Tensor:
    return x.new_empty(2, len(x_spans), len(y_spans), dtype=torch.float64)


def _cpu(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool, tolerance: float):
    value, dual, assignment = _shapes(x, x_spans)
    assignment.fill_(-1)
    native.call_on("emd_exact", x, x_spans, y, y_spans, len(x_spans), squared, tolerance, value, dual, assignment)
    return value, dual, assignment


def _cpu_matrix(
    x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool, tolerance: float, symmetric: bool
) -> Tensor:
    out = _matrix_shapes(x, x_spans, y, y_spans)
    sets = (x, x_spans, len(x_spans), y, y_spans, len(y_spans))
    native.call_on("emd_exact_matrix", *sets, squared, tolerance, symmetric, out)
    return out


def _saved(ctx, inputs, output) -> None:
    x, x_spans, y, y_spans, ctx.squared, _ = inputs
    _, dual, assignment = output
    ctx.save_for_backward(x, x_spans, y, y_spans, assignment)
    ctx.mark_non_differentiable(dual, assignment)


def _backward(ctx, gradient: Tensor, *_) -> tuple[Tensor | None, ...]:
    x, x_spans, y, y_spans, assignment = ctx.saved_tensors
    batch, _ = batch_of(x_spans, len(x))
    weight = (gradient / x_spans[:, 1])[batch, None]
    rows = rows_of(assignment, x_spans, y_spans).clamp_min(0)
    # In float64, as the value: squares of float32 coordinates may overflow. Padding may hold anything.
    difference = torch.where(assignment[:, None] < 0, 0.0, x.double() - y[rows].double())
    if ctx.squared:
        direction = 2 * difference
    else:
        length = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
        direction = difference / torch.where(length > 0, length, 1.0)  # 0 where two points coincide
    of_x = (weight * direction).to(x.dtype)
    of_y = add_rows(rows, -of_x, len(y))
    return of_x, None, of_y, None, None, None


_SIGNATURE = "Tensor x, Tensor x_spans, Tensor y, Tensor y_spans, bool squared, float tolerance"
_EXACT = define(
    f"emd_exact({_SIGNATURE}) -> (Tensor, Tensor, Tensor)",
    reference.emd_exact,
    _shapes,
    cpu=_cpu,
    backward=_backward,
    saved=_saved,
)
_MATRIX = define(
    f"emd_exact_matrix({_SIGNATURE}, bool symmetric) -> Tensor",
    reference.emd_exact_matrix,
    _matrix_shapes,
    cpu=_cpu_matrix,
)
