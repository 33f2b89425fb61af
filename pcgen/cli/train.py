"""``pcgen train``: from a configuration and a folder of shapes or scans to a run with checkpoints, pictures, scores."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pcgen.cli.bars import counting
from pcgen.cli.configs import find_config
from pcgen.cli.data import skipped_lines
from pcgen.cli.models import first_process
from pcgen.cli.parser import add_command, writable

if TYPE_CHECKING:
    from pcgen.data import Shapes
    from pcgen.data.scene_sets import SceneSets
    from pcgen.training import AnyRunConfig

__all__ = ["add_commands"]

# What a run makes: the first three say that a folder holds one.
MARKS = ("config.yaml", "resume", "checkpoints")
MADE = (
    *MARKS,
    *("history.jsonl", "tensorboard", "galleries"),
    *("samples.npz", "gallery.png", "interpolation.png", "curves.png", "metrics.json"),
)
# What may differ when a run goes on: where its data lies now, how long, how often it looks up, what is measured.
MAY_DIFFER = (
    "data.source",
    "model.sampler",
    "model.latent_sampler",
    "training.steps",
    "training.epochs",
    "training.prior_steps",
    "training.prior_epochs",
    "training.validate_every",
    "training.save_minutes",
    "evaluation.",
)
# Filled in when a run begins, and may be left out when it goes on.
FILLED_IN = ("model.condition.classes", "model.condition.shares")


class Job(NamedTuple):
    """What is to be done, and where."""

    config: AnyRunConfig
    folder: Path
    resume: bool


def add_commands(commands) -> None:
    parser = add_command(
        commands,
        "train",
        run,
        "train a PointFlow on shapes, or a PolarMask3D on labelled scans",
        """Train a PointFlow on synthetic shapes, on PointFlow's data sets (ShapeNetCore.v2.PC15k and its ModelNet) or
        on a folder of your own meshes (obj, ply, off, stl, glb) and clouds (npy, npz, ply, xyz). The run's folder gets
        checkpoints, curves, a gallery at every validation and, at the end, samples and scores. Configurations of
        polarmask3d/ train a PolarMask3D to find objects: in generated rooms, or in your own scans with instance labels
        (ply, npz, las, laz; Pointcept, ScanNet and S3DIS folders). Without CONFIG the settings are `laptop` or, where
        there is a GPU, `full`. Any setting is changed by its name in the configuration: key=value; --dry-run prints
        them all. Under torchrun the processes share every batch and make the run of one process.""",
        (
            "pcgen train demo",
            "pcgen train --data my_meshes training.steps=4000",
            "pcgen train airplane_fm --data ShapeNetCore.v2.PC15k --out runs/planes",
            "pcgen train generated                              # finds objects in generated rooms",
            "pcgen train indoor --data my_scans training.steps=4000",
            "pcgen train --resume --out runs/planes            # after Ctrl-C or a crash",
            "torchrun --nproc-per-node 8 -m pcgen train airplane_fm --data ShapeNetCore.v2.PC15k",
        ),
    )
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG | key=value", help="a YAML file or a shipped name; settings"
    )
    parser.add_argument("--data", metavar="FOLDER", help="the shapes or scans to train on; sets data.source")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the run's folder [runs/ and the name of CONFIG or data]"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, or evaluate it again")
    parser.add_argument("--overwrite", action="store_true", help="remove the run in --out first")
    parser.add_argument("--strict", action="store_true", help="stop at the first unusable file; sets data.strict")
    parser.add_argument("--dry-run", action="store_true", help="print settings, data and sizes, and stop")
    parser.add_argument("--quiet", action="store_true", help="say nothing but mistakes")


def run(args: argparse.Namespace) -> None:
    args.quiet |= not first_process()
    job = _job(args)
    if not args.dry_run and first_process():
        _check_folder(job.folder, args.resume, args.overwrite)
    if args.resume:
        _check_same(job)
    from pcgen.config import to_yaml
    from pcgen.training import task_of

    data = _read_data(job.config, args.quiet)
    job = job._replace(config=task_of(job.config, data).config)
    if not args.quiet:
        _describe(job, data)
    if args.dry_run:
        print(to_yaml(job.config) if first_process() else "", end="")
        return
    if args.overwrite and first_process():
        _remove_run(job.folder)
    _train(job, data, args.quiet)


def _read_data(config: AnyRunConfig, quiet: bool) -> Shapes | SceneSets:
    """What the settings train on; what is wrong with it is said before the training."""
    if config.task == "polarmask3d":
        from pcgen.data.scene_sets import load_scenes

        with counting("reading scenes", quiet) as told:
            return load_scenes(config.data, config.model.features, config.model.up, told)
    from pcgen.cli.report import reference_shapes
    from pcgen.data import load

    with counting("reading shapes", quiet) as told:
        shapes = load(config.data, told)
    reference_shapes(shapes, config)
    return shapes


def _train(job: Job, data: Shapes | SceneSets, quiet: bool) -> None:
    """The run itself, and what is made of it at the end."""
    from pcgen.cli import report, segmentation_report
    from pcgen.training import Diverged, Interrupted, train

    segments = job.config.task == "polarmask3d"
    draw = segmentation_report.picture_of_epoch if segments else report.gallery_of_epoch
    go_on = f"go on with: pcgen train --resume --out {shlex.quote(str(job.folder))}"
    try:
        model = train(
            job.config,
            data,
            job.folder,
            resume=job.resume,
            on_validation=draw(job.config, data, job.folder),
            quiet=quiet,
        )
        if not first_process():
            return
        with _alone():
            if segments:
                summary = segmentation_report.finish(job.config, data, job.folder, quiet)
            else:
                summary = report.finish(model, job.config, data, job.folder, quiet)
    except Diverged as error:
        kept = job.folder / "checkpoints" / "last"
        raise Diverged(
            f"{error}; {kept} is from before" if kept.exists() else f"{error}; nothing was saved yet"
        ) from None
    except Interrupted as stop:
        if not first_process():
            raise SystemExit(130) from None
        raise KeyboardInterrupt(f"{stop}; {go_on}") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {go_on}") from None
    if not quiet:
        print(summary)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """The rest is one process's work: what would be shared out meets no others, who have left."""
    size = os.environ.pop("WORLD_SIZE", None)
    try:
        yield
    finally:
        os.environ |= {} if size is None else {"WORLD_SIZE": size}


def _job(args: argparse.Namespace) -> Job:
    """The settings and the folder that the arguments mean."""
    from pcgen.config import read, read_yaml, to_dict
    from pcgen.training import run_config_class

    names = [word for word in args.words if "=" not in word]
    if len(names) > 1:
        raise ValueError(f"one configuration at a time, got {' and '.join(names)}")
    overrides = [word for word in args.words if "=" in word]
    overrides += [] if args.data is None else [f"data.source={json.dumps(args.data, ensure_ascii=False)}"]
    overrides += ["data.strict=true"] if args.strict else []
    if args.resume and args.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite removes it: give one of them")
    if args.resume and not names:
        folder = args.out or (Path("runs") / _name_of_data(args.data) if args.data else None)
        if folder is None:
            raise ValueError("--resume without CONFIG needs --out DIR, the run's folder")
        kept = _kept_settings(folder)
        config = read(type(kept), None, overrides, base=to_dict(kept))
    else:
        path = find_config(names[0]) if names else _config_for_machine(args.quiet)
        folder = args.out or Path("runs") / (_name_of_data(args.data) if args.data and not names else path.stem)
        config = read(run_config_class(read_yaml(path)), path, overrides)
    # A run that was killed before its first checkpoint starts again: there is nothing to lose.
    return Job(config, folder, args.resume and (folder / "resume").exists())


def _config_for_machine(quiet: bool) -> Path:
    import torch

    name, why = ("full", "there is a GPU") if torch.cuda.is_available() else ("laptop", "there is no GPU")
    if not quiet:
        print(f"configuration {name!r}: {why}", file=sys.stderr)
    return find_config(name)


def _name_of_data(source: str) -> str:
    path = Path(source).resolve()
    return (path.stem if path.is_file() else path.name) or "run"


def _check_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, or that holds a run nobody spoke of."""
    writable(folder / "config.yaml")
    there = [name for name in MARKS if (folder / name).exists()]
    if there and not (resume or overwrite):
        raise ValueError(
            f"{folder} holds a run already ({', '.join(there)}): --resume goes on with it, --overwrite removes it, "
            f"--out takes another folder"
        )


def _check_same(job: Job) -> None:
    """Refuse to go on with a run under settings that would make it another one."""
    from pcgen.config import to_dict

    was, now = _flat(to_dict(_kept_settings(job.folder))), _flat(to_dict(job.config))
    differ = [key for key in {**was, **now} if was.get(key) != now.get(key) and not key.startswith(MAY_DIFFER)]
    differ = [key for key in differ if key not in FILLED_IN or now.get(key)]
    if differ:
        listed = ", ".join(f"{key} {now.get(key)} (was {was.get(key)})" for key in differ)
        raise ValueError(f"{job.folder} is a run with other settings, it cannot go on with {listed}")


def _kept_settings(folder: Path) -> AnyRunConfig:
    """Those of the run in ``folder``: they are all there are, what they lack is not today's default for new runs."""
    from pcgen.config import from_dict, read_yaml
    from pcgen.training import run_config_class

    path = folder / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: {folder} holds no run (no config.yaml)")
    kept = read_yaml(path)
    return from_dict(run_config_class(kept), kept)


def _flat(values: dict, prefix: str = "") -> dict:
    """Nested mappings as one, with dotted keys.

    >>> _flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _remove_run(folder: Path) -> None:
    """Remove what a run makes and nothing else."""
    for name in MADE:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _describe(job: Job, data: Shapes | SceneSets) -> None:
    """What is about to happen, on stderr."""
    from pcgen.training import stages, task_of

    task = task_of(job.config, data)
    plan = stages(job.config, task.steps)
    weights = sum(p.numel() for p in task.build_model().parameters())
    steps = ", then ".join(
        f"{(s.last - s.first) * s.steps} steps (epochs {s.first} to {s.last})" + " of the prior alone" * s.prior_only
        for s in plan
    )
    lines = [f"data: {data.source}", *skipped_lines(data.skipped), *getattr(data, "notes", ())]
    lines.append(f"model: {weights:,} weights; {steps}")
    if told := getattr(job.config.model, "condition", None):
        lines.append(f"condition: {told.kind}" + (f", one of {', '.join(told.classes)}" if told.classes else ""))
    print("\n".join([*lines, f"folder: {job.folder}"]), file=sys.stderr)
