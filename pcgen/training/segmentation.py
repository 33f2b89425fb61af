"""Training a PolarMask3D, as a task of the loop: crops of scenes, augmented, each drawn from a stream of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from pcgen.config import to_dict
from pcgen.data.scene_sets import SceneSets
from pcgen.geometry.rays import rays
from pcgen.models import Loss
from pcgen.models.instances import predict_instances
from pcgen.models.polar_targets import LabelledCloud, PolarBatch, collate
from pcgen.models.polarmask3d import PolarMask3D
from pcgen.models.segmenter import domain_of
from pcgen.models.tuning import average_precision
from pcgen.training.config import SegmentationRunConfig
from pcgen.training.labelled_crops import labelled_crop
from pcgen.training.noise import step_noise
from pcgen.training.state import Stage

__all__ = ["CropBatch", "SegmentationTask", "points_seen"]

TIE = 1e-3  # weight of the loss beside AP50, in what is best
SEEN = 16  # training scenes whose unit and density are taken for all


class CropBatch(NamedTuple):
    """This process's crops of a step."""

    crops: list[PolarBatch]  # each by itself, on the CPU
    rows: range  # their places in the step's batch
    share: float = 1.0  # of the crops of the step's batch that these are; 0: one stands in where none is left


def points_seen(scenes: SceneSets) -> Iterator[np.ndarray]:
    """(N, 3) the points of the training scenes whose unit and density are taken for all."""
    return (scenes.train[i].scene.points for i in range(min(SEEN, len(scenes.train))))


class SegmentationTask:
    """A PolarMask3D that learns the objects of scenes.

    Every crop has a loss of its own, their mean is the step's: so it is turned by itself, and the run is the same in
    any number of processes.
    """

    def __init__(self, config: SegmentationRunConfig, scenes: SceneSets):
        self.config, self.scenes = config, scenes
        self.rays = rays(config.model.rays)
        self._visits = np.repeat(np.arange(len(scenes.train)), scenes.visits)

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """The domain of the training scenes."""
        domain = to_dict(domain_of(points_seen(self.scenes), self.config.data.class_names))
        return {**domain, "features": list(self.config.model.features)}

    def build_model(self) -> PolarMask3D:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.training.seed)
            return PolarMask3D(self.config.model)

    def steps(self, batch: int) -> int:
        return -(-len(self._visits) // batch)

    def batches(self, stage: Stage, epoch: int, start: int, part: tuple[int, int]) -> Iterator[CropBatch]:
        """Every scene as often as ``visits`` says, in shuffled order."""
        seed, (process, processes) = self.config.training.seed, part
        order = np.random.default_rng(np.random.SeedSequence((seed, epoch), spawn_key=(0,))).permutation(self._visits)
        for step in range(start, stage.steps):
            chosen = order[step * stage.batch : (step + 1) * stage.batch]
            rows = range(process * len(chosen) // processes, (process + 1) * len(chosen) // processes)
            share, rows = len(rows) / len(chosen), rows or range(1)
            crops = [self._crop(int(chosen[row]), (seed, epoch, step), row) for row in rows]
            yield CropBatch(crops, rows, share)

    def _crop(self, scene: int, stream: tuple[int, int, int], place: int) -> PolarBatch:
        rng = np.random.default_rng(np.random.SeedSequence(stream, spawn_key=(place, 1)))
        cloud = labelled_crop(self.scenes.train, scene, self.config.data, self.config.model, self.rays, rng)
        return collate([cloud], self.rays)

    def loss(self, model: PolarMask3D, batch: CropBatch, epoch: int, step: int, stage: Stage) -> Loss:
        return _loss(model, batch.crops, step_noise(self.config.training.seed, epoch, step, batch.rows))

    def counts(self, model: PolarMask3D) -> dict[str, float]:
        return {}

    @functools.cached_property
    def validation_crops(self) -> list[LabelledCloud]:
        """The same crops of the scenes to validate on each time, as they are."""
        crops = []
        for k in range(self.config.evaluation.crops):
            rng = np.random.default_rng(np.random.SeedSequence((self.config.training.seed, k), spawn_key=(3,)))
            scene = k % len(self.scenes.val)
            how = (self.scenes.val, scene, self.config.data, self.config.model, self.rays, rng)
            crops.append(labelled_crop(*how, augment=False))
        return crops

    @torch.no_grad()
    def validate(self, model: PolarMask3D) -> dict[str, float]:
        """The loss on crops of scenes to validate on, with the same noise each time, and AP of what is found there."""
        clouds, t = self.validation_crops, self.config.training
        loss = _loss(model, [collate([c], self.rays) for c in clouds], step_noise(t.seed, 0, 0, range(len(clouds))))
        found = [predict_instances(model, cloud.points, cloud.features) for cloud in clouds]
        scores = average_precision(found, clouds, self.config.model.classes, self.config.evaluation.min_points)
        values = {f"val/{name}": float(term) for name, term in {**loss.terms, "total": loss.total}.items()}
        return values | {"val/ap": scores.ap, "val/ap50": scores.ap50, "val/ap25": scores.ap25}

    def comparable(self, values: Mapping[str, float], stage: Stage) -> float:
        """What AP50 lacks; by the loss, where two find the same or there is nothing to find."""
        missed = 1 - values["val/ap50"]
        return TIE * values["val/total"] + (0.0 if math.isnan(missed) else missed)


def _loss(model: PolarMask3D, crops: Sequence[PolarBatch], noise: Sequence[torch.Generator]) -> Loss:
    """The mean over crops of the loss of each."""
    like = next(model.parameters())
    losses = [model.loss(crop.to(like.device), generator) for crop, generator in zip(crops, noise)]
    terms = {name: torch.stack([loss.terms[name] for loss in losses]).mean() for name in losses[0].terms}
    return Loss(torch.stack([loss.total for loss in losses]).mean(), terms)
