"""Clouds in any of the forms that the operations take, brought into the one form that the kernels take.

A cloud is (N, D); clouds of equal size, or padded ones with their ``lengths`` (B,), are (B, N, D); packed ones are
(ΣN, D) with ``offsets`` (B + 1,), the rows offsets[b] … offsets[b + 1] being cloud b. Kernels take the points as rows
(ΣN, D) and ``spans`` (B, 2): the first row and the number of rows of each cloud. Other rows are padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "FLOATS",
    "INTEGERS",
    "Clouds",
    "batch_of",
    "check_like",
    "check_pair",
    "check_sizes",
    "clouds",
    "dense",
    "may_look",
    "mean_over",
    "rows_of",
    "spans_of",
]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Clouds:
    """Clouds as the kernels take them."""

    name: str  # the argument, for messages
    points: Tensor  # (rows, D) contiguous, float32 or float64
    spans: Tensor  # (B, 2) int64
    shape: torch.Size  # of the argument
    dtype: torch.dtype  # of the argument
    ragged: bool  # with lengths or offsets

    @property
    def batched(self) -> bool:
        """Whether results carry the number of clouds in front."""
        return self.ragged or len(self.shape) == 3

    def like_points(self, rows: Tensor) -> Tensor:
        """(rows, …) brought into the form of the argument, its coordinates replaced."""
        return rows.reshape(*self.shape[:-1], *rows.shape[1:])

    def mean(self, rows: Tensor) -> Tensor:
        """The mean (B,), or () of a single cloud, over the points of each cloud of a value for each row (rows,)."""
        means = mean_over(rows, self.spans)
        return means if self.batched else means[0]


def clouds(
    name: str,
    x: Tensor,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    validate: bool = True,
) -> Clouds:
    """Checks an argument and brings it into the kernels' form; half precision becomes float32.

    ``TypeError`` for what is no dense floating-point tensor, and for lengths or offsets that are no integer tensor;
    ``ValueError`` for a wrong rank, an empty cloud, lengths or offsets that do not fit, NaN or infinity. Values are
    looked at where :func:`may_look` says so.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor of coordinates, got {type(x).__name__}")
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} must be of floating point, got {x.dtype} {tuple(x.shape)}")
    if lengths is not None and offsets is not None:
        raise ValueError(f"{name}: expected lengths (padded clouds) or offsets (packed clouds), got both")
    ndims, form = ((2,), "(ΣN, D)") if offsets is not None else ((2, 3), "(N, D) or (B, N, D)")
    ndims, form = ((3,), "(B, N, D)") if lengths is not None else (ndims, form)
    if x.ndim not in ndims or 0 in x.shape:
        raise ValueError(f"{name} must be {form} with at least one point, got {tuple(x.shape)}")
    dense(name, x)
    look = may_look(x, validate)
    points = x.to(torch.float32) if x.dtype in (torch.float16, torch.bfloat16) else x
    points = points.reshape(-1, x.shape[-1]).contiguous()
    spans = spans_of(name, x, lengths, offsets, look)
    ragged = lengths is not None or offsets is not None
    if look:
        _check_finite(name, x, spans, ragged)
    return Clouds(name, points, spans, x.shape, x.dtype, ragged)


def may_look(x: Tensor, validate: bool) -> bool:
    """Whether values are looked at: on the CPU always, on other devices where ``validate`` (that waits for the device).

    Never under ``torch.compile``, nor on the device ``meta``, where there are none.
    """
    there = x.device.type == "cpu" or (validate and x.device.type != "meta")
    return there and not torch.compiler.is_compiling()


def dense(name: str, x: Tensor) -> None:
    """``TypeError`` for a sparse tensor; not asked under ``torch.compile``."""
    if not torch.compiler.is_compiling() and x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {x.layout} {tuple(x.shape)}")


def check_pair(x: Clouds, y: Clouds, batch: bool = True) -> None:
    """``ValueError`` unless two arguments agree in dimension, dtype, device and, with ``batch``, number of clouds."""
    paired = not batch or (len(x.spans) == len(y.spans) and x.batched == y.batched)
    if x.points.shape[1] != y.points.shape[1] or not paired:
        what = "batch and dimension" if batch else "dimension"
        raise ValueError(f"{x.name} and {y.name} must agree in {what}, got {tuple(x.shape)} and {tuple(y.shape)}")
    check_like(x, y)


def check_like(x: Clouds, y: Clouds) -> None:
    """``ValueError`` unless two arguments agree in dtype and device."""
    a, b = x.points.device, y.points.device
    if (x.dtype, a) != (y.dtype, b):
        raise ValueError(
            f"{x.name} and {y.name} must share dtype and device, "
            f"got {x.dtype} on {a} {tuple(x.shape)} and {y.dtype} on {b} {tuple(y.shape)}"
        )


def check_sizes(x: Clouds, y: Clouds, why: str, every: bool = False) -> None:
    """``ValueError`` unless the clouds of each pair, or with ``every`` all of both sides, have equally many points."""
    if not x.ragged and not y.ragged:
        fit = x.shape[-2] == y.shape[-2]
        given = f"{tuple(x.shape)} and {tuple(y.shape)}"
    elif torch.compiler.is_compiling():
        return  # values cannot be looked at
    else:
        sizes = x.spans[:, 1], y.spans[:, 1]
        fit = bool((torch.cat(sizes) == sizes[0][0]).all()) if every else torch.equal(*sizes)
        given = " and ".join(str(s.tolist() if len(s) < 10 else tuple(s.shape)) + " points" for s in sizes)
    if not fit:
        raise ValueError(f"{why}: expected {x.name} and {y.name} of equal size, got {given}")


def batch_of(spans: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The cloud (rows,) that each row belongs to, and whether it does (padding is counted to the cloud before it).

    >>> batch_of(torch.tensor([[0, 2], [3, 1]]), 4)
    (tensor([0, 0, 0, 1]), tensor([ True,  True, False,  True]))
    """
    row = torch.arange(rows, device=spans.device)
    batch = torch.searchsorted(spans[:, 0].contiguous(), row, right=True) - 1
    return batch, row < spans.sum(1)[batch]


def mean_over(rows: Tensor, spans: Tensor) -> Tensor:
    """The mean (B,) over the points of each cloud of a value for each row (rows,), summed in float64."""
    batch, inside = batch_of(spans, len(rows))
    cloud = torch.where(inside, batch, -1)
    return torch.ops.pcgen.segment_sum(cloud, rows[:, None].contiguous(), len(spans), True)[:, 0]


def rows_of(index: Tensor, x_spans: Tensor, y_spans: Tensor) -> Tensor:
    """Rows among all points of y for indices (rows of x, …) into each cloud of y; -1 stays -1."""
    batch, _ = batch_of(x_spans, len(index))
    start = y_spans[:, 0][batch].reshape(-1, *[1] * (index.ndim - 1))
    return torch.where(index < 0, index, index + start)


def spans_of(name: str, x: Tensor, lengths: Tensor | None, offsets: Tensor | None, look: bool) -> Tensor:
    """The spans (B, 2) of clouds of any form; ``look``: whether values may be looked at."""
    if offsets is not None:
        offsets = _integers(f"{name}'s offsets", offsets, x)
        if len(offsets) < 2 or (look and not _increasing(offsets, len(x))):
            raise ValueError(
                f"{name}'s offsets must rise from 0 to {len(x)}, the number of points, without empty clouds, "
                f"got {offsets.tolist() if len(offsets) < 10 else tuple(offsets.shape)}"
            )
        return torch.stack([offsets[:-1], offsets.diff()], 1)
    batch, size = (1, x.shape[0]) if x.ndim == 2 else x.shape[:2]
    start = torch.arange(0, batch * size, size, device=x.device)
    if lengths is None:
        return torch.stack([start, torch.full_like(start, size)], 1)
    lengths = _integers(f"{name}'s lengths", lengths, x)
    if len(lengths) != batch or (look and not bool(((lengths > 0) & (lengths <= size)).all())):
        raise ValueError(
            f"{name}'s lengths must be {batch} numbers from 1 to {size} for {tuple(x.shape)}, "
            f"got {lengths.tolist() if len(lengths) < 10 else tuple(lengths.shape)}"
        )
    return torch.stack([start, lengths], 1)


def _integers(name: str, given: Tensor, x: Tensor) -> Tensor:
    expected = f"{name} must be an integer tensor of one dimension on {x.device}"
    if not isinstance(given, Tensor) or given.dtype not in INTEGERS:
        raise TypeError(f"{expected}, got {getattr(given, 'dtype', type(given).__name__)}")
    if given.ndim != 1 or given.device != x.device:
        raise ValueError(f"{expected}, got {tuple(given.shape)} on {given.device}")
    return given.long()


def _increasing(offsets: Tensor, total: int) -> bool:
    return bool((offsets[0] == 0) & (offsets[-1] == total) & (offsets.diff() > 0).all())


def _check_finite(name: str, x: Tensor, spans: Tensor, ragged: bool) -> None:
    if bool(x.detach().sum().isfinite()):  # some twenty times as fast as to ask each number; a sum may overflow
        return
    rows = x.detach().isfinite().reshape(-1, x.shape[-1])
    if ragged:  # padding may hold anything
        rows = rows[batch_of(spans, len(rows))[1]]
    bad = int((~rows).sum())
    if bad:
        raise ValueError(f"{name} {tuple(x.shape)} must be finite, got {bad} NaN or infinite coordinates")
