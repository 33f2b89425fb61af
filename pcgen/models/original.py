"""Reading checkpoints of the original PointFlow program (github.com/stevenygd/PointFlow): tensors only, no code."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from pcgen.flows import LAYERS, FlowConfig, SolverConfig
from pcgen.flows.layers import NonlinearityName
from pcgen.models.config import PointFlowConfig
from pcgen.models.encoder import EncoderConfig
from pcgen.models.objective import ObjectiveConfig

__all__ = ["is_original", "read_original"]

State = dict[str, Tensor]


def is_original(path: str | Path) -> bool:
    """Whether a path looks like the original's checkpoint: a file, not one of our folders."""
    return Path(path).is_file() and Path(path).suffix in (".pt", ".pth", ".tar")


def read_original(
    path: str | Path, time_length: float, nonlinearity: str, layer: str, solver: SolverConfig
) -> tuple[PointFlowConfig, State]:
    """The configuration and our state dict of an original checkpoint; see :meth:`PointFlow.from_original`."""
    for value, legal, what in (
        (layer, tuple(LAYERS), "layer"),
        (nonlinearity, get_args(NonlinearityName), "nonlinearity"),
    ):
        if value not in legal:
            raise ValueError(f"{what} must be one of {', '.join(legal)}, got {value!r}")
    state = _plain_keys(_tensors(Path(path)), Path(path))
    encoder, encoder_state = _encoder(state, Path(path))
    options = {"layer": layer, "nonlinearity": nonlinearity, "time_length": time_length, "solver": solver}
    point, point_state = _flow(state, "point_cnf.", options, Path(path))
    latent, latent_state = None, {}
    if any(key.startswith("latent_cnf.") for key in state):
        # A code's error moves a whole shape, and its solve costs nothing beside that of the points.
        finer = dataclasses.replace(solver, atol=solver.atol / 10, rtol=solver.rtol / 10)
        latent, latent_state = _flow(state, "latent_cnf.", {**options, "solver": finer}, Path(path))
    size = encoder_state[f"encoder.mean.{3 * len(encoder.head)}.weight"].shape[0]
    config = PointFlowConfig(size, encoder, point, latent, ObjectiveConfig(name="likelihood"))
    return config, {**encoder_state, **point_state, **latent_state}


def _tensors(path: Path) -> Mapping:
    """The file's state dict, read without unpickling anything but tensors and plain containers."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols, for files that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of any kind make the parser fail in any way (IndexError, struct.error, …)
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            what = f"holds objects other than tensors ({found[1]}): refused, nothing in it was run"
        else:
            what = "is not a readable checkpoint: damaged, truncated or of another kind"
        raise ValueError(f"{path} {what}") from None
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]  # a training checkpoint: {epoch, model, optimizer}
    entries = content.items() if isinstance(content, Mapping) else ()
    if not entries or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in entries):
        raise ValueError(f"{path} holds no state dict: expected tensors by name, or such a dict under 'model'")
    return content


def _plain_keys(state: Mapping[str, Tensor], path: Path) -> State:
    """Keys without the ``module.`` that data-parallel wrappers put at any level."""
    plain = {".".join(p for p in key.split(".") if p != "module"): value for key, value in state.items()}
    for part in ("encoder.", "point_cnf."):
        if not any(key.startswith(part) for key in plain):
            some = ", ".join(sorted(plain)[:3])
            raise ValueError(f"{path} is no PointFlow checkpoint: no key starts with {part!r} (found {some}, …)")
    broken = [key for key, value in plain.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(f"{path} holds values that are not finite, in {broken[0]}")
    if negative := [key for key, value in plain.items() if key.endswith(".running_var") and (value < 0).any()]:
        raise ValueError(f"{path} holds negative variances, in {negative[0]}")
    return plain


def _take(state: State, key: str, path: Path) -> Tensor:
    if key not in state:
        raise ValueError(f"{path} lacks {key!r}")
    return state[key]


def _module(state: State, theirs: str, ours: str, path: Path, norm: bool = False) -> State:
    """Weight and bias (and running statistics of a norm) under our name; 1×1 convolutions become matrices."""
    names = ("weight", "bias", "running_mean", "running_var") if norm else ("weight", "bias")
    out = {f"{ours}.{n}": _take(state, f"{theirs}.{n}", path) for n in names}
    if norm:
        counter = state.get(f"{theirs}.num_batches_tracked", torch.zeros((), dtype=torch.long))
        out[f"{ours}.num_batches_tracked"] = counter
    weight = f"{ours}.weight"
    if out[weight].dim() == 3:
        out[weight] = out[weight].squeeze(-1)
    return out


def _encoder(state: State, path: Path) -> tuple[EncoderConfig, State]:
    out: State = {}
    widths = []
    while f"encoder.conv{len(widths) + 1}.weight" in state:
        i = len(widths)
        out |= _module(state, f"encoder.conv{i + 1}", f"encoder.points.{i}", path)
        out |= _module(state, f"encoder.bn{i + 1}", f"encoder.norms.{i}", path, norm=True)
        widths.append(out[f"encoder.points.{i}.weight"].shape[0])
    variational = "encoder.fc1_m.weight" in state
    heads = {"mean": "_m", "logvar": "_v"} if variational else {"mean": ""}
    hidden: set[tuple[int, ...]] = set()
    for ours, suffix in heads.items():
        last = 1
        while f"encoder.fc{last + 1}{suffix}.weight" in state:
            last += 1
        for i in range(1, last):
            out |= _module(state, f"encoder.fc{i}{suffix}", f"encoder.{ours}.{3 * (i - 1)}", path)
            out |= _module(state, f"encoder.fc_bn{i}{suffix}", f"encoder.{ours}.{3 * (i - 1) + 1}", path, norm=True)
        out |= _module(state, f"encoder.fc{last}{suffix}", f"encoder.{ours}.{3 * (last - 1)}", path)
        hidden.add(tuple(out[f"encoder.{ours}.{3 * i}.weight"].shape[0] for i in range(last - 1)))
    if not widths:
        raise ValueError(f"{path} lacks 'encoder.conv1.weight'")
    if len(hidden) > 1:
        raise ValueError(f"{path} lacks a layer: the encoder's two heads have hidden widths {sorted(hidden)}")
    return EncoderConfig(tuple(widths), hidden.pop(), variational), out


def _flow(state: State, prefix: str, options: dict, path: Path) -> tuple[FlowConfig, State]:
    """One flow's configuration and state, from ``prefix``chain.i.*."""
    ours = {"point_cnf.": "point_flow.", "latent_cnf.": "latent_flow."}[prefix]
    numbers = {key.removeprefix(f"{prefix}chain.").partition(".")[0] for key in state if f"{prefix}chain." in key}
    if odd := sorted(number for number in numbers if not number.isdecimal()):
        raise ValueError(f"{path} has the key {prefix}chain.{odd[0]}, expected a number behind {prefix}chain.")
    out: State = {}
    dims: tuple[int, ...] = ()
    blocks, norm, train_time = 0, "none", False
    for i in sorted(map(int, numbers)):
        theirs, mine = f"{prefix}chain.{i}", f"{ours}chain.{i}"
        if not any(key.startswith(f"{theirs}.odefunc.") for key in state):
            norm = "moving"
            for name in ("weight", "bias", "running_mean", "running_var"):
                out[f"{mine}.{name}"] = _take(state, f"{theirs}.{name}", path)
            continue
        blocks += 1
        train_time = f"{theirs}.sqrt_end_time" in state
        end = state.get(f"{theirs}.sqrt_end_time", torch.tensor(options["time_length"]).sqrt())
        if end.numel() != 1:
            raise ValueError(f"{path} has {tuple(end.shape)} values in {theirs}.sqrt_end_time, expected one")
        out[f"{mine}.sqrt_end_time"] = end.reshape(())
        layers = _layers(state, f"{theirs}.odefunc.diffeq", f"{mine}.net", options, path)
        dims = tuple(layers[f"{mine}.net.layers.{k}.linear.weight"].shape[0] for k in range(_count(layers, mine) - 1))
        out |= layers
    if not blocks:
        raise ValueError(f"{path} has no flow under {prefix!r}")
    return FlowConfig(dims=dims, blocks=blocks, train_time=train_time, norm=norm, **options), out


def _count(layers: State, mine: str) -> int:
    return sum(key.startswith(f"{mine}.net.layers.") and key.endswith(".linear.weight") for key in layers)


def _layers(state: State, theirs: str, ours: str, options: dict, path: Path) -> State:
    """The velocity network; the layer type asked for must be the one whose tensors are there."""
    names = _names_of(options["layer"])
    out: State = {}
    i = 0
    while any(key.startswith(f"{theirs}.layers.{i}.") for key in state):
        prefix = f"{theirs}.layers.{i}."
        found = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
        if found != set(names.values()):
            fits = " or ".join(k for k in LAYERS if set(_names_of(k).values()) == found) or "none that is known"
            raise ValueError(
                f"{path} was not made with layer {options['layer']!r}: its tensors {sorted(found)} fit {fits}"
            )
        out |= {f"{ours}.layers.{i}.{mine}": state[prefix + their] for mine, their in names.items()}
        i += 1
    if not i:
        raise ValueError(f"{path} has no layers under {theirs!r}")
    beta = state.get(f"{theirs}.activation_fns.0.beta")
    if (beta is not None) != (options["nonlinearity"] == "swish"):
        there = "has" if beta is not None else "lacks"
        raise ValueError(f"{path} {there} swish's learned β, nonlinearity {options['nonlinearity']!r} does not fit")
    if beta is not None:
        out[f"{ours}.beta"] = beta.reshape(())
    return out


def _names_of(layer: str) -> dict[str, str]:
    """Our tensor names in a layer of this type, and theirs."""
    kind = LAYERS[layer]
    names = {"linear.weight": "_layer.weight", "linear.bias": "_layer.bias"}
    if kind.gate:
        gate = "_hyper_gate" if kind.shift else "_hyper"  # squash and scale name their only gate `_hyper`
        names |= {"gate.weight": f"{gate}.weight", "gate.bias": f"{gate}.bias"}
    if kind.shift:
        names["shift.weight"] = "_hyper_bias.weight"
    return names
