"""What a run that learned to find objects shows for itself: pictures, tuned thresholds, scores on scenes unseen."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pcgen.cli.bars import bar
from pcgen.cli.report import circumstances, write_json
from pcgen.config import to_yaml

if TYPE_CHECKING:
    from pcgen.data.scene_sets import SceneSet, SceneSets
    from pcgen.models.instances import DecodingConfig, Instances
    from pcgen.models.polar_targets import LabelledCloud
    from pcgen.models.polarmask3d import PolarMask3D
    from pcgen.training import SegmentationRunConfig

__all__ = ["finish", "picture_of_epoch"]

PARTS, POINTS = 8, 400_000  # scenes that thresholds and baselines are tuned on, and points of all of them, at most
PICTURED = 50_000  # points of a scene that is drawn at each validation


def picture_of_epoch(config: SegmentationRunConfig, scenes: SceneSets, folder: Path) -> Callable:
    """A callback that draws a scene to validate on: its objects, and those that are found."""
    parts = _parts(config, scenes.val, 1, PICTURED)

    def draw(model: PolarMask3D, state) -> None:
        for part in parts[: config.evaluation.pictures]:
            found = model.predict_instances(part.points, part.features)
            _picture(folder / "galleries" / f"epoch_{state.epoch:05d}.png", part, found, config)

    return draw


def finish(config: SegmentationRunConfig, scenes: SceneSets, folder: Path, quiet: bool = False) -> str:
    """Tunes the thresholds of the checkpoint that ``folder`` stands for, and measures it; returns the closing words."""
    from pcgen.models.tuning import tune_decoding
    from pcgen.training import find_checkpoint, read_history
    from pcgen.viz import curves

    checkpoint = find_checkpoint(folder)
    model = _ready(checkpoint, config)
    model.config = dataclasses.replace(model.config, decoding=_with_density(model, scenes))
    decoding = tune_decoding(model, _parts(config, scenes.val, PARTS, POINTS), min_points=config.evaluation.min_points)
    _keep(checkpoint, config, decoding)
    model = _ready(checkpoint, config)
    metrics = {
        "checkpoint": checkpoint.relative_to(folder).as_posix(),
        "decoding": dataclasses.asdict(decoding),
        "thresholds tuned on": "train" if scenes.val is scenes.train else "val",
    }
    lines = [f"thresholds tuned on {metrics['thresholds tuned on']} and kept in {checkpoint}"]
    if scenes.test:
        metrics["test"], table = _tested(model, config, scenes, folder, quiet)
        lines = [table, *lines]
    curves(read_history(folder), folder / "curves.png")
    metrics |= circumstances(config, scenes, folder)
    write_json(folder / "metrics.json", metrics)
    minutes = metrics["training"]["minutes"]
    return "\n".join(
        [
            *lines,
            f"trained in {minutes:.1f} min; pictures and metrics.json are in {folder}",
            f"next: pcgen segment SCAN.ply {shlex.quote(str(folder))} -o OUT.ply --picture",
        ]
    )


def _with_density(model: PolarMask3D, scenes: SceneSets) -> DecodingConfig:
    """The model's thresholds, with the density of the densest scene of the training, unless one was set."""
    import torch

    from pcgen.models.thinning import points_per_voxel
    from pcgen.training.segmentation import points_seen

    decoding, voxel = model.config.decoding, model.config.backbone.voxel
    if decoding.density:
        return decoding
    densities = (points_per_voxel(torch.from_numpy(points), voxel) for points in points_seen(scenes))
    return dataclasses.replace(decoding, density=max(densities))


def _tested(
    model: PolarMask3D, config: SegmentationRunConfig, scenes: SceneSets, folder: Path, quiet: bool
) -> tuple[dict[str, Any], str]:
    """Scores on the test scenes, as numbers and as a table."""
    from pcgen.models.tiling import segment_scan
    from pcgen.training.scoring import SegmentationScores, clustering_scores, oracle_of, segmentation_scores

    wanted, test = config.evaluation, range(len(scenes.test))
    clouds = [_whole(config, scenes.test, i) for i in test]
    found = [segment_scan(model, scenes.test[i].scene) for i in bar(test, "segmenting", quiet)]
    for i in test[: wanted.pictures]:
        _picture(folder / "galleries" / f"test_{i:03d}.png", clouds[i], found[i], config)
    scores = {"PolarMask3D": segmentation_scores(found, clouds, config.model.classes, wanted.min_points)}
    refused = ""
    if wanted.baseline:
        try:
            scores |= clustering_scores(model, _parts(config, scenes.train, PARTS, POINTS), clouds, wanted.min_points)
        except ValueError as error:  # nothing to tune on: no reason to lose the other scores
            refused = f"no baseline: {error}"
    lines = [SegmentationScores.HEADER, *(row.row(name) for name, row in scores.items())]
    numbers: dict[str, Any] = {name: row.as_dict() for name, row in scores.items()}
    if wanted.oracle and scores["PolarMask3D"].ap.counted:
        oracle = oracle_of(clouds, model.rays, wanted.min_points)
        numbers["oracle"] = {"mean_iou": oracle.mean_iou, **{k: getattr(oracle.ap, k) for k in ("ap", "ap50", "ap25")}}
        ceiling = "".join(f"{100 * numbers['oracle'][k]:7.1f}" for k in ("ap", "ap50", "ap25"))
        lines.append(f"{'oracle (stars of the truth)':34}{ceiling}")
    lines.append(f"{len(clouds)} test scenes; instances of at least {wanted.min_points} points; background negative")
    lines += [refused] if refused else []
    return {"scenes": list(scenes.test.names), **numbers}, "\n".join(lines)


def _parts(config: SegmentationRunConfig, scenes: SceneSet, most: int, points: int) -> list[LabelledCloud]:
    """The first scenes, of large ones a part: together at most so many ``points``."""
    from pcgen.training.labelled_crops import labelled_part

    rng = np.random.default_rng(config.training.seed)
    count = min(most, len(scenes))
    return [labelled_part(scenes[i], config.model, config.data.crop, points // count, rng) for i in range(count)]


def _whole(config: SegmentationRunConfig, scenes: SceneSet, i: int) -> LabelledCloud:
    from pcgen.training.labelled_crops import labelled_part

    every = dataclasses.replace(config.data.crop, min_points=1)
    return labelled_part(scenes[i], config.model, every, len(scenes[i].scene), np.random.default_rng(0))


def _ready(checkpoint: Path, config: SegmentationRunConfig) -> PolarMask3D:
    """The checkpoint's model, on the device of the training."""
    import torch

    from pcgen.models.segmenter import load_segmenter

    on_gpu = config.training.device == "auto" and torch.cuda.is_available()
    return load_segmenter(checkpoint).model.to("cuda" if on_gpu else "cpu")


def _keep(checkpoint: Path, config: SegmentationRunConfig, decoding: DecodingConfig) -> None:
    """The checkpoint with other thresholds."""
    from safetensors.torch import load_file

    from pcgen.training.checkpoint import INFO, WEIGHTS, save_checkpoint

    tuned = dataclasses.replace(config, model=dataclasses.replace(config.model, decoding=decoding))
    info = json.loads((checkpoint / INFO).read_text(encoding="utf-8"))
    save_checkpoint(checkpoint, load_file(checkpoint / WEIGHTS), to_yaml(tuned), info)


def _picture(path: Path, cloud: LabelledCloud, found: Instances, config: SegmentationRunConfig) -> None:
    from pcgen.viz.instances import instance_picture, numbered_alike

    truth = cloud.instance.numpy()
    labellings = {"truth": truth, "found": numbered_alike(truth, found.labels.cpu().numpy())}
    instance_picture(path, cloud.points.numpy(), labellings, up=config.model.up)
