"""The whole of a run's settings: one file says everything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pcgen.config import Settings
from pcgen.data.scene_sets import SceneDataConfig
from pcgen.data.shapes import DataConfig, Shapes
from pcgen.data.splits import nearest
from pcgen.flows import FlowConfig, SolverConfig
from pcgen.models import ObjectiveConfig, PointFlowConfig
from pcgen.models.polarmask3d import PolarMask3DConfig

__all__ = [
    "AnyRunConfig",
    "EvaluationConfig",
    "RunConfig",
    "SegmentationEvaluationConfig",
    "SegmentationRunConfig",
    "TrainingConfig",
    "run_config_class",
    "with_classes",
]


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """The loop: how long, how fast, how often it looks up."""

    epochs: int | None = None  # passes over the training shapes or scenes; None: as many as `steps` fill
    steps: int = 20_000  # optimiser steps, where `epochs` does not say
    prior_epochs: int | None = None  # afterwards, of the latent flow alone; None: as many as `prior_steps` fill
    prior_steps: int = 0
    prior_batch: int | None = None  # shapes per step of that stage; None: as `batch`
    batch: int = 16  # shapes, or crops of scenes, per step
    optimizer: Literal["adam", "muon"] = "adam"  # muon: of matrices between wide layers; the rest stays Adam's
    lr: float = 2e-3  # the learning rate; constant for half of a stage, then falling linearly to zero
    betas: tuple[float, float] = (0.9, 0.999)  # Adam's
    weight_decay: float = 0.0
    warmup: int = 0  # steps over which the rate rises from zero
    clip: float | None = None  # bound on the gradient's norm
    ema: float = 0.0  # decay of the weights' moving average; 0: none
    validate_every: int | None = None  # epochs between validations; None: twenty over the run
    save_minutes: float = 5.0  # a checkpoint at the end of the first epoch after so long, besides every validation
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"  # auto: what accelerate finds

    def __post_init__(self):
        super().__post_init__()
        for name in ("epochs", "prior_epochs", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < (0 if name == "prior_epochs" else 1):
                raise ValueError(f"{name} must be positive, got {value}")
        if self.steps < 1 or self.prior_steps < 0 or self.batch < 1:
            raise ValueError(
                f"steps and batch must be at least 1 and prior_steps 0, "
                f"got {self.steps}, {self.batch} and {self.prior_steps}"
            )
        if not (0 <= self.ema < 1 and 0 < self.lr < math.inf and (self.clip is None or self.clip > 0)):  # nor NaN
            raise ValueError(f"lr and clip must be positive and 0 <= ema < 1, got {self.lr}, {self.clip}, {self.ema}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, got {self.betas[0]:g} and {self.betas[1]:g}")
        for name in ("weight_decay", "warmup", "save_minutes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        if self.prior_batch is not None and self.prior_batch < 2:
            raise ValueError(f"prior_batch must be at least 2, got {self.prior_batch}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


@dataclass(frozen=True)
class EvaluationConfig(Settings):
    """The measurement at the end of a run."""

    shapes: int = 60  # generated, and as many references (fewer where the data has fewer)
    points: int = 512
    protocol: Literal["exact", "pointflow", "pvd"] = "exact"
    gallery_points: int = 2048

    def __post_init__(self):
        super().__post_init__()
        if self.shapes < 2 or self.points < 1 or self.gallery_points < 1:
            raise ValueError(f"an evaluation needs at least 2 shapes and 1 point, got {self.shapes} and {self.points}")


def _matching(*dims: int) -> FlowConfig:
    return FlowConfig(dims=dims, train_time=False, norm="frozen")


def _default_model() -> PointFlowConfig:
    return PointFlowConfig(
        point_flow=_matching(512, 512, 512),
        latent_flow=_matching(256, 256),
        objective=ObjectiveConfig(name="flow_matching"),
        # Paths between coupled points are nearly straight, those of codes are not (docs/results.md, "Few evaluations").
        sampler=SolverConfig("ab2", steps=20),
        latent_sampler=SolverConfig("rk4", steps=12),
    )


@dataclass(frozen=True)
class RunConfig(Settings):
    """Everything a run is made of; the defaults train the paper's network by flow matching.

    An autoencoder by likelihood trains no latent flow but in a stage of its own: without one, it has none.
    """

    task: Literal["pointflow"] = "pointflow"
    data: DataConfig = field(default_factory=DataConfig)
    model: PointFlowConfig = field(default_factory=_default_model)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self):
        super().__post_init__()
        t = self.training
        if t.batch < 2:
            raise ValueError(f"training.batch must be at least 2 (batch norm needs two shapes), got {t.batch}")
        prior = t.prior_epochs if t.prior_epochs is not None else t.prior_steps
        if prior and self.model.latent_flow is None:
            raise ValueError("training.prior_steps (or prior_epochs) train model.latent_flow, which is null")
        if not (prior or self.model.encoder.variational) and self.model.objective.name == "likelihood":
            object.__setattr__(self, "model", replace(self.model, latent_flow=None))


@dataclass(frozen=True)
class SegmentationEvaluationConfig(Settings):
    """The measurements during a run that learns to find objects, and at its end."""

    crops: int = 8  # of the scenes to validate on, looked at in each validation
    min_points: int = 100  # of an instance that is counted
    oracle: bool = True  # the ceiling, from labels alone
    baseline: bool = False  # DBSCAN without planes, and of what the network calls foreground; tuned on training scenes
    pictures: int = 4  # scenes to draw

    def __post_init__(self):
        super().__post_init__()
        if min(self.crops, self.min_points) < 1 or self.pictures < 0:
            given = f"{self.crops}, {self.min_points} and {self.pictures}"
            raise ValueError(f"crops and min_points must be at least 1 and pictures 0, got {given}")


@dataclass(frozen=True)
class SegmentationRunConfig(Settings):
    """Everything a run is made of that trains a :class:`~pcgen.models.polarmask3d.PolarMask3D`.

    The model has the classes that ``data.classes`` names.
    """

    task: Literal["polarmask3d"] = "polarmask3d"
    data: SceneDataConfig = field(default_factory=SceneDataConfig)
    model: PolarMask3DConfig = field(default_factory=PolarMask3DConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(batch=4, lr=3e-3, clip=5.0, steps=2000))
    evaluation: SegmentationEvaluationConfig = field(default_factory=SegmentationEvaluationConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.training.prior_epochs or self.training.prior_steps:
            raise ValueError("training.prior_steps (or prior_epochs) train a PointFlow's prior, a PolarMask3D has none")
        classes = len(self.data.class_names) or 1
        if self.model.classes not in (1, classes):
            raise ValueError(f"model.classes must be {classes}, as data.classes names, got {self.model.classes}")
        object.__setattr__(self, "model", replace(self.model, classes=classes))


AnyRunConfig = RunConfig | SegmentationRunConfig


def run_config_class(values: Mapping) -> type[AnyRunConfig]:
    """The settings that the key ``task`` of a configuration asks for; without it a PointFlow's.

    >>> run_config_class({"task": "polarmask3d"}).__name__
    'SegmentationRunConfig'
    """
    tasks = {"pointflow": RunConfig, "polarmask3d": SegmentationRunConfig}
    task = values.get("task", "pointflow")
    if task not in tasks:
        raise ValueError(f"task must be one of {', '.join(tasks)}, got {task!r}")
    return tasks[task]


def with_classes(config: RunConfig, shapes: Shapes) -> RunConfig:
    """The settings with a conditional model's classes and their shares: those given, or the training set's.

    Raises:
        ValueError: a class that no training shape has.
    """
    condition, there = config.model.condition, sorted(set(shapes.train.categories))
    if condition is None or condition.kind != "class":
        return config
    for name in condition.classes:
        if name not in there:
            raise ValueError(f"condition.classes names {name!r}, which no training shape is{nearest(name, there)}")
    classes, count = condition.classes or tuple(there), Counter(shapes.train.categories)
    shares = condition.shares or tuple(float(count[name]) for name in classes)
    condition = replace(condition, classes=classes, shares=shares)
    return replace(config, model=replace(config.model, condition=condition))
