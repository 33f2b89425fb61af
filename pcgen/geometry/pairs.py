"""Pairs of a star and a point, a bounded number of them at once: its own points, or all that stand around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Pairs", "own_points", "points_around"]

LIMIT = 1 << 21  # pairs at once, unless a single star has more


class Pairs(NamedTuple):
    """The points of stars ``first`` … ``first + count`` − 1, star by star."""

    first: int
    count: int
    star: Tensor  # (P,) int64, counted from ``first``
    point: Tensor  # (P,) int64


def own_points(instance: Tensor, ids: Tensor) -> Iterator[Pairs]:
    """All points whose ``instance`` (N,) is that of the star, ``ids`` (K,), in the order of their indices.

    >>> list(own_points(torch.tensor([2, 1, 2]), torch.tensor([1, 2])))
    [Pairs(first=0, count=2, star=tensor([0, 1, 1]), point=tensor([1, 0, 2]))]
    """
    labels, order = instance.sort(stable=True)
    return _spread(order, torch.searchsorted(labels, ids), torch.searchsorted(labels, ids, right=True))


def points_around(centres: Tensor, points: Tensor, reach: Tensor) -> Iterator[Pairs]:
    """All ``points`` (N, D) within ``reach`` (K,) of the ``centres`` (K, D), and some others."""
    axis = int(points.amax(0).sub(points.amin(0)).argmax()) if len(points) else 0
    line, order = points[:, axis].sort(stable=True)
    middle = centres[:, axis].to(line)
    # Rounding must not leave out the point that the reach was measured to.
    reach = reach + 8 * torch.finfo(line.dtype).eps * (reach + middle.abs())
    return _spread(
        order, torch.searchsorted(line, middle - reach), torch.searchsorted(line, middle + reach, right=True)
    )


def _spread(order: Tensor, start: Tensor, stop: Tensor) -> Iterator[Pairs]:
    """Star k has the points order[start[k]:stop[k]]."""
    sizes = (stop - start).clamp_min(0)
    first = 0
    for count in _shares(sizes.tolist()):
        size, begin = sizes[first : first + count], start[first : first + count]
        star = torch.repeat_interleave(size)
        rank = torch.arange(len(star), device=star.device) - (size.cumsum(0) - size)[star]
        yield Pairs(first, count, star, order[begin[star] + rank])
        first += count


def _shares(sizes: list[int]) -> Iterator[int]:
    """How many stars to take at once, again and again, so that they have at most ``LIMIT`` points, or are a single one.

    >>> list(_shares([LIMIT, 0, 2 * LIMIT, 1]))
    [2, 1, 1]
    """
    count = total = 0
    for size in sizes:
        if count and total + size > LIMIT:
            yield count
            count = total = 0
        count, total = count + 1, total + size
    if count:
        yield count
