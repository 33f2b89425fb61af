"""Other views of a crop: turned, mirrored, scaled, thinned out, its points moved; all drawn from one stream."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from pcgen.config import Settings

from .scene import Scene

__all__ = ["Augmentation", "AugmentationConfig", "augmented", "draw_augmentation"]


@dataclass(frozen=True)
class AugmentationConfig(Settings):
    """How far a crop may be changed; the defaults keep lengths and what is up."""

    rotate: bool = True  # by any angle about `up`
    # Every other crop in a vertical plane; "all": and, as often, upside down.
    mirror: Literal["none", "horizontal", "all"] = "horizontal"
    scale: tuple[float, float] = (0.9, 1.1)  # smallest and largest factor
    stretch: float = 1.0  # largest factor of each axis by itself, before the rotation: walls stay upright and square
    jitter: float = 0.0  # m, standard deviation of each coordinate
    thin: float = 0.0  # largest share of the points that is left out; how large, is drawn for each crop
    mix: float = 0.0  # share of the crops that another one is laid over (Mix3D, Nekrasov et al., 3DV 2021)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.scale
        if not 0 < low <= high < np.inf or not 0 <= self.jitter < np.inf:
            raise ValueError(f"scale must be two factors in order, jitter a length, got {self.scale} and {self.jitter}")
        if not 1 <= self.stretch < np.inf:
            raise ValueError(f"stretch must be a factor of at least 1, got {self.stretch}")
        if not 0 <= self.thin < 1 or not 0 <= self.mix <= 1:
            raise ValueError(f"thin and mix must be shares, got {self.thin} and {self.mix}")


class Augmentation(NamedTuple):
    """What is done to a crop."""

    linear: np.ndarray  # (3, 3) float64, x ↦ x @ linear.T: factors of the axes, then a rotation or reflection
    keep: float  # share of the points
    jitter: float  # m


def draw_augmentation(config: AugmentationConfig, rng: np.random.Generator, up: str = "z") -> Augmentation:
    """What ``rng`` makes of the settings.

    >>> drawn = draw_augmentation(AugmentationConfig(scale=(2, 2)), np.random.default_rng(0))
    >>> bool(np.allclose(drawn.linear @ drawn.linear.T, 4 * np.eye(3)))
    True
    """
    axis = "xyz".index(up)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    angle, flips = rng.uniform(0, 2 * np.pi) * config.rotate, rng.random(2) < 0.5
    linear = np.eye(3)
    linear[first, [first, second]] = np.cos(angle), -np.sin(angle)
    linear[second, [first, second]] = np.sin(angle), np.cos(angle)
    if flips[0] and config.mirror != "none":
        linear[:, first] *= -1
    if flips[1] and config.mirror == "all":
        linear[:, axis] *= -1
    linear = linear * rng.uniform(*config.scale)
    keep = 1 - rng.uniform(0, config.thin)
    factors = config.stretch ** rng.uniform(-1, 1, 3) if config.stretch > 1 else np.ones(3)
    return Augmentation(linear * factors, keep, config.jitter)


def augmented(scene: Scene, how: Augmentation, rng: np.random.Generator) -> Scene:
    """``scene`` changed about the origin of its points; ``rng`` says which points stay and where jitter moves them.

    Normals stay normal to the surface.
    """
    if how.keep < 1:
        count = max(1, round(how.keep * len(scene)))
        scene = scene.take(np.sort(rng.permutation(len(scene))[:count]))
    features = dict(scene.features)
    if "normals" in features:
        normals = features["normals"] @ np.linalg.inv(how.linear)  # as a plane's: by the inverse, transposed
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        features["normals"] = (normals / np.where(length > 0, length, 1)).astype(np.float32)
    points = scene.points @ how.linear.T
    if how.jitter:
        points = points + how.jitter * rng.standard_normal(points.shape)
    return replace(scene, points=points, features=features)
