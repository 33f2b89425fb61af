"""Reductions over segments of rows."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pcgen.ops import native, reference
from pcgen.ops.arguments import integer
from pcgen.ops.clouds import FLOATS, INTEGERS, dense, may_look
from pcgen.ops.kernels import define

__all__ = ["SegmentReduction", "segment_reduce"]

Reduction = Literal["sum", "mean", "max", "min", "softmax"]
Backend = Literal["auto", "torch_scatter"]


class SegmentReduction(NamedTuple):
    """What a reduction makes of each segment, and where an extremum stands."""

    value: Tensor  # (count,) or (count, C), differentiable; softmax: (N,) or (N, C)
    argmax: Tensor | None  # the same shape, int64: row of the maximum or minimum, the first of several; −1 of no row


def segment_reduce(
    values: Tensor,
    segments: Tensor,
    count: int | None = None,
    reduce: Reduction = "sum",
    backend: Backend = "auto",
    *,
    validate: bool = True,
) -> SegmentReduction:
    """Reduces the rows of ``values`` (N,) or (N, C) segment by segment; row n is in segment ``segments[n]``.

    ``segments`` (N,), integers in any order, from 0 to ``count`` − 1, or −1 for rows to leave out; ``count`` is their
    largest plus one unless given, as it must be under ``torch.compile``. Empty segments give 0, and −1 as ``argmax``.
    ``"softmax"`` normalises exp(values) within each segment, (N, C), 0 for rows left out.

    Sums are made in float64, in the order of the rows, and rounded once to the type of ``values``; half precision
    becomes float32. NaN is a value, not an error: a sum over it is NaN, and so is a maximum or minimum, with the row of
    the first NaN. The gradient of an extremum goes to the row of ``argmax``.

    ``backend="torch_scatter"`` computes the values with that library: sums in their own precision, on CUDA in no fixed
    order. ``ValueError`` for segments out of range and shapes or devices that do not fit, and where torch_scatter would
    not notice NaN or infinity; ``TypeError`` for other types; ``ModuleNotFoundError`` where torch_scatter is missing.

    >>> segment_reduce(torch.tensor([1.0, 5.0, 3.0, 5.0]), torch.tensor([2, 0, 2, 0]), reduce="max")
    SegmentReduction(value=tensor([5., 0., 3.]), argmax=tensor([ 1, -1,  2]))
    """
    if reduce not in get_args(Reduction):
        raise ValueError(f"reduce must be one of {', '.join(get_args(Reduction))}, got {reduce!r}")
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    rows, count = _checked(values, segments, count, validate)
    compute = _by_kernel if backend == "auto" else _by_torch_scatter
    value, argmax = compute(rows, segments.long().contiguous(), count, reduce)
    if values.ndim == 1:
        value, argmax = value[:, 0], None if argmax is None else argmax[:, 0]
    return SegmentReduction(value, argmax)


def _checked(values: Tensor, segments: Tensor, count: int | None, validate: bool) -> tuple[Tensor, int]:
    """The values (N, C) as the kernels take them, and the number of segments."""
    for name, given, types in (("values", values, FLOATS), ("segments", segments, INTEGERS)):
        if not isinstance(given, Tensor) or given.dtype not in types:
            got = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            kind = "floating point" if types is FLOATS else "integers"
            raise TypeError(f"{name} must be a tensor of {kind}, got {got}")
        dense(name, given)
    if values.ndim not in (1, 2) or segments.shape != values.shape[:1]:
        raise ValueError(
            f"values must be (N,) or (N, C) and segments (N,), got {tuple(values.shape)} and {tuple(segments.shape)}"
        )
    if segments.device != values.device:
        raise ValueError(f"values and segments must share the device, got {values.device} and {segments.device}")
    if count is None:
        if torch.compiler.is_compiling() or not len(segments):
            raise ValueError("count must be given for no rows and under torch.compile, got None")
        count = int(segments.max()) + 1
    count = integer("count", count)
    if count < 0:
        raise ValueError(f"count must be a number of segments, got {count}")
    if may_look(values, validate) and len(segments):
        lowest, highest = (int(bound) for bound in segments.aminmax())
        if lowest < -1 or highest >= count:
            raise ValueError(
                f"segments {tuple(segments.shape)} must be numbers from 0 to count - 1 = {count - 1}, or -1, "
                f"got {lowest} to {highest}"
            )
    rows = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    return (rows[:, None] if rows.ndim == 1 else rows).contiguous(), count


def _by_kernel(values: Tensor, segments: Tensor, count: int, reduce: str) -> tuple[Tensor, Tensor | None]:
    if reduce == "max":
        return _MAX(segments, values, count)
    if reduce == "min":
        value, argmax = _MAX(segments, -values, count)
        return torch.where(argmax < 0, value, -value), argmax  # 0, and not −0, of no row
    if reduce == "softmax":
        return _SOFTMAX(segments, values, count), None
    return _SUM(segments, values, count, reduce == "mean"), None


def _by_torch_scatter(values: Tensor, segments: Tensor, count: int, reduce: str) -> tuple[Tensor, Tensor | None]:
    import torch_scatter

    inside = segments >= 0
    index = torch.where(inside, segments, count)  # what is left out makes a segment of its own
    if reduce == "softmax":
        return torch.where(inside[:, None], torch_scatter.scatter_softmax(values, index[:, None], 0), 0.0), None
    if reduce in ("sum", "mean"):
        return torch_scatter.scatter(values, index, 0, dim_size=count + 1, reduce=reduce)[:count], None
    if not bool(values[inside].isfinite().all()):
        raise ValueError(f"values {tuple(values.shape)} must be finite for torch_scatter's {reduce}: it overlooks NaN")
    extremum = torch_scatter.scatter(values.detach(), index, 0, dim_size=count + 1, reduce=reduce)
    # Which of several rows it names is left to chance on CUDA.
    equal = torch.where(values == extremum[index], 1.0, 0.0)
    _, argmax = _MAX(segments, equal, count)
    return _at(values, argmax), argmax


def _at(values: Tensor, argmax: Tensor) -> Tensor:
    """Entries (count, C) of values (N, C) in the rows ``argmax``; 0 for −1."""
    return torch.where(argmax < 0, 0.0, values.gather(0, argmax.clamp_min(0)))


def _sum_shapes(segments: Tensor, values: Tensor, count: int, mean: bool) -> Tensor:
    return values.new_empty(count, values.shape[1])


def _sum_cpu(segments: Tensor, values: Tensor, count: int, mean: bool) -> Tensor:
    out = _sum_shapes(segments, values, count, mean)
    segments, values = segments.contiguous(), values.contiguous()  # gradients come in any form
    native.call("segment_sum", values.dtype == torch.float64, segments, values, *values.shape, count, mean, out)
    return out


def _sum_saved(ctx, inputs, output) -> None:
    segments, _, ctx.count, ctx.mean = inputs
    ctx.save_for_backward(segments)


def _sum_backward(ctx, gradient: Tensor) -> tuple[None, Tensor, None, None]:
    (segments,) = ctx.saved_tensors
    if ctx.mean:
        sizes = _SUM(segments, gradient.new_ones(len(segments), 1), ctx.count, False)
        gradient = gradient / sizes.clamp_min(1)
    return None, reference.segment_rows(gradient, segments), None, None


def _max_shapes(segments: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return values.new_empty(count, values.shape[1]), segments.new_empty(count, values.shape[1])


def _max_cpu(segments: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    value, argmax = _max_shapes(segments, values, count)
    value.zero_(), argmax.fill_(-1)
    segments, values = segments.contiguous(), values.contiguous()
    native.call("segment_max", values.dtype == torch.float64, segments, values, *values.shape, count, value, argmax)
    return value, argmax


def _max_saved(ctx, inputs, output) -> None:
    ctx.rows = inputs[1].shape[0]
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _max_backward(ctx, gradient: Tensor, _) -> tuple[None, Tensor, None]:
    (argmax,) = ctx.saved_tensors
    row = torch.where(argmax < 0, ctx.rows, argmax)  # one row too many takes what no row should
    spread = gradient.new_zeros(ctx.rows + 1, gradient.shape[1]).scatter(0, row, gradient)
    return None, spread[: ctx.rows], None


def _softmax_shapes(segments: Tensor, values: Tensor, count: int) -> Tensor:
    return values.new_empty(values.shape)


def _softmax_cpu(segments: Tensor, values: Tensor, count: int) -> Tensor:
    segments, values = segments.contiguous(), values.contiguous()
    out = torch.empty_like(values)
    native.call("segment_softmax", values.dtype == torch.float64, segments, values, *values.shape, count, out)
    return out


def _softmax_saved(ctx, inputs, output) -> None:
    segments, _, ctx.count = inputs
    ctx.save_for_backward(segments, output)


def _softmax_backward(ctx, gradient: Tensor) -> tuple[None, Tensor, None]:
    segments, parts = ctx.saved_tensors
    weighted = parts * gradient
    sums = _SUM(segments, weighted, ctx.count, False)
    return None, weighted - parts * reference.segment_rows(sums, segments), None


_SUM = define(
    "segment_sum(Tensor segments, Tensor values, SymInt count, bool mean) -> Tensor",
    reference.segment_sum,
    _sum_shapes,
    cpu=_sum_cpu,
    backward=_sum_backward,
    saved=_sum_saved,
)
_MAX = define(
    "segment_max(Tensor segments, Tensor values, SymInt count) -> (Tensor, Tensor)",
    reference.segment_max,
    _max_shapes,
    cpu=_max_cpu,
    backward=_max_backward,
    saved=_max_saved,
)
_SOFTMAX = define(
    "segment_softmax(Tensor segments, Tensor values, SymInt count) -> Tensor",
    reference.segment_softmax,
    _softmax_shapes,
    cpu=_softmax_cpu,
    backward=_softmax_backward,
    saved=_softmax_saved,
)
