"""A trained PolarMask3D as a folder: weights, settings with the tuned thresholds, and what scans it was trained on."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import safetensors
import yaml
from numpy.typing import ArrayLike
from safetensors.torch import load_file, save_file

from pcgen._version import __version__
from pcgen.config import Settings, from_dict, read_yaml, to_dict
from pcgen.data.files import replacing_folder
from pcgen.data.scenes import scale_guess
from pcgen.models.polarmask3d import PolarMask3D, PolarMask3DConfig

__all__ = ["Domain", "Segmenter", "domain_of", "load_segmenter", "save_segmenter"]

WEIGHTS, SETTINGS, INFO = "model.safetensors", "config.yaml", "info.json"  # as in every checkpoint of pcgen
# How far outside of what was seen in training a scan still counts as metres. Scans are cut into tiles and so may be
# much larger; millimetres and inches change the spacing by 1000 and 39.
LARGER, SMALLER, SPARSER = 100.0, 10.0, 5.0


@dataclass(frozen=True)
class Domain(Settings):
    """The scans that a model is for."""

    classes: dict[int, str] = field(default_factory=dict)  # names of 1 … classes, as far as they have some
    extent: tuple[float, float] | None = None  # m, diagonals that are believed to be metres; None: nothing is known
    spacing: tuple[float, float] | None = None  # m, distances between points, likewise

    def __post_init__(self):
        super().__post_init__()
        for name, bounds in self.ranges().items():
            if not 0 < bounds[0] <= bounds[1] < float("inf"):
                raise ValueError(f"{name} must be positive lengths, the smaller first, got {bounds}")

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Keywords of :func:`pcgen.data.scenes.scale_guess` and :func:`pcgen.data.scenes.warn_scale`."""
        known = {"extent": self.extent, "spacing": self.spacing}
        return {name: bounds for name, bounds in known.items() if bounds is not None}


class Segmenter(NamedTuple):
    """A model ready to be asked, and what for."""

    model: PolarMask3D
    domain: Domain


def domain_of(clouds: Iterable[ArrayLike], classes: Mapping[int, str] | None = None) -> Domain:
    """The domain of a model that is trained on ``clouds``, each (N, 3) in metres.

    >>> import numpy as np
    >>> domain_of([np.eye(3)]).spacing
    (0.28..., 7.07...)
    """
    seen = [guess for guess in map(scale_guess, clouds) if guess.extent and guess.spacing]
    if not seen:
        return Domain(dict(classes or {}))
    extents, spacings = [guess.extent for guess in seen], [guess.spacing for guess in seen]
    return Domain(
        dict(classes or {}),
        (min(extents) / SMALLER, max(extents) * LARGER),
        (min(spacings) / SPARSER, max(spacings) * SPARSER),
    )


def save_segmenter(folder: str | Path, model: PolarMask3D, domain: Domain | None = None) -> None:
    """Write ``model``, the thresholds in its configuration and its ``domain`` as ``folder``.

    The folder is written beside the one it replaces and renamed, so that at any time one of the two is whole.
    ``ValueError`` for names of classes that the model does not have, and for a folder in the way that is no checkpoint.

    >>> import tempfile
    >>> from pcgen.models.backbone import BackboneConfig
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model = PolarMask3D(PolarMask3DConfig(backbone=BackboneConfig(widths=(8, 16))))
    ...     save_segmenter(f"{folder}/chairs", model, Domain({1: "chair"}))
    ...     load_segmenter(f"{folder}/chairs").domain.classes
    {1: 'chair'}
    """
    folder, domain = Path(folder), domain or Domain()
    if unknown := [number for number in domain.classes if not 1 <= number <= model.config.classes]:
        raise ValueError(f"classes must be numbered 1 … {model.config.classes}, got {', '.join(map(str, unknown))}")
    if folder.exists() and not (folder / WEIGHTS).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is no checkpoint: one was to go there")
    with replacing_folder(folder) as fresh:
        _write(fresh, model, domain)


def load_segmenter(folder: str | Path) -> Segmenter:
    """The model in ``folder``, on the CPU and ready to be asked; nothing is unpickled.

    Raises:
        FileNotFoundError: there is no such folder, or a file of it is missing.
        ValueError: what is there is damaged, or of another kind of model.
    """
    folder = Path(folder)
    whole = next((f for f in (folder, folder.parent / f"{folder.name}.old") if (f / WEIGHTS).is_file()), None)
    if whole is None:
        what = "holds no checkpoint" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}: expected a folder with {WEIGHTS}, {SETTINGS} and {INFO}")
    try:
        settings = _mapping(read_yaml(whole / SETTINGS).get("model"), "model")
        if "point_flow" in settings:
            raise ValueError("it is a PointFlow, which generates shapes")
        config = from_dict(PolarMask3DConfig, settings)
        domain = _read_domain(whole / INFO)
    except ValueError as error:
        raise ValueError(f"{whole} is no checkpoint of a PolarMask3D: {str(error)[:160]}") from None
    try:
        model = PolarMask3D(config)
        state = load_file(whole / WEIGHTS)
        model.to(next(iter(state.values())).dtype).load_state_dict(state)
    except (safetensors.SafetensorError, RuntimeError, StopIteration, TypeError, struct.error, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{whole / WEIGHTS} is damaged, truncated or of another model: {reason}") from None
    return Segmenter(model.eval(), domain)


def _write(folder: Path, model: PolarMask3D, domain: Domain) -> None:
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS)
    settings = yaml.safe_dump({"model": to_dict(model.config)}, sort_keys=False, default_flow_style=None, width=100)
    (folder / SETTINGS).write_text(settings, encoding="utf-8")
    info = {**to_dict(domain), "features": list(model.config.features), "pcgen": __version__}
    (folder / INFO).write_text(json.dumps(info, indent=1), encoding="utf-8")


def _read_domain(path: Path) -> Domain:
    if not path.is_file():
        raise FileNotFoundError(f"no {path}")
    try:
        info = _mapping(json.loads(path.read_text(encoding="utf-8")), INFO)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{INFO} is not readable JSON: {error}") from None
    return from_dict(Domain, {name: info[name] for name in ("classes", "extent", "spacing") if name in info})


def _mapping(values: object, name: str) -> dict:
    if not isinstance(values, dict):
        raise ValueError(f"{name} must be a mapping, got {type(values).__name__}")
    return values
