"""Batch normalisation: the moving one at the ends of PointFlow's flows, the usual one, both over several processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["BatchNorm", "Moments", "MovingBatchNorm", "batch_moments", "one_batch"]

# How much this process's rows count in the statistics of all processes; None: it works by itself.
_weight: ContextVar[float | None] = ContextVar("weight", default=None)


@contextlib.contextmanager
def one_batch(weight: float = 1.0) -> Iterator[None]:
    """Inside, norms that train take what all processes of ``torch.distributed`` hold for one batch.

    Every process must enter it, and call the same norms in the same order. ``weight`` is 1, or 0 for a process whose
    rows only stand in for missing ones: they are normalised as the others are and count for nothing.
    """
    token = _weight.set(weight)
    try:
        yield
    finally:
        _weight.reset(token)


class Moments(NamedTuple):
    """Of the rows of a batch."""

    count: Tensor  # () float64
    mean: Tensor  # (D,)
    var: Tensor  # (D,) biased


def batch_moments(x: Tensor) -> Moments:
    """Moments of x (n, D), inside :func:`one_batch` those of the rows of all processes (Chan et al. 1979, eq. 2.1).

    >>> count, mean, var = batch_moments(torch.tensor([[1.0], [3.0]]))
    >>> float(count), float(mean), float(var)
    (2.0, 2.0, 1.0)
    """
    mean = x.mean(0)
    var = (x - mean).square_().mean(0)  # six times as fast on a CPU as torch.var_mean along the rows
    weight = _weight.get()
    count = torch.tensor(len(x) if weight is None else weight * len(x), dtype=torch.float64, device=x.device)
    if weight is None:
        return Moments(count, mean, var)
    own = torch.cat([count[None], mean, var])  # in float64
    gathered = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, own)
    every = torch.stack(gathered)
    counts, means, variances = every.split([1, len(mean), len(mean)], 1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    var = (counts * (variances + (means - mean).square())).sum(0) / count
    return Moments(count, mean.to(x.dtype), var.to(x.dtype))


def _track(running_mean: Tensor, running_var: Tensor, moments: Moments, momentum: float) -> None:
    """Move running statistics towards those of a batch, the variance towards the unbiased one."""
    running_mean.lerp_(moments.mean, momentum)
    # One row, such as the code of a last batch of one shape, has no variance: what is there stays.
    unbiased = moments.var * (moments.count / (moments.count - 1)).to(moments.var.dtype)
    running_var.copy_(torch.where(moments.count > 1, running_var.lerp(unbiased, momentum), running_var))


class MovingBatchNorm(nn.Module):
    """y = (x − m) / sqrt(v + 1e-4) · exp(w) + b, with m and v running statistics per axis.

    Training normalises with the statistics from *before* the step and then moves them by a tenth towards the
    batch's mean and unbiased variance, which are constants to autograd (PointFlow with ``bn_lag`` = 0). Statistics
    are taken per axis over all leading dimensions, and inside :func:`one_batch` over all processes; the original mixes
    x, y and z on (B, N, 3) input (its issue 14).

    ``frozen`` makes it a fixed affine map: no statistics move, and ``weight`` and ``bias`` do not train.
    """

    eps = 1e-4
    momentum = 0.1

    def __init__(self, dim: int, frozen: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim), requires_grad=not frozen)
        self.bias = nn.Parameter(torch.zeros(dim), requires_grad=not frozen)
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))
        self.frozen = frozen

    def forward(self, x: Tensor) -> Tensor:
        """x (…, D) towards the prior."""
        mean, var = self.running_mean.clone(), self.running_var.clone()
        if self.training and not self.frozen:
            with torch.no_grad():
                _track(self.running_mean, self.running_var, batch_moments(x.reshape(-1, x.shape[-1])), self.momentum)
        return (x - mean) * torch.rsqrt(var + self.eps) * self.weight.exp() + self.bias

    def inverse(self, y: Tensor) -> Tensor:
        """y (…, D) towards the data."""
        return (y - self.bias) * (-self.weight).exp() * torch.sqrt(self.running_var + self.eps) + self.running_mean

    def log_det(self) -> Tensor:
        """log |det ∂y/∂x|, one number for all states: Σ (w − ½ log(v + 1e-4)).

        Taken with the statistics as they stand, so ask before :meth:`forward` moves them.
        """
        return (self.weight - 0.5 * torch.log(self.running_var + self.eps)).sum()


class BatchNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` on (n, D), with the rows of all processes for one batch inside :func:`one_batch`.

    PyTorch's ``SyncBatchNorm`` does the same on CUDA alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (n, D), normalised."""
        if not self.training or _weight.get() is None:
            return super().forward(x)
        with torch.no_grad():
            moments = batch_moments(x)
            _track(self.running_mean, self.running_var, moments, self.momentum)
            self.num_batches_tracked += 1
        return _Normalise.apply(x, self.weight, self.bias, moments, self.eps)


class _Normalise(torch.autograd.Function):
    """Normalisation by the moments of rows of which these are a part.

    The gradient is that of statistics held fixed, less what flows through them: with x̂ = (x − m) r, r = 1/√(v + ε),
    and sums over the n rows of all processes, ∂L/∂x = w r (∂L/∂y − (Σ ∂L/∂y + x̂ Σ ∂L/∂y x̂) / n).
    """

    @staticmethod
    def forward(ctx, x, weight, bias, moments: Moments, eps: float):
        ctx.save_for_backward(x, weight, *moments)
        ctx.eps, ctx.share = eps, _weight.get()
        return torch.nn.functional.batch_norm(x, moments.mean, moments.var, weight, bias, False, 0.0, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, weight, count, mean, var = ctx.saved_tensors
        fixed = (dy.contiguous(), x, weight, mean, var, None, None, False, ctx.eps, (True, True, True))
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(*fixed)
        sums = torch.stack([dbias, dweight])  # Σ ∂L/∂y and Σ ∂L/∂y x̂ of these rows
        torch.distributed.all_reduce(sums)
        r = torch.rsqrt(var + ctx.eps)
        along, across = (-ctx.share / count).to(dy.dtype) * weight * r * sums
        dx.addcmul_(x, across * r).add_(along - across * r * mean)
        return dx, dweight, dbias, None, None
