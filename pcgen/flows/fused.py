"""The velocity of tanh networks and its derivative along tangents, forward and backward by hand, shape by shape.

A gate belongs to a shape, so it is multiplied into the weights, and its layer is one product with tanh in the
epilogue: tanh((g W) x + (g b + s)). The backward pass needs the outputs alone, since tanh′ = 1 − h², and finds the
gradient of a gate in that of its shape's weights, g·∂L/∂g = Σ (g W) ∘ ∂L/∂(g W), so nothing is kept from before it.
Products and activations of a shape stay in the cache from one to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.flows.layers import Modulation, VelocityNet, features
from pcgen.flows.products import linear_no_grad, outer, served

__all__ = ["infer", "pays", "velocity"]

POINTS_PER_THREAD = 512  # at once in `infer`
FEWEST_POINTS = 128  # of a shape: below, multiplying its gates into the weights costs more than it saves


class Folded(NamedTuple):
    """One layer as it acts on one shape: W x + b with gate and shift multiplied in."""

    weight: Tensor  # (O, I)
    bias: Tensor  # (O,)


def _folded(weight: Tensor, bias: Tensor, gate: Tensor | None, shift: Tensor | None) -> Folded:
    """(W x + b)·g + s as one affine map; gate and shift (O,)."""
    if gate is not None:
        weight, bias = weight * gate[:, None], bias * gate
    return Folded(weight, bias if shift is None else bias + shift)


def pays(net: VelocityNet, x: Tensor) -> bool:
    """Whether these functions are faster than ``net`` at states x (B, N, D)."""
    return isinstance(net, VelocityNet) and net.nonlinearity == "tanh" and served(x) and x.shape[1] >= FEWEST_POINTS


def velocity(
    net: VelocityNet,
    t: Tensor,
    x: Tensor,
    modulation: Modulation,
    tangents: Tensor | None = None,
    hidden: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Velocity (B, N, D), and its derivatives along tangents (K, B, N, D) if there are any; differentiable once.

    ``hidden`` is the type of the products between hidden layers, of what is kept between them and of the gradients
    that pass there, accumulated in float32. The first and last layers, a hundredth of the work, keep the type of x: a
    rounded coordinate would move the point.

    >>> net = VelocityNet(3, (8, 8), context=4)
    >>> x, modulation, t = torch.randn(2, 5, 3), net.modulation(torch.ones(2, 4)), torch.tensor(0.1)
    >>> torch.allclose(velocity(net, t, x, modulation)[0], net(t, x, modulation), atol=1e-6)
    True
    """
    return _Velocity.apply(*features(x, tangents, net.frequencies), hidden, *_arguments(net, t, modulation))


def infer(
    net: VelocityNet,
    t: Tensor,
    x: Tensor,
    modulation: Modulation,
    tangents: Tensor | None = None,
    hidden: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """:func:`velocity` with no gradient, a few hundred points at a time: activations never leave the cache."""
    arguments = _arguments(net, t, modulation)
    v, jv = torch.empty_like(x), None if tangents is None else x.new_empty(tangents.shape)
    block = POINTS_PER_THREAD * torch.get_num_threads()
    for row in range(len(x)):
        layers = _of_shape(row, arguments, hidden)
        for start in range(0, x.shape[1], block):
            part = slice(start, start + block)
            seen = features(x[row, part], None if tangents is None else tangents[:, row, part], net.frequencies)
            out = _carry(layers, *seen)[-1]
            v[row, part] = out.h
            if jv is not None:
                jv[:, row, part] = out.p
    return v, jv


def _arguments(net: VelocityNet, t: Tensor, modulation: Modulation) -> list[Tensor | None]:
    """(W, b, gate (B or 1, O), shift) of each layer, one after the other."""
    layers = []
    for i, layer in enumerate(net.layers):
        gate, shift = (m if m is None else m.squeeze(-2) for m in net.modulate(t, modulation, i))
        layers += [layer.linear.weight, layer.linear.bias, gate, shift]
    return layers


def _of_shape(row: int, layers: Sequence[Tensor | None], hidden: torch.dtype | None) -> list[Folded]:
    """The layers of one shape, those between hidden ones in their type; a modulation with one row is all shapes'."""

    def own(m: Tensor | None) -> Tensor | None:
        return m if m is None else m[row if len(m) > 1 else 0]

    found = [_folded(*layers[i : i + 2], own(layers[i + 2]), own(layers[i + 3])) for i in range(0, len(layers), 4)]
    if hidden is not None:
        found[1:-1] = (Folded(weight.to(hidden), bias.to(hidden)) for weight, bias in found[1:-1])
    return found


class _Velocity(torch.autograd.Function):
    """Inputs x (B, N, I), their tangents (K, B, N, I) or None, and (W, b, gate (B or 1, O), shift) of each layer."""

    @staticmethod
    def forward(ctx, x: Tensor, tangents: Tensor | None, hidden: torch.dtype | None, *layers: Tensor | None):
        outputs = len(layers[-4])
        v = x.new_empty(*x.shape[:-1], outputs)
        jv = None if tangents is None else x.new_empty(*tangents.shape[:-1], outputs)
        tape = []
        for row in range(len(x)):
            kept = _carry(_of_shape(row, layers, hidden), x[row], None if jv is None else tangents[:, row])
            v[row] = kept[-1].h
            if jv is not None:
                jv[:, row] = kept[-1].p
            tape += [tensor for each in kept[1:-1] for tensor in each]
        ctx.inputs = len(layers) + 2
        ctx.save_for_backward(x, tangents, *layers, *tape)
        return v, jv

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, of_v: Tensor, of_jv: Tensor | None):
        saved = ctx.saved_tensors  # once: a checkpoint is recomputed for each look
        (x, tangents, *layers), tape = saved[: ctx.inputs], saved[ctx.inputs :]
        hidden = 2 * (len(layers) // 4 - 2)  # tensors on tape for each shape
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_tangents = torch.empty_like(tangents) if ctx.needs_input_grad[1] else None
        grads = [None if p is None else torch.zeros_like(p) for p in layers]
        for row in range(len(x)):
            u = None if tangents is None else tangents[:, row]
            first = _carry(_of_shape(row, layers[:4], None), x[row], u, last=False)
            kept = first + [_Kept(*tape[i : i + 2]) for i in range(row * hidden, (row + 1) * hidden, 2)]
            da, dp = of_v[row], None if u is None else of_jv[:, row]
            for i in reversed(range(len(kept))):
                da, dp = _pull_back(row, layers, grads, i + 1, da, dp, kept[i])
            weight = _unfold(row, layers, grads, 0, _outer(da, x[row], dp, u), da.sum(0))
            if of_x is not None:
                of_x[row] = linear_no_grad(da, weight.t())
            if of_tangents is not None:
                of_tangents[:, row] = _product(dp, weight.t())
        return of_x, of_tangents, None, *grads


class _Kept(NamedTuple):
    """What the backward pass needs of a layer's output."""

    h: Tensor  # (N, O) tanh(a), or a of the last layer
    p: Tensor | None  # (K, N, O) the derivatives of a along the tangents


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return linear_no_grad(x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], len(weight))


def _carry(layers: Sequence[Folded], x: Tensor, u: Tensor | None, last: bool = True) -> list[_Kept]:
    """Through these layers, the last of all among them or not."""
    kept = []
    for i, (weight, bias) in enumerate(layers, 1 - len(layers)):
        ends = last and i == 0
        h = linear_no_grad(x.to(weight.dtype), weight, bias, tanh=not ends)
        p = None if u is None else _product(u.to(weight.dtype), weight)
        kept.append(_Kept(h, p))
        x, u = h, None if u is None or i == 0 else p * _slope(h)
    return kept


def _pull_back(
    row: int, layers: Sequence, grads: Sequence, i: int, da: Tensor, dp: Tensor | None, before: _Kept
) -> tuple[Tensor, Tensor | None]:
    """Gradients at layer i's outputs (before tanh) to those at the layer's before it, and of layer i's parameters.

    Products have the type of the gradient that comes in, which goes on in that of the outputs before it.
    """
    h, p = (v if v is None else v.to(da.dtype) for v in before)
    slope = _slope(h)
    u = None if p is None else p * slope
    weight = _unfold(row, layers, grads, i, _outer(da, h, dp, u), da.sum(0)).t().to(da.dtype)
    dh = linear_no_grad(da, weight)
    if p is None:
        return dh.mul_(slope).to(before.h.dtype), None
    du = _product(dp, weight)
    dh -= (du * p).sum(0).mul_(h).mul_(2)
    return dh.mul_(slope).to(before.h.dtype), du.mul_(slope).to(before.h.dtype)


def _slope(h: Tensor) -> Tensor:
    """tanh′ = 1 − h²."""
    return torch.addcmul(h.new_ones(()), h, h, value=-1)


def _outer(da: Tensor, x: Tensor, dp: Tensor | None, u: Tensor | None) -> Tensor:
    """The gradient (O, I) of folded weights: Σ over points and tangents of da xᵀ + dp uᵀ."""
    out = outer(da, x)
    return out if dp is None else out.add_(outer(dp.flatten(0, 1), u.flatten(0, 1)))


def _unfold(row: int, layers: Sequence, grads: Sequence, i: int, of_weight: Tensor, of_bias: Tensor) -> Tensor:
    """Add the gradients of one shape's folded layer to those of (W, b, gate, shift); returns its folded W."""
    weight, bias, gate, shift = layers[4 * i : 4 * i + 4]
    to_weight, to_bias, to_gate, to_shift = grads[4 * i : 4 * i + 4]
    if shift is not None:
        to_shift[row if len(shift) > 1 else 0] += of_bias
    if gate is None:
        to_weight += of_weight
        to_bias += of_bias
        return weight
    row = row if len(gate) > 1 else 0
    g = gate[row]
    to_gate[row] += (weight * of_weight).sum(1) + bias * of_bias
    to_weight.addcmul_(of_weight, g[:, None])
    to_bias.addcmul_(of_bias, g)
    return weight * g[:, None]
