"""The exact earth mover's distance between clouds of equal size."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pcgen.ops.reference.distances import pairs, squared_distances

__all__ = ["emd_exact", "emd_exact_matrix"]


def emd_exact(
    x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cost (B,) of the optimal assignment, a lower bound (B,) for it, both float64, and the assignment (rows,).

    NaN, NaN and −1 where a coordinate is not finite or sizes differ; −1 for padding. The optimum meets every
    ``tolerance``. Holds N × N costs.
    """
    value, dual = (x.new_full((len(x_spans),), torch.nan, dtype=torch.float64) for _ in range(2))
    assignment = x_spans.new_full((len(x),), -1)
    for b, (rows, points, others) in enumerate(pairs(x, x_spans, y, y_spans)):
        found = _solve(points, others, squared)
        if found:
            value[b], dual[b], plan = found
            assignment[rows] = torch.from_numpy(plan).to(x.device)
    return value, dual, assignment


def emd_exact_matrix(
    x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool, tolerance: float, symmetric: bool
) -> Tensor:
    """Value and bound (2, S, R) of :func:`emd_exact` for all clouds of x and all of y; ``symmetric``: y is x."""
    out = x.new_empty(2, len(x_spans), len(y_spans), dtype=torch.float64)
    for s, span in enumerate(x_spans):
        first = s if symmetric else 0
        others = y_spans[first:]
        value, dual, _ = emd_exact(x, span.expand_as(others), y, others, squared, tolerance)
        out[:, s, first:] = torch.stack([value, dual])
        if symmetric:
            out[:, first:, s] = out[:, s, first:]
    return out


def _solve(x: Tensor, y: Tensor, squared: bool) -> tuple[float, float, np.ndarray] | None:
    d2 = squared_distances(x.detach().double(), y.detach().double())
    costs = (d2 if squared else d2.sqrt()).cpu().numpy()
    if len(x) != len(y) or not np.isfinite(costs).all():
        return None
    rows, plan = linear_sum_assignment(costs)
    value = costs[rows, plan].mean()
    return value, min(value, _lower_bound(costs, plan)), plan.astype(np.int64)


def _lower_bound(costs: np.ndarray, plan: np.ndarray) -> float:
    """mean_i min_j (c_ij + p_j) − mean_j p_j, true for any prices p, for those under which no row wants another column.

    p_k ≤ p_j + c_ij − c_ik, where row i has column k, are the inequalities of shortest paths: Bellman and Ford.
    """
    paid = costs[np.arange(len(plan)), plan]
    edges = np.empty_like(costs)
    edges[plan] = costs - paid[:, None]
    prices = np.zeros(len(plan))
    for _ in range(len(plan)):
        before, prices = prices, np.minimum(prices, (edges + prices).min(1))
        if np.abs(prices - before).max() <= 1e-15 * np.abs(costs).max():
            break
    return (costs + prices).min(1).mean() - prices.mean()
