"""Runs of several processes for test_distributed.py, all forked from one that has imported what they need.

    python tests/launched.py FOLDER

Processes of a run meet as torchrun's do, by the environment. What they find is left in FOLDER.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch

import pcgen.training.loop as loop
import pcgen.viz
from pcgen.cli import main
from pcgen.config import read
from pcgen.data.scene_sets import load_scenes
from pcgen.data.shapes import load
from pcgen.training import Diverged, Interrupted, RunConfig, SegmentationRunConfig

TINY = [
    *("data.source=synthetic", "data.categories=[chair, lamp]", "data.shapes=10", "data.mesh_points=300"),
    *("data.points=32", "model.latent=4", "model.encoder.widths=[8, 16]", "model.encoder.head=[8]"),
    *("model.point_flow.dims=[8]", "model.latent_flow.dims=[8]", "training.device=cpu", "training.batch=4"),
    *("training.epochs=2", "training.clip=1", "training.save_minutes=100"),
]
SOLVER = "{method: rk4, steps: 2}"  # the same steps whatever is solved together
RUNS = {
    "likelihood": [
        *("model.objective.name=likelihood", "model.sampler=null", "model.latent_sampler=null"),
        *(f"model.{flow}.solver={SOLVER}" for flow in ("point_flow", "latent_flow")),
        *(f"model.{flow}.norm=moving" for flow in ("point_flow", "latent_flow")),
        *(f"model.{flow}.train_time=true" for flow in ("point_flow", "latent_flow")),
    ],
    "matching": ["model.condition={kind: class, dropout: 0.5}", "training.prior_epochs=1"],
    "pictures": ["model.condition={kind: depth, resolution: 8, views: 3}", "data.rotate=true", "training.epochs=1"],
    "parts": ["model.condition={kind: cloud}", "training.epochs=1"],
}
SIZES = {
    "likelihood": 2,
    "matching": 3,
    "pictures": 2,
    "parts": 2,
    "objects": 2,
}  # three: the last batch of an epoch has two shapes
ROOM = "{spacing: 0.1, objects: [2, 3], floor: [2, 2.5], walls: 0, categories: [car], size: [0.8, 1.2]}"
OBJECTS = [  # in float32, as crops are; three crops a batch, and scenes without an object in some of them
    *(f"data.generated={{train: 2, val: 1, test: 0, scene: {ROOM}}}", "data.crop={points: 300, on_objects: 0.3}"),
    *("model.backbone={voxel: 0.1, widths: [8, 12]}", "training.steps=4", "training.batch=3", "training.device=cpu"),
    *("training.save_minutes=100", "training.validate_every=99", "evaluation.crops=1"),
]
SAMPLE = ["-n", "7", "--points", "6000", "--seed", "3"]  # five shapes fill a solve


def record(name: str, folder: Path, resume: bool = False, spoil=None) -> list[dict[str, torch.Tensor]]:
    """Train the run, a PointFlow in float64; gradients and statistics after each step, and last the weights.

    In the second process ``spoil(batch)`` gives the batch of the second step.
    """
    if name == "objects":
        config = read(SegmentationRunConfig, overrides=OBJECTS)
        data, dtype = load_scenes(config.data), torch.float32
    else:
        config = read(RunConfig, overrides=[*TINY, *RUNS[name]])
        data, dtype = load(config.data), torch.float64
    found = []
    step, make = loop._step, loop.task_of

    def recorded(state, stage, batch, *arguments):
        if spoil and os.environ["RANK"] == "1" and state.total_steps == 1:
            batch = spoil(batch)
        step(state, stage, batch, *arguments)
        kept = {f"gradient of {n}": p.grad.clone() for n, p in state.model.named_parameters() if p.grad is not None}
        found.append(kept | {n: b.clone() for n, b in state.model.named_buffers() if b.is_floating_point()})

    def task_of(*arguments):
        task = make(*arguments)
        build = task.build_model
        task.build_model = lambda: build().to(dtype)
        return task

    loop._step, loop.task_of = recorded, task_of
    try:
        model = loop.train(config, data, folder, quiet=True, resume=resume)
    finally:
        loop._step, loop.task_of = step, make
    return [*found, dict(model.state_dict())]


def interrupted(batch):
    """Ctrl-C, heard twice: the terminal sends it to every process, and torchrun passes it on."""
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    return batch


def broken(batch):
    """Points that are no numbers."""
    return batch._replace(points=batch.points * float("nan"))


def stop(folder: Path, spoil) -> None:
    """A run that one process ends; what each of them says of it is kept beside its folder."""
    try:
        record("matching", folder, spoil=spoil)
    except (Interrupted, Diverged) as stopped:
        folder.with_name(f"{folder.name}{os.environ['RANK']}.txt").write_text(str(stopped))


def sample(folder: Path, size: int) -> None:
    """The command, without its picture."""
    pcgen.viz.gallery = lambda *_, **__: None
    if main(["sample", str(folder / "matching"), *SAMPLE, "--class", "lamp", "-o", f"{folder}/{size}.npy"]):
        raise SystemExit("pcgen sample failed")


def launch(size: int, job) -> None:
    """Fork ``size`` processes that run ``job()``, and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        if child := os.fork():
            children.append(child)
            continue
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
        try:
            job()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    failed = [code for child in children if (code := os.waitpid(child, 0)[1])]
    if failed:
        raise SystemExit(f"{len(failed)} of {size} processes failed")


def run_all(folder: Path) -> None:
    """Every run in its processes."""

    def keep(name: str) -> None:
        found = record(name, folder / name)
        torch.save(found, folder / f"{name}{os.environ['RANK']}.pt")

    for name, size in SIZES.items():
        launch(size, lambda name=name: keep(name))
    launch(2, lambda: stop(folder / "stopped", interrupted))
    launch(2, lambda: stop(folder / "diverged", broken))
    for size in (1, 2):
        launch(size, lambda size=size: sample(folder, size))


if __name__ == "__main__":
    import accelerate  # noqa: F401  once, before the forks
    import torch._dynamo
    import torchdiffeq  # noqa: F401
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    torch.set_num_threads(1)
    run_all(Path(sys.argv[1]))
