"""Models: PointFlow, its encoder and objectives."""

from pcgen.models.encoder import Encoder, EncoderConfig, Posterior
from pcgen.models.objective import Loss, ObjectiveConfig
from pcgen.models.pointflow import Likelihood, PointFlow, PointFlowConfig, Samples

__all__ = [
    "Encoder",
    "EncoderConfig",
    "Likelihood",
    "Loss",
    "ObjectiveConfig",
    "PointFlow",
    "PointFlowConfig",
    "Posterior",
    "Samples",
]
