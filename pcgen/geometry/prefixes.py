"""The best star about a centre, by nearest rays: one prefix of the points of each cell, as one linear fraction.

IoU = (Σ inside) / (size + Σ outside) over the cells' prefixes is maximised by the method of Dinkelbach, On Nonlinear
Fractional Programming, Management Science 1967: maximise Σ (inside − θ · outside), which each cell does by itself; then
θ ← IoU. θ never falls, and when it stands still it is the optimum. Numbers of points are integers, and stay exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.ops import segment_reduce

__all__ = ["Choice", "Prefixes", "choices", "prefixes"]


class Prefixes(NamedTuple):
    """The lengths that K stars can choose from in their cells, cell by cell, ascending; each cell may also take 0."""

    rays: int  # n
    length: Tensor  # (E,)
    cell: Tensor  # (E,) int64, star · n + ray
    inside: Tensor  # (E,) int64, points of the instance up to this length
    outside: Tensor  # (E,) int64, other points up to it
    shared: Tensor  # (K,) int64, points of the instance at the centre, which every star holds
    either: Tensor  # (K,) int64, points of the instance, and others at the centre


class Choice(NamedTuple):
    """Lengths of K stars."""

    prefix: Tensor  # (K n,) int64, −1 for length 0
    shared: Tensor  # (K,) int64, points in the star and in the instance
    either: Tensor  # (K,) int64, points in the star or in the instance


def prefixes(rays: int, star: Tensor, ray: Tensor, radius: Tensor, inside: Tensor, size: Tensor) -> Prefixes:
    """Those of points (P,) in the cell ``ray`` of a ``star``, ``inside`` its instance of ``size`` (K,) points or not.

    >>> point = torch.tensor([True, False, True])
    >>> cell = torch.zeros(3, dtype=torch.int64)
    >>> prefixes(4, cell, cell, torch.tensor([1.0, 2.0, 2.0]), point, torch.tensor([2])).outside
    tensor([0, 1])
    """
    here = radius == 0
    counts = [torch.bincount(star[here & side], minlength=len(size)) for side in (inside, ~inside)]
    star, ray, radius, inside = (x[~here] for x in (star, ray, radius, inside))
    order = radius.argsort(stable=True)
    order = order[(star * rays + ray)[order].argsort(stable=True)]
    cell, radius, inside = (star * rays + ray)[order], radius[order], inside[order].long()
    first = torch.searchsorted(cell.contiguous(), cell)
    within = inside.cumsum(0) - inside
    within = within - within[first] + inside
    number = torch.arange(len(cell), device=cell.device) - first + 1
    # A length holds all points at that distance: the last of them speaks for all.
    last = torch.ones_like(here[: len(cell)])
    last[:-1] = (cell.diff() != 0) | (radius.diff() != 0)
    inside, outside = within[last], (number - within)[last]
    return Prefixes(rays, radius[last], cell[last], inside, outside, counts[0], size + counts[1])


def choices(options: Prefixes) -> Iterator[Choice]:
    """Better and better choices, beginning with θ = 0, all of the instance's points; the last one is the best.

    Of several best ones it is the smallest.
    """
    choice = _choose(options, torch.zeros_like(options.shared), torch.ones_like(options.shared))
    yield choice
    while True:
        better = _choose(options, choice.shared, choice.either)
        yield better
        if not bool((better.shared * choice.either > choice.shared * better.either).any()):
            return
        choice = better


def _choose(options: Prefixes, shared: Tensor, either: Tensor) -> Choice:
    """In each cell the shortest prefix with the largest inside − θ · outside, for θ = shared / either."""
    stars = len(shared)
    star = torch.div(options.cell, options.rays, rounding_mode="floor")
    # Exact in float64 for fewer than 9e7 points.
    value = (either[star] * options.inside - shared[star] * options.outside).double()
    best, prefix = segment_reduce(value, options.cell, stars * options.rays, "max")
    prefix = torch.where(best > 0, prefix, -1)
    taken = prefix[prefix >= 0]
    star = star[taken]
    return Choice(
        prefix,
        options.shared.index_add(0, star, options.inside[taken]),
        options.either.index_add(0, star, options.outside[taken]).clamp_min(1),
    )
