"""Nearest neighbours and Chamfer distances."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["blocks", "chamfer_matrix", "nearest", "nearest_both", "pairs", "squared_distances"]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """All squared distances (..., N, M) between (..., N, D) and (..., M, D), by explicit differences.

    Not as |x|² + |y|² − 2 x·y, which cancels: two points 1e-4 apart would be at distance 0 in float32.
    """
    d2 = x.new_zeros(*x.shape[:-1], y.shape[-2])
    for k in range(x.shape[-1]):
        difference = x[..., :, None, k] - y[..., None, :, k]
        d2.addcmul_(difference, difference)
    return d2


def nearest(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance and index of the nearest y, the lowest of several, for each x of the same cloud.

    Distance NaN and index −1 where a coordinate of either cloud is not finite; 0 and −1 for padding.
    """
    distance, index = x.new_zeros(len(x)), x_spans.new_full((len(x),), -1)
    for rows, points, others in pairs(x, x_spans, y, y_spans):
        if not (points.isfinite().all() and others.isfinite().all()):
            distance[rows] = torch.nan
            continue
        found = [squared_distances(block, others).min(-1) for block in blocks(points, len(others))]
        distance[rows] = torch.cat([b.values for b in found])
        index[rows] = torch.cat([b.indices for b in found])
    return distance, index


def nearest_both(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`nearest` from x to y and from y to x."""
    return *nearest(x, x_spans, y, y_spans), *nearest(y, y_spans, x, x_spans)


def chamfer_matrix(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool, symmetric: bool) -> Tensor:
    """Chamfer distances (S, R), float64, between all clouds of x and all of y; ``symmetric``: y is x."""
    return _one_way(x, x_spans, y, y_spans, squared) + _one_way(y, y_spans, x, x_spans, squared).T


def _one_way(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool) -> Tensor:
    """Mean distance (S, R) from the points of each cloud of x to each cloud of y."""
    columns = []
    for span in y_spans:
        distance, _ = nearest(x, x_spans, y, span.expand(len(x_spans), 2))
        distance = distance if squared else distance.sqrt()
        columns.append(torch.stack([distance[start : start + n].double().mean() for start, n in x_spans.tolist()]))
    return torch.stack(columns, dim=1)


def pairs(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The rows of each cloud of x, its points, and those of the cloud of y with the same number."""
    for (start, n), (y_start, m) in zip(x_spans.tolist(), y_spans.tolist()):
        yield slice(start, start + n), x[start : start + n], y[y_start : y_start + m]


def blocks(x: Tensor, columns: int) -> tuple[Tensor, ...]:
    """The rows of x in parts small enough for a matrix with this many columns."""
    # On the CPU a block stays in the cache; a GPU wants enough work for a launch.
    entries = 2**18 if x.device.type == "cpu" else 2**26
    return x.split(max(1, entries // columns))
