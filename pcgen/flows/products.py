"""Matrix products on the CPU, by whichever of PyTorch's two libraries is faster there, MKL or oneDNN.

MKL leaves AVX-512 unused on processors of other makers: on an AMD EPYC (Zen 5) oneDNN's float32 product is 2.2 times
as fast, and tanh in its epilogue costs at most about a quarter of ``torch.tanh``. With AVX2 alone it is the other way
round: MKL's product comes nearer to what the processor can do, and oneDNN's tanh takes half as long as the product.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["linear", "linear_no_grad", "outer", "served"]

# Of processors with AVX2 alone, whichever make: there MKL leaves nothing unused.
_MKL = torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX2"
# The operator that torch.compile calls; where a version of PyTorch or a processor lacks it, all is PyTorch's own.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_ONEDNN_TYPES = [torch.float32] if _ONEDNN and not _MKL else []
if _ONEDNN and hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    _ONEDNN_TYPES.append(torch.bfloat16)


def served(x: Tensor) -> bool:
    """Whether these products are faster than autograd's own: on the CPU, in float32 or bfloat16."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and (_ONEDNN or _MKL)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x Wᵀ + b`` for x (N, I), W (O, I) and b (O,), differentiable: once where :func:`served`.

    >>> linear(torch.ones(2, 3), torch.ones(1, 3), torch.tensor([-2.0]))
    tensor([[1.],
            [1.]])
    """
    return _Linear.apply(x, weight, bias) if served(x) else F.linear(x, weight, bias)


def linear_no_grad(x: Tensor, weight: Tensor, bias: Tensor | None = None, tanh: bool = False) -> Tensor:
    """:func:`linear` with no gradient, or its tanh. Products of bfloat16 are summed in float32."""
    if not served(x) or 0 in x.shape:
        out = F.linear(x, weight, bias)
        return out.tanh_() if tanh else out
    if x.dtype in _ONEDNN_TYPES:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "tanh" if tanh else "none", [], "")
    if x.dtype == torch.bfloat16:  # a processor without such products: PyTorch's take seven times as long as float32's
        bias = None if bias is None else bias.float()
        return linear_no_grad(x.float(), weight.float(), bias, tanh).bfloat16()
    if not tanh:
        return F.linear(x, weight, bias)
    # tanh a = 2 σ(2a) − 1 takes a third of the time of torch.tanh, and errs by what a number near one is rounded by.
    doubled = 2 * F.linear(x, weight) if bias is None else torch.addmm(bias, x, weight.t(), beta=2, alpha=2)
    return doubled.sigmoid_().mul_(2).sub_(1)


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
