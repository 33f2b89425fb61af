"""Training a PointFlow, as a task of the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pcgen.data.shapes import Batch, Shapes, batches, steps_per_epoch
from pcgen.models import Loss, PointFlow, coupled_once
from pcgen.training.config import RunConfig, with_classes
from pcgen.training.noise import shown, step_noise
from pcgen.training.state import Stage
from pcgen.training.validation import comparable, validate

__all__ = ["GenerationTask"]


class GenerationTask:
    """A PointFlow that learns shapes."""

    def __init__(self, config: RunConfig, shapes: Shapes):
        self.config = with_classes(config, shapes)
        self.shapes = coupled_once(shapes, config.data, config.model.objective, config.training.seed)
        self.steps = steps_per_epoch(len(shapes.train), config.training.batch)
        self.info: dict[str, Any] = {}

    def build_model(self) -> PointFlow:
        """Its data's statistics are the training set's."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.training.seed)
            statistics = self.shapes.normalisation
            return PointFlow(self.config.model, statistics.mean.tolist(), statistics.scale.tolist())

    def batches(self, epoch: int, start: int, part: tuple[int, int]) -> Iterator[Batch]:
        t, shapes = self.config.training, self.shapes
        return batches(
            shapes.train, shapes.normalisation, self.config.data, t.batch, t.seed, epoch, start=start, part=part
        )

    def loss(self, model: PointFlow, batch: Batch, epoch: int, step: int, stage: Stage) -> Loss:
        noise = step_noise(self.config.training.seed, epoch, step, batch.rows)
        x = batch.points.to(model.data_mean)
        condition = shown(model, x, batch, self.shapes.train, noise, self.config.data.up)
        return model.loss(x, noise, stage.prior_only, condition, batch.noise)

    def counts(self, model: PointFlow) -> dict[str, float]:
        """How often each flow was evaluated in its solve."""
        counts = {}
        for name, (forward, backward) in model.evaluations().items() if model.solves_in_training else ():
            counts |= {f"evaluations/{name}": forward, f"evaluations/{name}_backward": backward}
        return counts

    def validate(self, model: PointFlow) -> dict[str, float]:
        return validate(model, self.shapes.val, self.shapes, self.config)

    def comparable(self, values: Mapping[str, float], stage: Stage) -> float:
        return comparable(values, self.config, stage)
