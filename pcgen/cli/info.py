"""``pcgen info``: the machine, libraries, kernels and shipped configurations; or what a run or checkpoint is."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from pcgen._version import __version__
from pcgen.cli.configs import shipped_configs
from pcgen.cli.parser import add_command, add_original

__all__ = ["add_commands", "hardware", "versions"]

NEEDED = ("torch", "torchdiffeq", "numpy", "scipy", "pydantic", "safetensors", "accelerate", "trimesh", "matplotlib")
OPTIONAL = {
    "tensorboard": "curves while training",
    "open3d": ".pcd files",
    "pykeops": "very large clouds",
    "torch-scatter": "another backend of segment reductions",
    "h5py": "clouds in HDF5 files",
    "laspy": ".las and .laz scans",
}


def add_commands(commands) -> None:
    parser = add_command(
        commands,
        "info",
        run,
        "the machine and its libraries, or a checkpoint",
        """Without PATH: versions, devices, which optional libraries are there, which kernel serves each operation and
        why, and the shipped configurations. With the path of a run, a checkpoint or an original .pt: how far it was
        trained, its size, its data's statistics and its settings.""",
        ("pcgen info", "pcgen info runs/demo"),
    )
    parser.add_argument("path", nargs="?", metavar="PATH", help="a run, a checkpoint folder or an original .pt")
    add_original(parser)


def run(args: argparse.Namespace) -> None:
    lines = _machine() if args.path is None else _checkpoint(args)
    print("\n".join(lines))


def hardware(device: str = "auto") -> dict[str, Any]:
    """The processor, the number of threads, and the GPU that ``device`` leaves to be used."""
    import torch

    found = {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if device == "auto" and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions() -> dict[str, str]:
    """Of pcgen, Python and the libraries that are there."""
    found = {"pcgen": __version__, "python": platform.python_version()}
    return found | {name: version for name in (*NEEDED, *OPTIONAL) if (version := _version(name))}


def _version(library: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _machine() -> list[str]:
    there, machine = versions(), hardware()
    missing = [f"  {name} is not installed ({use})" for name, use in OPTIONAL.items() if name not in there]
    configs = [f"  {name:<26} {_purpose(path)}" for name, path in shipped_configs().items()]
    return [
        "versions: " + ", ".join(f"{name} {version}" for name, version in there.items()),
        *missing,
        f"machine: {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads",
        f"GPU: {machine.get('gpu', 'none that torch sees')}",
        *_kernels(),
        "configurations, for pcgen train:",
        *configs,
    ]


def _kernels() -> list[str]:
    """Which kernel serves each operation, and why."""
    from pcgen.ops import servers

    found = servers()
    width = max(len(server.cpu) for server in found)
    return [
        f"{'operations:':<28} {'on the CPU':<{width}}  on CUDA",
        *(f"  {server.operation:<26} {server.cpu:<{width}}  {server.cuda}" for server in found),
    ]


def _purpose(config: Path) -> str:
    """The comment that a configuration begins with."""
    first = config.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def _checkpoint(args: argparse.Namespace) -> list[str]:
    from pcgen.cli.models import original_options
    from pcgen.config import from_dict, read_yaml, to_yaml
    from pcgen.models.original import is_original
    from pcgen.training import RunConfig, SegmentationRunConfig, find_checkpoint, load_model, run_config_class

    found = find_checkpoint(args.path)
    if not is_original(found) and run_config_class(read_yaml(found / "config.yaml")) is SegmentationRunConfig:
        return _segmenter(found)
    model = load_model(found, **original_options(args, found))
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    mean, scale = (", ".join(f"{x:.4g}" for x in values) for values in (model.data_mean, model.data_scale))
    lines = [
        f"checkpoint: {found}",
        f"weights: {sum(parts.values()):,} (" + ", ".join(f"{n} {count:,}" for n, count in parts.items()) + ")",
        f"data: mean {mean}; scale {scale}",
    ]
    if is_original(found):
        return [*lines, "the original's weights; settings:", to_yaml(model.config).rstrip()]
    info = found / "info.json"
    facts = json.loads(info.read_text(encoding="utf-8")) if info.is_file() else {}
    return [
        *lines,
        "trained: " + ", ".join(f"{key} {value}" for key, value in facts.items()),
        "settings:",
        to_yaml(from_dict(RunConfig, read_yaml(found / "config.yaml"))).rstrip(),
    ]


def _segmenter(found: Path) -> list[str]:
    from pcgen.config import to_dict
    from pcgen.models.segmenter import load_segmenter

    model, domain = load_segmenter(found)
    facts = json.loads((found / "info.json").read_text(encoding="utf-8"))
    return [
        f"checkpoint: {found}",
        f"weights: {sum(p.numel() for p in model.parameters()):,}",
        "scans: " + ", ".join(f"{key} {value}" for key, value in to_dict(domain).items()),
        "trained: " + ", ".join(f"{key} {facts[key]}" for key in ("epoch", "steps") if key in facts),
        "settings:",
        (found / "config.yaml").read_text(encoding="utf-8").rstrip(),
    ]
