"""Matrix products on the CPU by oneDNN, which chooses its code by what the processor can do.

PyTorch's own float32 product is MKL's, which leaves AVX-512 unused on processors of other makers: on an AMD EPYC
(Zen 5) oneDNN's is 2.2 times as fast, and tanh in its epilogue costs at most about a quarter of ``torch.tanh``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["linear", "linear_no_grad", "outer", "served"]

# The operator that torch.compile calls; where a version of PyTorch or a processor lacks it, all is PyTorch's own.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def served(x: Tensor) -> bool:
    """Whether oneDNN takes the products of ``x``: on the CPU, in float32 or bfloat16."""
    types = (torch.float32, torch.bfloat16)
    return x.device.type == "cpu" and x.dtype in types and _ONEDNN


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x Wᵀ + b`` for x (N, I), W (O, I) and b (O,), differentiable: once where oneDNN serves.

    >>> linear(torch.ones(2, 3), torch.ones(1, 3), torch.tensor([-2.0]))
    tensor([[1.],
            [1.]])
    """
    return _Linear.apply(x, weight, bias) if served(x) else F.linear(x, weight, bias)


def linear_no_grad(x: Tensor, weight: Tensor, bias: Tensor | None = None, tanh: bool = False) -> Tensor:
    """:func:`linear` with no gradient, or its tanh."""
    if served(x) and 0 not in x.shape:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "tanh" if tanh else "none", [], "")
    out = F.linear(x, weight, bias)
    return out.tanh_() if tanh else out


def outer(a: Tensor, b: Tensor) -> Tensor:
    """Σₙ aₙ bₙᵀ (I, J) of a (N, I) and b (N, J), with no gradient."""
    if b.shape[1] < a.shape[1]:  # oneDNN is slow where the second factor is narrow
        return linear_no_grad(b.t(), a.t()).t()
    return linear_no_grad(a.t(), b.t())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor):
        ctx.save_for_backward(x, weight)
        return linear_no_grad(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        to_x = linear_no_grad(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        return to_x, outer(gradient, x), gradient.sum(0)
