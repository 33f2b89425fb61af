"""The training loop. Every random number is a function of (seed, epoch, step, place), so a run can be cut anywhere."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pcgen.config import to_yaml
from pcgen.data.files import replacing
from pcgen.data.scene_sets import SceneSets
from pcgen.data.shapes import Shapes
from pcgen.training.config import AnyRunConfig, RunConfig
from pcgen.training.generation import GenerationTask
from pcgen.training.processes import Team
from pcgen.training.segmentation import SegmentationTask
from pcgen.training.state import Stage, State, stages
from pcgen.training.task import Batch, Task
from pcgen.training.telemetry import Telemetry

__all__ = ["Diverged", "Interrupted", "OnValidation", "build_model", "task_of", "train"]

VALIDATIONS = 20  # over a run, where the settings do not say
OnValidation = Callable[[nn.Module, State], None]


class Diverged(ArithmeticError):
    """A loss, a gradient or a weight stopped being a number; the checkpoints are those from before."""


class Interrupted(Exception):
    """The user stopped the run; it was saved at the step it had reached."""


def task_of(config: AnyRunConfig, data: Shapes | SceneSets) -> Task:
    """What these settings train: a PointFlow on shapes, or a PolarMask3D on scenes.

    ``TypeError`` for data of the other kind.
    """
    kind, wanted = (GenerationTask, Shapes) if isinstance(config, RunConfig) else (SegmentationTask, SceneSets)
    if not isinstance(data, wanted):
        raise TypeError(f"task {config.task!r} is trained on {wanted.__name__}, got {type(data).__name__}")
    return kind(config, data)


def build_model(config: AnyRunConfig, data: Shapes | SceneSets) -> nn.Module:
    """A fresh model, its weights drawn from the run's seed; a PointFlow has the data's statistics."""
    return task_of(config, data).build_model()


def train(
    config: AnyRunConfig,
    data: Shapes | SceneSets,
    folder: Path,
    *,
    resume: bool = False,
    on_validation: OnValidation | None = None,
    quiet: bool = False,
) -> nn.Module:
    """Train a PointFlow on shapes, or a PolarMask3D on scenes, as the settings say.

    ``folder`` keeps checkpoints, history and ``config.yaml``. Under ``torchrun`` or ``accelerate launch`` every process
    calls it and takes its part of each batch; gradients and batch statistics are those of the whole batch, so that the
    run is the same, up to rounding and to the tolerance of an adaptive solver, in any number of processes. The first of
    them validates, writes and speaks; all read ``folder`` to resume.

    Args:
        resume: go on from what ``folder`` holds; the result is bit-identical to an uninterrupted run (CPU, same
            number of threads).
        on_validation: called after each validation with the model to be judged (averaged weights) and the state.

    Returns:
        the trained model with its averaged weights, ready to be asked.

    Raises:
        Diverged: a term of the loss, a gradient or a weight is no longer finite; the message names it.
        Interrupted: Ctrl-C; everything is saved.
        DiskFull: a checkpoint could not be written; the previous one is whole.
    """
    team = Team(config.training.device)
    if team.device.type == "cpu":
        keep_freed_memory()
    task = task_of(config, data)
    config = task.config
    model = task.build_model().to(team.device)
    judged = task.build_model().to(team.device).eval()  # carries the averaged weights
    plan = stages(config, task.steps)
    state = State(config, model, task.info)
    if resume:
        state.restore(folder, plan)
    total = sum((s.last - s.first) * s.steps for s in plan)
    if team.first:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "config.yaml") as stream:
            stream.write(to_yaml(config).encode())
    telemetry = Telemetry(folder, total, state.total_steps, quiet=quiet) if team.first else None
    saved_at = time.monotonic()
    try:
        with team.listening():
            for stage in plan:
                if (state.epoch, state.step) == (stage.first, 0):
                    state.enter(stage)
                while stage.first <= state.epoch < stage.last:
                    for batch in task.batches(stage, state.epoch, state.step, (team.rank, team.size)):
                        if team.stopping:
                            _check_weights(state)
                            if team.first:
                                state.save(folder)
                            raise Interrupted(f"stopped at step {state.total_steps} of {total}")
                        _step(state, stage, batch, task, team, telemetry)
                    _check_weights(state)
                    state.epoch, state.step = state.epoch + 1, 0
                    validated = _is_due(state, stage, total) or state.epoch == plan[-1].last
                    if not team.first:
                        continue
                    if validated:
                        judged.load_state_dict(state.averaged())
                        _report_validation(state, stage, judged, task, telemetry, folder)
                    if validated or time.monotonic() - saved_at > 60 * config.training.save_minutes:
                        state.save(folder)
                        saved_at = time.monotonic()
                    if validated and on_validation:  # after saving: a picture that fails costs no work
                        on_validation(judged, state)
            if team.stopping:  # asked for after the last step
                raise Interrupted(f"stopped after the last of {total} steps")
    finally:
        if telemetry:
            telemetry.close()
    judged.load_state_dict(state.averaged())
    return judged


def _is_due(state: State, stage: Stage, total: int) -> bool:
    """Whether the model is looked at after the epoch that has just ended, one of ``total`` steps of the run."""
    if every := state.config.training.validate_every:
        return state.epoch % every == 0
    before, now = (steps * VALIDATIONS // total for steps in (state.total_steps - stage.steps, state.total_steps))
    return now > before


def keep_freed_memory() -> None:
    """Ask glibc to keep what tensors free: given back, it is paged in anew at every step, a seventh of a CPU's time.

    Process-wide, and nothing where the C library is another.
    """
    trim_threshold, mmap_max = -1, -4  # glibc's malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _step(state: State, stage: Stage, batch: Batch, task: Task, team: Team, telemetry: Telemetry | None) -> None:
    """One optimiser step."""
    start = time.perf_counter()
    t, model, optimizer = state.config.training, state.model, state.optimizer
    model.eval()  # the latent flow, where it trains alone, learns the codes of a finished encoder
    for module in state.trained(stage):
        module.train()
    for group in optimizer.param_groups:
        group["lr"] = t.lr * stage.rate(state.epoch, state.step, t.warmup)
    where = f"epoch {state.epoch}, step {state.step}"
    optimizer.zero_grad(set_to_none=True)
    with team.one_batch(batch.share):
        try:
            loss = task.loss(model, batch, state.epoch, state.step, stage)
        except ArithmeticError as error:  # a solver that gave up
            raise Diverged(f"{error}, at {where}") from None
        terms = dict(zip(loss.terms, team.mean(torch.stack([*loss.terms.values()]), batch.share)))
        for name, term in terms.items():
            if not torch.isfinite(term):
                raise Diverged(f"the {name!r} term of the loss became {float(term)} at {where}")
        try:
            team.backward(loss.total, batch.share, [p for group in optimizer.param_groups for p in group["params"]])
        except AssertionError as error:  # torchdiffeq's, in the adjoint solve
            raise Diverged(f"the gradient's solve gave up at {where}: {error}") from None
    norm = _gradient_norm(state, where)
    optimizer.step()
    if state.ema:
        state.ema.update(model)
    state.step, state.total_steps = state.step + 1, state.total_steps + 1
    state.seconds += time.perf_counter() - start
    if telemetry:
        values = {f"train/{name}": float(term) for name, term in terms.items()}
        values |= {"train/total": float(sum(terms.values())), "gradient/norm": norm, **task.counts(model)}
        telemetry.step(state.total_steps, state.epoch, state.seconds, values)


def _gradient_norm(state: State, where: str) -> float:
    """The norm of the whole gradient before it is clipped, which is finite, or else it is told whose is not."""
    trained = [p for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in trained]))
    if not torch.isfinite(norm):
        broken = (n for n, p in state.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all())
        culprit = next(broken, "all weights together")  # each finite, the norm too large for its type
        raise Diverged(f"the gradient of {culprit} became {float(norm)} at {where}")
    if clip := state.config.training.clip:  # only now: clipping spreads one weight's NaN over all
        torch.nn.utils.clip_grad_norm_(trained, clip)
    return float(norm)


def _check_weights(state: State) -> None:
    """What is no longer finite must not replace a good checkpoint, even if no loss has shown it yet."""
    for name, value in state.model.state_dict().items():
        if not value.isfinite().all():
            raise Diverged(f"{name} is no longer finite at epoch {state.epoch}, step {state.step}")


def _report_validation(
    state: State, stage: Stage, judged: nn.Module, task: Task, telemetry: Telemetry, folder: Path
) -> None:
    try:
        values = task.validate(judged)
    except ArithmeticError as error:
        raise Diverged(f"{error}, in the validation after epoch {state.epoch - 1}") from None
    telemetry.write(state.total_steps, state.epoch, state.seconds, values)
    shown = ", ".join(f"{name.removeprefix('val/')} {value:.4g}" for name, value in values.items() if "val/" in name)
    telemetry.say(f"epoch {state.epoch}: {shown}  [{state.seconds / 60:.1f} min]")
    state.save_best(folder, task.comparable(values, stage))
