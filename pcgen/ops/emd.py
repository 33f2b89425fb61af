"""Earth mover's distances between point clouds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from pcgen.ops import reference
from pcgen.ops.clouds import check_pair, clouds
from pcgen.ops.matrix import Progress, sets_of_clouds

__all__ = ["Emd", "EmdMatrix", "EmdVariant", "emd", "emd_matrix"]

EmdVariant = Literal["exact", "pointflow", "pvd"]


class Emd(NamedTuple):
    """An earth mover's distance and, where there is one, its plan."""

    value: Tensor  # () or (B,)
    assignment: Tensor | None  # (..., N) int64: x[i] goes to y[assignment[i]]; None for the annealed variants


class EmdMatrix(NamedTuple):
    """Earth mover's distances between all clouds of two sets."""

    value: Tensor  # (S, R) float64, [s, r] with X[s] on the left


def emd(x: Tensor, y: Tensor, variant: EmdVariant = "exact") -> Emd:
    """Earth mover's distance of ``x`` (N, D) or (B, N, D) and ``y`` (M, D) or (B, M, D).

    ``"exact"`` (N = M): the mean Euclidean distance under the best one-to-one assignment, found in float64;
    its value is differentiable, the assignment being constant. ``"pointflow"`` and ``"pvd"`` are the annealed
    approximations of the published evaluations, see :func:`pcgen.ops.reference.annealed_emd`: asymmetric,
    float64, and ``"pvd"`` pays squared distances. Raises as :func:`nearest`, and ``ValueError`` for an
    unknown variant or an exact distance between unequal numbers of points.

    >>> emd(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.5], [0.0]]))
    Emd(value=tensor(0.2500), assignment=tensor([1, 0]))
    """
    check_pair(clouds("x", x), clouds("y", y))
    _check_variant(variant, x, y)
    X, Y = (x, y) if x.ndim == 3 else (x[None], y[None])
    if variant != "exact":
        value = reference.annealed_emd(X, Y, variant)
        return Emd(value if x.ndim == 3 else value[0], None)
    plans = np.stack([_assign(left, right).plan for left, right in zip(_numpy(X), _numpy(Y))])
    assignment = torch.from_numpy(plans).to(x.device).reshape(x.shape[:-1])
    return Emd(_paired_distance(x, y, assignment, squared=False).mean(-1), assignment)


def emd_matrix(
    X: Tensor,
    Y: Tensor,
    variant: EmdVariant = "exact",
    progress: Progress | None = None,
    workers: int | None = None,
) -> EmdMatrix:
    """Earth mover's distances between the clouds of ``X`` (S, N, D), left, and of ``Y`` (R, M, D), right.

    The exact distances are spread over ``workers`` threads (as many as PyTorch uses, unless given), and
    ``emd_matrix(X, X)`` computes one triangle; the annealed ones are asymmetric, and all S × R are computed.
    ``progress(done, total)`` is called as the work goes on. Raises as :func:`emd`.

    >>> X = torch.tensor([[[0.0], [1.0]], [[1.0], [3.0]]])
    >>> emd_matrix(X, X).value
    tensor([[0.0000, 1.5000],
            [1.5000, 0.0000]], dtype=torch.float64)
    """
    sets_of_clouds(X, Y, None, None, None, None, True)
    _check_variant(variant, X, Y)
    if variant == "exact":
        return EmdMatrix(_exact_matrix(X, Y, progress, workers))
    return EmdMatrix(_annealed_matrix(X, Y, variant, progress))


class _Assignment(NamedTuple):
    cost: float  # mean Euclidean distance
    plan: np.ndarray  # (N,) int64


def _assign(left: np.ndarray, right: np.ndarray) -> _Assignment:
    """The best one-to-one assignment between two (N, D) float64 clouds."""
    costs = cdist(left, right)
    rows, plan = linear_sum_assignment(costs)
    return _Assignment(costs[rows, plan].mean(), plan.astype(np.int64))


def _exact_matrix(X: Tensor, Y: Tensor, progress: Progress | None, workers: int | None) -> Tensor:
    left, right = _numpy(X), _numpy(Y)
    matrix = torch.zeros(len(X), len(Y), dtype=torch.float64)
    pairs = [(s, r) for s in range(len(X)) for r in range(s + 1 if X is Y else 0, len(Y))]
    # Threads are enough: SciPy searches for the assignment without holding Python's lock.
    with ThreadPoolExecutor(_threads(workers)) as pool:
        found = pool.map(lambda pair: _assign(left[pair[0]], right[pair[1]]).cost, pairs)
        for (s, r), cost in _tracked(zip(pairs, found), progress, len(pairs)):
            matrix[s, r] = cost
    return (matrix + matrix.T if X is Y else matrix).to(X.device)


def _annealed_matrix(X: Tensor, Y: Tensor, variant: str, progress: Progress | None) -> Tensor:
    # Small clouds go through together; more than this falls out of the cache.
    step = max(1, 2**16 // (X.shape[1] * Y.shape[1]))
    blocks = [(x, right) for x in X for right in Y.split(step)]
    values = [
        reference.annealed_emd(x.expand(len(right), -1, -1), right, variant)
        for x, right in _tracked(blocks, progress, len(blocks))
    ]
    return torch.cat(values).reshape(len(X), len(Y))


def _paired_distance(x: Tensor, y: Tensor, index: Tensor, squared: bool) -> Tensor:
    """Distance (..., N) of each x to y[index]."""
    difference = x - y.take_along_dim(index[..., None], dim=-2)
    # vector_norm, unlike the root of a sum, has gradient 0 and not NaN where two points coincide.
    return difference.square().sum(-1) if squared else torch.linalg.vector_norm(difference, dim=-1)


def _tracked(items: Iterable, progress: Progress | None, total: int, done: int = 0) -> Iterator:
    """The items, ``progress`` being told after each one that it is finished."""
    for finished, item in enumerate(items, done + 1):
        yield item
        if progress:
            progress(finished, total)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()


def _threads(workers: int | None) -> int:
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    return workers or torch.get_num_threads()


def _check_variant(variant: str, x: Tensor, y: Tensor) -> None:
    if variant not in get_args(EmdVariant):
        raise ValueError(f"variant must be one of {', '.join(get_args(EmdVariant))}, got {variant!r}")
    if variant == "exact" and x.shape[-2] != y.shape[-2]:
        raise ValueError(
            f"the exact EMD assigns point to point: expected clouds of equal size, "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
