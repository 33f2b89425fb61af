"""The annealed earth mover's distances on CUDA: launches of ``cuda/emd_annealed.cu``, see there for its terms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.ops import gpu, reference
from pcgen.ops.clouds import batch_of
from pcgen.ops.gpu_distances import kernel, not_finite, work

__all__ = ["annealed", "annealed_gradient", "annealed_matrix"]

THREADS = 128
ROWS = {torch.float32: 4, torch.float64: 2}  # of a thread
PLAN_ROWS = {torch.float32: 2, torch.float64: 1}
GIVE, TAKE, SPEND = range(3)


class _Side(NamedTuple):
    points: Tensor
    spans: Tensor
    bad: Tensor  # (B,) which clouds are not finite
    work: tuple[Tensor, int]  # blocks of a pass
    plan_work: tuple[Tensor, int]  # blocks of a sum over the plan


def _side(x: Tensor, spans: Tensor) -> _Side:
    work_of = (work(spans, len(x), THREADS * rows[x.dtype]) for rows in (ROWS, PLAN_ROWS))
    return _Side(x, spans, not_finite(x, spans), *work_of)


def annealed(
    x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See :func:`pcgen.ops.reference.annealed`."""
    pairs = _Pairs(x, x_spans, y, y_spans, matrix=False)
    ratios = pairs.ratios(squared)
    return *pairs.totals(squared, *ratios), *ratios


def annealed_matrix(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    """See :func:`pcgen.ops.reference.annealed_matrix`."""
    pairs = _Pairs(x, x_spans, y, y_spans, matrix=True)
    return pairs.totals(squared, *pairs.ratios(squared))


def annealed_gradient(
    x: Tensor,
    x_spans: Tensor,
    y: Tensor,
    y_spans: Tensor,
    squared: bool,
    x_ratio: Tensor,
    y_ratio: Tensor,
    gradient: Tensor,
) -> tuple[Tensor, Tensor]:
    """See :func:`pcgen.ops.reference.annealed_gradient`."""
    pairs = _Pairs(x, x_spans, y, y_spans, matrix=False)
    of_x, of_y = torch.zeros_like(x), torch.zeros_like(y)
    scale = gradient.double().contiguous()
    ratios = x_ratio.contiguous(), y_ratio.contiguous()
    pairs.plan("pull", pairs.left, pairs.right, squared, ratios, scale, x_spans, of_x)
    pairs.plan("pull", pairs.right, pairs.left, squared, ratios[::-1], scale, x_spans, of_y)
    return of_x, of_y


class _Pairs:
    """All pairs that a call is about: cloud b with cloud b, or where ``matrix`` every one with every one."""

    def __init__(self, x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, matrix: bool):
        self.left, self.right, self.matrix = _side(x, x_spans), _side(y, y_spans), matrix

    def ratios(self, squared: bool) -> tuple[Tensor, Tensor]:
        """The two factors of the plan: (levels, rows), in a matrix (levels, clouds of the other side, rows)."""
        levels = len(reference.ANNEALING["pvd" if squared else "pointflow"])
        left, right = self._masses(self.left, self.right), self._masses(self.right, self.left)
        x_ratio, y_ratio = (self.left.points.new_zeros(levels, *mass.shape) for mass in (left, right))
        for level, (u, v) in enumerate(zip(x_ratio, y_ratio)):
            self._pass(GIVE, level, self.left, self.right, None, right, left, u)
            self._pass(TAKE, level, self.right, self.left, u, None, right, v)
            self._pass(SPEND, level, self.left, self.right, v, None, left, u)
        return x_ratio, y_ratio

    def totals(self, squared: bool, x_ratio: Tensor, y_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Cost per point of x and share of its mass that is moved, (B,) or (S, R) each."""
        (x, x_spans, x_bad, *_), (_, y_spans, y_bad, *_) = self.left, self.right
        cost, mass = x.new_empty(2, *x_ratio.shape[1:], dtype=torch.float64)
        self.plan("plan", self.left, self.right, squared, (x_ratio, y_ratio), cost, mass)
        grid = len(x_spans), len(y_spans) if self.matrix else 1
        value, moved = x.new_empty(2, *(grid if self.matrix else grid[:1]), dtype=torch.float64)
        pairs = x_spans, len(x), x_bad, y_spans, y_bad, self.matrix
        gpu.launch("emd_annealed", "annealed_totals", grid, THREADS, *pairs, cost, mass, value, moved)
        return value, moved

    def plan(
        self, name: str, own: _Side, other: _Side, squared: bool, ratios: tuple[Tensor, Tensor], *rest: Tensor
    ) -> None:
        """Launches a sum over the finished plan; ``ratios`` are those of the own side and of the other."""
        strides = [ratio[0].numel() for ratio in ratios]
        self._launch(name, own, other, own.plan_work, squared, strides[0], ratios[0], strides[1], ratios[1], *rest)

    def _pass(self, step: int, level: int, own: _Side, other: _Side, *arguments: Tensor | None) -> None:
        self._launch("pass", own, other, own.work, level, step, *arguments)

    def _launch(self, name: str, own: _Side, other: _Side, blocks: tuple[Tensor, int], *arguments) -> None:
        first, across = blocks
        grid = across, len(other.spans) if self.matrix else 1
        mine, theirs = ((side.points, side.spans, side.bad, len(side.points)) for side in (own, other))
        sides = *mine, first, len(own.spans), *theirs, self.matrix
        gpu.launch("emd_annealed", kernel(name, own.points), grid, THREADS, *sides, *arguments)

    def _masses(self, own: _Side, other: _Side) -> Tensor:
        """What each point has at first: 1, or where its cloud is the smaller one the whole ratio of the sizes."""
        n, m = own.spans[:, 1], other.spans[:, 1]
        share = (m[:, None] if self.matrix else m) // n
        cloud, _ = batch_of(own.spans, len(own.points))
        return share.clamp_min(1)[..., cloud].double().contiguous()
