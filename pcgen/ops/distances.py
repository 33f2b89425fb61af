"""The Chamfer distance between point clouds."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.ops import gpu_distances, native, reference
from pcgen.ops.arguments import flag, number
from pcgen.ops.closest import nearest_both
from pcgen.ops.clouds import check_pair, clouds, mean_over
from pcgen.ops.kernels import define
from pcgen.ops.matrix import Progress, sets_of_clouds, tiled

__all__ = ["Chamfer", "chamfer", "chamfer_matrix"]

TILE = 128  # clouds: preparing 2 × 128 of them takes 2 % of the time of 128 × 128 distances


class Chamfer(NamedTuple):
    """The Chamfer distance and what it is made of; ``value`` and both halves are differentiable."""

    value: Tensor  # () or (B,) mean of x_to_y + mean of y_to_x
    x_to_y: Tensor  # (..., N) distance of each x to its neighbour in y, squared where `squared`; 0 for padding
    y_to_x: Tensor  # (..., M) the same from y
    x_index: Tensor  # (..., N) int64, the neighbour in y of each x; -1 for padding
    y_index: Tensor  # (..., M) int64, the neighbour in x of each y
    squared: bool
    x_spans: Tensor  # (B, 2) int64, the first of the ΣN points of each cloud of x, and their number
    y_spans: Tensor  # (B, 2)

    def f_score(self, threshold: float) -> Tensor:
        """Harmonic mean, () or (B,), of the shares of x and of y nearer than ``threshold``, a length.

        Knapitsch et al., Tanks and Temples, 2017. Programs that compare *squared* distances with 0.001 use a
        threshold of √0.001. ``ValueError`` unless the threshold is positive, ``TypeError`` unless it is a number.

        >>> chamfer(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.05]])).f_score(0.1)
        tensor(0.6667)
        """
        limit = number("threshold", threshold)
        if not 0 < limit < float("inf"):
            raise ValueError(f"threshold must be a positive length, got {threshold}")
        if self.squared:
            limit = max(limit * limit, math.ulp(0.0))  # points that coincide are nearer than any length
        precision = mean_over((self.x_to_y.double() < limit).double().reshape(-1), self.x_spans)
        recall = mean_over((self.y_to_x.double() < limit).double().reshape(-1), self.y_spans)
        score = 2 * precision * recall / (precision + recall).clamp_min(1e-300)  # none within reach: 0
        score = score.to(self.value.dtype).reshape(self.value.shape)
        return torch.where(self.value.isnan(), self.value.detach(), score)


def chamfer(
    x: Tensor,
    y: Tensor,
    squared: bool = True,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_offsets: Tensor | None = None,
    y_offsets: Tensor | None = None,
    validate: bool = True,
) -> Chamfer:
    """Chamfer distance of ``x`` (N, D) or (B, N, D) and ``y`` (M, D) or (B, M, D): two means, summed.

    mean_x min_y ‖x − y‖² + mean_y min_x ‖x − y‖², without the squares where ``squared=False``. The neighbours are
    constants of the gradient, which is exact wherever they are unique; where two points coincide, that of the distance
    that is not squared is 0. Padded and packed batches and errors as in :func:`pcgen.ops.nearest`.

    >>> chamfer(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]])).value   # (9 + 4) / 2 + 4
    tensor(10.5000)
    """
    left, right = clouds("x", x, x_lengths, x_offsets, validate), clouds("y", y, y_lengths, y_offsets, validate)
    check_pair(left, right)
    squared = flag("squared", squared)
    there, x_index, back, y_index = nearest_both(left.points, left.spans, right.points, right.spans)
    if not squared:
        there, back = _root(there), _root(back)
    value = left.mean(there) + right.mean(back)
    halves = left.like_points(there), right.like_points(back)
    return Chamfer(
        value, *halves, left.like_points(x_index), right.like_points(y_index), squared, left.spans, right.spans
    )


def chamfer_matrix(
    X: Tensor,
    Y: Tensor,
    squared: bool = True,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_offsets: Tensor | None = None,
    y_offsets: Tensor | None = None,
    progress: Progress | None = None,
    validate: bool = True,
) -> Tensor:
    """Chamfer distances (S, R), float64, of all clouds ``X`` (S, N, D) to all ``Y`` (R, M, D), see :func:`chamfer`.

    With ``chamfer_matrix(X, X)`` half of the work is saved. Sets may be padded or packed as in
    :func:`pcgen.ops.nearest`, whose errors it raises. There is no gradient. ``progress(done, total)`` is called, on the
    CPU, as the work goes on.

    >>> X = torch.tensor([[[0.0], [1.0]], [[0.0], [3.0]]])
    >>> chamfer_matrix(X, X)
    tensor([[0.0000, 2.5000],
            [2.5000, 0.0000]], dtype=torch.float64)
    """
    left, right = sets_of_clouds(X, Y, x_lengths, y_lengths, x_offsets, y_offsets, validate)
    squared, symmetric = flag("squared", squared), left is right

    def compute(x_spans: Tensor, y_spans: Tensor, same: bool) -> Tensor:
        return _MATRIX(left.points.detach(), x_spans, right.points.detach(), y_spans, squared, same)

    return tiled(left, right, compute, symmetric, TILE, progress)


def _root(squares: Tensor) -> Tensor:
    """√ with gradient 0, and not NaN, where two points coincide."""
    zero = squares == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())


def _shapes(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool, symmetric: bool) -> Tensor:
    return x.new_empty(len(x_spans), len(y_spans), dtype=torch.float64)


def _cpu(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool, symmetric: bool) -> Tensor:
    matrix = _shapes(x, x_spans, y, y_spans, squared, symmetric)
    native.call_on("chamfer_matrix", x, x_spans, len(x_spans), y, y_spans, len(y_spans), squared, symmetric, matrix)
    return matrix


_MATRIX = define(
    "chamfer_matrix(Tensor x, Tensor x_spans, Tensor y, Tensor y_spans, bool squared, bool symmetric) -> Tensor",
    reference.chamfer_matrix,
    _shapes,
    cpu=_cpu,
    cuda=gpu_distances.chamfer_matrix,
)
