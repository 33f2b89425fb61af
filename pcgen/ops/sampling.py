"""Farthest point sampling: few points that cover a cloud."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.ops import gpu_neighbours, native, reference
from pcgen.ops.arguments import integer
from pcgen.ops.clouds import INTEGERS, Clouds, clouds, may_look
from pcgen.ops.kernels import define

__all__ = ["check_count", "farthest_point_sampling"]


def farthest_point_sampling(
    x: Tensor,
    count: int,
    start: int | Tensor = 0,
    *,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    """Indices of ``count`` points of ``x`` (N, D) or (B, N, D), each the farthest from all those before it.

    Returns int64 (count,), or (B, count) for several clouds, in the order of selection. The first is ``start``, one
    index or (B,) of them; of several farthest points the lowest is taken, and none is taken twice, even where points
    coincide. The set covers the cloud within twice the least radius possible (Gonzalez, Theoretical Computer Science,
    1985; for points of surfaces Eldar et al., IEEE Transactions on Image Processing, 1997).

    On the CPU a tree of boxes knows of each branch the farthest point, so that most of them need not be looked at.
    Padded and packed batches and errors as in :func:`pcgen.ops.nearest`; ``ValueError`` also for a ``count`` larger
    than the smallest cloud and a start outside of its cloud. Where that is not looked at, −1 fills what cannot be
    chosen.

    >>> farthest_point_sampling(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), 3)
    tensor([0, 3, 2])
    """
    given = clouds("x", x, lengths, offsets, validate)
    count = check_count("count", count, given, validate)
    first = _starts(start, given, validate)
    index = _FARTHEST(given.points.detach(), given.spans, first, count)
    return index if given.batched else index[0]


def check_count(name: str, count: int, given: Clouds | None = None, validate: bool = True) -> int:
    """A number of points; ``ValueError`` unless it is at least 1 and, with ``given``, no cloud has fewer."""
    count = integer(name, count)
    limit = None if given is None else given.shape[-2]
    if given is not None and given.ragged and may_look(given.points, validate):
        limit = int(given.spans[:, 1].min())
    if count < 1 or (limit is not None and count > limit):
        expected = "at least 1" if given is None else f"1 to {limit}, the points of the smallest cloud of {given.name}"
        raise ValueError(f"{name} must be {expected}{f' {tuple(given.shape)}' if given else ''}, got {count}")
    return count


def _starts(start: int | Tensor, given: Clouds, validate: bool) -> Tensor:
    spans, batch = given.spans, len(given.spans)
    if not isinstance(start, Tensor):
        start = torch.full((batch,), integer("start", start), device=spans.device)
    if start.dtype not in INTEGERS or start.shape != (batch,) or start.device != spans.device:
        raise ValueError(
            f"start must be an integer or {batch} of them on {spans.device} for x {tuple(given.shape)}, "
            f"got {start.dtype} {tuple(start.shape)} on {start.device}"
        )
    start = start.long().contiguous()
    if may_look(spans, validate) and not bool(((start >= 0) & (start < spans[:, 1])).all()):
        raise ValueError(
            f"start must be an index into each cloud of x {tuple(given.shape)}, "
            f"got {start.tolist() if batch < 10 else tuple(start.shape)}"
        )
    return start


def _shapes(x: Tensor, spans: Tensor, start: Tensor, count: int) -> Tensor:
    return spans.new_empty(len(spans), count)


def _cpu(x: Tensor, spans: Tensor, start: Tensor, count: int) -> Tensor:
    index = _shapes(x, spans, start, count)
    native.call_on("farthest_point_sampling", x, spans, len(spans), start, count, index)
    return index


_FARTHEST = define(
    "farthest_point_sampling(Tensor x, Tensor spans, Tensor start, int count) -> Tensor",
    reference.farthest_point_sampling,
    _shapes,
    cpu=_cpu,
    cuda=gpu_neighbours.farthest_point_sampling,
)
