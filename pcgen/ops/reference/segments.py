"""Reductions over the rows of each segment, and the voxels of a cloud.

A row belongs to segment 0 … count − 1; with any other number it is left out. NaN and infinity are values like others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.ops.clouds import batch_of

__all__ = ["segment_max", "segment_rows", "segment_softmax", "segment_sum", "voxel_groups"]


def segment_sum(segments: Tensor, values: Tensor, count: int, mean: bool) -> Tensor:
    """Sum or mean (count, C) of the rows of values (N, C) in each segment; 0 of none.

    In float64 and in the order of the rows, rounded once.
    """
    index = _inside(segments, count)
    # index_put in float64, unlike index_add or float32, adds in order for any number of threads, also on CUDA.
    sums = values.new_zeros(count + 1, values.shape[1], dtype=torch.float64)
    sums = sums.index_put((index,), values.double(), accumulate=True)[:count]
    if mean:
        sums = sums / torch.bincount(index, minlength=count + 1)[:count, None].clamp_min(1)
    return sums.to(values.dtype)


def segment_max(segments: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Maximum (count, C) of each segment and the first row (count, C) where it stands; 0 and −1 of none.

    NaN exceeds every number.
    """
    index = _inside(segments, count)[:, None].expand_as(values)
    peak = values.new_zeros(count + 1, values.shape[1])
    peak = peak.scatter_reduce(0, index, values, "amax", include_self=False)
    there = peak.gather(0, index)
    rows = torch.arange(len(values), device=values.device)[:, None]
    found = torch.where((values == there) | (values.isnan() & there.isnan()), rows, len(values))
    argmax = torch.full_like(peak, len(values), dtype=torch.int64)
    argmax = argmax.scatter_reduce(0, index, found, "amin")[:count]
    # The value itself is taken from its row: 0 and −0 are equal, and only the first of them is meant.
    value = torch.cat([values, values.new_zeros(1, values.shape[1])]).gather(0, argmax)
    return value, torch.where(argmax == len(values), -1, argmax)


def segment_softmax(segments: Tensor, values: Tensor, count: int) -> Tensor:
    """exp(values) (N, C) divided by the sum over its segment; 0 for rows in none."""
    peak, _ = segment_max(segments, values, count)
    parts = (values - segment_rows(peak, segments)).exp()
    sums = segment_sum(segments, parts, count, False)
    inside = _inside(segments, count) < count
    return torch.where(inside[:, None], parts / segment_rows(sums, segments), 0.0)


def segment_rows(table: Tensor, segments: Tensor) -> Tensor:
    """To each row the entry (N, C) of its segment in table (count, C); 0 for rows in none."""
    return torch.cat([table, table.new_zeros(1, table.shape[1])])[_inside(segments, len(table))]


def voxel_groups(x: Tensor, spans: Tensor, size: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The voxel (rows,) of each point, and of each voxel its cell (V, D), its number of points and its cloud.

    Cells are floor(x / size), in float64; voxels are in the order of (cloud, cell). Voxel −1 for padding, and where
    floor(x / size) is no integer that float64 tells from the next.
    """
    cloud, inside = batch_of(spans, len(x))
    cells = (x.double() / torch.tensor(size, dtype=torch.float64, device=x.device)).floor()
    inside = inside & (cells.abs() < 2.0**53).all(1)
    cloud, cells = cloud[inside], cells[inside].long()
    key = cloud
    for cell in cells.unbind(1):
        key = _paired(key, cell)
    _, voxel, counts = torch.unique(key, return_inverse=True, return_counts=True)
    first = torch.empty_like(counts).scatter(0, voxel, torch.arange(len(voxel), device=x.device))  # any of its points
    group = torch.full((len(x),), -1, device=x.device).masked_scatter(inside, voxel)
    return group, cells[first], counts, cloud[first]


def _paired(high: Tensor, low: Tensor) -> Tensor:
    """A number for each pair, in the order of the pairs."""
    if not len(high):
        return high
    low = low - low.min()
    if (int(high.max()) + 1) * (int(low.max()) + 1) > 2**63:
        high, low = (torch.unique(part, return_inverse=True)[1] for part in (high, low))
    return high * (low.max() + 1) + low


def _inside(segments: Tensor, count: int) -> Tensor:
    """Segments with ``count`` for rows that belong to none."""
    return torch.where((segments >= 0) & (segments < count), segments, count)
