"""The two ways to train one PointFlow: the paper's bound on the likelihood, and flow matching."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from pcgen.config import Settings
from pcgen.flows import Trace, flow_matching_error, kd_coupling, log_density, stratified_times

if TYPE_CHECKING:
    from pcgen.models.pointflow import PointFlow

__all__ = ["Loss", "ObjectiveConfig", "pointflow_loss"]


@dataclass(frozen=True)
class ObjectiveConfig(Settings):
    """What is minimised.

    ``likelihood``: − E log p(X|z) − E log p(z) − H[q(z|X)], sums over points and coordinates, means over the batch
    (PointFlow, eq. 9); an autoencoder has the first term alone.

    ``flow_matching``: the mean squared error of the point flow's velocity on straight paths, the same of the
    latent flow's on codes detached from the encoder (or the codes collapse to please their prior), and
    ``kl_weight`` · KL(q(z|X) ‖ N(0, I)), which keeps the posterior at a scale.
    """

    name: Literal["flow_matching", "likelihood"] = "flow_matching"
    trace: Literal["hutchinson", "exact"] = "hutchinson"  # likelihood: the divergence while training
    noise: Literal["gaussian", "rademacher"] = "gaussian"  # likelihood: Hutchinson's
    kl_weight: float = 1e-4  # flow matching: weight of the posterior's divergence from N(0, I), in nats per shape
    coupling: Literal["kd", "independent"] = "kd"  # flow matching: which noise a point's path leads to
    times: int = 8  # flow matching: moments of the path per shape and step, its points dealt out among them
    prior_draws: int = 16  # flow matching: pairs of noise and moment for each code and step

    def __post_init__(self):
        super().__post_init__()
        if self.times < 1 or self.prior_draws < 1:
            raise ValueError(f"times and prior_draws must be at least 1, got {self.times} and {self.prior_draws}")
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight must not be negative, got {self.kl_weight}")


class Loss(NamedTuple):
    """What a model answers to a batch."""

    total: Tensor  # scalar, to be minimised
    terms: dict[str, Tensor]  # detached scalars that add up to the total


def pointflow_loss(
    model: PointFlow, x: Tensor, generator: torch.Generator | None = None, prior_only: bool = False
) -> Loss:
    """The objective of ``model`` on a batch of standardised clouds x (B, N, 3).

    With ``prior_only`` the encoder is taken as it is, and only the latent flow is trained on its codes.
    """
    config = model.config.objective
    with torch.set_grad_enabled(torch.is_grad_enabled() and not prior_only):
        posterior = model.encoder(x)
        z = posterior.sample(_normal(posterior.mean.shape, generator, x))
    parts = _likelihood_terms if config.name == "likelihood" else _matching_terms
    terms = parts(model, config, x, posterior, z, generator, prior_only)
    return Loss(sum(terms.values()), {name: term.detach() for name, term in terms.items()})


def _normal(shape, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Normal noise drawn on the CPU, so that a seed means the same on every device."""
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(like)


@contextlib.contextmanager
def _naming(term: str) -> Iterator[None]:
    """A solver that gives up says for which term."""
    try:
        yield
    except ArithmeticError as error:
        raise ArithmeticError(f"the {term!r} term of the loss: {error}") from None


def _likelihood_terms(model, config, x, posterior, z, generator, prior_only) -> dict[str, Tensor]:
    trace = Trace(config.trace, config.noise, generator)
    terms = {}
    if not prior_only:
        with _naming("points"):
            terms["points"] = -log_density(model.point_flow, x, z, trace).value.sum(1).mean()
    if posterior.logvar is None and not prior_only:
        return terms  # an autoencoder: a prior fitted along would pull its codes into one point
    with _naming("prior"):
        terms["prior"] = -model.code_log_density(z, trace).mean()
    if not prior_only:
        terms["entropy"] = -0.5 * (posterior.logvar + 1 + math.log(2 * math.pi)).sum(1).mean()
    return terms


def _matching_terms(model, config, x, posterior, z, generator, prior_only) -> dict[str, Tensor]:
    terms = {}
    if not prior_only:
        terms["points"] = _point_matching(model, config, x, z, generator)
        if posterior.logvar is not None and config.kl_weight:
            mean, logvar = posterior
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
            terms["kl"] = config.kl_weight * kl
    if model.latent_flow is not None:
        codes = z.detach().unsqueeze(1).repeat_interleave(config.prior_draws, 0)  # (B·K, 1, Z)
        s = stratified_times(len(z), config.prior_draws, generator).reshape(-1)
        noise = _normal(codes.shape, generator, x)
        terms["prior"] = flow_matching_error(model.latent_flow, codes, None, noise, s).mean()
    return terms


def _point_matching(model, config, x, z, generator) -> Tensor:
    """Points are exchangeable, so each shape's cloud is dealt out among several moments of the path."""
    shapes, points, _ = x.shape
    times = next(k for k in range(min(config.times, points), 0, -1) if points % k == 0)
    s = stratified_times(shapes, times, generator).reshape(-1)
    noise = _normal(x.shape, generator, x)
    if config.coupling == "kd":
        x, noise = kd_coupling(x, noise)
        # The coupling sorts points by place, which must say nothing of the moment they are dealt to.
        shuffle = torch.rand(shapes, points, generator=generator).argsort(1).to(x.device)
        x, noise = (v.gather(1, shuffle.unsqueeze(-1).expand_as(v)) for v in (x, noise))
    x, noise = (v.reshape(shapes * times, points // times, 3) for v in (x, noise))
    return flow_matching_error(model.point_flow, x, z.repeat_interleave(times, 0), noise, s).mean()
