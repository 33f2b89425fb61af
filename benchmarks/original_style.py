"""Our parts set to work as the original program does, since it cannot be installed beside a present PyTorch.

The same weights and the same answers as :mod:`pcgen.flows`, by the original's means: the state is (x, logp, c) and the
context is integrated along; gates and shifts are computed from [t, c] at every evaluation; the divergence comes from a
vector–Jacobian product through autograd, and is integrated whether or not anybody asks; gradients by the adjoint
equation, its step control blind to the adjoint variables (torchdiffeq 0.0.1); a Gaussian Hutchinson probe.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from pcgen.flows import CNF, Flow, MovingBatchNorm, VelocityNet, standard_normal_log_density
from pcgen.models import PointFlow

__all__ = ["Velocity", "carry", "likelihood_loss", "sample"]


class Velocity(nn.Module):
    """The original's right-hand side over (x, logp, c), or (x, logp) where there is no context."""

    def __init__(self, net: VelocityNet):
        super().__init__()
        self.net, self.noise, self.evaluations = net, None, 0

    def network(self, t: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        s = t.reshape(1, 1).expand(len(x), 1)
        s = s if context is None else torch.cat([s, context], 1)
        for i, layer in enumerate(self.net.layers):
            gate, shift = torch.sigmoid(layer.gate(s))[:, None], layer.shift(s)[:, None]
            x = layer.linear(x) * gate + shift
            if i < len(self.net.layers) - 1:
                x = torch.tanh(x)
        return x

    def forward(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.evaluations += 1
        x, context = state[0], state[2] if len(state) == 3 else None
        if self.noise is None:
            self.noise = torch.randn_like(x)
        with torch.enable_grad():
            x = x.requires_grad_(True)
            v = self.network(t, x, context)
            jacobian = torch.autograd.grad(v, x, self.noise, create_graph=True)[0]
            divergence = (jacobian * self.noise).sum(-1, keepdim=True)
        return (v, -divergence) if context is None else (v, -divergence, torch.zeros_like(context))


def carry(
    flow: Flow, x: Tensor, context: Tensor | None, *, reverse: bool = False, adjoint: bool = True
) -> tuple[Tensor, Tensor, int]:
    """x (B, N, D) through the flow: the end state, the accumulated −log det (B, N, 1), evaluations."""
    logp = x.new_zeros(*x.shape[:-1], 1)
    evaluations = 0
    for module in reversed(flow.chain) if reverse else flow.chain:
        if isinstance(module, MovingBatchNorm):
            logp = logp - module.log_det() * (-1 if reverse else 1)
            x = module.inverse(x) if reverse else module(x)
            continue
        x, logp, count = _solve(module, flow.solver, x, logp, context, reverse, adjoint)
        evaluations += count
    return x, logp, evaluations


def _solve(cnf: CNF, solver, x, logp, context, reverse: bool, adjoint: bool):
    velocity = Velocity(cnf.net)
    state = (x, logp) if context is None else (x, logp, context)
    times = torch.stack([torch.zeros_like(cnf.end_time), cnf.end_time])
    times = times.flip(0) if reverse else times
    options = {"atol": solver.atol, "rtol": solver.rtol, "method": solver.method}
    if adjoint:
        blind = {"norm": lambda augmented: augmented[1].abs().square().mean().sqrt()}  # the state's part alone
        path = odeint_adjoint(velocity, state, times, adjoint_options=blind, **options)
    else:
        path = odeint(velocity, state, times, **options)
    return path[0][1], path[1][1], velocity.evaluations


def likelihood_loss(model: PointFlow, x: Tensor) -> tuple[Tensor, int]:
    """The paper's bound for standardised clouds x (B, N, 3), and the forward evaluations it took."""
    posterior = model.encoder(x)
    z = posterior.sample(torch.randn_like(posterior.mean))
    w, log_w, prior_evaluations = carry(model.latent_flow, z[:, None], None)
    y, log_y, point_evaluations = carry(model.point_flow, x, z)
    prior = standard_normal_log_density(w) - log_w.squeeze(-1)
    points = standard_normal_log_density(y) - log_y.squeeze(-1)
    entropy = 0.5 * (posterior.logvar + 1 + math.log(2 * math.pi)).sum(1)
    return -(points.sum(1) + prior.sum(1) + entropy).mean(), prior_evaluations + point_evaluations


@torch.no_grad()
def sample(model: PointFlow, w: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """Standardised clouds (B, N, 3) of the prior draws w (B, Z) and y (B, N, 3), and the evaluations."""
    z, _, first = carry(model.latent_flow, w[:, None], None, reverse=True, adjoint=False)
    x, _, second = carry(model.point_flow, y, z.squeeze(1), reverse=True, adjoint=False)
    return x.detach(), first + second
