"""The soft minimum, from which Sinkhorn's iterations are made."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.ops.reference.annealed import weighted_differences
from pcgen.ops.reference.distances import blocks, pairs, squared_distances

__all__ = ["softmin", "softmin_pull"]


def softmin(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, h: Tensor, eps: Tensor, power: int) -> Tensor:
    """−ε log Σ_j exp(h_j − C(x_i, y_j) / ε), C = ‖x − y‖^p / p, for each x_i (rows of x,) and the y of the same cloud.

    ``h`` (rows of y,), ``eps`` (B,) float64. Computed in float64; 0 for padding, NaN where anything in the cloud is not
    finite. Feydy et al., Interpolating between Optimal Transport and MMD using Sinkhorn Divergences, AISTATS 2019.
    """
    out = torch.zeros_like(x[:, 0])
    potentials = (h[start : start + m] for start, m in y_spans.tolist())
    for (rows, points, others), potential, e in zip(pairs(x, x_spans, y, y_spans), potentials, eps.tolist()):
        if not _finite(points, others, potential):
            out[rows] = torch.nan
            continue
        squares = (squared_distances(block, others.double()) for block in blocks(points.double(), len(others)))
        sums = torch.cat([torch.logsumexp(potential.double() - _cost(d2, power) / e, 1) for d2 in squares])
        out[rows] = (-e * sums).to(x.dtype)
    return out


def softmin_pull(
    x: Tensor,
    x_spans: Tensor,
    a: Tensor,
    y: Tensor,
    y_spans: Tensor,
    h: Tensor,
    w: Tensor,
    eps: Tensor,
    power: int,
) -> tuple[Tensor, Tensor]:
    """Σ_j w_j P_ij (rows of x,) and Σ_j w_j P_ij ∂C_ij/∂x_i (rows of x, D) with P_ij = exp(a_i + h_j − C_ij / ε).

    With a = softmin / ε, P_ij = −1/ε · ∂softmin_i/∂h_j; seen from y, with a and h exchanged, the columns' sums.
    """
    mass, pull = torch.zeros_like(x[:, 0]), torch.zeros_like(x)
    for (start, n), (other, m), e in zip(x_spans.tolist(), y_spans.tolist(), eps.tolist()):
        rows, others = slice(start, start + n), slice(other, other + m)
        if not _finite(x[rows], a[rows], y[others], h[others]):
            mass[rows], pull[rows] = torch.nan, torch.nan
            continue
        targets, part = y[others].double(), start
        for block in blocks(x[rows].double(), m):
            here = slice(part, part + len(block))
            d2 = squared_distances(block, targets)
            P = torch.exp(a[here, None].double() + h[others].double() - _cost(d2, power) / e) * w[others].double()
            mass[here] = P.sum(1).to(x.dtype)
            if power == 1:  # the derivative of a distance is (x - y) / d, 0 where two points coincide
                P = torch.where(d2 == 0, 0.0, P / d2.sqrt())
            pull[here] = weighted_differences(P, block, targets).to(x.dtype)
            part += len(block)
    return mass, pull


def _cost(d2: Tensor, power: int) -> Tensor:
    return d2.sqrt() if power == 1 else d2 / 2


def _finite(*values: Tensor) -> bool:
    return all(bool(value.isfinite().all()) for value in values)
