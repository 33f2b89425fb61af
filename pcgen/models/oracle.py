"""The oracle: true instances encoded as stars and decoded among the points of their scene, the ceiling of any training.

What a star cannot hold of its object, and what it holds of the floor and of neighbours, no network can mend. So rays,
targets and assemblies are compared by it, without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcgen.geometry.rays import Rays
from pcgen.geometry.stars import Assembly, inside
from pcgen.geometry.targets import Centre, Targets, cap, centres_of, furthest, hull, optimal, quantile
from pcgen.metrics.segmentation import ScannetAp, scannet_ap

__all__ = ["TARGETS", "OracleScene", "OracleScores", "OracleTarget", "encode_and_decode", "oracle_scores"]

OracleTarget = Literal["furthest", "cap", "quantile", "hull", "optimal"]
TARGETS: dict[OracleTarget, Callable[..., Targets]] = {
    "furthest": furthest,
    "cap": cap,
    "quantile": quantile,
    "hull": hull,
    "optimal": optimal,
}
ANSWERS = 1 << 26  # pairs of a star and a point decided at once, a byte each
ABOVE = (0.5, 0.75, 0.9)


class OracleScene(NamedTuple):
    """The K instances of a scene after they were encoded and decoded."""

    iou: Tensor  # (K,) float64, of each instance and its star among the annotated points
    empty: Tensor  # (K,) float64, share of the rays without a target
    points: Tensor  # (K,) int64, of each instance
    semantic: Tensor  # (K,) int64, the class of most of its points; −1 where nobody said one, 1 where there are none
    masks: list[np.ndarray]  # K arrays of point numbers, of the scene as it was given
    instance: np.ndarray  # (N,) int64, as given
    classes: np.ndarray  # (N,) int64, the class of each point's instance; 0 background, −1 unannotated


@dataclass(frozen=True)
class OracleScores:
    """Means over all instances of all scenes, smallest ones included; AP counts those of ``ap.min_points`` and more."""

    rays: str
    target: OracleTarget
    assembly: Assembly
    instances: int
    mean_iou: float
    above: tuple[float, float, float]  # share of the instances whose IoU exceeds 0.5, 0.75 and 0.9
    empty_rays: float  # mean share of rays without a target
    ap: ScannetAp  # all stars score 1
    per_class: Mapping[int, OracleScores]  # where there are classes; of one class alone

    HEADER = (
        f"{'rays':16}{'target':10}{'assembly':13}{'instances':>9}{'IoU':>7}{'> .5':>7}{'> .75':>7}{'> .9':>7}"
        f"{'empty':>7}{'AP':>7}{'AP50':>7}{'AP25':>7}{'counted':>9}"
    )

    def row(self) -> str:
        """One line under ``HEADER``, in per cent."""
        shares = (self.mean_iou, *self.above, self.empty_rays, self.ap.ap, self.ap.ap50, self.ap.ap25)
        numbers = "".join(f"{100 * share:7.1f}" for share in shares)
        return f"{self.rays:16}{self.target:10}{self.assembly:13}{self.instances:9}{numbers}{self.ap.counted:9}"


def encode_and_decode(
    rays: Rays,
    points: Tensor,
    instance: Tensor,
    semantic: Tensor | None = None,
    *,
    target: OracleTarget = "optimal",
    assembly: Assembly = "nearest",
    centre: Centre = "mass",
) -> OracleScene:
    """The stars of all instances of a scene, and which of its points they hold.

    ``points`` (N, 3) in any unit, ``instance`` (N,) with 1 … K, 0 for the background and −1 for points that nobody
    annotated, which count nowhere; ``semantic`` (N,) or None. Memory is bounded, whatever K · N. ``ValueError`` for
    names that are none, a scene without instances and what :func:`pcgen.geometry.targets.furthest` refuses.

    >>> from pcgen.geometry import rays
    >>> points = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, 0.5, 5.0]])
    >>> encode_and_decode(rays("icosphere-42"), points, torch.tensor([1, 1, 1, 0])).iou
    tensor([1.], dtype=torch.float64)
    """
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    count = int(instance.max()) if len(instance) else 0
    if count < 1:
        raise ValueError(f"an oracle needs a scene with instances, got {len(instance)} points and none")
    centres = centres_of(points, instance, count, centre)
    instance = instance.long()
    found = TARGETS[target](rays, centres, points, instance)
    known = (instance >= 0).nonzero()[:, 0]
    masks, shared, size = [], [], []
    for stars in torch.arange(count, device=points.device).split(max(1, ANSWERS // max(1, len(known)))):
        held = inside(rays, centres[stars], found.lengths[stars], points[known], assembly)
        own = instance[known] == 1 + stars[:, None]
        shared.append((held & own).sum(1))
        size.append(held.sum(1))
        masks += [known[row].cpu().numpy() for row in held]
    points_of = torch.bincount(instance[instance > 0] - 1, minlength=count)
    shared, size = torch.cat(shared).double(), torch.cat(size)
    kinds = torch.ones_like(points_of) if semantic is None else _most_common(instance, semantic, count)
    of_points = torch.where(instance > 0, kinds[instance.clamp_min(1) - 1], instance)
    return OracleScene(
        shared / (points_of + size - shared).clamp_min(1),
        (~found.valid).double().mean(1),
        points_of,
        kinds,
        masks,
        instance.cpu().numpy(),
        of_points.cpu().numpy(),
    )


def oracle_scores(
    scenes: Iterable[OracleScene],
    rays: Rays,
    target: OracleTarget,
    assembly: Assembly,
    min_points: int = 100,
) -> OracleScores:
    """The scenes' instances taken together; instances that have no point are left out.

    AP is class-agnostic, with ``background="negative"``; that of one class counts stars and instances of that class.
    ``ValueError`` for no scene.
    """
    scenes = list(scenes)
    if not scenes:
        raise ValueError("an oracle needs at least one scene, got none")

    def scores(label: int | None) -> OracleScores:
        chosen = [s.points > 0 if label is None else (s.points > 0) & (s.semantic == label) for s in scenes]
        iou = torch.cat([s.iou[rows] for s, rows in zip(scenes, chosen)])
        empty = torch.cat([s.empty[rows] for s, rows in zip(scenes, chosen)])
        stars = [[mask for mask, row in zip(s.masks, rows.tolist()) if row] for s, rows in zip(scenes, chosen)]
        ap = scannet_ap(
            masks=stars,
            scores=[np.ones(len(masks)) for masks in stars],
            labels=[np.full(len(masks), label or 0) for masks in stars],
            instances=[s.instance for s in scenes],
            semantics=None if label is None else [s.classes for s in scenes],
            classes=None if label is None else [label],
            background="negative",
            min_points=min_points,
        )
        above = tuple(float((iou > limit).double().mean()) for limit in ABOVE)
        shares = (float(iou.mean()), above, float(empty.mean()))
        return OracleScores(rays.name, target, assembly, len(iou), *shares, ap, {})

    labels = sorted({int(k) for s in scenes for k in s.semantic[s.points > 0].unique() if k >= 0})
    together = scores(None)
    if len(labels) < 2:
        return together
    return replace(together, per_class={label: scores(label) for label in labels})


def _most_common(instance: Tensor, semantic: Tensor, count: int) -> Tensor:
    """(count,) the class that most points of each instance have, the lowest of several; −1 where no point has one."""
    own = (instance > 0) & (semantic >= 0)
    kinds, number = semantic[own].long().unique(return_inverse=True)
    if not len(kinds):
        return instance.new_full((count,), -1)
    table = torch.bincount((instance[own] - 1) * len(kinds) + number, minlength=count * len(kinds))
    table = table.view(count, len(kinds))
    return torch.where(table.sum(1) > 0, kinds[table.argmax(1)], -1)
