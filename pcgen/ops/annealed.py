"""The annealed earth mover's distances of the published evaluations, ``pointflow`` and ``pvd``."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pcgen.ops import gpu_annealed, native, reference
from pcgen.ops.clouds import Clouds, check_sizes
from pcgen.ops.kernels import define, no_second_derivative
from pcgen.ops.matrix import Progress, tiled

__all__ = ["Annealed", "Variant", "annealed", "annealed_matrix"]

Variant = Literal["pointflow", "pvd"]
TILE = 8  # clouds: at 2048 points some 0.6 s between two calls of `progress`
CUDA_TILE = 16  # enough pairs to fill a device


class Annealed(NamedTuple):
    """The cost of an annealed plan and how much it moves."""

    value: Tensor  # (B,) or (S, R) float64, Σ mass · cost / number of points on the left
    moved: Tensor  # (B,) or (S, R) float64, share of the left mass that the plan moves


def annealed(left: Clouds, right: Clouds, variant: Variant) -> Annealed:
    """Annealed earth mover's distances of as many pairs, the left clouds playing the part that moves.

    See :func:`pcgen.ops.reference.annealed` for the definition and its sources. ``"pointflow"`` pays the Euclidean
    distance and may leave mass where it is; ``"pvd"`` has a last level λ = 0 and pays the *squared* distance. Levels
    have an absolute length: both were made for shapes about one unit long.

    ``value`` is differentiable, the plan being constant, for clouds of equal size; ``ValueError`` where a gradient is
    asked for and sizes differ. float32 clouds are computed with float32 kernels and float64 masses and totals, within
    1e-5 of the float64 definition; of a cloud and itself, where hardly anything moves, within 1e-9 of the longest
    distance (squared for ``"pvd"``).
    """
    x, y = left.points, right.points
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        check_sizes(left, right, "the gradient of an annealed EMD")
    return Annealed(*_ANNEALED(x, left.spans, y, right.spans, variant == "pvd")[:2])


def annealed_matrix(left: Clouds, right: Clouds, variant: Variant, progress: Progress | None = None) -> Annealed:
    """:func:`annealed` of all left clouds with all right ones, (S, R) each, without a gradient.

    All S × R are computed, also where both sides are one set: the annealing is not symmetric.
    """

    def compute(x_spans: Tensor, y_spans: Tensor, _: bool) -> Tensor:
        x, y = left.points.detach(), right.points.detach()
        return torch.stack(_MATRIX(x, x_spans, y, y_spans, variant == "pvd"))

    return Annealed(*tiled(left, right, compute, False, CUDA_TILE if left.points.is_cuda else TILE, progress))


def _levels(squared: bool) -> int:
    return len(reference.ANNEALING["pvd" if squared else "pointflow"])


def _shapes(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool):
    value, moved = (x.new_empty(len(x_spans), dtype=torch.float64) for _ in range(2))
    return value, moved, x.new_empty(_levels(squared), len(x)), y.new_empty(_levels(squared), len(y))


def _matrix_shapes(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    value, moved = (x.new_empty(len(x_spans), len(y_spans), dtype=torch.float64) for _ in range(2))
    return value, moved


def _gradient_shapes(x: Tensor, x_spans: Tensor, y: Tensor, *_) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(y)


def _cpu(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool):
    value, moved, x_ratio, y_ratio = _shapes(x, x_spans, y, y_spans, squared)
    ratios = x_ratio.zero_(), y_ratio.zero_()  # of padding
    native.call_on("annealed", x, x_spans, len(x), y, y_spans, len(y), len(x_spans), squared, value, moved, *ratios)
    return value, moved, *ratios


def _cpu_gradient(
    x: Tensor,
    x_spans: Tensor,
    y: Tensor,
    y_spans: Tensor,
    squared: bool,
    x_ratio: Tensor,
    y_ratio: Tensor,
    gradient: Tensor,
) -> tuple[Tensor, Tensor]:
    of_x, of_y = torch.zeros_like(x), torch.zeros_like(y)
    given = x_ratio.contiguous(), y_ratio.contiguous(), gradient.contiguous()
    pairs = x, x_spans, len(x), y, y_spans, len(y), len(x_spans)
    native.call_on("annealed_gradient", *pairs, squared, *given, of_x, of_y)
    return of_x, of_y


def _cpu_matrix(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    value, moved = _matrix_shapes(x, x_spans, y, y_spans, squared)
    native.call_on("annealed_matrix", x, x_spans, len(x_spans), y, y_spans, len(y_spans), squared, value, moved)
    return value, moved


def _saved(ctx, inputs, output) -> None:
    x, x_spans, y, y_spans, ctx.squared = inputs
    ctx.save_for_backward(x, x_spans, y, y_spans, *output[2:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, gradient: Tensor, *_) -> tuple[Tensor | None, ...]:
    x, x_spans, y, y_spans, *ratios = ctx.saved_tensors
    of_x, of_y = _GRADIENT(x, x_spans, y, y_spans, ctx.squared, *ratios, gradient)
    return of_x, None, of_y, None, None


_SIGNATURE = "Tensor x, Tensor x_spans, Tensor y, Tensor y_spans, bool squared"
_ANNEALED = define(
    f"annealed({_SIGNATURE}) -> (Tensor, Tensor, Tensor, Tensor)",
    reference.annealed,
    _shapes,
    cpu=_cpu,
    cuda=gpu_annealed.annealed,
    backward=_backward,
    saved=_saved,
)
_GRADIENT = define(
    f"annealed_gradient({_SIGNATURE}, Tensor x_ratio, Tensor y_ratio, Tensor gradient) -> (Tensor, Tensor)",
    reference.annealed_gradient,
    _gradient_shapes,
    cpu=_cpu_gradient,
    cuda=gpu_annealed.annealed_gradient,
    **no_second_derivative("an annealed EMD"),
)
_MATRIX = define(
    f"annealed_matrix({_SIGNATURE}) -> (Tensor, Tensor)",
    reference.annealed_matrix,
    _matrix_shapes,
    cpu=_cpu_matrix,
    cuda=gpu_annealed.annealed_matrix,
)
