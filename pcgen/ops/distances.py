"""Distances between point clouds: nearest neighbours, Chamfer distance, earth mover's distance.

Clouds are float32 or float64 tensors (N, D) on any device; the number of points comes second to last, sets
and batches put their number of clouds in front. ``x`` is the left cloud and ``y`` the right one, which only
the two annealed earth mover's distances can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from torch import Tensor

from pcgen.ops import reference
from pcgen.ops.reference import Nearest

__all__ = [
    "Chamfer",
    "Emd",
    "EmdMatrix",
    "EmdVariant",
    "Nearest",
    "chamfer",
    "chamfer_matrix",
    "emd",
    "emd_matrix",
    "nearest",
]

EmdVariant = Literal["exact", "pointflow", "pvd"]
Progress = Callable[[int, int], object]  # called as progress(done, total)


class Chamfer(NamedTuple):
    """The Chamfer distance and what it is made of; ``value`` and both halves are differentiable."""

    value: Tensor  # () or (B,) mean of x_to_y + mean of y_to_x
    x_to_y: Tensor  # (..., N) distance of each x to its neighbour in y, squared where `squared`
    y_to_x: Tensor  # (..., M) the same from y
    x_index: Tensor  # (..., N) int64, the neighbour in y of each x
    y_index: Tensor  # (..., M) int64, the neighbour in x of each y
    squared: bool

    def f_score(self, threshold: float) -> Tensor:
        """Harmonic mean, () or (B,), of the shares of x and of y nearer than ``threshold``, a length.

        Knapitsch et al., Tanks and Temples, 2017. Programs that compare *squared* distances with 0.001 use a
        threshold of √0.001. ``ValueError`` unless the threshold is positive.

        >>> chamfer(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.05]])).f_score(0.1)
        tensor(0.6667)
        """
        if not 0 < threshold < float("inf"):
            raise ValueError(f"threshold must be a positive length, got {threshold}")
        limit = threshold**2 if self.squared else threshold
        precision = (self.x_to_y < limit).double().mean(-1)
        recall = (self.y_to_x < limit).double().mean(-1)
        score = 2 * precision * recall / (precision + recall)
        return score.nan_to_num(0.0).to(self.value.dtype)  # no point within reach on either side


class Emd(NamedTuple):
    """An earth mover's distance and, where there is one, its plan."""

    value: Tensor  # () or (B,)
    assignment: Tensor | None  # (..., N) int64: x[i] goes to y[assignment[i]]; None for the annealed variants


class EmdMatrix(NamedTuple):
    """Earth mover's distances between all clouds of two sets."""

    value: Tensor  # (S, R) float64, [s, r] with X[s] on the left


def nearest(x: Tensor, y: Tensor) -> Nearest:
    """Nearest point of ``y`` (M, D) or (B, M, D) to each point of ``x`` (N, D) or (B, N, D).

    Returns the *squared* distances (..., N) and int64 indices (..., N), the lowest of several nearest points.
    Gradients do not flow through it, see :func:`chamfer`. ``ValueError`` for shapes that do not fit, empty
    clouds, NaN or infinity; ``TypeError`` for other types than float32 and float64.

    >>> nearest(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 2.0]])).distance
    tensor([4.])
    """
    _check_pair(x, y)
    return reference.nearest(x.detach(), y.detach())


def chamfer(x: Tensor, y: Tensor, squared: bool = True) -> Chamfer:
    """Chamfer distance of ``x`` (N, D) or (B, N, D) and ``y`` (M, D) or (B, M, D): two means, summed.

    mean_x min_y ‖x − y‖² + mean_y min_x ‖x − y‖², without the squares where ``squared=False``. The neighbours
    are constants of the gradient, which is exact wherever they are unique. Raises as :func:`nearest`.

    >>> chamfer(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]])).value   # (9 + 4) / 2 + 4
    tensor(10.5000)
    """
    x_index, y_index = nearest(x, y).index, nearest(y, x).index
    x_to_y = _paired_distance(x, y, x_index, squared)
    y_to_x = _paired_distance(y, x, y_index, squared)
    return Chamfer(x_to_y.mean(-1) + y_to_x.mean(-1), x_to_y, y_to_x, x_index, y_index, squared)


def chamfer_matrix(X: Tensor, Y: Tensor, progress: Progress | None = None, workers: int | None = None) -> Tensor:
    """Squared Chamfer distances (S, R), float64, between the clouds of ``X`` (S, N, D) and ``Y`` (R, M, D).

    With ``chamfer_matrix(X, X)`` half of the work is saved. On the CPU each cloud gets one k-d tree, searched
    by ``workers`` threads (as many as PyTorch uses, unless given) in float64. Raises as :func:`nearest`.

    >>> X = torch.tensor([[[0.0], [1.0]], [[0.0], [3.0]]])
    >>> chamfer_matrix(X, X)
    tensor([[0.0000, 2.5000],
            [2.5000, 0.0000]], dtype=torch.float64)
    """
    _check_sets(X, Y)
    if X is Y:
        there = _one_way(X, _tracked(X, progress, len(X)), workers)
        return there + there.T
    total = len(X) + len(Y)
    there = _one_way(X, _tracked(Y, progress, total), workers)
    back = _one_way(Y, _tracked(X, progress, total, done=len(Y)), workers)
    return there + back.T


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
    _check_pair(x, y)
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
    _check_sets(X, Y)
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


def _one_way(X: Tensor, clouds: Iterable[Tensor], workers: int | None) -> Tensor:
    """Mean squared distance (S, R) from the points of X[s] to the r-th of ``clouds``; trees on the CPU."""
    if X.device.type != "cpu":
        return reference.one_way(X, clouds)
    points = _numpy(X).reshape(-1, X.shape[-1])
    means = []
    for cloud in clouds:
        distance, _ = cKDTree(_numpy(cloud)).query(points, workers=_threads(workers))
        means.append(np.square(distance).reshape(X.shape[:2]).mean(1))
    return torch.from_numpy(np.stack(means, axis=1))


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


def _check_pair(x: Tensor, y: Tensor) -> None:
    """Two clouds (N, D), (M, D), or two batches (B, N, D), (B, M, D)."""
    _check_clouds("x", x, (2, 3), "(N, D) or (B, N, D)")
    _check_clouds("y", y, (2, 3), "(M, D) or (B, M, D)")
    _check_fit("x", x, "y", y, x.shape[:-2] == y.shape[:-2])


def _check_sets(X: Tensor, Y: Tensor) -> None:
    """Two sets of clouds (S, N, D) and (R, M, D)."""
    _check_clouds("X", X, (3,), "(S, N, D)")
    _check_clouds("Y", Y, (3,), "(R, M, D)")
    _check_fit("X", X, "Y", Y, True)


def _check_clouds(name: str, clouds: Tensor, ndims: tuple[int, ...], expected: str) -> None:
    if not isinstance(clouds, Tensor):
        raise TypeError(f"{name} must be a tensor {expected}, got {type(clouds).__name__}")
    if clouds.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {clouds.dtype} {tuple(clouds.shape)}")
    if clouds.ndim not in ndims or 0 in clouds.shape:
        raise ValueError(f"{name} must be {expected} with at least one point, got {tuple(clouds.shape)}")
    if not clouds.isfinite().all():
        bad = clouds.numel() - int(clouds.isfinite().sum())
        raise ValueError(f"{name} {tuple(clouds.shape)} must be finite, got {bad} NaN or infinite coordinates")


def _check_fit(x_name: str, x: Tensor, y_name: str, y: Tensor, same_batch: bool) -> None:
    if not same_batch or x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"{x_name} and {y_name} must agree in batch and dimension, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if (x.dtype, x.device) != (y.dtype, y.device):
        raise ValueError(
            f"{x_name} and {y_name} must share dtype and device, "
            f"got {x.dtype} on {x.device} and {y.dtype} on {y.device}"
        )
