"""Models: PointFlow, its encoder and objectives."""

from pcgen.models.config import Likelihood, PointFlowConfig, Samples
from pcgen.models.encoder import Encoder, EncoderConfig, Posterior
from pcgen.models.objective import Loss, ObjectiveConfig
from pcgen.models.pointflow import PointFlow

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
