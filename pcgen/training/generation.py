"""Training a PointFlow, as a task of the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from pcgen.data.shapes import Batch, Places, Shapes, batches, places, steps_per_epoch
from pcgen.models import Loss, PointFlow, coupled_once, draw_codes
from pcgen.training.config import RunConfig, with_classes
from pcgen.training.kept import CLOUDS, KeptPosteriors
from pcgen.training.noise import shown, step_noise
from pcgen.training.state import Stage
from pcgen.training.validation import comparable, validate

__all__ = ["GenerationTask"]


class GenerationTask:
    """A PointFlow that learns shapes."""

    def __init__(self, config: RunConfig, shapes: Shapes):
        self.config = with_classes(config, shapes)
        self.shapes = coupled_once(shapes, config.data, config.model.objective, config.training.seed)
        self.info: dict[str, Any] = {}
        self._kept: KeptPosteriors | None = None

    def steps(self, batch: int) -> int:
        return steps_per_epoch(len(self.shapes.train), batch)

    def build_model(self) -> PointFlow:
        """Its data's statistics are the training set's."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.training.seed)
            statistics = self.shapes.normalisation
            own_frames = self.config.data.normalise == "shape"
            return PointFlow(self.config.model, statistics.mean.tolist(), statistics.scale.tolist(), own_frames)

    @property
    def keeps_codes(self) -> bool:
        """Whether the prior's stage learns from posteriors that are kept, and needs no points.

        Not where each visit turns a shape anew, or the latent flow is shown the very points that were encoded.
        """
        condition = self.config.model.condition
        return not self.config.data.rotate and (condition is None or condition.kind == "class")

    def batches(self, stage: Stage, epoch: int, start: int, part: tuple[int, int]) -> Iterator[Batch | Places]:
        """Shapes in shuffled order; the prior's stage has their places alone, or their points without paired noise."""
        train, seed = self.shapes.train, self.config.training.seed
        if stage.prior_only and self.keeps_codes:
            return places(len(train), stage.batch, seed, epoch, start, part)
        train = replace(train, noise=None) if stage.prior_only else train
        how = (self.shapes.normalisation, self.config.data, stage.batch, seed, epoch, start, part)
        return batches(train, *how)

    def loss(self, model: PointFlow, batch: Batch | Places, epoch: int, step: int, stage: Stage) -> Loss:
        noise = step_noise(self.config.training.seed, epoch, step, batch.rows)
        if stage.prior_only and self.keeps_codes:
            z = self._kept_by(model, stage).codes(batch.index.tolist(), noise)
            return model.prior_loss(z, noise, shown(model, z, batch, self.shapes.train, noise, self.config.data.up))
        x = batch.points.to(model.data_mean)
        condition = shown(model, x, batch, self.shapes.train, noise, self.config.data.up)
        if not stage.prior_only:
            return model.loss(x, noise, condition, batch.noise)
        with torch.no_grad():
            z = draw_codes(model.encoder(x), noise)
        return model.prior_loss(z, noise, condition)

    def _kept_by(self, model: PointFlow, stage: Stage) -> KeptPosteriors:
        if self._kept is None or self._kept.encoder is not model.encoder:
            clouds = min(CLOUDS, stage.last - stage.first)  # not more than there are visits to a shape
            how = (self.config.data, self.config.training.seed, clouds)
            self._kept = KeptPosteriors(model.encoder, self.shapes, *how)
        return self._kept

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
