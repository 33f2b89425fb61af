"""Training: the loop, its settings, and checkpoints that rebuild a model by themselves."""

from pcgen.training.checkpoint import DiskFull, find_checkpoint, load_model
from pcgen.training.config import EvaluationConfig, RunConfig, TrainingConfig, with_classes
from pcgen.training.loop import Diverged, Interrupted, OnValidation, build_model, train
from pcgen.training.processes import Team, process_rank
from pcgen.training.state import Stage, State, stages
from pcgen.training.telemetry import read_history
from pcgen.training.validation import validate

__all__ = [
    "DiskFull",
    "Diverged",
    "EvaluationConfig",
    "Interrupted",
    "OnValidation",
    "RunConfig",
    "Stage",
    "State",
    "Team",
    "TrainingConfig",
    "build_model",
    "find_checkpoint",
    "load_model",
    "process_rank",
    "read_history",
    "stages",
    "train",
    "validate",
    "with_classes",
]
