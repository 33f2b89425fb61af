"""The annealed earth mover's distances of the published evaluations."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pcgen.ops.reference.distances import blocks, squared_distances

__all__ = ["ANNEALING", "annealed", "annealed_gradient", "annealed_matrix", "weighted_differences"]

# Levels λ of the annealing, in 1/length²; both were made for shapes about one unit long.
ANNEALING = {
    "pointflow": tuple(-(4.0**j) for j in range(7, -2, -1)),
    "pvd": (*(-(4.0**j) for j in range(7, -2, -1)), 0.0),
}


def annealed(
    x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The mean cost (B,) and the share moved (B,) of the "approxmatch" plan from each x, left, to each y, right.

    The algorithm is the one of the published evaluation programs (PointFlow, Yang et al., ICCV 2019; from the point-set
    generation network of Fan et al., CVPR 2017). It is neither symmetric nor a complete transport plan. A pair costs
    its Euclidean distance, or where ``squared`` (the levels of ``"pvd"``) the squared one.

    The plan is Σ_λ ratio_x · exp(λ d²) · ratio_y; the ratios (levels, rows of x) and (levels, rows of y) are returned
    too. Everything is float64 inside. NaN where a coordinate of either cloud is not finite.
    """
    levels = ANNEALING["pvd" if squared else "pointflow"]
    x_ratio, y_ratio = x.new_zeros(len(levels), len(x)), y.new_zeros(len(levels), len(y))
    results = []
    for rows, others, points, targets in _pairs(x, x_spans, y, y_spans):
        if not (points.isfinite().all() and targets.isfinite().all()):
            x_ratio[:, rows], y_ratio[:, others] = torch.nan, torch.nan
            results.append((torch.nan, torch.nan))
            continue
        u, v = _ratios(points, targets, levels)
        x_ratio[:, rows], y_ratio[:, others] = u.to(x.dtype), v.to(y.dtype)
        results.append(_totals(points, targets, u, v, levels, squared))
    value, moved = torch.tensor(results, dtype=torch.float64, device=x.device).T
    return value.contiguous(), moved.contiguous(), x_ratio, y_ratio


def annealed_matrix(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    """Cost and share moved, (S, R) each, of :func:`annealed` between all clouds of x, left, and all of y, right."""
    columns = [annealed(x, x_spans, y, span.expand(len(x_spans), 2), squared)[:2] for span in y_spans]
    value, moved = zip(*columns)
    return torch.stack(value, 1), torch.stack(moved, 1)


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
    """Gradients for x and y of the costs (B,) of :func:`annealed`, the plan being constant."""
    levels = ANNEALING["pvd" if squared else "pointflow"]
    of_x, of_y = torch.zeros_like(x), torch.zeros_like(y)
    for (rows, others, points, targets), scale in zip(
        _pairs(x, x_spans, y, y_spans), gradient.double() / x_spans[:, 1]
    ):
        u, v = x_ratio[:, rows].double(), y_ratio[:, others].double()
        for part, (d2, weights) in _plan(points, targets, u, v, levels):
            # The derivative of a distance is (x - y) / d, 0 where two points coincide.
            weights = 2 * weights if squared else torch.where(d2 == 0, 0.0, weights / d2.sqrt())
            of_x[rows][part] += (scale * weighted_differences(weights, points[part], targets)).to(x.dtype)
            of_y[others] += (scale * weighted_differences(weights.T, targets, points[part])).to(y.dtype)
    return of_x, of_y


def weighted_differences(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Σ_j w_ij (x_i − y_j), (N, D), coordinate by coordinate."""
    return torch.stack([(weights * (x[:, None, k] - y[None, :, k])).sum(1) for k in range(x.shape[1])], 1)


def _ratios(x: Tensor, y: Tensor, levels: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The two factors (levels, N) and (levels, M) of the mass that moves at each level."""
    # Sums of products, and no matrix products, whose order of additions changes with the number of threads.
    N, M = len(x), len(y)
    left, right = x.new_full((N,), max(1, M // N)), x.new_full((M,), max(1, N // M))
    u, v = x.new_zeros(len(levels), N), x.new_zeros(len(levels), M)
    for i, level in enumerate(levels):
        for part, K in _kernels(x, y, level):
            u[i, part] = left[part] / (1e-9 + (K * right).sum(1))
        demand = sum((u[i, part, None] * K).sum(0) for part, K in _kernels(x, y, level)) * right
        v[i] = (right / (demand + 1e-9)).clamp_max(1) * right
        right = (right - demand).clamp_min(0)
        for part, K in _kernels(x, y, level):
            left[part] = (left[part] - u[i, part] * (K * v[i]).sum(1)).clamp_min(0)
    return u, v


def _totals(
    x: Tensor, y: Tensor, u: Tensor, v: Tensor, levels: tuple[float, ...], squared: bool
) -> tuple[float, float]:
    """What the plan costs per point of x, and the share of its mass that it moves."""
    cost, mass = 0.0, 0.0
    for _, (d2, weights) in _plan(x, y, u, v, levels):
        cost += float((weights * (d2 if squared else d2.sqrt())).sum(1).sum())
        mass += float(weights.sum(1).sum())
    return cost / len(x), mass / (len(x) * max(1, len(y) // len(x)))


def _kernels(x: Tensor, y: Tensor, level: float) -> Iterator[tuple[slice, Tensor]]:
    """exp(λ d²) of all pairs, block by block: which rows, and the kernel (rows, M)."""
    for part, d2 in _squares(x, y):
        yield part, torch.exp(level * d2)


def _plan(
    x: Tensor, y: Tensor, u: Tensor, v: Tensor, levels: tuple[float, ...]
) -> Iterator[tuple[slice, tuple[Tensor, Tensor]]]:
    """Squared distances and masses of all pairs, block by block."""
    for part, d2 in _squares(x, y):
        weights = torch.zeros_like(d2)
        for level, a, b in zip(levels, u, v):
            weights.addcmul_(torch.exp(level * d2), a[part, None] * b)
        yield part, (d2, weights)


def _squares(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    begin = 0
    for block in blocks(x, len(y)):
        yield slice(begin, begin + len(block)), squared_distances(block, y)
        begin += len(block)


def _pairs(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Rows and float64 points of each cloud of x, and of the cloud of y with the same number."""
    for (start, n), (other, m) in zip(x_spans.tolist(), y_spans.tolist()):
        rows, others = slice(start, start + n), slice(other, other + m)
        yield rows, others, x[rows].double(), y[others].double()
