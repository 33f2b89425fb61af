"""The training loop. Every random number is a function of (seed, epoch, step), so a run can be cut anywhere."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pcgen.config import to_yaml
from pcgen.data.files import replacing
from pcgen.data.shapes import Shapes, ShapeSplit, batches, steps_per_epoch
from pcgen.metrics.reconstruction import reconstruction
from pcgen.models import PointFlow
from pcgen.training.config import RunConfig
from pcgen.training.state import Stage, State, stages
from pcgen.training.telemetry import Telemetry

__all__ = ["Diverged", "Interrupted", "OnValidation", "build_model", "train", "validate"]

VALIDATION_SHAPES, RECONSTRUCTED_SHAPES, RECONSTRUCTED_POINTS = 128, 16, 1024

OnValidation = Callable[[PointFlow, State], None]


class Diverged(ArithmeticError):
    """A loss, a gradient or a weight stopped being a number; the checkpoints are those from before."""


class Interrupted(Exception):
    """The user stopped the run; it was saved at the step it had reached."""


def build_model(config: RunConfig, shapes: Shapes) -> PointFlow:
    """A fresh model, its weights drawn from the run's seed, with the data's statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        statistics = shapes.normalisation
        return PointFlow(config.model, statistics.mean.tolist(), statistics.scale.tolist())


def train(
    config: RunConfig,
    shapes: Shapes,
    folder: Path,
    *,
    resume: bool = False,
    on_validation: OnValidation | None = None,
    quiet: bool = False,
) -> PointFlow:
    """Train a PointFlow, keeping checkpoints, history and ``config.yaml`` in ``folder``.

    Args:
        resume: go on from what ``folder`` holds; the result is bit-identical to an uninterrupted run (CPU, same
            number of threads).
        on_validation: called after each validation with the model to be judged (averaged weights) and the state.

    Returns:
        the trained model with its averaged weights, ready to sample.

    Raises:
        Diverged: a term of the loss, a gradient or a weight is no longer finite; the message names it.
        Interrupted: Ctrl-C; everything is saved.
        DiskFull: a checkpoint could not be written; the previous one is whole.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=config.training.device == "cpu", mixed_precision="no")
    if accelerator.num_processes > 1:
        raise ValueError(f"training runs in one process, {accelerator.num_processes} were launched")
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    model = build_model(config, shapes).to(accelerator.device)
    judged = build_model(config, shapes).to(accelerator.device).eval()  # carries the averaged weights
    plan = stages(config, steps_per_epoch(len(shapes.train), config.training.batch))
    state = State(config, model)
    folder.mkdir(parents=True, exist_ok=True)
    if resume:
        state.restore(folder, plan)
    with replacing(folder / "config.yaml") as stream:
        stream.write(to_yaml(config).encode())
    total = sum((s.last - s.first) * s.steps for s in plan)
    telemetry = Telemetry(folder, total, state.total_steps, quiet=quiet)
    every = config.training.validate_every or max(1, plan[-1].last // 20)
    saved_at = time.monotonic()
    try:
        with _stop_between_steps() as stopped:
            for stage in plan:
                if (state.epoch, state.step) == (stage.first, 0):
                    state.enter(stage)
                while stage.first <= state.epoch < stage.last:
                    for batch in _rest_of_epoch(state, stage, shapes):
                        if stopped():
                            _check_weights(state)
                            state.save(folder)
                            raise Interrupted(f"stopped at step {state.total_steps} of {total}")
                        _step(state, stage, batch, accelerator, telemetry)
                    _check_weights(state)
                    state.epoch, state.step = state.epoch + 1, 0
                    validated = state.epoch % every == 0 or state.epoch == plan[-1].last
                    if validated:
                        judged.load_state_dict(state.averaged())
                        _report_validation(state, stage, judged, shapes, telemetry, folder)
                    if validated or time.monotonic() - saved_at > 60 * config.training.save_minutes:
                        state.save(folder)
                        saved_at = time.monotonic()
                    if validated and on_validation:  # after saving: a picture that fails costs no work
                        on_validation(judged, state)
            if stopped():  # asked for after the last step
                raise Interrupted(f"stopped after the last of {total} steps")
    finally:
        telemetry.close()
    judged.load_state_dict(state.averaged())
    return judged


def keep_freed_memory() -> None:
    """Ask glibc to keep what tensors free: given back, it is paged in anew at every step, a seventh of a CPU's time.

    Process-wide, and nothing where the C library is another.
    """
    trim_threshold, mmap_max = -1, -4  # glibc's malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _rest_of_epoch(state: State, stage: Stage, shapes: Shapes) -> Iterator[Tensor]:
    """The clouds of the epoch's steps that are still to do."""
    config = state.config
    rest = batches(
        shapes.train,
        shapes.normalisation,
        config.data,
        batch=config.training.batch,
        seed=config.training.seed,
        epoch=state.epoch,
        start=state.step,
    )
    for batch in rest:
        yield batch.points


def _noise(seed: int, epoch: int, step: int) -> torch.Generator:
    words = np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def _step(state: State, stage: Stage, batch: Tensor, accelerator, telemetry: Telemetry) -> None:
    """One optimiser step."""
    start = time.perf_counter()
    t, model, optimizer = state.config.training, state.model, state.optimizer
    model.train(not stage.prior_only)  # alone, the latent flow learns the codes of a finished encoder
    for group in optimizer.param_groups:
        group["lr"] = t.lr * stage.rate(state.epoch, state.step, t.warmup)
    noise = _noise(t.seed, state.epoch, state.step)
    where = f"epoch {state.epoch}, step {state.step}"
    try:
        loss = model.loss(batch.to(accelerator.device), noise, prior_only=stage.prior_only)
    except ArithmeticError as error:  # a solver that gave up
        raise Diverged(f"{error}, at {where}") from None
    for name, term in loss.terms.items():
        if not torch.isfinite(term):
            raise Diverged(f"the {name!r} term of the loss became {float(term)} at {where}")
    optimizer.zero_grad(set_to_none=True)
    try:
        accelerator.backward(loss.total)
    except AssertionError as error:  # torchdiffeq's, in the adjoint solve
        raise Diverged(f"the gradient's solve gave up at {where}: {error}") from None
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in trained]))
    if not torch.isfinite(norm):
        broken = (n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all())
        culprit = next(broken, "all weights together")  # each finite, the norm too large for its type
        raise Diverged(f"the gradient of {culprit} became {float(norm)} at {where}")
    if t.clip:  # only now: clipping spreads one weight's NaN over all
        torch.nn.utils.clip_grad_norm_(trained, t.clip)
    optimizer.step()
    if state.ema:
        state.ema.update(model)
    state.step, state.total_steps = state.step + 1, state.total_steps + 1
    state.seconds += time.perf_counter() - start
    values = {f"train/{name}": float(term) for name, term in loss.terms.items()}
    values |= {"train/total": float(loss.total.detach()), "gradient/norm": float(norm)}
    for name, (forward, backward) in model.evaluations().items() if model.solves_in_training else ():
        values |= {f"evaluations/{name}": forward, f"evaluations/{name}_backward": backward}
    telemetry.step(state.total_steps, state.epoch, state.seconds, values)


def _check_weights(state: State) -> None:
    """What is no longer finite must not replace a good checkpoint, even if no loss has shown it yet."""
    for name, value in state.model.state_dict().items():
        if not value.isfinite().all():
            raise Diverged(f"{name} is no longer finite at epoch {state.epoch}, step {state.step}")


@torch.no_grad()
def validate(model: PointFlow, split: ShapeSplit, shapes: Shapes, config: RunConfig) -> dict[str, float]:
    """The objective on a split, and the Chamfer distance of reconstructions in data units; the same noise each time."""
    device = model.data_mean.device
    sums: dict[str, float] = {}
    count = 0
    fixed = batches(split, shapes.normalisation, config.data, batch=config.training.batch, seed=0, epoch=0)
    for step, batch in enumerate(fixed):
        loss = model.loss(batch.points.to(device), _noise(config.training.seed, 0, step))
        for name, term in {**loss.terms, "total": loss.total}.items():
            sums[f"val/{name}"] = sums.get(f"val/{name}", 0.0) + float(term) * len(batch.points)
        count += len(batch.points)
        if count >= VALIDATION_SHAPES:
            break
    values = {name: total / count for name, total in sums.items()}
    placed = split.first(RECONSTRUCTED_SHAPES).placed(config.data.normalise, shapes.normalisation)
    clouds = [torch.as_tensor(placed.input(i)[: config.data.points]) for i in range(len(placed))]
    references = [torch.as_tensor(placed.reference(i)[:RECONSTRUCTED_POINTS]) for i in range(len(placed))]
    back = [model.reconstruct(cloud[None], len(ref), 0)[0].cpu() for cloud, ref in zip(clouds, references)]
    scores = [float(reconstruction(x[None], ref[None], emd="none").cd) for x, ref in zip(back, references)]
    values["val/reconstruction_cd"] = float(np.mean(scores))
    values["evaluations/sample_points"] = model.evaluations()["points"][0]
    return values


def _report_validation(
    state: State, stage: Stage, judged: PointFlow, shapes: Shapes, telemetry: Telemetry, folder: Path
) -> None:
    try:
        values = validate(judged, shapes.val, shapes, state.config)
    except ArithmeticError as error:
        raise Diverged(f"{error}, in the validation after epoch {state.epoch - 1}") from None
    telemetry.write(state.total_steps, state.epoch, state.seconds, values)
    shown = ", ".join(f"{name.removeprefix('val/')} {value:.4g}" for name, value in values.items() if "val/" in name)
    telemetry.say(f"epoch {state.epoch}: {shown}  [{state.seconds / 60:.1f} min]")
    state.save_best(folder, _comparable(values, state.config, stage))


def _comparable(values: Mapping[str, float], config: RunConfig, stage: Stage) -> float:
    """What ``best`` means: the validation loss, or the part of it that epochs of a stage can be compared by.

    Flow matching's prior term has a floor that moves with the encoder (noisier codes are harder to match and easier to
    generate), so it counts only where the encoder stands still.
    """
    if config.model.objective.name == "likelihood":
        return values["val/total"]
    prior = values.get("val/prior", 0.0)
    return prior if stage.prior_only else values["val/total"] - prior


@contextlib.contextmanager
def _stop_between_steps():
    """Ctrl-C asks for a stop at the next step, where everything is consistent; a second one stops at once."""
    asked = False

    def ask(number, frame):
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not in the main thread: leave the signal alone
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
