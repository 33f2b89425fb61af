"""What stars know of the sides that a scan does not show: runs trained on whole objects beside runs trained on points.

    python benchmarks/amodal.py --runs whole runs/amodal [RUN …] --runs seen runs/modal [RUN …]

The test scenes of the first run, generated scans, are segmented by each, with ``decoding.agreement=0``, since clusters
have the stars of their points and not the network's. An object counts where all runs found it, at an IoU of its points
above one half. Its star is held against the object's own mesh, rays cast from the star's centre to their last hit, so
that a star is not blamed for where its centre is. Polar IoU is linear, over the rays that meet the mesh: all, those
whose ends a sensor sees, and those whose ends none does. Means over objects, and half the width of Student's 95 %
interval over them of the first row less each other one.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from segmentation import Run, Spread, clouds, load_run
from torch import Tensor

from pcgen.data.scene_sets import SceneSet
from pcgen.data.synthetic.scenes import GeneratedScene
from pcgen.geometry.polar import polar_iou
from pcgen.geometry.raycast import MeshTree, mesh_rays, mesh_tree, visible_rays
from pcgen.models.instances import Instances
from pcgen.models.tiling import segment_scan
from pcgen.training.scoring import segmentation_scores

MATCHED = 0.5  # IoU of the points above which an object is found
COLUMNS = ("all rays", "rays that end in view", "rays that end out of view", "centre, m", "hidden share of rays")


class Body(NamedTuple):
    """The truth of an object of a scene."""

    number: int  # its instance's
    tree: MeshTree
    middle: np.ndarray  # (3,) of its box


def bodies(made: GeneratedScene) -> list[Body]:
    meshes = {i: made.objects[k - 1].mesh for i, k in enumerate(made.scene.instance_ids, 1)}
    return [Body(i, mesh_tree(*m), (m.vertices.max(0) + m.vertices.min(0)) / 2) for i, m in meshes.items()]


def match(instance: np.ndarray, found: Instances, number: int) -> int | None:
    """The found object that holds this instance, from 0."""
    own, labels = instance == number, found.labels.numpy()
    shared = np.bincount(labels[own], minlength=len(found) + 1)[1:]
    iou = shared / np.maximum(own.sum() + np.bincount(labels, minlength=len(found) + 1)[1:] - shared, 1)
    return int(iou.argmax()) if len(iou) and iou.max() > MATCHED else None


def judged(found: Instances, k: int, body: Body, room: MeshTree, sensors: np.ndarray) -> list[float]:
    """The numbers of ``COLUMNS`` of one star; NaN without a ray of that kind."""
    centre, lengths = found.centres[k : k + 1], found.lengths[k : k + 1].double()
    truth = mesh_rays(found.rays, centre, [body.tree])
    seen = torch.stack([visible_rays(found.rays, centre, truth.lengths, room, s) for s in sensors]).any(0)

    def iou(mask: Tensor) -> float:
        return float(polar_iou(found.rays, lengths, truth.lengths, "linear", mask)[0]) if mask.any() else np.nan

    hidden = truth.valid & ~seen
    away = float(np.linalg.norm(centre[0].numpy() - body.middle))
    return [iou(truth.valid), iou(truth.valid & seen), iou(hidden), away, float(hidden.sum() / truth.valid.sum())]


def found_by(run: Run) -> list[Instances]:
    """What the stars of the run's model alone find in its test scenes."""
    stars, test = replace(run.model.config.decoding, agreement=0.0), run.scenes.test
    return [segment_scan(run.model, test[i].scene, decoding=stars) for i in range(len(test))]


def measured(test: SceneSet, results: Mapping[str, Sequence[Instances]], min_points: int) -> dict[str, np.ndarray]:
    """(objects, columns) of every run, the same objects in all; ``results`` are what each found in each scene."""
    rows: dict[str, list[list[float]]] = {name: [] for name in results}
    for i in range(len(test)):
        made = test[i].generated
        room = mesh_tree(*made.surface.mesh)
        for body in bodies(made):
            matched = {name: match(made.scene.instance, found[i], body.number) for name, found in results.items()}
            if (made.scene.instance == body.number).sum() < min_points or None in matched.values():
                continue
            for name, k in matched.items():
                rows[name].append(judged(results[name][i], k, body, room, made.sensors))
    return {name: np.array(found).reshape(-1, len(COLUMNS)) for name, found in rows.items()}


def table(groups: Mapping[str, Sequence[str]], numbers: Mapping[str, np.ndarray], ap50: Mapping[str, float]) -> str:
    """Markdown: a row for each group of runs, then the differences of the first from the others, object by object."""
    means = {group: np.mean([numbers[name] for name in names], axis=0) for group, names in groups.items()}
    first, *others = means
    lines = [f"| | AP50 | {' | '.join(COLUMNS)} |", f"|---|{'---|' * (1 + len(COLUMNS))}"]
    for group, values in means.items():
        cells = [f"{100 * np.mean([ap50[name] for name in groups[group]]):.1f}"]
        cells += [f"{x:.3f}" for x in np.nanmean(values, axis=0)]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    for group in others:
        gain = means[first] - means[group]
        spreads = [Spread.of(g[~np.isnan(g)] / 100) for g in gain.T]
        lines.append(f"| {first} less {group} | | {' | '.join(f'{s.mean:.3f} ± {s.half:.3f}' for s in spreads)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", action="append", required=True, metavar=("NAME", "RUN"))
    args = parser.parse_args()
    groups = {name: folders for name, *folders in args.runs}
    # Meshes of the test scenes are kept for runs that were not trained on them too.
    runs = {name: load_run(Path(name), ["data.generated.amodal=true"]) for names in groups.values() for name in names}
    first = next(iter(runs.values()))
    if len(first.scenes.test) == 0 or any(run.scenes.test.names != first.scenes.test.names for run in runs.values()):
        raise ValueError("the runs must have the same test scenes, generated ones")
    runs = {name: run._replace(scenes=first.scenes) for name, run in runs.items()}
    least, truth = first.config.evaluation.min_points, clouds(first, "test")
    results = {name: found_by(run) for name, run in runs.items()}
    ap50 = {name: segmentation_scores(found, truth, min_points=least).ap.ap50 for name, found in results.items()}
    numbers = measured(first.scenes.test, results, least)
    print(f"{len(truth)} scenes, {len(next(iter(numbers.values())))} objects found by all runs\n")
    print(table(groups, numbers, ap50))


if __name__ == "__main__":
    main()
