"""Training: the loop, its settings, and checkpoints that rebuild a model by themselves."""

from pcgen.training.checkpoint import DiskFull, find_checkpoint, load_model
from pcgen.training.config import EvaluationConfig, RunConfig, TrainingConfig
from pcgen.training.loop import Diverged, Interrupted, OnValidation, build_model, train, validate
from pcgen.training.state import Stage, State, stages
from pcgen.training.telemetry import read_history

__all__ = [
    "DiskFull",
    "Diverged",
    "EvaluationConfig",
    "Interrupted",
    "OnValidation",
    "RunConfig",
    "Stage",
    "State",
    "TrainingConfig",
    "build_model",
    "find_checkpoint",
    "load_model",
    "read_history",
    "stages",
    "train",
    "validate",
]
