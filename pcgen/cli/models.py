"""A model and what it takes to bring somebody's clouds to it: its frame and its number of points."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from pcgen.cli.bars import bar, counting

if TYPE_CHECKING:
    from torch import Tensor

    from pcgen.data import Normalisation
    from pcgen.flows import SolverConfig
    from pcgen.models import PointFlow, Posterior

__all__ = [
    "OTHER_SIZE",
    "AtHand",
    "codes",
    "decode_together",
    "first_process",
    "model_at_hand",
    "original_options",
    "own_frame",
    "rebuild",
    "some_points",
    "warn_of_size",
]

ORIGINAL_POINTS = 2048  # what the original program trains its encoder with
OTHER_SIZE = 8.0  # times as large, or as small, or away: hardly a shape of the same kind, rather in another unit


class AtHand(NamedTuple):
    """A model ready to be asked, and how it was trained."""

    model: PointFlow
    points: int  # of each cloud that its encoder saw
    normalise: Literal["set", "set-axis", "shape"]
    up: Literal["x", "y", "z"]
    generates: bool  # has a prior over shapes, as an autoencoder without a latent flow has not
    quiet: bool  # no progress bars

    @classmethod
    def of(cls, model: PointFlow, points: int, normalise="set", up="y", quiet: bool = False) -> AtHand:
        generates = model.latent_flow is not None or model.config.encoder.variational
        return cls(model, points, normalise, up, generates, quiet)

    def frame(self) -> Normalisation:
        """What the model takes for the mean and scale of the data."""
        from pcgen.data import Normalisation

        return Normalisation(*(values.cpu().numpy() for values in (self.model.data_mean, self.model.data_scale)))


def first_process() -> bool:
    """Whether this process is the first of those that torchrun launched, or alone."""
    return os.environ.get("RANK", "0") == "0"


def model_at_hand(args: argparse.Namespace) -> AtHand:
    """The model that the arguments name, on the device they ask for."""
    import torch

    from pcgen.config import from_dict, read_yaml
    from pcgen.metrics.blocks import find_crew
    from pcgen.models.original import is_original
    from pcgen.training import RunConfig, find_checkpoint, load_model

    found = find_checkpoint(args.checkpoint)
    model = load_model(found, **original_options(args, found))
    if args.device == "auto" and torch.cuda.is_available():
        model = model.to(find_crew().device or "cuda")
    if is_original(found):
        return AtHand.of(model, ORIGINAL_POINTS)
    data = from_dict(RunConfig, read_yaml(found / "config.yaml")).data
    return AtHand.of(model, data.points, data.normalise, data.up)


def original_options(args: argparse.Namespace, found: Path) -> dict[str, Any]:
    """What the arguments say about an original's .pt; ``ValueError`` if they do of one of our checkpoints."""
    from pcgen.models.original import is_original

    names = ("mean", "scale", "time_length", "nonlinearity", "layer")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if given and not is_original(found):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"only an original .pt needs {flags}: {found} says all of it by itself")
    return {name: _statistic(value) if name in ("mean", "scale") else value for name, value in given.items()}


def _statistic(path: Path) -> np.ndarray:
    """A mean or scale as the original stores it, of any shape that holds 1 or 3 numbers."""
    from pcgen.data.files import UnreadableFile, reading

    with reading(path):
        values = np.load(path, allow_pickle=False).reshape(-1)
    if values.size not in (1, 3) or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise UnreadableFile(path, f"expected 1 or 3 finite numbers, got {values.size} of {values.dtype}")
    return values.astype(np.float32)


def some_points(cloud: np.ndarray, points: int, seed: int) -> np.ndarray:
    """At most ``points`` of a cloud (N, 3), drawn without repetition: its order may be that of a scan."""
    if len(cloud) <= points:
        return cloud
    return np.random.default_rng(seed).choice(cloud, points, replace=False, shuffle=False)


def own_frame(at: AtHand, cloud: np.ndarray) -> Normalisation:
    """What standardises a cloud for this model: the data set's statistics, or the cloud's own."""
    from pcgen.data import normalisation_of

    return normalisation_of(cloud, at.normalise, at.frame())


def warn_of_size(at: AtHand, clouds: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Warn of clouds that are not of the size, or far from the place, of the shapes that the model learnt from."""
    from pcgen.data import fit

    if at.normalise == "shape":  # then neither matters
        return
    typical, odd = at.frame(), []
    for cloud, name in zip(clouds, names):
        own = fit([cloud])
        times = float(own.scale.mean() / typical.scale.mean())
        apart = float(np.abs((own.mean - typical.mean) / typical.scale).max())
        if not 1 / OTHER_SIZE < times < OTHER_SIZE:
            odd.append(f"{name} is {times:.3g} times as large as the shapes that the model learnt from")
        elif apart > OTHER_SIZE:
            odd.append(f"{name} stands {apart:.3g} times a shape's size away from where those of the training do")
    if odd:
        others = f", and {len(odd) - 1} more are of another size or place" if len(odd) > 1 else ""
        warnings.warn(f"{odd[0]}{others}: in another unit?", stacklevel=2)


def codes(at: AtHand, clouds: Sequence[np.ndarray], seed: int = 0, points: int | None = None) -> Posterior:
    """q(z | X) of clouds in data units, each of any size, as one ``Posterior`` of (S, Z)."""
    import torch

    from pcgen.models import Posterior

    found = []
    with torch.no_grad():
        for cloud in bar(clouds, "encoding", at.quiet):
            some = some_points(own_frame(at, cloud).apply(cloud), points or at.points, seed)
            found.append(at.model.encode(torch.as_tensor(some)[None]))
    means, logvars = zip(*found)
    return Posterior(torch.cat(means), None if logvars[0] is None else torch.cat(logvars))


def rebuild(
    at: AtHand,
    clouds: Sequence[np.ndarray],
    points: int,
    seed: int = 0,
    input_points: int | None = None,
    solver: SolverConfig | None = None,
) -> np.ndarray:
    """Clouds in data units through their codes and back, (S, points, 3), each where it was."""
    z = codes(at, clouds, seed, input_points).mean
    with counting("decoding", at.quiet) as tell:
        decoded = at.model.decode(z, points, seed, solver=solver, progress=tell)
    if at.normalise != "shape":
        return decoded.cpu().numpy()
    standard = at.model.standardise(decoded).cpu().numpy()
    return np.stack([own_frame(at, cloud).invert(x) for cloud, x in zip(clouds, standard)])


def decode_together(at: AtHand, codes: Tensor, points: int, seed: int, **options) -> np.ndarray:
    """Clouds (S, points, 3) of codes (S, Z); processes take whole solves, so no bit depends on how many."""
    import torch

    from pcgen.metrics.blocks import find_crew
    from pcgen.models.inference import shapes_per_solve

    crew, together = find_crew(), shapes_per_solve(points)
    solves = -(-len(codes) // together)
    start, stop = (min(len(codes), solves * rank // crew.size * together) for rank in (crew.rank, crew.rank + 1))
    clouds = torch.zeros(len(codes), points, 3, dtype=codes.dtype, device=codes.device)
    with counting("sampling", quiet=not first_process()) as tell:
        if start < stop:
            clouds[start:stop] = at.model.decode(codes[start:stop], points, seed, first=start, progress=tell, **options)
    if crew.size > 1:
        torch.distributed.all_reduce(clouds.view(torch.int32))  # zeros but for one process: its very bits
    return clouds.cpu().numpy()
