"""Panoptic quality of segments that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pcgen.metrics.overlaps import Background, Masks, Overlaps, as_lists, check_choices, overlaps
from pcgen.metrics.truth import Array

__all__ = ["ClassQuality", "PanopticQuality", "panoptic_quality"]


class ClassQuality(NamedTuple):
    """Of one class; NaN where it is neither in the truth nor predicted."""

    pq: float  # sq · rq
    sq: float  # mean IoU of the matched segments, 0 without any
    rq: float  # TP / (TP + FP / 2 + FN / 2)
    matched: int  # TP
    false: int  # FP, predicted segments without a match
    missed: int  # FN, true segments without a match


@dataclass(frozen=True)
class PanopticQuality:
    """Means over the classes, and how they were computed."""

    pq: float  # mean over the classes in the truth or among the predictions
    sq: float
    rq: float
    per_class: dict[int, ClassQuality]  # empty where class-agnostic
    matched: int  # sums over the classes
    false: int
    missed: int
    background: Background
    min_points: int
    scenes: int


def panoptic_quality(
    gts: Sequence[Array] | None = None,
    masks: Sequence[Masks] | None = None,
    labels: Sequence[Array] | None = None,
    *,
    classes: Sequence[int] | None = None,
    instances: Sequence[Array] | None = None,
    semantics: Sequence[Array] | None = None,
    min_points: int = 1,
    background: Background = "negative",
) -> PanopticQuality:
    """PQ = SQ · RQ (Kirillov et al., CVPR 2019), segments of all scenes pooled class by class.

    The arguments are those of :func:`pcgen.metrics.scannet_ap`; a class of stuff takes part as one instance per scene.
    A prediction and an instance of its class match where their IoU exceeds 1/2, the void points of the prediction
    taken out; a prediction without a match counts as false unless more than half of it is void. Void are the points
    that nobody annotated and, with ``background="void"``, all that are in no evaluated instance. Unmatched segments of
    fewer than ``min_points`` points are not counted; matched ones always are (Behley et al., ICRA 2021, who take 30).

    ``ValueError`` also for predictions that overlap.

    >>> gt = np.repeat([1001, 1002, 0], 100)
    >>> found = panoptic_quality([gt], [np.repeat([1, 2, 0, 3], 75)], [[1, 1, 1]], classes=[1])
    >>> found.per_class[1]          # IoU 75/100, 50/125 and 0
    ClassQuality(pq=0.3, sq=0.75, rq=0.4, matched=1, false=2, missed=1)
    """
    chosen = check_choices(classes, min_points, background)
    gts, instances, semantics, masks, labels = as_lists(gts, instances, semantics, masks, labels)
    scenes = overlaps(gts, masks, labels, classes, instances, semantics, disjoint=True)
    rows = {c: _one_class([s.of(s.label == c, c) for s in scenes], min_points, background) for c in chosen}
    seen = [row for row in rows.values() if not np.isnan(row.pq)]
    means = [float(np.mean([row[k] for row in seen])) if seen else float("nan") for k in range(3)]
    sums = [sum(row[k] for row in rows.values()) for k in range(3, 6)]
    return PanopticQuality(*means, {} if classes is None else rows, *sums, background, min_points, len(scenes))


def _one_class(parts: list[Overlaps], min_points: int, background: Background) -> ClassQuality:
    quality, matched, false, missed = 0.0, 0, 0, 0
    for part in parts:
        void = part.void(background)
        iou = part.iou(left_out=void)
        match = iou > 0.5  # at most one in each row and column
        excused = void > part.size / 2
        quality += iou[match].sum()
        matched += int(match.sum())
        false += int((~match.any(1) & (part.size >= min_points) & ~excused).sum())
        missed += int((~match.any(0) & (part.truth_size >= min_points)).sum())
    if not matched + false + missed:
        return ClassQuality(*[float("nan")] * 3, 0, 0, 0)
    total = matched + (false + missed) / 2
    return ClassQuality(
        float(quality / total), float(quality / max(matched, 1)), matched / total, matched, false, missed
    )
