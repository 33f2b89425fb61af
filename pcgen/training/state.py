"""What training changes from step to step, and how it is kept: weights, their average, optimiser, position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pcgen.config import to_yaml
from pcgen.training.checkpoint import load_resume, save_checkpoint, save_resume
from pcgen.training.config import AnyRunConfig
from pcgen.training.optimizers import Optimizers, new_optimizer

__all__ = ["Ema", "Stage", "State", "stages"]


@dataclass(frozen=True)
class Stage:
    """A stretch of the run: epochs ``first`` … ``last`` − 1, of ``steps`` optimiser steps each."""

    first: int
    last: int
    steps: int
    batch: int  # what a step visits, shapes or crops of scenes
    prior_only: bool

    def rate(self, epoch: int, step: int, warmup: int) -> float:
        """The learning rate's factor: rising over ``warmup`` steps, one for half of the stage, then down to zero."""
        done, total = (epoch - self.first) * self.steps + step, (self.last - self.first) * self.steps
        return min(1.0, (done + 1) / max(warmup, 1)) * min(1.0, 2 * (1 - done / total))


def stages(config: AnyRunConfig, steps_per_epoch: Callable[[int], int]) -> list[Stage]:
    """The whole model, then (if asked for) its latent flow alone; ``steps_per_epoch`` is that of a batch's size."""
    t = config.training
    whole, prior = (t.epochs, t.steps, t.batch), (t.prior_epochs, t.prior_steps, t.prior_batch or t.batch)
    both, first = [], 0
    for prior_only, (epochs, steps, batch) in ((False, whole), (True, prior)):
        per_epoch = steps_per_epoch(batch)
        last = first + (epochs if epochs is not None else -(-steps // per_epoch))
        both.append(Stage(first, last, per_epoch, batch, prior_only))
        first = last
    return [stage for stage in both if stage.last > stage.first]


class Ema:
    """Moving average of a model's floating-point state; other buffers are copied.

    The decay rises to its value as (1 + n) / (10 + n), so that early steps are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, values = [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(self.state[name])
                values.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)


class State:
    """Everything a resumed run needs to end where an uninterrupted one does."""

    def __init__(self, config: AnyRunConfig, model: nn.Module, info: Mapping[str, Any] | None = None):
        self.config, self.model = config, model
        self.info = dict(info or {})  # goes into every checkpoint
        self.ema = Ema(model, config.training.ema) if config.training.ema else None
        self.epoch, self.step, self.total_steps = 0, 0, 0
        self.best = float("inf")
        self.seconds = 0.0
        self.optimizer: torch.optim.Optimizer | Optimizers | None = None
        self.began: int | None = None  # the first epoch of the stage that trained last

    def trained(self, stage: Stage) -> list[nn.Module]:
        """What the stage trains: all, or the latent flow with what tells it of a condition."""
        modules = (self.model.latent_flow, self.model.condition) if stage.prior_only else (self.model,)
        return [module for module in modules if module is not None]

    def new_optimizer(self, stage: Stage) -> None:
        """Of what the stage trains; tables, one row for each of several things, are no matrices between layers."""
        parameters = [p for module in self.trained(stage) for p in module.parameters() if p.requires_grad]
        tables = [m.weight for m in self.model.modules() if isinstance(m, nn.Embedding)]
        self.optimizer, self.began = new_optimizer(parameters, self.config.training, tables), stage.first

    def enter(self, stage: Stage) -> None:
        """Begin a stage: another set of weights is trained, and another loss tells the best of them."""
        self.new_optimizer(stage)
        self.best = float("inf")

    def averaged(self) -> Mapping[str, Tensor]:
        """The weights to judge and to sample from: the moving average where one is kept."""
        return self.ema.state if self.ema else self.model.state_dict()

    def save(self, folder: Path) -> None:
        """``last`` and ``ema`` for sampling, ``resume`` for going on."""
        settings, info = to_yaml(self.config), self.progress()
        save_checkpoint(folder / "checkpoints" / "last", self.model.state_dict(), settings, info)
        if self.ema:
            save_checkpoint(folder / "checkpoints" / "ema", self.ema.state, settings, info)
        save_resume(folder / "resume", self.resumable())

    def save_best(self, folder: Path, loss: float) -> None:
        """Keep the weights as ``best`` if their validation loss is the lowest of the stage so far."""
        if loss < self.best:
            self.best = loss
            info = {**self.progress(), "validation_loss": loss}
            save_checkpoint(folder / "checkpoints" / "best", self.averaged(), to_yaml(self.config), info)

    def progress(self) -> dict[str, Any]:
        """What a checkpoint says beside weights and settings."""
        return {**self.info, "epoch": self.epoch, "steps": self.total_steps}

    def resumable(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": (self.ema.state, self.ema.updates) if self.ema else None,
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "epoch": self.epoch,
            "step": self.step,
            "total_steps": self.total_steps,
            "best": self.best,
            "seconds": self.seconds,
            "began": self.began,
        }

    def restore(self, folder: Path, plan: list[Stage]) -> None:
        """Go on where the run in ``folder`` was saved."""
        saved = load_resume(folder / "resume")
        statistics = {name: value.clone() for name, value in self.model.named_buffers() if name.startswith("data_")}
        try:
            self.model.load_state_dict(saved["model"])
            if any(not torch.equal(value, self.model.get_buffer(name)) for name, value in statistics.items()):
                raise ValueError(f"{self.config.data.source} holds other data than the run was trained on")
            if self.ema:
                averages, self.ema.updates = saved["ema"]
                for name, value in self.ema.state.items():
                    value.copy_(averages[name])  # onto the model's device
            for name in ("epoch", "step", "total_steps", "best", "seconds"):
                setattr(self, name, saved[name])
            self.began = saved.get("began")
            stage = next((s for s in plan if s.first <= self.epoch < s.last), None)
            begins = stage is not None and (self.epoch, self.step) == (stage.first, 0)
            if self.began or not begins:
                _check_boundary(self.began, stage or plan[-1])
            if stage is not None and not begins:
                self.new_optimizer(stage)
                self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"the run in {folder} does not fit this configuration: {reason}") from None


def _check_boundary(began: int | None, stage: Stage) -> None:
    """``ValueError`` if settings put a run into ``stage`` whose own began at another epoch (None: not on record)."""
    if began not in (None, stage.first):
        done = f"its prior's stage began after epoch {began}" if began else "it has trained for longer"
        raise ValueError(f"{done}, and training.steps (or epochs) would have the first stage end elsewhere")
