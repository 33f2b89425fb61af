"""Sizes and objective of a PointFlow, and the names of what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from pcgen.config import Settings
from pcgen.flows import FlowConfig, SolverConfig
from pcgen.models.conditioning import ConditionConfig
from pcgen.models.encoder import EncoderConfig
from pcgen.models.objective import ObjectiveConfig

__all__ = ["Likelihood", "PointFlowConfig", "Samples"]


def _latent_flow_default() -> FlowConfig:
    return FlowConfig(dims=(256, 256))


def _likelihood() -> ObjectiveConfig:
    return ObjectiveConfig(name="likelihood")


@dataclass(frozen=True)
class PointFlowConfig(Settings):
    """Sizes and objective of a PointFlow; the defaults are the paper's."""

    latent: int = 128  # Z, values of a shape code
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    point_flow: FlowConfig = field(default_factory=FlowConfig)
    latent_flow: FlowConfig | None = field(default_factory=_latent_flow_default)  # None: the prior is N(0, I)
    objective: ObjectiveConfig = field(default_factory=_likelihood)
    sampler: SolverConfig | None = None  # of points, in sampling and decoding; None: the flow's own, as densities use
    latent_sampler: SolverConfig | None = None  # of codes: little work, whose error moves whole shapes; None: as above
    condition: ConditionConfig | None = None  # what the latent flow is told of a shape; None: nothing

    def __post_init__(self):
        super().__post_init__()
        if self.latent < 1:
            raise ValueError(f"latent must be at least 1, got {self.latent}")
        if self.condition is not None and self.latent_flow is None:
            raise ValueError("a condition is told to the latent flow, and latent_flow is null")
        if self.objective.name == "flow_matching":
            for name in ("point_flow", "latent_flow"):
                self._check_matching(name, getattr(self, name))

    @staticmethod
    def _check_matching(name: str, flow: FlowConfig | None) -> None:
        if flow is not None and (flow.norm == "moving" or flow.train_time or flow.blocks != 1):
            raise ValueError(
                f"flow matching needs {name}.norm 'frozen' or 'none', train_time false and 1 block, got "
                f"norm {flow.norm!r}, train_time {str(flow.train_time).lower()}, {flow.blocks} block(s)"
            )


class Samples(NamedTuple):
    """Generated shapes."""

    points: Tensor  # (S, N, 3) in data units
    z: Tensor  # (S, Z) their codes


class Likelihood(NamedTuple):
    """How probable clouds are, in nats and data units."""

    points: Tensor  # (B, N) log p(x | z) of each point, z drawn from the posterior
    bound: Tensor | None  # (B,) evidence lower bound of each whole cloud; None for an autoencoder
