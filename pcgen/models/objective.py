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
from pcgen.flows import (
    LogDensity,
    exact_coupling,
    flow_matching_error,
    kd_coupling,
    log_density,
    standard_normal_log_density,
    stratified_times,
)
from pcgen.models.draws import Generators, ShapeTrace, drawn
from pcgen.models.encoder import Posterior

if TYPE_CHECKING:
    from pcgen.models.pointflow import PointFlow

__all__ = ["Loss", "ObjectiveConfig", "draw_codes", "point_matching", "pointflow_loss", "prior_loss"]


@dataclass(frozen=True)
class ObjectiveConfig(Settings):
    """What is minimised.

    ``likelihood``: − E log p(X|z) − E log p(z) − H[q(z|X)], sums over points and coordinates, means over the batch
    (PointFlow, eq. 9); an autoencoder has the first term alone. ``kinetic`` and ``jacobian`` weigh what the paths of
    points and of codes cost (Finlay et al. 2020, arXiv 2002.02798): flows that stay easy to solve as training goes on.

    ``flow_matching``: the mean squared error of the point flow's velocity on straight paths, the same of the
    latent flow's on codes detached from the encoder (or the codes collapse to please their prior), and
    ``kl_weight`` · KL(q(z|X) ‖ N(0, I)), which keeps the posterior at a scale.
    """

    name: Literal["flow_matching", "likelihood"] = "flow_matching"
    trace: Literal["hutchinson", "exact"] = "hutchinson"  # likelihood: the divergence while training
    noise: Literal["gaussian", "rademacher"] = "gaussian"  # likelihood: Hutchinson's
    kinetic: float = 0.0  # likelihood: nats per ∫ |dx/ds|² ds of a path, travelled in unit time
    jacobian: float = 0.0  # likelihood: nats per ∫ |∂(dx/ds)/∂x|²_F ds of a path
    kl_weight: float = 1e-4  # flow matching: weight of the posterior's divergence from N(0, I), in nats per shape
    coupling: Literal["kd", "exact", "once", "independent"] = "kd"  # flow matching: which noise a point's path leads to
    noise_draws: int = 4  # coupling once: noise points that each training point is paired with
    times: int = 8  # flow matching: moments of the path per shape and step, its points dealt out among them
    prior_draws: int = 16  # flow matching: pairs of noise and moment for each code and step
    precision: Literal["float32", "bfloat16"] = "float32"  # flow matching: of the products between hidden layers

    def __post_init__(self):
        super().__post_init__()
        for name in ("times", "prior_draws", "noise_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.name == "likelihood" and self.precision != "float32":
            raise ValueError(f"densities need precision 'float32', got {self.precision!r}, which is for flow matching")
        for name in ("kl_weight", "kinetic", "jacobian"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


class Loss(NamedTuple):
    """What a model answers to a batch."""

    total: Tensor  # scalar, to be minimised
    terms: dict[str, Tensor]  # detached scalars that add up to the total


def pointflow_loss(
    model: PointFlow,
    x: Tensor,
    generator: Generators = None,
    condition: Tensor | None = None,
    noise: Tensor | None = None,
) -> Loss:
    """The objective of ``model`` on a batch of standardised clouds x (B, N, 3), see :meth:`PointFlow.loss`."""
    x, config = model.batch(x, "a batch"), model.config.objective
    if noise is not None and config.name == "likelihood":
        raise ValueError("noise that paths lead to is of flow matching, the objective is 'likelihood'")
    context = _context(model, condition, len(x), generator)
    posterior = model.encoder(x)
    z = draw_codes(posterior, generator)
    if config.name == "likelihood":
        return _loss(_likelihood_terms(model, config, x, posterior, z, generator, context))
    return _loss(_matching_terms(model, config, x, posterior, z, generator, context, noise))


def prior_loss(model: PointFlow, z: Tensor, generator: Generators = None, condition: Tensor | None = None) -> Loss:
    """The part of the objective that trains the latent flow, on codes z (B, Z), see :meth:`PointFlow.prior_loss`."""
    z = model.batch_of_codes(z)
    config, context = model.config.objective, _context(model, condition, len(z), generator)
    if config.name == "flow_matching":
        return _loss({"prior": _code_matching(model, config, z, generator, context)})
    trace = _trace(config, generator)
    solved = _solved_codes(model, z, trace, context)
    return _loss({"prior": -solved.value.mean(), **_energies(config, [solved])})


def draw_codes(posterior: Posterior, generator: Generators = None) -> Tensor:
    """A draw (B, Z) from each posterior."""
    return posterior.sample(_normal(posterior.mean.shape, generator, posterior.mean))


def _loss(terms: dict[str, Tensor]) -> Loss:
    return Loss(sum(terms.values()), {name: term.detach() for name, term in terms.items()})


def _context(model: PointFlow, condition: Tensor | None, shapes: int, generator: Generators) -> Tensor | None:
    return None if model.condition is None else model.condition.training_context(condition, shapes, generator)


def _normal(shape, generator: Generators, like: Tensor) -> Tensor:
    """Normal noise drawn on the CPU, so that a seed means the same on every device."""
    noise = drawn(lambda n, g: torch.randn(n, *shape[1:], generator=g, dtype=torch.float32), shape[0], generator)
    return noise.to(like)


@contextlib.contextmanager
def _naming(term: str) -> Iterator[None]:
    """A solver that gives up says for which term."""
    try:
        yield
    except ArithmeticError as error:
        raise ArithmeticError(f"the {term!r} term of the loss: {error}") from None


def _likelihood_terms(model, config, x, posterior, z, generator, context) -> dict[str, Tensor]:
    trace = _trace(config, generator)
    with _naming("points"):
        solved = [log_density(model.point_flow, x, z, trace)]
    terms = {"points": -solved[0].value.sum(1).mean()}
    if posterior.logvar is not None:  # an autoencoder's codes would be pulled into one point
        if model.latent_flow is None:
            terms["prior"] = -standard_normal_log_density(z).mean()
        else:
            solved.append(_solved_codes(model, z, trace, context))
            terms["prior"] = -solved[-1].value.mean()
        terms["entropy"] = -0.5 * (posterior.logvar + 1 + math.log(2 * math.pi)).sum(1).mean()
    return terms | _energies(config, solved)


def _trace(config, generator) -> ShapeTrace:
    return ShapeTrace(config.trace, config.noise, generator, energies=bool(config.kinetic or config.jacobian))


def _solved_codes(model, z, trace, context) -> LogDensity:
    with _naming("prior"):
        return log_density(model.latent_flow, z.unsqueeze(1), context, trace)


def _energies(config, solved: list[LogDensity]) -> dict[str, Tensor]:
    """What the paths of these solves cost, as far as it is weighed."""
    weights = {name: getattr(config, name) for name in ("kinetic", "jacobian")}
    return {
        name: weight * sum(getattr(each.energies, name).sum(1).mean() for each in solved)
        for name, weight in weights.items()
        if weight
    }


def _matching_terms(model, config, x, posterior, z, generator, context, noise) -> dict[str, Tensor]:
    terms = {"points": point_matching(model, x, z, generator, noise)}
    if posterior.logvar is not None and config.kl_weight:
        mean, logvar = posterior
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        terms["kl"] = config.kl_weight * kl
    if model.latent_flow is not None:
        terms["prior"] = _code_matching(model, config, z.detach(), generator, context)
    return terms


def _code_matching(model, config, z, generator, context) -> Tensor:
    """Mean squared error of the latent flow's velocity on paths from codes z (B, Z) to noise."""
    codes = z.unsqueeze(1).repeat_interleave(config.prior_draws, 0)  # (B·K, 1, Z)
    s = drawn(lambda n, g: stratified_times(n, config.prior_draws, g), len(z), generator).reshape(-1)
    noise = _normal(codes.shape, generator, z)
    context = None if context is None else context.repeat_interleave(config.prior_draws, 0)
    return flow_matching_error(model.latent_flow, codes, context, noise, s).mean()


def point_matching(
    model: PointFlow, x: Tensor, z: Tensor, generator: Generators = None, noise: Tensor | None = None
) -> Tensor:
    """Mean squared error of the point flow's velocity on paths from x (B, N, 3) to noise, given codes z (B, Z).

    Points are exchangeable, so each shape's cloud is dealt out among several moments of the path, as many to each; what
    is left over counts for nothing. ``noise`` (B, N, 3) is where each path leads, in an order that says nothing of
    place; None: drawn, and coupled as configured.
    """
    config = model.config.objective
    shapes, points, _ = x.shape
    times = min(config.times, points)
    each = points // times
    s = drawn(lambda n, g: stratified_times(n, times, g), shapes, generator).reshape(-1)
    if noise is None:
        x, noise = _coupled(config, x, _normal(x.shape, generator, x), generator)
    elif noise.shape != x.shape:
        raise ValueError(f"noise must be that of each point, {tuple(x.shape)}, got {tuple(noise.shape)}")
    x, noise = (v.to(x)[:, : times * each].reshape(shapes * times, each, 3) for v in (x, noise))
    hidden = None if config.precision == "float32" else torch.bfloat16
    return flow_matching_error(model.point_flow, x, z.repeat_interleave(times, 0), noise, s, hidden).mean()


def _coupled(config, x, noise, generator) -> tuple[Tensor, Tensor]:
    if config.coupling == "independent":
        return x, noise
    x, noise = kd_coupling(x, noise) if config.coupling == "kd" else exact_coupling(x, noise)
    # A coupling may sort points by place, which must say nothing of the moment they are dealt to.
    shuffle = drawn(lambda n, g: torch.rand(n, x.shape[1], generator=g), len(x), generator).argsort(1).to(x.device)
    return tuple(v.gather(1, shuffle.unsqueeze(-1).expand_as(v)) for v in (x, noise))
