"""Earth mover's distances between point clouds."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor

from pcgen.ops.annealed import annealed, annealed_matrix
from pcgen.ops.arguments import flag, number
from pcgen.ops.clouds import Clouds, check_pair, clouds
from pcgen.ops.exact import exact, exact_matrix
from pcgen.ops.matrix import Progress, sets_of_clouds
from pcgen.ops.sinkhorn import Backend, sinkhorn, sinkhorn_matrix

__all__ = ["Emd", "EmdMatrix", "EmdVariant", "emd", "emd_matrix"]

EmdVariant = Literal["exact", "pointflow", "pvd", "sinkhorn"]


class Emd(NamedTuple):
    """An earth mover's distance and, where there is one, its plan and the proof that no plan is better."""

    value: Tensor  # () or (B,), differentiable
    assignment: Tensor | None  # (..., N) int64, exact: x[i] goes to y[assignment[i]]; −1 for padding
    dual: Tensor | None  # () or (B,) float64, exact: no assignment costs less
    gap: Tensor | None  # () or (B,) float64, exact: value − dual ≥ 0, before the value is rounded to its type
    moved: Tensor | None  # () or (B,) float64, annealed: share of the mass of x that is moved


class EmdMatrix(NamedTuple):
    """Earth mover's distances between all clouds of two sets."""

    value: Tensor  # (S, R) float64, [s, r] with X[s] on the left
    dual: Tensor | None  # (S, R) float64, exact: no assignment costs less
    moved: Tensor | None  # (S, R) float64, annealed: share of the mass of X[s] that is moved


def emd(
    x: Tensor,
    y: Tensor,
    variant: EmdVariant = "exact",
    *,
    squared: bool = False,
    tolerance: float = 0.0,
    blur: float = 0.01,
    power: int = 1,
    scaling: float = 0.5,
    backend: Backend = "auto",
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_offsets: Tensor | None = None,
    y_offsets: Tensor | None = None,
    validate: bool = True,
) -> Emd:
    """Earth mover's distance of ``x`` (N, D) or (B, N, D) and ``y`` (M, D) or (B, M, D), in one of four senses.

    ``"exact"`` (N = M) is the mean Euclidean distance, or squared distance where ``squared``, under the optimal
    one-to-one assignment, any of several. It comes with its certificate: ``dual``, a lower bound from the linear
    program's dual, evaluated in float64 over all pairs whatever the way to the prices was (Villani, Topics in Optimal
    Transportation, 2003, chapter 1), and ``gap``. The search stops once gap ≤ ``tolerance`` · value is proven; 0 means
    optimal but for rounding. It runs on the CPU, one thread to a pair, for about half a kilobyte a point; where nothing
    is compiled, and in more than three dimensions, SciPy does it with some 32 N² bytes.

    ``"pointflow"`` and ``"pvd"`` are the annealed approximations of the published evaluations, asymmetric; ``"pvd"``
    pays squared distances, see :func:`pcgen.ops.annealed.annealed`. ``"sinkhorn"`` is the debiased divergence with
    ``blur``, ``power``, ``scaling`` and ``backend``, see :func:`pcgen.ops.sinkhorn.sinkhorn`.

    The plan is constant in the gradient, which is 0 where matched points coincide. Batches as in
    :func:`pcgen.ops.nearest`, whose errors are raised, and ``ValueError`` for an unknown variant, exact distances or
    annealed gradients of clouds of unequal size, a tolerance that is negative or not a number, and options of another
    variant; ``TypeError`` for options of another type; ``MemoryError`` where memory does not suffice.

    >>> import torch
    >>> found = emd(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.5], [0.0]]))
    >>> found.value, found.assignment, found.dual
    (tensor(0.2500), tensor([1, 0]), tensor(0.2500, dtype=torch.float64))
    """
    left, right = clouds("x", x, x_lengths, x_offsets, validate), clouds("y", y, y_lengths, y_offsets, validate)
    check_pair(left, right)
    squared, tolerance = _check(variant, squared, tolerance, (blur, power, scaling, backend))
    if variant == "exact":
        value, dual, assignment = exact(left, right, squared, tolerance)
        gap = value.detach() - dual
        return Emd(_of(left, value), left.like_points(assignment), _one(left, dual), _one(left, gap), None)
    if variant == "sinkhorn":
        return Emd(_of(left, sinkhorn(left, right, blur, power, scaling, backend)), None, None, None, None)
    value, moved = annealed(left, right, variant)
    return Emd(_of(left, value), None, None, None, _one(left, moved))


def emd_matrix(
    X: Tensor,
    Y: Tensor,
    variant: EmdVariant = "exact",
    progress: Progress | None = None,
    *,
    squared: bool = False,
    tolerance: float = 0.0,
    blur: float = 0.01,
    power: int = 1,
    scaling: float = 0.5,
    backend: Backend = "auto",
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_offsets: Tensor | None = None,
    y_offsets: Tensor | None = None,
    validate: bool = True,
) -> EmdMatrix:
    """Earth mover's distances between all clouds of ``X`` (S, N, D), left, and ``Y`` (R, M, D), right; see :func:`emd`.

    ``emd_matrix(X, X)`` computes one triangle of the exact and the Sinkhorn distances; the annealed ones are
    asymmetric, and all S × R are computed. There is no gradient. ``progress(done, total)`` is called as the work goes
    on. Raises as :func:`emd`.

    >>> import torch
    >>> X = torch.tensor([[[0.0], [1.0]], [[1.0], [3.0]]])
    >>> emd_matrix(X, X).value
    tensor([[0.0000, 1.5000],
            [1.5000, 0.0000]], dtype=torch.float64)
    """
    left, right = sets_of_clouds(X, Y, x_lengths, y_lengths, x_offsets, y_offsets, validate)
    squared, tolerance = _check(variant, squared, tolerance, (blur, power, scaling, backend))
    if variant == "exact":
        value, dual, _ = exact_matrix(left, right, squared, tolerance, progress)
        return EmdMatrix(value, dual, None)
    if variant == "sinkhorn":
        value = sinkhorn_matrix(left, right, blur, power, scaling, backend, progress)
        return EmdMatrix(value, None, None)
    value, moved = annealed_matrix(left, right, variant, progress)
    return EmdMatrix(value, None, moved)


_SINKHORN_DEFAULTS = tuple(emd.__kwdefaults__[name] for name in ("blur", "power", "scaling", "backend"))


def _check(variant: str, squared: bool, tolerance: float, sinkhorn_options: tuple) -> tuple[bool, float]:
    if variant not in get_args(EmdVariant):
        raise ValueError(f"variant must be one of {', '.join(get_args(EmdVariant))}, got {variant!r}")
    squared, tolerance = flag("squared", squared), number("tolerance", tolerance)
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance must be a relative gap of at least 0, got {tolerance}")
    if variant != "exact" and (squared or tolerance):
        raise ValueError(f"squared and tolerance belong to the exact EMD, got {squared}, {tolerance} for {variant!r}")
    if variant != "sinkhorn" and sinkhorn_options != _SINKHORN_DEFAULTS:
        raise ValueError(
            f"blur, power, scaling and backend belong to sinkhorn, got {sinkhorn_options} for {variant!r}, "
            f"expected the defaults {_SINKHORN_DEFAULTS}"
        )
    return squared, tolerance


def _one(side: Clouds, values: Tensor) -> Tensor:
    """(B,) as it is for a batch, () for a single cloud."""
    return values if side.batched else values[0]


def _of(side: Clouds, values: Tensor) -> Tensor:
    return _one(side, values).to(side.points.dtype)
