"""Crops of labelled scans to train on: the surroundings of a random point, and what to do about remnants of objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pcgen.config import Settings

from .scene import UNANNOTATED, Scene

__all__ = ["Crop", "CropConfig", "draw_crop", "held_shares", "surroundings", "without_small"]


@dataclass(frozen=True)
class CropConfig(Settings):
    """What a network sees of a scan at a time."""

    shape: Literal["ball", "column"] = "ball"  # a column is uncut along `up`, for trees
    radius: float = 2.5  # m
    points: int = 10_000  # at most: the nearest to the middle, so that they are as dense as the scan's
    on_objects: float = 0.7  # share of the crops about a point of an object, each as likely; others are about any point
    min_points: int = 30  # of an object in the crop; what is left of smaller ones is unannotated
    whole: float = 0.0  # share of an object's points in the crop below which it is learned to be one, not its star

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.radius > 0 or self.points < 1 or self.min_points < 1:
            raise ValueError(
                f"radius, points and min_points must be positive, "
                f"got {self.radius}, {self.points} and {self.min_points}"
            )
        if not (0 <= self.on_objects <= 1 and 0 <= self.whole <= 1):
            raise ValueError(f"on_objects and whole must be shares from 0 to 1, got {self.on_objects} and {self.whole}")


class Crop(NamedTuple):
    """Part of a scan."""

    scene: Scene
    middle: np.ndarray  # (3,) float64, the point it is about, as scene.points are


def surroundings(
    points: ArrayLike, middle: ArrayLike, radius: float = np.inf, most: int | None = None, column: str | None = None
) -> np.ndarray:
    """Rows (M,) int64, ascending, of the ``points`` (N, 3) within ``radius`` of ``middle`` (3,), the ``most`` nearest.

    Distances are horizontal with a ``column`` along ``"x"``, ``"y"`` or ``"z"``.

    >>> surroundings([[0, 0, 0], [3, 0, 0], [1, 0, 9]], [0, 0, 0], radius=2.0, column="z")
    array([0, 2])
    >>> surroundings([[0, 0, 0], [3, 0, 0], [1, 0, 9]], [0, 0, 0], most=2)
    array([0, 1])
    """
    axes = [axis for axis in range(3) if "xyz"[axis] != column]
    offset = np.asarray(points, np.float64)[:, axes] - np.asarray(middle, np.float64)[axes]
    square = np.einsum("nd,nd->n", offset, offset)
    rows = np.flatnonzero(square <= radius**2)
    if most is not None and len(rows) > most:
        rows = np.sort(rows[np.argpartition(square[rows], most - 1)[:most]])
    return rows


def draw_crop(scene: Scene, config: CropConfig, rng: np.random.Generator, up: str = "z") -> Crop:
    """A crop of ``scene`` about a point that ``rng`` draws; remnants of objects are still in it.

    >>> from pcgen.data.scenes import make_scene
    >>> scene = make_scene(np.eye(3), instance=[1, 0, 0])
    >>> crop = draw_crop(scene, CropConfig(radius=0.1, on_objects=1), np.random.default_rng(0))
    >>> crop.scene.instance, crop.middle
    (array([1]), array([1., 0., 0.]))
    """
    row = int(rng.integers(len(scene)))
    if scene.instances and rng.random() < config.on_objects:
        row = int(rng.choice(np.flatnonzero(scene.instance == rng.integers(scene.instances) + 1)))
    middle = scene.points[row]
    column = up if config.shape == "column" else None
    return Crop(scene.take(surroundings(scene.points, middle, config.radius, config.points, column)), middle)


def held_shares(part: Scene, whole: Scene) -> np.ndarray:
    """(K,) the share of each instance of ``whole`` that its ``part`` holds, in the order of the part's K instances.

    >>> from pcgen.data.scenes import make_scene
    >>> scene = make_scene(np.eye(3), instance=[4, 9, 9])
    >>> held_shares(scene.take([1]), scene)
    array([0.5])
    """
    here, there = (np.bincount(np.maximum(scene.instance, 0))[1:] for scene in (part, whole))
    return here / there[np.searchsorted(whole.instance_ids, part.instance_ids)]


def without_small(scene: Scene, min_points: int) -> Scene:
    """The scene with instances of fewer points left unannotated, the others numbered anew.

    What little is left of an object is no object to learn, and no background either.

    >>> from pcgen.data.scenes import make_scene
    >>> scene = without_small(make_scene(np.eye(3), instance=[4, 9, 9]), min_points=2)
    >>> scene.instance, scene.instance_ids
    (array([-1,  1,  1]), array([9]))
    """
    if scene.instance is None:
        return scene
    number = np.maximum(scene.instance, 0)
    small = (scene.instance > 0) & (np.bincount(number) < min_points)[number]
    if not small.any():
        return scene
    semantic = None if scene.semantic is None else np.where(small, UNANNOTATED, scene.semantic)
    kept = scene.with_labels(semantic, np.where(small, UNANNOTATED, scene.instance))
    return replace(kept, instance_ids=scene.instance_ids[kept.instance_ids - 1])
