"""The moving batch normalisation that stands at the ends of PointFlow's flows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MovingBatchNorm"]


class MovingBatchNorm(nn.Module):
    """y = (x − m) / sqrt(v + 1e-4) · exp(w) + b, with m and v running statistics per axis.

    Training normalises with the statistics from *before* the step and then moves them by a tenth towards the
    batch's mean and unbiased variance, which are constants to autograd (PointFlow with ``bn_lag`` = 0). Statistics
    are taken per axis over all leading dimensions; the original mixes x, y and z on (B, N, 3) input (its issue 14).

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
            self._move(x.detach())
        return (x - mean) * torch.rsqrt(var + self.eps) * self.weight.exp() + self.bias

    def inverse(self, y: Tensor) -> Tensor:
        """y (…, D) towards the data."""
        return (y - self.bias) * (-self.weight).exp() * torch.sqrt(self.running_var + self.eps) + self.running_mean

    def log_det(self) -> Tensor:
        """log |det ∂y/∂x|, one number for all states: Σ (w − ½ log(v + 1e-4)).

        Taken with the statistics as they stand, so ask before :meth:`forward` moves them.
        """
        return (self.weight - 0.5 * torch.log(self.running_var + self.eps)).sum()

    @torch.no_grad()
    def _move(self, x: Tensor) -> None:
        x = x.reshape(-1, x.shape[-1])
        self.running_mean.lerp_(x.mean(0), self.momentum)
        if len(x) > 1:  # one state, such as the code of a last batch of one shape, has no variance
            self.running_var.lerp_(x.var(0), self.momentum)
