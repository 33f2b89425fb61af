"""Crops of training scenes as a PolarMask3D learns them: augmented, with the true stars of their objects."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from pcgen.data.scene_sets import SceneDataConfig, TrainingScene
from pcgen.data.scenes import Scene
from pcgen.data.scenes.augmentation import AugmentationConfig, augmented, draw_augmentation
from pcgen.data.scenes.crops import CropConfig, draw_crop, held_shares, without_small
from pcgen.data.synthetic.scenes import PlacedObject
from pcgen.geometry.raycast import MeshTree, cast, mesh_tree
from pcgen.geometry.rays import Rays
from pcgen.models.polar_targets import InstanceStars, LabelledCloud, instance_stars
from pcgen.models.polarmask3d import PolarMask3DConfig

__all__ = ["labelled_crop", "labelled_part"]

AS_IT_IS = AugmentationConfig(rotate=False, mirror="none", scale=(1.0, 1.0))


def labelled_crop(
    scenes: Sequence[TrainingScene],
    i: int,
    data: SceneDataConfig,
    model: PolarMask3DConfig,
    rays: Rays,
    rng: np.random.Generator,
    augment: bool = True,
) -> LabelledCloud:
    """A crop of scene ``i`` with its stars, and, as often as ``mix`` says, one of another scene laid over it.

    Of a mixed crop each part has half of the points.
    """
    how = data.augmentation if augment else AS_IT_IS
    if not rng.random() < how.mix:
        return _crop(scenes[i], data.crop, how, model, rays, rng)
    half = replace(data.crop, points=max(1, data.crop.points // 2))
    other = int(rng.integers(len(scenes)))
    return _laid_over(*(_crop(scenes[k], half, how, model, rays, rng) for k in (i, other)))


def labelled_part(
    whole: TrainingScene, model: PolarMask3DConfig, config: CropConfig, most: int, rng: np.random.Generator
) -> LabelledCloud:
    """A scene as it is, or of more than ``most`` points those nearest to a point that ``rng`` draws.

    In the scene's own coordinates and float64, without stars; smaller objects than ``config`` asks for are unannotated.
    """
    around = replace(config, radius=np.inf, points=most)
    scene = without_small(draw_crop(whole.scene, around, rng, model.up).scene, config.min_points)
    cloud = _cloud(scene, torch.float64)
    if "height" not in model.features:
        return cloud
    height = cloud.points[:, "xyz".index(model.up)] - whole.floor
    return cloud._replace(features={**cloud.features, "height": height})


def _crop(
    whole: TrainingScene,
    config: CropConfig,
    how: AugmentationConfig,
    model: PolarMask3DConfig,
    rays: Rays,
    rng: np.random.Generator,
) -> LabelledCloud:
    """The origin is below the middle of the crop on the scene's floor, so that heights are coordinates.

    Objects of which the crop holds too little have no valid ray.
    """
    up = "xyz".index(model.up)
    scene, middle = draw_crop(whole.scene, config, rng, model.up)
    cut = scene.instance_ids[held_shares(scene, whole.scene) < config.whole]
    origin = np.where(np.arange(3) == up, whole.floor, middle)
    drawn = draw_augmentation(how, rng, model.up)
    scene = augmented(replace(scene, points=scene.points - origin), drawn, rng)
    scene = without_small(scene, config.min_points)
    cloud = _cloud(scene, torch.float32)
    if "height" in model.features:
        cloud = cloud._replace(features={**cloud.features, "height": cloud.points[:, up]})
    if whole.generated is None:
        stars = instance_stars(rays, cloud.points, cloud.instance)
    else:
        objects = [whole.generated.objects[k - 1] for k in scene.instance_ids]
        stars = _whole_stars(rays, objects, origin, drawn.linear)
    seen = torch.from_numpy(~np.isin(scene.instance_ids, cut))
    return cloud._replace(stars=stars._replace(valid=stars.valid & seen[:, None]))


def _cloud(scene: Scene, dtype: torch.dtype) -> LabelledCloud:
    semantic = None if scene.semantic is None else torch.from_numpy(scene.semantic)
    features = {name: torch.from_numpy(column) for name, column in scene.features.items()}
    return LabelledCloud(torch.from_numpy(scene.points).to(dtype), torch.from_numpy(scene.instance), semantic, features)


def _laid_over(first: LabelledCloud, second: LabelledCloud) -> LabelledCloud:
    """Both clouds as one, each object with the star that it had."""
    instance = torch.where(second.instance > 0, second.instance + len(first.stars.centres), second.instance)
    semantic = None if first.semantic is None else torch.cat([first.semantic, second.semantic])
    return LabelledCloud(
        torch.cat([first.points, second.points]),
        torch.cat([first.instance, instance]),
        semantic,
        {name: torch.cat([column, second.features[name]]) for name, column in first.features.items()},
        InstanceStars(*(torch.cat(part) for part in zip(first.stars, second.stars))),
    )


class _Body(NamedTuple):
    """A whole object."""

    tree: MeshTree
    centre: np.ndarray  # (3,) the mean of its surface


@functools.lru_cache(maxsize=1024)
def _body(thing: PlacedObject) -> _Body:
    corners = thing.mesh.vertices[thing.mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    return _Body(mesh_tree(*thing.mesh), np.average(corners.mean(1), axis=0, weights=area))


def _whole_stars(rays: Rays, objects: Sequence[PlacedObject], origin: np.ndarray, linear: np.ndarray) -> InstanceStars:
    """T5: rays from the middle of each object's surface to its mesh, as they are after x ↦ (x − origin) @ linear.T.

    A ray along v there is one along linear⁻¹ v before, and as long in units of it.
    """
    directions = rays.directions.numpy() @ np.linalg.inv(linear).T
    bodies = [_body(thing) for thing in objects]
    centres = np.array([(body.centre - origin) @ linear.T for body in bodies]).reshape(-1, 3)
    hits = [cast(body.tree, body.centre, directions, "last").distance for body in bodies]
    distance = torch.stack(hits) if hits else torch.empty(0, len(rays), dtype=torch.float64)
    valid = distance.isfinite()
    return InstanceStars(torch.from_numpy(centres).float(), torch.where(valid, distance, 0.0).float(), valid)
