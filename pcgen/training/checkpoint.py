"""Checkpoints: folders of weights and settings that rebuild a model by themselves, written atomically."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pcgen._version import __version__
from pcgen.config import from_dict, read_yaml
from pcgen.data.files import replacing_folder
from pcgen.models import PointFlow
from pcgen.models.original import is_original
from pcgen.training.config import RunConfig, run_config_class

__all__ = ["DiskFull", "find_checkpoint", "load_model", "load_resume", "save_checkpoint", "save_resume"]

WEIGHTS, SETTINGS, INFO = "model.safetensors", "config.yaml", "info.json"
PREFERRED = ("ema", "best", "last")  # which of a run's checkpoints is meant when the run is named


class DiskFull(OSError):
    """No space was left; what was there before is whole."""


def save_checkpoint(folder: Path, state: Mapping[str, Tensor], settings: str, info: Mapping[str, Any]) -> None:
    """Write weights, settings (YAML) and ``info`` as ``folder``, replacing what is there in one step.

    Raises:
        DiskFull: the disk filled up; an earlier checkpoint of the same name is still whole.
    """
    try:
        with replacing_folder(folder) as fresh:
            save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, fresh / WEIGHTS)
            (fresh / SETTINGS).write_bytes(settings.encode())
            (fresh / INFO).write_bytes(json.dumps({**info, "pcgen": __version__}, indent=1).encode())
    except (OSError, safetensors.SafetensorError) as error:
        raise _disk_full(error, folder) from None


def save_resume(folder: Path, state: Mapping[str, Any]) -> None:
    """Write everything needed to go on with a run as one file, replaced in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "state.pt.new"
    try:
        with open(fresh, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / "state.pt")
    except (OSError, RuntimeError) as error:
        fresh.unlink(missing_ok=True)
        raise _disk_full(error, folder) from None


def load_resume(folder: Path) -> dict[str, Any]:
    """What :func:`save_resume` wrote; only tensors and plain values are read."""
    path = folder / "state.pt"
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: no {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever a damaged archive makes the unpickler raise
        raise ValueError(f"{path} is damaged or truncated, the run cannot be resumed from it") from None


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder (or original ``.pt`` file) that ``path`` means: itself, or the best choice of a run.

    Of a run's checkpoints, the moving average comes first, then the best by validation loss, then the last.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if is_original(path):
        return path
    candidates = [path, path.parent / f"{path.name}.old"]
    for name in PREFERRED:
        candidates += [path / "checkpoints" / name, path / "checkpoints" / f"{name}.old"]
    for folder in candidates:
        if (folder / WEIGHTS).is_file():
            return folder
    what = "holds no checkpoint" if path.exists() else "does not exist"
    raise FileNotFoundError(f"{path} {what}: expected a run, a folder with {WEIGHTS}, or an original .pt file")


def load_model(path: str | Path, **original: Any) -> PointFlow:
    """The model of a run, of a checkpoint folder, or of an original ``.pt`` (with the arguments of
    :meth:`PointFlow.from_original`), ready to sample.

    Raises:
        FileNotFoundError, ValueError: nothing there, or what is there is damaged, or arguments for an original's .pt
            where there is none.
    """
    found = find_checkpoint(path)
    if is_original(found):
        return PointFlow.from_original(found, **original)
    if original:
        raise ValueError(f"only an original .pt needs {', '.join(original)}: {found} says all of it by itself")
    values = read_yaml(found / SETTINGS)
    if run_config_class(values) is not RunConfig:
        raise ValueError(f"{found} is a {values['task']}, not a PointFlow: pcgen segment SCAN {found} -o OUT uses it")
    settings = from_dict(RunConfig, values)
    model = PointFlow(settings.model, own_frames=settings.data.normalise == "shape")
    try:
        model.load_state_dict(load_file(found / WEIGHTS))
    except (safetensors.SafetensorError, RuntimeError, struct.error, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{found / WEIGHTS} is damaged, truncated or of another model: {reason}") from None
    return model.eval()


def _disk_full(error: Exception, target: Path) -> Exception:
    """A clear error for a write that failed; other failures pass through as they are."""
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    if full or not isinstance(error, OSError):
        return DiskFull(errno.ENOSPC, f"could not write {target}, the previous one is whole ({error})")
    return error
