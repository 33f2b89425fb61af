"""The baseline of instance segmentation: planes removed, what is left clustered by distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcgen.config import Settings
from pcgen.metrics.segmentation import scannet_ap
from pcgen.models.dbscan import as_points, cluster

__all__ = [
    "ClusteringConfig",
    "Clusters",
    "Labelled",
    "Plane",
    "Tuned",
    "cluster",
    "cluster_instances",
    "fit_plane",
    "tune",
]

BLOCK = 1 << 24  # numbers held at once


class Plane(NamedTuple):
    """The points x with normal · x = offset, and those near it."""

    normal: Tensor  # (3,) float64, of length 1
    offset: float  # a length
    near: Tensor  # (N,) bool


@dataclass(frozen=True)
class ClusteringConfig(Settings):
    """Lengths in the unit of the points."""

    radius: float = 0.1  # of the neighbourhood
    core: int = 5  # points in it, itself one of them, that make a point extend its cluster
    least: int = 30  # points of an instance
    planes: int = 0  # to remove first: a floor, walls
    thickness: float = 0.03  # distance from a plane up to which points go with it
    seed: int = 0  # of the search for planes

    def __post_init__(self):
        super().__post_init__()
        if not (0 < self.radius < np.inf and 0 < self.thickness < np.inf):
            raise ValueError(f"radius and thickness must be positive, got {self.radius} and {self.thickness}")
        if self.core < 1 or self.least < 1 or self.planes < 0:
            raise ValueError(
                f"core and least must be at least 1 and planes at least 0, got {self.core}, {self.least}, {self.planes}"
            )


class Clusters(NamedTuple):
    """The K objects found among N points, the best first."""

    labels: Tensor  # (N,) int64, the object of each point: 1 … K, or 0
    classes: Tensor  # (K,) int64
    scores: Tensor  # (K,) float64 in 0 … 1


class Labelled(NamedTuple):
    """A training scene."""

    points: Any  # (N, 3)
    instance: Any  # (N,) 1 … K, 0 background, −1 not annotated
    classes: Any = None  # (N,) predicted class, 0 background; None: all points are clustered
    probability: Any = None  # (N,) of the class


class Tuned(NamedTuple):
    """The best of several settings, and what each of them scored."""

    config: ClusteringConfig
    ap50: float
    trials: tuple[tuple[ClusteringConfig, float], ...]  # in the order given


def fit_plane(points: Any, thickness: float, seed: int = 0, trials: int = 4000) -> Plane:
    """The plane within ``thickness`` of which most of ``points`` (N, 3) lie, by RANSAC (Fischler and Bolles, 1981).

    Each trial is a plane through three random points, judged on at most 2,500 of them; the best is fitted to the
    points near it by least squares. ``ValueError`` for fewer than 3 points and the errors of :func:`cluster`.

    >>> square = [[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    >>> fit_plane([*square, [4.0, 4.0, 9.0]], thickness=0.1).near
    tensor([ True,  True,  True,  True, False])
    """
    x = as_points(points)
    if len(x) < 3 or x.shape[1] != 3 or not 0 < thickness < np.inf:
        raise ValueError(f"points must be (N ≥ 3, 3), thickness positive, got {tuple(x.shape)} and {thickness}")
    shift = x.mean(0)
    x = x - shift
    near = _most_supported(x, thickness, torch.Generator().manual_seed(seed), trials)
    for _ in range(2):
        middle = x[near].mean(0)
        spread = x[near] - middle
        normal = torch.linalg.eigh(spread.T @ spread).eigenvectors[:, 0]
        near = ((x - middle) @ normal).abs() <= thickness
        if int(near.sum()) < 3:  # thinner than rounding
            break
    return Plane(normal, float(normal @ (middle + shift)), near)


def _most_supported(x: Tensor, thickness: float, generator: torch.Generator, trials: int) -> Tensor:
    """The points (N,) near the best plane through three points; all of them where they are on a line."""
    judges = x[torch.randperm(len(x), generator=generator)[:2_500]]
    triples = torch.randint(len(x), (3, trials), generator=generator)
    a, b, c = x[triples]
    normals = torch.linalg.cross(b - a, c - a)
    lengths = normals.norm(dim=1)
    if not bool((lengths > 0).any()):
        return torch.ones(len(x), dtype=torch.bool)
    normals = normals / torch.where(lengths > 0, lengths, 1.0)[:, None]
    offsets = (normals * a).sum(1)
    parts = zip(normals.split(BLOCK // len(judges)), offsets.split(BLOCK // len(judges)))
    votes = torch.cat([((judges @ n.T - o).abs() <= thickness).sum(0) for n, o in parts])
    best = torch.where(lengths > 0, votes, -1).argmax()
    near = (x @ normals[best] - offsets[best]).abs() <= thickness
    near[triples[:, best]] = True
    return near


def cluster_instances(
    points: Any, config: ClusteringConfig | None = None, classes: Any = None, probability: Any = None
) -> Clusters:
    """Objects among ``points`` (N, 3): the clusters of each of the ``classes`` (N,) that a network gives to the points.

    Class 0 is background; without classes all points are of class 1. The largest planes go first, ``config.planes`` of
    them, one after the other. An object's score is n / (n + least) of its n points, times their mean ``probability``
    (N,) where there is one. Errors are those of :func:`cluster`, and a ``ValueError`` for lengths that differ, a
    ``TypeError`` for classes that are no integers.

    >>> points = torch.cat([torch.rand(50, 3), 5 + torch.rand(80, 3)])
    >>> found = cluster_instances(points, ClusteringConfig(radius=1.0))
    >>> found.labels.bincount(), found.scores
    (tensor([ 0, 80, 50]), tensor([0.7273, 0.6250], dtype=torch.float64))
    """
    config = config or ClusteringConfig()
    x = as_points(points)
    return _objects(x, _without_planes(x, config), config, classes, probability)


def tune(scenes: Sequence[Labelled], candidates: Sequence[ClusteringConfig], min_points: int = 100) -> Tuned:
    """The candidate with the highest class-agnostic AP50 on labelled ``scenes``, the first of several.

    Predictions on background count (``background="negative"``). ``ValueError`` for no scene, no candidate, and scenes
    without an instance of ``min_points`` points.

    >>> scene = Labelled(torch.arange(300.0)[:, None] * torch.ones(3), torch.arange(300) // 150 + 1)
    >>> scene.points[150:] += 9.0
    >>> tuned = tune([scene], [ClusteringConfig(radius=r) for r in (1.0, 10.0, 20.0)])
    >>> tuned.config.radius, [score for _, score in tuned.trials]
    (10.0, [0.0, 1.0, 0.0])
    """
    if not scenes or not candidates:
        raise ValueError(f"tune needs scenes and candidates, got {len(scenes)} and {len(candidates)}")
    trials, rest = [], {}
    for config in candidates:
        found = []
        for s, scene in enumerate(scenes):
            x, key = as_points(scene.points), (s, config.planes, config.thickness, config.seed)
            if key not in rest:  # most of the time goes into planes
                rest[key] = _without_planes(x, config)
            found.append(_objects(x, rest[key], config, scene.classes, scene.probability))
        result = scannet_ap(
            instances=[scene.instance for scene in scenes],
            masks=[clusters.labels for clusters in found],
            scores=[clusters.scores for clusters in found],
            min_points=min_points,
            background="negative",
        )
        if not result.counted:
            raise ValueError(
                f"tune needs an instance of at least {min_points} points, got {result.ignored} smaller ones"
            )
        trials.append((config, result.ap50))
    best = max(range(len(trials)), key=lambda k: trials[k][1])
    return Tuned(*trials[best], tuple(trials))


def _without_planes(x: Tensor, config: ClusteringConfig) -> Tensor:
    """The rows of the points that are left without the planes."""
    rest = torch.arange(len(x))
    for _ in range(config.planes):
        if len(rest) < 3:
            break
        rest = rest[~fit_plane(x[rest], config.thickness, config.seed).near]
    return rest


def _objects(x: Tensor, rest: Tensor, config: ClusteringConfig, classes: Any, probability: Any) -> Clusters:
    """The clusters of each class among the rows ``rest``."""
    kinds = torch.ones(len(x), dtype=torch.int64) if classes is None else _column("classes", classes, len(x))
    chances = torch.ones(len(x)) if probability is None else _column("probability", probability, len(x))
    if kinds.is_floating_point():
        raise TypeError(f"classes must be integers, got {kinds.dtype}")
    labels, kind_of = torch.zeros(len(x), dtype=torch.int64), []
    for kind in kinds[rest].unique().tolist():
        if kind > 0:
            rows = rest[kinds[rest] == kind]
            found = cluster(x[rows], config.radius, config.core)
            labels[rows] = torch.where(found > 0, found + len(kind_of), 0)
            kind_of += [kind] * int(found.max())
    sizes = labels.bincount(minlength=len(kind_of) + 1)[1:]
    mean = labels.bincount(chances.double(), minlength=len(kind_of) + 1)[1:] / sizes
    scores = mean * sizes / (sizes + config.least)
    return _ranked(labels, torch.tensor(kind_of, dtype=torch.int64), scores, sizes >= config.least)


def _column(name: str, values: Any, rows: int) -> Tensor:
    column = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values)).detach().cpu()
    if column.shape != (rows,):
        raise ValueError(f"{name} must be ({rows},), one for each point, got {tuple(column.shape)}")
    return column


def _ranked(labels: Tensor, kinds: Tensor, scores: Tensor, kept: Tensor) -> Clusters:
    """Only the kept objects, the best first."""
    order = torch.where(kept, scores, -1.0).argsort(descending=True, stable=True)[: int(kept.sum())]
    place = torch.zeros(len(kinds) + 1, dtype=torch.int64)
    place[order + 1] = torch.arange(1, len(order) + 1)
    return Clusters(place[labels], kinds[order], scores[order])
