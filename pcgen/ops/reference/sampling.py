"""Farthest point sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.ops.reference.distances import squared_distances

__all__ = ["farthest_point_sampling"]


def farthest_point_sampling(x: Tensor, spans: Tensor, start: Tensor, count: int) -> Tensor:
    """Indices (B, count), in order, of points each of which is the farthest from those before it.

    The first is ``start`` (B,); the lowest of several farthest points is taken, none twice. −1 fills the row of a cloud
    with fewer points from where they end, and all of it where a coordinate is not finite or ``start`` is not in the
    cloud.
    """
    index = spans.new_full((len(spans), count), -1)
    for b, ((begin, n), first) in enumerate(zip(spans.tolist(), start.tolist())):
        points = x[begin : begin + n]
        if not (0 <= first < n and points.isfinite().all()):
            continue
        chosen = start[b : b + 1]
        remaining = x.new_full((n,), torch.inf)  # squared distance to the chosen points; −1 for these
        for i in range(min(count, n)):
            index[b, i] = chosen[0]
            remaining = torch.minimum(remaining, squared_distances(points[chosen], points)[0])
            remaining[chosen] = -1
            chosen = remaining.argmax(0, keepdim=True)
    return index
