"""Neighbourhoods: the k nearest points, those within a radius, and what is made of their features."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pcgen.ops import gpu_neighbours, native, reference
from pcgen.ops.arguments import number
from pcgen.ops.closest import add_rows
from pcgen.ops.clouds import Clouds, batch_of, check_like, check_pair, clouds, dense, may_look, rows_of, spans_of
from pcgen.ops.kernels import define
from pcgen.ops.sampling import check_count

__all__ = ["Ball", "BallOrder", "Knn", "ball_query", "gather", "interpolate", "knn"]

BallOrder = Literal["distance", "index"]


class Knn(NamedTuple):
    """For every point of one cloud its k nearest points in another."""

    distance: Tensor  # (..., N, k) squared distances, ascending, differentiable; 0 for padding
    index: Tensor  # (..., N, k) int64, into the cloud of y; equal distances by ascending index; −1 for padding


class Ball(NamedTuple):
    """For every point of one cloud at most k points of another within a radius."""

    distance: Tensor  # (..., N, k) squared distances, differentiable, then infinity; 0 for padding
    index: Tensor  # (..., N, k) int64, into the cloud of y, then −1 where there are fewer; −1 for padding
    count: Tensor  # (..., N) int64, how many of the k there are


def knn(
    x: Tensor,
    y: Tensor,
    k: int,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_offsets: Tensor | None = None,
    y_offsets: Tensor | None = None,
    validate: bool = True,
) -> Knn:
    """The ``k`` nearest points of ``y`` (M, D) or (B, M, D) to each point of ``x`` (N, D) or (B, N, D).

    Returns *squared* distances (..., N, k), ascending, and int64 indices (..., N, k), equal distances in the order of
    the indices. ``knn(x, x, k)`` counts each point as its own neighbour. The gradient of the distances holds the
    neighbours constant. Padded and packed batches and errors as in :func:`pcgen.ops.nearest`; ``ValueError`` also for a
    ``k`` larger than the smallest cloud of y. Where that is not looked at, and where a squared distance overflows, the
    places left over hold infinity and −1.

    >>> knn(torch.tensor([[0.0]]), torch.tensor([[3.0], [-1.0], [1.0]]), k=2)
    Knn(distance=tensor([[1., 1.]]), index=tensor([[1, 2]]))
    """
    left, right = clouds("x", x, x_lengths, x_offsets, validate), clouds("y", y, y_lengths, y_offsets, validate)
    check_pair(left, right)
    k = check_count("k", k, right, validate)
    found = _NEIGHBOURS(left.points, left.spans, right.points, right.spans, k, float("inf"), False)
    return Knn(left.like_points(found[0]), left.like_points(found[1]))


def ball_query(
    x: Tensor,
    y: Tensor,
    radius: float,
    k: int,
    order: BallOrder = "distance",
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_offsets: Tensor | None = None,
    y_offsets: Tensor | None = None,
    validate: bool = True,
) -> Ball:
    """At most ``k`` points of ``y`` (M, D) or (B, M, D) within ``radius`` of each point of ``x`` (N, D) or (B, N, D).

    These are the nearest ones, ascending, or with ``order="index"`` the first ones, as in PointNet++ (Qi et al.,
    NeurIPS 2017, section 3.2), whose program then repeats the first where here −1 stands. A point is within the radius,
    a length in the unit of the coordinates, if its squared distance is at most radius², the radius and its square both
    rounded to the type of the points. ``k`` may exceed the clouds. Gradient, padded and packed batches and errors as in
    :func:`knn`; ``ValueError`` also for a radius that is not positive and an unknown order.

    >>> y = torch.tensor([[2.0], [-1.0], [0.5], [1.0]])
    >>> ball_query(torch.zeros(1, 1), y, radius=1.0, k=4)
    Ball(distance=tensor([[0.2500, 1.0000, 1.0000,    inf]]), index=tensor([[ 2,  1,  3, -1]]), count=tensor([3]))
    >>> ball_query(torch.zeros(1, 1), y, radius=1.0, k=2, order="index").index
    tensor([[1, 2]])
    """
    radius = number("radius", radius)
    if not 0 < radius < float("inf"):
        raise ValueError(f"radius must be a positive length, got {radius}")
    if order not in get_args(BallOrder):
        raise ValueError(f"order must be one of {', '.join(get_args(BallOrder))}, got {order!r}")
    left, right = clouds("x", x, x_lengths, x_offsets, validate), clouds("y", y, y_lengths, y_offsets, validate)
    check_pair(left, right)
    k = check_count("k", k)
    found = _NEIGHBOURS(left.points, left.spans, right.points, right.spans, k, radius, order == "index")
    return Ball(*(left.like_points(rows) for rows in found))


def gather(
    features: Tensor,
    index: Tensor,
    *,
    x_offsets: Tensor | None = None,
    y_lengths: Tensor | None = None,
    y_offsets: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    """Rows (..., N, k, C) of ``features`` (..., M, C) by the index of neighbours (..., N, k); 0 where that is −1.

    ``index`` (int64) is what :func:`knn` or :func:`ball_query` found for x in y, to whose points the features belong;
    it carries the lengths of x, as −1. The gradient does not depend on the number of threads. ``ValueError`` for
    indices outside of their cloud, shapes and devices that do not fit, features that are NaN or infinite (when values
    are looked at, see :func:`pcgen.ops.nearest`); ``TypeError`` for other types.

    >>> gather(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1, 0], [1, -1]]))
    tensor([[[3., 4.],
             [1., 2.]],
            [[3., 4.],
             [0., 0.]]])
    """
    right = clouds("features", features, y_lengths, y_offsets, validate)
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        raise TypeError(f"index must be an int64 tensor, got {getattr(index, 'dtype', type(index).__name__)}")
    packed = x_offsets is not None
    fits = index.ndim == (3 if right.batched and not packed else 2) and (right.batched or not packed)
    if not fits or 0 in index.shape or index.device != features.device:
        raise ValueError(
            f"index must be (..., N, k) with at least one entry, batched as features are, on {features.device}, "
            f"got {tuple(index.shape)} on {index.device} for {tuple(features.shape)}"
        )
    dense("index", index)
    look = may_look(index, validate)
    spans = spans_of("index", index, None, x_offsets, look)
    if len(spans) != len(right.spans):
        raise ValueError(
            f"features and index must agree in batch, got {tuple(features.shape)} and {tuple(index.shape)}"
        )
    rows = index.reshape(-1, index.shape[-1])
    if look:
        _check_range(rows, spans, right.spans)
    return _GATHER(right.points, rows_of(rows, spans, right.spans)).reshape(*index.shape, -1)


def interpolate(
    x: Tensor,
    y: Tensor,
    features: Tensor,
    k: int = 3,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_offsets: Tensor | None = None,
    y_offsets: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    """Features (..., N, C) at ``x`` (..., N, D), interpolated from ``features`` (..., M, C) at ``y`` (..., M, D).

    The mean over the ``k`` nearest points of y with weights 1 / distance², as in PointNet++ (Qi et al., NeurIPS 2017,
    equation 2 with p = 2). Where points of y coincide with a point of x they share all the weight: the interpolant goes
    through the data, without an epsilon. Differentiable in all three, the neighbours being constant; padding gives 0.
    Padded and packed batches and errors as in :func:`knn`; ``ValueError`` also for features that do not fit y or are
    NaN or infinite.

    >>> y, features = torch.tensor([[0.0], [3.0]]), torch.tensor([[10.0], [20.0]])
    >>> interpolate(torch.tensor([[1.0], [3.0]]), y, features, k=2)     # (10 · 1 + 20 · ¼) / (1 + ¼)
    tensor([[12.],
            [20.]])
    """
    left, right = clouds("x", x, x_lengths, x_offsets, validate), clouds("y", y, y_lengths, y_offsets, validate)
    check_pair(left, right)
    held = clouds("features", features, y_lengths, y_offsets, validate)
    check_like(right, held)
    if features.shape[:-1] != y.shape[:-1]:
        raise ValueError(f"features must have a row for each of y, got {tuple(features.shape)} for {tuple(y.shape)}")
    k = check_count("k", k, right, validate)
    x_points, y_points = _in_range(left, right)
    distance, index, _ = _NEIGHBOURS(x_points, left.spans, y_points, right.spans, k, float("inf"), False)
    neighbours = _GATHER(held.points, rows_of(index, left.spans, right.spans))
    return left.like_points((_weights(distance)[..., None] * neighbours).sum(1))


def _in_range(left: Clouds, right: Clouds) -> tuple[Tensor, Tensor]:
    """The points, each pair of clouds times a power of two, so that no squared distance overflows and few vanish.

    Weights in proportion to 1 / squared distance do not see it.
    """
    half = 512 if left.points.dtype == torch.float64 else 64  # of the exponents that numbers have
    highest = torch.maximum(_highest(left), _highest(right)).clamp_min(2.0**-half)
    # Brings coordinates below 2^(half − 8), so that the sum of thousands of squares is finite.
    factor = torch.frexp(highest).mantissa * 2.0 ** (half - 8) / highest
    return tuple(side.points * factor[batch_of(side.spans, len(side.points))[0], None] for side in (left, right))


def _highest(given: Clouds) -> Tensor:
    """The largest absolute coordinate (B,) of each cloud."""
    rows = given.points.detach().abs().amax(1)
    batch, inside = batch_of(given.spans, len(rows))
    return rows.new_zeros(len(given.spans)).scatter_reduce(0, batch, torch.where(inside, rows, 0.0), "amax")


def _weights(distance: Tensor) -> Tensor:
    """Weights (rows, k) in proportion to 1 / squared distance."""
    least = distance.detach().amin(-1, keepdim=True)  # cancels out; no quotient overflows
    touching = least == 0
    weights = torch.where(touching, (distance == 0).to(distance.dtype), least / torch.where(touching, 1.0, distance))
    return weights / weights.sum(-1, keepdim=True)


def _check_range(index: Tensor, x_spans: Tensor, y_spans: Tensor) -> None:
    sizes = y_spans[:, 1].repeat_interleave(x_spans[:, 1])[:, None]
    bad = int(((index < -1) | (index >= sizes)).sum())
    if bad:
        raise ValueError(f"index {tuple(index.shape)} must be -1 or a row of its cloud, got {bad} others")


def _shapes(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, k: int, radius: float, by_index: bool):
    return x.new_empty(len(x), k), x_spans.new_empty(len(x), k), x_spans.new_empty(len(x))


def _cpu(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, k: int, radius: float, by_index: bool):
    distance, index, count = x.new_zeros(len(x), k), x_spans.new_full((len(x), k), -1), x_spans.new_zeros(len(x))
    native.call_on("neighbours", x, x_spans, y, y_spans, len(x_spans), k, radius, by_index, distance, index, count)
    return distance, index, count


def _saved(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4], output[1])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, gradient: Tensor, *_) -> tuple[Tensor, None, Tensor, None, None, None, None]:
    x, x_spans, y, y_spans, index = ctx.saved_tensors
    rows = rows_of(index, x_spans, y_spans)
    difference = x[:, None] - y[rows.clamp_min(0)]
    pull = torch.where(index[..., None] < 0, 0.0, 2.0 * gradient[..., None] * difference)
    return pull.sum(1), None, add_rows(rows, -pull, len(y)), None, None, None, None


def _gather_shapes(features: Tensor, rows: Tensor) -> Tensor:
    return features.new_empty(*rows.shape, features.shape[1])


def _gather_saved(ctx, inputs, output) -> None:
    features, rows = inputs
    ctx.count = features.shape[0]
    ctx.save_for_backward(rows)


def _gather_backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
    (rows,) = ctx.saved_tensors
    return add_rows(rows, gradient, ctx.count), None


_NEIGHBOURS = define(
    "neighbours(Tensor x, Tensor x_spans, Tensor y, Tensor y_spans, int k, float radius, bool by_index)"
    " -> (Tensor, Tensor, Tensor)",
    reference.neighbours,
    _shapes,
    cpu=_cpu,
    cuda=gpu_neighbours.neighbours,
    backward=_backward,
    saved=_saved,
)
_GATHER = define(
    "gather(Tensor features, Tensor rows) -> Tensor",
    reference.gather,
    _gather_shapes,
    backward=_gather_backward,
    saved=_gather_saved,
)
