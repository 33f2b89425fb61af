"""Training: the loop, its settings, and checkpoints that rebuild a model by themselves."""

from pcgen.training.checkpoint import DiskFull, find_checkpoint, load_model
from pcgen.training.config import (
    AnyRunConfig,
    EvaluationConfig,
    RunConfig,
    SegmentationEvaluationConfig,
    SegmentationRunConfig,
    TrainingConfig,
    run_config_class,
    with_classes,
)
from pcgen.training.loop import Diverged, Interrupted, OnValidation, build_model, task_of, train
from pcgen.training.optimizers import Muon, Optimizers, new_optimizer
from pcgen.training.processes import Team, process_rank
from pcgen.training.state import Stage, State, stages
from pcgen.training.telemetry import read_history
from pcgen.training.validation import validate

__all__ = [
    "AnyRunConfig",
    "DiskFull",
    "Diverged",
    "EvaluationConfig",
    "Interrupted",
    "Muon",
    "OnValidation",
    "Optimizers",
    "RunConfig",
    "SegmentationEvaluationConfig",
    "SegmentationRunConfig",
    "Stage",
    "State",
    "Team",
    "TrainingConfig",
    "build_model",
    "find_checkpoint",
    "load_model",
    "new_optimizer",
    "process_rank",
    "read_history",
    "run_config_class",
    "stages",
    "task_of",
    "train",
    "validate",
    "with_classes",
]
