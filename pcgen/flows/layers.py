"""Velocity networks: multilayer perceptrons whose layers are modulated by time and context.

Every layer type of PointFlow and FFJORD is one affine map with a gate and a shift,

    out = (W x + b) · gate(s) + shift(s),      s = [t, c],

where the signal ``s`` belongs to the whole shape and never to a point. So gates and shifts are computed once per
shape, and their part that depends on the context ``c`` once per *solve*: an evaluation only adds ``t`` times a
column. The layers also carry a tangent forward (dual numbers), which gives directional derivatives, hence
divergences, without building an autograd graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LAYERS", "NONLINEARITIES", "LayerName", "Modulation", "NonlinearityName", "VelocityNet", "features"]

LayerName = Literal["concatsquash", "concatscale", "concat_v2", "squash", "scale", "ignore"]
NonlinearityName = Literal["tanh", "relu", "softplus", "elu", "swish", "square", "identity"]


def features(x: Tensor, dx: Tensor | None, frequencies: int) -> tuple[Tensor, Tensor | None]:
    """x (…, D) with sin 2ᵏx and cos 2ᵏx for k < ``frequencies``, (…, (1 + 2·frequencies) D), and how it moves along dx.

    A network of few layers follows a surface only as finely as its first layer tells near points apart (Tancik et al.
    2020, arXiv 2006.10739). No frequencies: x and dx themselves.

    >>> features(torch.tensor([[0.0, 1.0]]), None, 1)[0].round(decimals=2)
    tensor([[0.0000, 1.0000, 0.0000, 0.8400, 1.0000, 0.5400]])
    """
    if not frequencies:
        return x, dx
    octaves = 2.0 ** torch.arange(frequencies, dtype=x.dtype, device=x.device)[:, None]
    angle = (x.unsqueeze(-2) * octaves).flatten(-2)  # all coordinates at each octave
    sin, cos = angle.sin(), angle.cos()
    out = torch.cat([x, sin, cos], -1)
    if dx is None:
        return out, None
    dx = dx.expand(torch.broadcast_shapes(dx.shape, x.shape))  # one direction may be all points'
    turned = (dx.unsqueeze(-2) * octaves).flatten(-2)
    return out, torch.cat([dx, turned * cos, -turned * sin], -1)


class LayerKind(NamedTuple):
    """What modulates ``W x + b``."""

    gate: Literal["sigmoid", "linear"] | None
    shift: bool


LAYERS: dict[str, LayerKind] = {
    "concatsquash": LayerKind("sigmoid", True),
    "concatscale": LayerKind("linear", True),
    "concat_v2": LayerKind(None, True),
    "squash": LayerKind("sigmoid", False),
    "scale": LayerKind("linear", False),
    "ignore": LayerKind(None, False),
}

# Each nonlinearity with its derivative, given the input x, the output h and swish's β.
NONLINEARITIES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "tanh": (lambda x, beta: torch.tanh(x), lambda x, h, beta: 1 - h * h),
    "relu": (lambda x, beta: torch.relu(x), lambda x, h, beta: (x > 0).to(x)),
    "softplus": (lambda x, beta: F.softplus(x), lambda x, h, beta: torch.sigmoid(x)),
    "elu": (lambda x, beta: F.elu(x), lambda x, h, beta: torch.where(x > 0, torch.ones_like(x), h + 1)),
    "swish": (
        lambda x, beta: x * torch.sigmoid(beta * x),
        lambda x, h, beta: torch.sigmoid(beta * x) + beta * h * (1 - torch.sigmoid(beta * x)),
    ),
    "square": (lambda x, beta: x * x, lambda x, h, beta: 2 * x),
    "identity": (lambda x, beta: x, lambda x, h, beta: torch.ones_like(x)),
}


class Modulation(NamedTuple):
    """The context's part of every gate and shift, and the columns that time multiplies.

    ``gate`` and ``shift`` hold, per layer, ``(context part (B or 1, H), time column (H,))`` or None.
    """

    gate: tuple[tuple[Tensor, Tensor] | None, ...]
    shift: tuple[tuple[Tensor, Tensor] | None, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, for solvers that must be told what a velocity depends on."""
        return tuple(t for pair in (*self.gate, *self.shift) if pair is not None for t in pair)


class ModulatedLinear(nn.Module):
    """``(W x + b) · gate(s) + shift(s)`` with ``s = [t, c]`` (PointFlow, supplement; FFJORD's layers)."""

    def __init__(self, inputs: int, outputs: int, context: int, kind: LayerKind):
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(1 + context, outputs) if kind.gate else None
        self.shift = nn.Linear(1 + context, outputs, bias=False) if kind.shift else None

    def forward(
        self, x: Tensor, gate: Tensor | None, shift: Tensor | None, product: torch.dtype | None = None
    ) -> Tensor:
        """``product``: the type that W x is computed in, where it is not that of x."""
        weight, bias = self.linear.weight, self.linear.bias
        if product is not None:
            out = F.linear(x.to(product), weight.to(product)).to(x.dtype)
        elif gate is None and shift is None:
            return F.linear(x, weight, bias)
        else:
            out = F.linear(x, weight)
        if gate is None:
            return out + (bias if shift is None else bias + shift)
        # (W x + b)·g + s = W x·g + (b·g + s): the bracket is one row per shape, not a pass over all points.
        offset = bias * gate if shift is None else torch.addcmul(shift, bias, gate)
        return torch.addcmul(offset, out, gate)

    def tangent(self, dx: Tensor, gate: Tensor | None) -> Tensor:
        """The derivative of the layer's output in the direction ``dx``."""
        out = F.linear(dx, self.linear.weight)
        return out if gate is None else out * gate


class VelocityNet(nn.Module):
    """The velocity f(x, t, c) of a continuous normalizing flow.

    Args:
        dim: number of coordinates D of a state.
        hidden: widths of the hidden layers.
        context: number of context values C per shape (0: unconditional).
        layer: how time and context enter, a key of :data:`LAYERS`.
        nonlinearity: between layers, none after the last; a key of :data:`NONLINEARITIES`.
        frequencies: how many octaves of Fourier features the first layer sees beside a state, see :func:`features`.

    >>> net = VelocityNet(3, (8, 8), context=4)
    >>> x, c = torch.zeros(2, 5, 3), torch.ones(2, 4)
    >>> net(torch.tensor(0.1), x, net.modulation(c)).shape
    torch.Size([2, 5, 3])
    """

    def __init__(
        self,
        dim: int,
        hidden: tuple[int, ...],
        context: int = 0,
        layer: LayerName = "concatsquash",
        nonlinearity: NonlinearityName = "tanh",
        frequencies: int = 0,
    ):
        super().__init__()
        sizes = (dim * (1 + 2 * frequencies), *hidden, dim)
        kind = LAYERS[layer]
        self.layers = nn.ModuleList(ModulatedLinear(a, b, context, kind) for a, b in itertools.pairwise(sizes))
        self.context = context
        self.nonlinearity = nonlinearity
        self.frequencies = frequencies
        # One learned β for the whole network, as in the original's shared Swish.
        self.beta = nn.Parameter(torch.ones(())) if nonlinearity == "swish" else None

    def modulation(self, context: Tensor | None = None) -> Modulation:
        """Everything of gates and shifts that does not change during a solve.

        Args:
            context: (B, C), or None where the network has no context.
        """

        def part(linear: nn.Linear | None) -> tuple[Tensor, Tensor] | None:
            if linear is None:
                return None
            if context is None:
                fixed = linear.weight.new_zeros(linear.weight.shape[0]) if linear.bias is None else linear.bias
                return fixed[None], linear.weight[:, 0]
            return F.linear(context, linear.weight[:, 1:], linear.bias), linear.weight[:, 0]

        return Modulation(
            tuple(part(layer.gate) for layer in self.layers),
            tuple(part(layer.shift) for layer in self.layers),
        )

    def direct_parameters(self) -> tuple[Tensor, ...]:
        """The parameters that act at each evaluation (the rest acts through :meth:`modulation`)."""
        linears = tuple(p for layer in self.layers for p in layer.linear.parameters())
        return linears if self.beta is None else (*linears, self.beta)

    def modulate(self, t: Tensor, modulation: Modulation, index: int) -> tuple[Tensor | None, Tensor | None]:
        """Gate and shift of one layer at time t, () or (B,): (B or 1, 1, H) each, or None."""

        def at_time(pair: tuple[Tensor, Tensor] | None) -> Tensor | None:
            if pair is None:
                return None
            fixed, column = pair
            return (fixed + t.reshape(-1, 1) * column).unsqueeze(-2)  # (B, 1, H): the same for all points

        gate = at_time(modulation.gate[index])
        if gate is not None and self.layers[index].kind.gate == "sigmoid":
            gate = torch.sigmoid(gate)
        return gate, at_time(modulation.shift[index])

    def forward(self, t: Tensor, x: Tensor, modulation: Modulation, hidden: torch.dtype | None = None) -> Tensor:
        """Velocity (B, N, D) at states x (B, N, D) and time t, () or (B,).

        ``hidden``: the type of the products between hidden layers, where it is not that of x.
        """
        activation, _ = NONLINEARITIES[self.nonlinearity]
        x, _ = features(x, None, self.frequencies)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, *self.modulate(t, modulation, i), hidden if 0 < i < last else None)
            if i < last:
                x = activation(x, self.beta)
        return x

    def jvp(self, t: Tensor, x: Tensor, dx: Tensor, modulation: Modulation) -> tuple[Tensor, Tensor]:
        """Velocity (B, N, D), and its derivative in the directions ``dx``, (…, B or 1, N or 1, D)."""
        activation, derivative = NONLINEARITIES[self.nonlinearity]
        x, dx = features(x, dx, self.frequencies)
        for i, layer in enumerate(self.layers):
            gate, shift = self.modulate(t, modulation, i)
            x, dx = layer(x, gate, shift), layer.tangent(dx, gate)
            if i < len(self.layers) - 1:
                h = activation(x, self.beta)
                x, dx = h, dx * derivative(x, h, self.beta)
        return x, dx
