"""Which points lie in which balls: pairs in blocks, found in a grid of columns of sorted points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.geometry.pairs import shares

__all__ = ["BallPairs", "balls"]

PAIRS = 1 << 18  # pairs of a ball and a point looked at together, unless a single ball has more
COLUMNS = 256  # at most, along an axis


class BallPairs(NamedTuple):
    """The points in balls ``first`` … ``first + count`` − 1, ball by ball."""

    first: int
    count: int
    ball: Tensor  # (M,) int64
    point: Tensor  # (M,) int64
    x: Tensor  # (M, D) float64, the point seen from the ball's centre
    distance: Tensor  # (M,) float64, ‖x‖


def balls(centres: Tensor, radii: Tensor, points: Tensor) -> Iterator[BallPairs]:
    """All pairs with ‖points[point] − centres[ball]‖ ≤ radii[ball], in blocks of whole balls, in float64.

    ``centres`` (S, D), ``radii`` (S,) and ``points`` (P, D) are finite. The points are sorted into columns along the
    axis in which they spread most; of a column that a ball's bounding box meets only the box's stretch is looked at.

    >>> [found] = balls(torch.tensor([[0.0, 0.0], [9.0, 9.0]]), torch.tensor([1.0, 0.5]), torch.eye(2))
    >>> found.ball, found.point
    (tensor([0, 0]), tensor([0, 1]))
    """
    if not len(points) or not len(centres):
        return
    centres, radii, points = centres.double(), radii.double(), points.double()
    low, size = points.amin(0), points.amax(0) - points.amin(0)
    axis = int(size.argmax())
    across = [k for k in range(points.shape[1]) if k != axis]
    edge = torch.maximum(radii.clamp_min(0).mean() / 2, size.amax() / COLUMNS)
    edge = torch.where(edge > 0, edge, 1)
    columns = (size[across] / edge).long() + 1

    def column(y: Tensor) -> Tensor:
        return ((y[:, across] - low[across]) / edge).floor().clamp(-1.0, COLUMNS + 1.0).long()

    # One number orders the points by column, then along it: both look-ups below are binary searches.
    stretch = torch.where(size[axis] > 0, 2 * size[axis], 1)
    key, order = (_index(column(points), columns) + (points[:, axis] - low[axis]) / stretch).sort()
    reach = radii.clamp_min(0)[:, None] * (1 + 1e-9) + 1e-15 * (centres.abs() + points.abs().amax())  # and rounding
    first, last = column(centres - reach).clamp_min(0), torch.minimum(column(centres + reach), columns - 1)
    ball, cell = _boxes(first, last)
    ends = [((centres + sign * reach)[ball, axis] - low[axis]) / stretch for sign in (-1, 1)]
    margin = 1e-9  # key has 52 bits, 17 of them for the column
    start, stop = (_index(cell, columns) + end.clamp(0, 0.75) for end in ends)
    start = torch.searchsorted(key, start - margin)
    count = (torch.searchsorted(key, stop + margin, right=True) - start).clamp_min(0)
    ends = torch.searchsorted(ball, torch.arange(len(centres) + 1, device=ball.device))  # rows of each ball
    looked_at = torch.cat([count.new_zeros(1), count.cumsum(0)])[ends].diff()
    first = 0
    for number in shares(looked_at.tolist(), PAIRS):
        rows = slice(int(ends[first]), int(ends[first + number]))
        row = torch.repeat_interleave(count[rows])
        rank = torch.arange(len(row), device=row.device) - (count[rows].cumsum(0) - count[rows])[row]
        pair = ball[rows][row], order[start[rows][row] + rank]
        x = points[pair[1]] - centres[pair[0]]
        distance = torch.linalg.vector_norm(x, dim=1)
        near = distance <= radii[pair[0]]
        yield BallPairs(first, number, pair[0][near], pair[1][near], x[near], distance[near])
        first += number


def _index(cell: Tensor, columns: Tensor) -> Tensor:
    """The number (N,) of the column at ``cell`` (N, D − 1)."""
    index = cell[:, 0]
    for k in range(1, cell.shape[1]):
        index = index * columns[k] + cell[:, k]
    return index


def _boxes(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """The cells (R, D − 1) of boxes from ``first`` to ``last`` (S, D − 1), and whose box each is (R,)."""
    sides = (last - first + 1).clamp_min(0)
    box = torch.repeat_interleave(sides.prod(1))
    rank = torch.arange(len(box), device=box.device) - (sides.prod(1).cumsum(0) - sides.prod(1))[box]
    cell = first[box].clone()
    for k in reversed(range(first.shape[1])):
        cell[:, k] += rank % sides[box, k]
        rank = rank // sides[box, k]
    return box, cell
