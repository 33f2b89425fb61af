"""The k nearest neighbours, and those within a radius."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.ops.reference.distances import blocks, pairs, squared_distances

__all__ = ["gather", "neighbours"]


def neighbours(
    x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, k: int, radius: float, by_index: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances (rows, k), indices (rows, k) and number (rows,) of the neighbours of each x in its cloud of y.

    They are those with d² ≤ radius², in the type of the points, and finite: the k nearest, ascending, equal ones by
    their index, or the first k ``by_index``. Distance infinity and index −1 where there are fewer; NaN, −1 and number 0
    where a coordinate of either cloud is not finite; 0, −1 and 0 for padding.
    """
    distance, index = x.new_zeros(len(x), k), x_spans.new_full((len(x), k), -1)
    radius2 = x.new_tensor(radius).square()
    for rows, points, others in pairs(x, x_spans, y, y_spans):
        if not (points.isfinite().all() and others.isfinite().all()):
            distance[rows] = torch.nan
            continue
        distance[rows] = torch.inf
        first = min(k, len(others))
        found = [_first(block, others, first, radius2, by_index) for block in blocks(points, len(others))]
        distance[rows, :first] = torch.cat([values for values, _ in found])
        index[rows, :first] = torch.cat([indices for _, indices in found])
    return distance, index, (index >= 0).sum(1)


def gather(features: Tensor, rows: Tensor) -> Tensor:
    """Rows (..., C) of features (M, C); 0 where ``rows`` (...) is −1."""
    return torch.where(rows[..., None] < 0, 0.0, features[rows.clamp_min(0)])


def _first(x: Tensor, y: Tensor, k: int, radius2: Tensor, by_index: bool) -> tuple[Tensor, Tensor]:
    d2 = squared_distances(x, y)
    outside = (d2 > radius2) | d2.isinf()
    d2 = d2.masked_fill(outside, torch.inf)
    key = outside.to(d2.dtype) if by_index else d2
    limit = key.kthvalue(k, 1, keepdim=True).values
    before, tied = key < limit, key == limit
    tied &= tied.cumsum(1) <= k - before.sum(1, keepdim=True)  # the first of them, until there are k
    index = (before | tied).nonzero()[:, 1].view(len(x), k)
    index = index.gather(1, key.gather(1, index).sort(stable=True, dim=1).indices)
    d2 = d2.gather(1, index)
    return d2, index.masked_fill(d2.isinf(), -1)
