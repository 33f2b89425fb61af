"""Sinkhorn divergences between point clouds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pcgen.ops import gpu_sinkhorn, native, reference
from pcgen.ops.arguments import integer, number
from pcgen.ops.clouds import Clouds, batch_of, mean_over
from pcgen.ops.kernels import define, no_second_derivative
from pcgen.ops.matrix import Progress, tiled

__all__ = ["Backend", "sinkhorn", "sinkhorn_matrix"]

Backend = Literal["auto", "keops"]
Softmin = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]
TILE = 4  # clouds: a tile is one batch of 16 pairs, for which the points are copied


def sinkhorn(left: Clouds, right: Clouds, blur: float, power: int, scaling: float, backend: Backend) -> Tensor:
    """Debiased Sinkhorn divergence (B,) float64 of as many pairs of clouds with equal weights, of any two sizes.

    S_ε(a, b) = OT_ε(a, b) − ½ OT_ε(a, a) − ½ OT_ε(b, b) for the cost ‖x − y‖^p / p, p = ``power``, and ε = ``blur``^p
    (Feydy et al., Interpolating between Optimal Transport and MMD using Sinkhorn Divergences, AISTATS 2019). ``blur``
    is a length in the unit of the coordinates: as it goes to 0, S goes to the exact earth mover's distance. ε falls
    from the diameter of a pair to blur^p by the factor scaling^p from one symmetric, averaged update of the potentials
    to the next; a ``scaling`` nearer to 1 means more of them, and a better optimum. One more update at the end makes
    the gradient that of the divergence, the potentials being constant (ibid., section 3). Where p = 1, the tensorized
    backend of the authors' program (geomloss 0.3.1) counts distances below 1e-4 as 1e-4; here every distance counts.

    ``backend="keops"`` evaluates the soft minima with KeOps, for clouds so large that its GPU kernels are worth being
    compiled at first use. ``ImportError`` where it is not installed; ``ValueError`` for a blur that is not positive, a
    power other than 1 and 2, a scaling outside of (0, 1) or an unknown backend; ``TypeError`` for other types.
    """
    blur, power, scaling = _checked(blur, power, scaling, backend)
    x, x_spans, y, y_spans = *_neighbours_together(left), *_neighbours_together(right)
    return _divergence(x, x_spans, y, y_spans, blur, power, scaling, backend)


def sinkhorn_matrix(
    left: Clouds,
    right: Clouds,
    blur: float,
    power: int,
    scaling: float,
    backend: Backend,
    progress: Progress | None = None,
) -> Tensor:
    """:func:`sinkhorn` (S, R) of all left clouds with all right ones, one triangle where these are one set."""
    options = _checked(blur, power, scaling, backend)
    symmetric = left is right
    x = _neighbours_together(left)[0]
    y = x if symmetric else _neighbours_together(right)[0]
    every = _MATRIX if backend == "auto" else functools.partial(_matrix, backend=backend)

    def compute(x_spans: Tensor, y_spans: Tensor, _: bool) -> Tensor:
        return every(x, x_spans, y, y_spans, *options)

    with torch.no_grad():
        return tiled(left, right, compute, symmetric, TILE, progress)


def _checked(blur: float, power: int, scaling: float, backend: str) -> tuple[float, int, float]:
    blur, power, scaling = number("blur", blur), integer("power", power), number("scaling", scaling)
    if not 0 < blur < float("inf"):
        raise ValueError(f"blur must be a positive length, got {blur}")
    if power not in (1, 2):
        raise ValueError(f"power must be 1 or 2, got {power}")
    if not 0 < scaling < 1:
        raise ValueError(f"scaling must lie between 0 and 1, got {scaling}")
    if backend not in ("auto", "keops"):
        raise ValueError(f"backend must be auto or keops, got {backend!r}")
    return blur, power, scaling


def _matrix(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, *options, backend: str = "auto") -> Tensor:
    """Divergences (S, R) of all clouds of two sets, in one batch of S · R pairs."""
    left, right = x_spans.repeat_interleave(len(y_spans), 0), y_spans.repeat(len(x_spans), 1)
    values = _divergence(*_copied(x, left), *_copied(y, right), *options, backend)
    return values.reshape(len(x_spans), len(y_spans))


def _divergence(
    x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, blur: float, power: int, scaling: float, backend: str
) -> Tensor:
    clouds = x.detach(), x_spans, y.detach(), y_spans
    if backend == "keops":
        softmin: Softmin = _keops_softmin
        with torch.no_grad():
            potentials = _potentials(softmin, *clouds, blur, power, scaling)
    else:
        softmin, potentials = _SOFTMIN, _POTENTIALS(*clouds, blur, power, scaling)
    f, g, f_self, g_self = potentials
    eps = torch.full((len(x_spans),), blur**power, dtype=torch.float64, device=x.device)
    of_x, of_y = (eps, power, _log_weights(x, x_spans)), (eps, power, _log_weights(y, y_spans))
    # The last update, and the only one with a gradient: of the points whose potential it is, the others being constant.
    there = _update(softmin, x, *clouds[1:], g, *of_y) - _update(softmin, x, x_spans, *clouds[:2], f_self, *of_x)
    back = _update(softmin, y, y_spans, *clouds[:2], f, *of_x) - _update(
        softmin, y, y_spans, *clouds[2:], g_self, *of_y
    )
    return mean_over(there.double(), x_spans) + mean_over(back.double(), y_spans)


def _potentials(
    softmin: Softmin, x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, blur: float, power: int, scaling: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Potentials of (x, y), of (y, x), of (x, x) and of (y, y) after the whole descent of ε."""
    diameters = _diameters(x, x_spans, y, y_spans).clamp_min(blur)
    diameters = torch.where(diameters.isfinite(), diameters, blur)  # the potentials will be NaN
    # The diameter comes three times, as in the authors' program, whose values these are where nothing has converged:
    # first to replace potentials that are zero.
    steps = ((diameters / blur).log() / -torch.tensor(scaling, dtype=torch.float64).log()).ceil() + 2
    a, b = _log_weights(x, x_spans), _log_weights(y, y_spans)
    x_batch, y_batch = batch_of(x_spans, len(x))[0], batch_of(y_spans, len(y))[0]
    f, g, f_self, g_self = x.new_zeros(len(x)), y.new_zeros(len(y)), x.new_zeros(len(x)), y.new_zeros(len(y))
    for step in range(int(steps.max()) + 1):
        eps = torch.where(step < steps, diameters * scaling ** max(0, step - 2), blur) ** power
        updated = (
            _update(softmin, x, x_spans, y, y_spans, g, eps, power, b),
            _update(softmin, y, y_spans, x, x_spans, f, eps, power, a),
            _update(softmin, x, x_spans, x, x_spans, f_self, eps, power, a),
            _update(softmin, y, y_spans, y, y_spans, g_self, eps, power, b),
        )
        # A pair that has arrived stays, so that it does not depend on the others of the batch.
        x_share, y_share = ((step <= steps)[batch] * (1.0 if step == 0 else 0.5) for batch in (x_batch, y_batch))
        shares = x_share, y_share, x_share, y_share
        f, g, f_self, g_self = (
            torch.lerp(old, new, share.to(old.dtype))
            for old, new, share in zip((f, g, f_self, g_self), updated, shares)
        )
    return f, g, f_self, g_self


def _update(
    softmin: Softmin,
    x: Tensor,
    x_spans: Tensor,
    y: Tensor,
    y_spans: Tensor,
    potential: Tensor,
    eps: Tensor,
    power: int,
    log_weights: Tensor,
) -> Tensor:
    """The potential of x that is best for the given one of y."""
    h = log_weights + potential / eps[batch_of(y_spans, len(y))[0]].to(y.dtype)
    return softmin(x, x_spans, y, y_spans, h, eps, power)


def _log_weights(x: Tensor, spans: Tensor) -> Tensor:
    """log 1/n (rows,) for a cloud of n points."""
    return -spans[:, 1].double().log()[batch_of(spans, len(x))[0]].to(x.dtype)


def _diameters(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor) -> Tensor:
    """The diagonals (B,) of the boxes around each two clouds."""
    boxes = [
        torch.cat([x[s : s + n], y[t : t + m]]).double().aminmax(dim=0)
        for (s, n), (t, m) in zip(x_spans.tolist(), y_spans.tolist())
    ]
    return torch.stack([(box.max - box.min).norm() for box in boxes])


def _neighbours_together(clouds: Clouds) -> tuple[Tensor, Tensor]:
    """Points (differentiable) and spans with the rows of each cloud along a Morton curve, padding behind."""
    points, spans = clouds.points, clouds.spans
    x = points.detach()[:, :3].nan_to_num(0.0, 0.0, 0.0)
    low, high = x.aminmax(dim=0)
    cells = ((x - low) / (high - low).clamp_min(1e-30) * 1023).long().clamp(0, 1023)
    bits = (cells[:, :, None] >> torch.arange(10, device=x.device)) & 1  # (rows, D, 10)
    places = torch.arange(10, device=x.device) * x.shape[1] + torch.arange(x.shape[1], device=x.device)[:, None]
    batch, inside = batch_of(spans, len(x))
    order = ((batch * 2 + ~inside << 30) + (bits << places).sum((1, 2))).argsort(stable=True)
    return points[order], spans


def _copied(x: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
    """The clouds of these spans one after the other, each as often as it is named."""
    counts = spans[:, 1]
    ends = counts.cumsum(0)
    rows = torch.arange(int(ends[-1]), device=x.device) + (spans[:, 0] - ends + counts).repeat_interleave(counts)
    return x[rows], torch.stack([ends - counts, counts], 1)


def _keops_softmin(
    x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, h: Tensor, eps: Tensor, power: int
) -> Tensor:
    try:
        from pykeops.torch import LazyTensor
    except ImportError as error:
        raise ImportError("backend='keops' needs pykeops and a C++ compiler: pip install pykeops") from error
    out = torch.zeros_like(x[:, 0])
    for (s, n), (t, m), e in zip(x_spans.tolist(), y_spans.tolist(), eps.tolist()):
        points, others = LazyTensor(x[s : s + n, None, :]), LazyTensor(y[None, t : t + m, :])
        squares = ((points - others) ** 2).sum(-1)
        scores = LazyTensor(h[None, t : t + m, None]) - (squares.sqrt() if power == 1 else squares / 2) / e
        out = out.slice_scatter(-e * scores.logsumexp(dim=1)[:, 0], start=s, end=s + n)
    return out


def _shapes(x: Tensor, *_) -> Tensor:
    return x.new_empty(len(x))


def _pull_shapes(x: Tensor, *_) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x)), torch.empty_like(x)


def _potential_shapes(x: Tensor, x_spans: Tensor, y: Tensor, *_) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(len(x)), y.new_empty(len(y)), x.new_empty(len(x)), y.new_empty(len(y))


def _matrix_shapes(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, *_) -> Tensor:
    return x.new_empty(len(x_spans), len(y_spans), dtype=torch.float64)


def _cpu(x: Tensor, x_spans: Tensor, y: Tensor, y_spans: Tensor, h: Tensor, eps: Tensor, power: int) -> Tensor:
    out = torch.zeros_like(x[:, 0])
    native.call_on("softmin", x, x_spans, y, y_spans, h, eps, len(x_spans), power, out)
    return out


def _cpu_pull(
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
    mass, pull = torch.zeros_like(x[:, 0]), torch.zeros_like(x)
    rows = x, x_spans, a.contiguous(), y, y_spans, h.contiguous(), w.contiguous()
    native.call_on("softmin_pull", *rows, eps, len(x_spans), power, mass, pull)
    return mass, pull


def _saved(ctx, inputs, output) -> None:
    *tensors, ctx.power = inputs
    ctx.save_for_backward(*tensors, output)


def _backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, x_spans, y, y_spans, h, eps, out = ctx.saved_tensors
    needs_x, _, needs_y, _, needs_h, *_ = ctx.needs_input_grad
    of_x = of_y = of_h = None
    a = out / eps[batch_of(x_spans, len(x))[0]].to(x.dtype)
    if needs_x:
        ones = torch.ones_like(h)
        of_x = gradient[:, None] * _PULL(x, x_spans, a, y, y_spans, h, ones, eps, ctx.power)[1]
    if needs_y or needs_h:
        mass, of_y = _PULL(y, y_spans, h, x, x_spans, a, gradient, eps, ctx.power)
        of_h = -eps[batch_of(y_spans, len(y))[0]].to(h.dtype) * mass
    return of_x, None, of_y, None, of_h, None, None


_SIGNATURE = "Tensor x, Tensor x_spans, Tensor y, Tensor y_spans"
_SOFTMIN = define(
    f"softmin({_SIGNATURE}, Tensor h, Tensor eps, int power) -> Tensor",
    reference.softmin,
    _shapes,
    cpu=_cpu,
    cuda=gpu_sinkhorn.softmin,
    backward=_backward,
    saved=_saved,
)
_PULL = define(
    "softmin_pull(Tensor x, Tensor x_spans, Tensor a, Tensor y, Tensor y_spans, Tensor h, Tensor w, Tensor eps, "
    "int power) -> (Tensor, Tensor)",
    reference.softmin_pull,
    _pull_shapes,
    cpu=_cpu_pull,
    cuda=gpu_sinkhorn.softmin_pull,
    **no_second_derivative("a Sinkhorn divergence"),
)
# One operation for all iterations: their number depends on values, at which torch.compile does not look.
_POTENTIALS = define(
    f"sinkhorn_potentials({_SIGNATURE}, float blur, int power, float scaling) -> (Tensor, Tensor, Tensor, Tensor)",
    lambda *arguments: _potentials(_SOFTMIN, *arguments),
    _potential_shapes,
)
# The same holds of the number of rows that are copied.
_MATRIX = define(
    f"sinkhorn_matrix({_SIGNATURE}, float blur, int power, float scaling) -> Tensor",
    _matrix,
    _matrix_shapes,
)
