"""What is trained, as far as the loop knows it: a model, the batches of an epoch, a loss, and what is best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import nn

from pcgen.models import Loss
from pcgen.training.config import AnyRunConfig
from pcgen.training.state import Stage

__all__ = ["Batch", "Task"]


class Batch(Protocol):
    """This process's part of what a step learns from."""

    share: float  # of the step's batch that this is; 0: it stands in where none is left


class Task(Protocol):
    """A model and the data that it learns from. Everything it draws is a function of (seed, epoch, step, place)."""

    config: AnyRunConfig  # as it is kept with the run
    info: Mapping[str, Any]  # what checkpoints say of the data

    def build_model(self) -> nn.Module:
        """A fresh model, its weights drawn from the run's seed."""

    def steps(self, batch: int) -> int:
        """Of an epoch, each of so many shapes or crops."""

    def batches(self, stage: Stage, epoch: int, start: int, part: tuple[int, int]) -> Iterator[Batch]:
        """The epoch's batches from step ``start`` on, of each the part of (process, processes)."""

    def loss(self, model: nn.Module, batch: Batch, epoch: int, step: int, stage: Stage) -> Loss:
        """The mean over what this process has of the batch."""

    def counts(self, model: nn.Module) -> dict[str, float]:
        """What telemetry tells of the last step besides the loss."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Values by name, those worth a line beginning with ``val/``."""

    def comparable(self, values: Mapping[str, float], stage: Stage) -> float:
        """The value by which checkpoints of a stage are compared, the lower the better."""
