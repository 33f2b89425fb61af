"""Pairs of a star and its own points, a bounded number of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Pairs", "own_points", "shares"]

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
    start = torch.searchsorted(labels, ids)
    sizes = torch.searchsorted(labels, ids, right=True) - start
    first = 0
    for count in shares(sizes.tolist(), LIMIT):
        size, begin = sizes[first : first + count], start[first : first + count]
        star = torch.repeat_interleave(size)
        rank = torch.arange(len(star), device=star.device) - (size.cumsum(0) - size)[star]
        yield Pairs(first, count, star, order[begin[star] + rank])
        first += count


def shares(sizes: list[int], limit: int) -> Iterator[int]:
    """How many to take at once, again and again, so that their sizes add up to at most ``limit``, or are a single one.

    >>> list(shares([10, 0, 20, 1], 10))
    [2, 1, 1]
    """
    count = total = 0
    for size in sizes:
        if count and total + size > limit:
            yield count
            count = total = 0
        count, total = count + 1, total + size
    if count:
        yield count
