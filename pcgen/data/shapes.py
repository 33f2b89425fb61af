"""A data set of shapes: where it comes from, its three splits, and its normalisation."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from pcgen.config import Settings

from .batches import Batch, Places, batches, draw_points, places, steps_per_epoch
from .normalise import Kind, Normalisation, fit
from .sources import DIVIDED, Progress, SourceShape, make_shapes, read_file, read_folder
from .splits import SPLITS, Skipped, hash_splits

__all__ = [
    "Batch",
    "DataConfig",
    "Places",
    "ShapeSplit",
    "Shapes",
    "Skipped",
    "batches",
    "draw_points",
    "load",
    "places",
    "steps_per_epoch",
]

OTHER_SIZE = 20.0  # as many times larger than others: hardly in the same unit
# PointFlow's convention for clouds of 15,000 points: the first 10,000 are given, the rest measured against.
_INPUT, _REFERENCE = slice(0, 10000), slice(10000, DIVIDED)


@dataclass(frozen=True)
class DataConfig(Settings):
    """Which shapes, how they are split and normalised, and how a batch is drawn from them."""

    source: str = "synthetic"  # "synthetic", or the path of a folder or of a .npz, .npy or .pt file
    categories: tuple[str, ...] = ()  # names or synset ids; () is chair (synthetic) or all there are (a path)
    column: str = "category"  # of a .npz: the array of strings that tells the category of each shape
    shapes: int = 400  # synthetic training shapes of all categories together; val and test get a tenth each
    normalise: Kind = "set"  # statistics of the training set, of it per axis, or of every shape
    up: Literal["x", "y", "z"] = "y"  # the axis that points up in the data
    points: int = 2048  # drawn with replacement from a shape's input points at each visit
    rotate: bool = False  # turn every drawn shape by a random angle about `up`
    mesh_points: int = 15000  # sampled once from each mesh and each synthetic shape
    val_share: float = 0.1  # share of the shapes that validates, where the source has no splits
    test_share: float = 0.1  # share of the shapes that tests, where the source has no splits
    strict: bool = False  # raise at the first unusable file instead of skipping it
    seed: int = 0  # of the points sampled from meshes and of the synthetic shapes

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("shapes", 2), ("points", 1), ("mesh_points", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if min(self.val_share, self.test_share) < 0 or self.val_share + self.test_share >= 1:
            raise ValueError(
                f"val_share and test_share must not be negative and must leave shapes to train, "
                f"got {self.val_share} and {self.test_share}"
            )


@dataclass(frozen=True, eq=False)
class ShapeSplit:
    """The shapes of one split, in data units.

    >>> split = ShapeSplit(("a",), ("chair",), (np.zeros((15000, 3), np.float32),))
    >>> len(split), len(split.input(0)), len(split.reference(0)), split.reference_set(2048).shape
    (1, 10000, 5000, (1, 2048, 3))
    """

    names: tuple[str, ...]  # S
    categories: tuple[str, ...]  # S, the label of each shape
    clouds: tuple[np.ndarray, ...]  # S arrays (P_i,3) float32
    noise: Sequence[np.ndarray] | None = None  # S arrays (K,P,3) float32: K that each input point is paired with

    def __len__(self) -> int:
        return len(self.clouds)

    def input(self, i: int) -> np.ndarray:
        """The points of shape ``i`` that a model may see: 0:10000 of 15,000 or more, all of a smaller cloud."""
        return self.clouds[i][_INPUT] if self._is_divided(i) else self.clouds[i]

    def reference(self, i: int) -> np.ndarray:
        """The points it is measured against: 10000:15000 of 15,000 or more, all of a smaller cloud."""
        return self.clouds[i][_REFERENCE] if self._is_divided(i) else self.clouds[i]

    def reference_set(self, points: int) -> np.ndarray:
        """The first ``points`` reference points of every shape, (S,points,3); ``ValueError`` if one has fewer."""
        for i, name in enumerate(self.names):
            if len(self.reference(i)) < points:
                there = len(self.reference(i))
                raise ValueError(f"shape {name!r} has {there} reference points, {points} were asked for")
        return np.stack([self.reference(i)[:points] for i in range(len(self))])

    def first(self, count: int) -> ShapeSplit:
        """The first ``count`` shapes, or all of fewer."""
        return ShapeSplit(self.names[:count], self.categories[:count], self.clouds[:count])

    @functools.cached_property
    def own_normalisations(self) -> tuple[Normalisation, ...]:
        """What standardises each shape by itself, from all of its points; found once."""
        return tuple(fit([cloud], "set") for cloud in self.clouds)

    def placed(self, kind: Kind, of_set: Normalisation) -> ShapeSplit:
        """The shapes where a model makes them.

        Of shapes that are standardised one by one (``kind`` ``"shape"``) a model learns neither place nor size, and
        they are not measured: each is brought to the average of the set. Others stay as they are.
        """
        if kind != "shape":
            return self
        own = zip(self.clouds, self.own_normalisations)
        return replace(self, clouds=tuple(of_set.invert(n.apply(cloud)) for cloud, n in own))

    def _is_divided(self, i: int) -> bool:
        return len(self.clouds[i]) >= DIVIDED


@dataclass(frozen=True, eq=False)
class Shapes:
    """A data set in memory."""

    train: ShapeSplit
    val: ShapeSplit
    test: ShapeSplit
    normalisation: Normalisation  # of the training split
    up: Literal["x", "y", "z"]  # the axis that points up
    skipped: tuple[Skipped, ...]  # what was found and not used, with the reason
    source: str  # one line: where from, and how many


def load(config: DataConfig, progress: Progress | None = None) -> Shapes:
    """Read or make the shapes that ``config`` describes; ``progress(done, total)`` is called after each.

    ``source`` is one of

    - ``"synthetic"``: shapes of :data:`pcgen.data.synthetic.CATEGORIES`, with disjoint seeds for the splits;
    - a folder: of clouds in PointFlow's layout ``<category>/{train,val,test}/*.npy``, or one such category, or
      any folder of meshes and clouds (:func:`~pcgen.data.splits.find_shapes` has the rules of categories and
      splits). Unusable files are skipped and listed, or raise if ``strict``;
    - an npz, npy or pt file of clouds (S,N,3) (:func:`~pcgen.data.clouds.read_arrays`); the arrays ``name``,
      ``split`` and ``category`` (or what ``column`` names) of an npz are respected.

    Points of files are shuffled, as a scan has them line by line and the first of them must stand for the
    whole shape; those of clouds of just 15,000 in PointFlow's layout, whose protocol counts them off, keep their order.

    A source that has only one of val and test uses it for both, as PointFlow does with ModelNet; one that has
    neither gives them shares of its training shapes by name. ``FileNotFoundError`` when there is nothing at
    ``source``; ``ValueError`` when nothing there is usable, a category is unknown, or fewer than two shapes are
    left to train or none to validate.

    >>> data = load(DataConfig(shapes=10, mesh_points=100))
    >>> len(data.train), len(data.val), data.train.clouds[0].shape
    (10, 1, (100, 3))
    """
    progress = progress or (lambda done, total: None)
    path = Path(config.source).expanduser()
    skipped: tuple[Skipped, ...] = ()
    if config.column != "category" and path.suffix.lower() != ".npz":
        raise ValueError(f"column={config.column!r} is an array of a .npz file, source is {config.source!r}")
    if config.source == "synthetic":
        shapes = make_shapes(config, progress)
    elif path.is_dir():
        shapes, skipped = read_folder(path, config, progress)
    elif path.is_file():
        shapes = read_file(path, config)
        progress(len(shapes), len(shapes))
    else:
        raise FileNotFoundError(f"source must be 'synthetic' or an existing folder or file, got {config.source!r}")
    splits = _into_splits(config, shapes)
    if config.normalise != "shape":
        _warn_of_sizes(config, splits[0])
    counts = ", ".join(f"{len(split)} {name}" for name, split in zip(SPLITS, splits))
    categories = sorted(set(splits[0].categories))
    what = ", ".join(categories[:5]) + (f" and {len(categories) - 5} more" if len(categories) > 5 else "")
    return Shapes(
        *splits, fit(splits[0].clouds, config.normalise), config.up, skipped, f"{config.source}: {what}; {counts}"
    )


def _into_splits(config: DataConfig, shapes: list[SourceShape]) -> tuple[ShapeSplit, ShapeSplit, ShapeSplit]:
    """Train, val and test; a missing one of the last two is the other, or both are taken from train."""
    if {shape.split for shape in shapes} == {"train"}:
        hashed = hash_splits([s.name for s in shapes], config.val_share, config.test_share)
        shapes = [s._replace(split=hashed[s.name]) for s in shapes]
    train, val, test = ([s for s in shapes if s.split == split] for split in SPLITS)
    if len(train) < 2 or not (val or test):
        raise ValueError(
            f"{config.source} has {len(train)} usable shapes to train and {len(val or test)} to validate: "
            f"at least 2 and 1 are needed"
        )
    return _split(train), _split(val or test), _split(test or val)


def _warn_of_sizes(config: DataConfig, train: ShapeSplit) -> None:
    """Warn where one mean and scale for all would make dots of many shapes."""
    sizes = sorted(float(np.ptp(cloud, axis=0).max()) for cloud in train.clouds)
    tenth = len(sizes) // 10
    small, large = sizes[tenth], sizes[-1 - tenth]
    if large > OTHER_SIZE * small:
        warnings.warn(
            f"shapes of {config.source} differ in size, many by more than {large / small:.3g} times: several units? "
            f"data.normalise=shape standardises each by itself",
            stacklevel=3,
        )


def _split(shapes: list[SourceShape]) -> ShapeSplit:
    names, categories, _, clouds = zip(*shapes)
    return ShapeSplit(names, categories, clouds)
