"""How well predicted instances cover the true ones, as S3DIS tables report it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pcgen.metrics.overlaps import Masks, Overlaps, as_lists, check_choices, overlaps
from pcgen.metrics.truth import Array

__all__ = ["ClassCoverage", "InstanceCoverage", "instance_coverage"]


class ClassCoverage(NamedTuple):
    """Of one class; NaN without a true instance."""

    cov: float  # mean over scenes of the mean over instances of the largest IoU with a prediction
    wcov: float  # the same, the instances weighted by their points
    precision: float  # share of the predictions with an IoU of at least 1/2 with an instance, 0 without any
    recall: float  # share of the instances with an IoU of at least 1/2 with a prediction
    counted: int  # true instances
    predictions: int


@dataclass(frozen=True)
class InstanceCoverage:
    """Means over the classes with a true instance, and how they were computed."""

    mcov: float
    mwcov: float
    mprec: float
    mrec: float
    per_class: dict[int, ClassCoverage]  # empty where class-agnostic
    min_points: int
    scenes: int
    counted: int  # true instances of at least min_points, in the classes evaluated


def instance_coverage(
    gts: Sequence[Array] | None = None,
    masks: Sequence[Masks] | None = None,
    labels: Sequence[Array] | None = None,
    *,
    classes: Sequence[int] | None = None,
    instances: Sequence[Array] | None = None,
    semantics: Sequence[Array] | None = None,
    min_points: int = 1,
) -> InstanceCoverage:
    """mCov, mWCov, mPrec and mRec at an IoU of 1/2 (Wang et al., ASIS, CVPR 2019, and its evaluation program).

    The arguments are those of :func:`pcgen.metrics.scannet_ap`. Predictions compete with instances of their own class
    only. Coverage is a mean over the scenes that have the class, precision and recall are pooled over all scenes, as in
    the program; an IoU of exactly 1/2 counts. An instance that several predictions hit is found once, and each of these
    is right: predictions should not overlap, as the program's do not. Points that nobody annotated (negative labels)
    are taken out of the predictions; instances and predictions of fewer than ``min_points`` points are left out.

    >>> gt = np.repeat([1001, 1002, 0], 100)
    >>> found = instance_coverage([gt], [np.repeat([1, 2, 0, 3], 75)], [[1, 1, 1]], classes=[1])
    >>> found.per_class[1]          # largest IoU 75/100 and 50/125
    ClassCoverage(cov=0.575, wcov=0.575, precision=0.333..., recall=0.5, counted=2, predictions=3)
    """
    chosen = check_choices(classes, min_points, "negative")
    gts, instances, semantics, masks, labels = as_lists(gts, instances, semantics, masks, labels)
    scenes = overlaps(gts, masks, labels, classes, instances, semantics)
    rows = {c: _one_class([_of_class(scene, c, min_points) for scene in scenes]) for c in chosen}
    seen = [row for row in rows.values() if row.counted]
    means = [float(np.mean([row[k] for row in seen])) if seen else float("nan") for k in range(4)]
    counted = sum(row.counted for row in seen)
    return InstanceCoverage(*means, {} if classes is None else rows, min_points, len(scenes), counted)


def _of_class(scene: Overlaps, label: int, min_points: int) -> tuple[np.ndarray, np.ndarray]:
    """IoU (P, G) of the predictions and instances that are large enough, and the sizes (G,) of the latter."""
    part = scene.of((scene.label == label) & (scene.size - scene.unannotated >= min_points), label)
    large = part.truth_size >= min_points
    return part.iou(left_out=part.unannotated)[:, large], part.truth_size[large]


def _one_class(parts: list[tuple[np.ndarray, np.ndarray]]) -> ClassCoverage:
    predictions, counted = (sum(iou.shape[axis] for iou, _ in parts) for axis in (0, 1))
    if not counted:
        return ClassCoverage(*[float("nan")] * 4, 0, predictions)
    best = [(iou.max(0, initial=0.0), size) for iou, size in parts if len(size)]
    return ClassCoverage(
        cov=float(np.mean([cover.mean() for cover, _ in best])),
        wcov=float(np.mean([cover @ size / size.sum() for cover, size in best])),
        precision=sum(int((iou >= 0.5).any(1).sum()) for iou, _ in parts) / max(predictions, 1),
        recall=sum(int((cover >= 0.5).sum()) for cover, _ in best) / counted,
        counted=counted,
        predictions=predictions,
    )
