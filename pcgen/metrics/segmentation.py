"""Average precision of instance segmentation as ScanNet's evaluator computes it, for any clouds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from pcgen.metrics.coverage import InstanceCoverage, instance_coverage
from pcgen.metrics.overlaps import Background, Masks, Overlaps, as_lists, check_choices, overlaps
from pcgen.metrics.panoptic import PanopticQuality, panoptic_quality
from pcgen.metrics.transfer import transfer_labels, transfer_masks
from pcgen.metrics.truth import Array, as_array

__all__ = [
    "AveragePrecision",
    "InstanceCoverage",
    "PanopticQuality",
    "ScannetAp",
    "instance_coverage",
    "panoptic_quality",
    "scannet_ap",
    "transfer_labels",
    "transfer_masks",
]

Thresholds = Literal["scannet", "coco"]
# Quotients, so that an IoU equal to a threshold is the same float64.
THRESHOLDS = {"scannet": np.arange(10, 19) / 20, "coco": np.arange(10, 20) / 20}


class AveragePrecision(NamedTuple):
    """Of one class; NaN without a counted instance."""

    ap: float  # mean over the thresholds
    ap50: float
    ap25: float
    recall: float  # of all predictions whatever their score, mean over the thresholds
    recall50: float
    recall25: float
    counted: int  # true instances of at least min_points
    ignored: int  # smaller ones
    predictions: int  # of at least min_points


@dataclass(frozen=True)
class ScannetAp:
    """Average precisions, and how they were computed."""

    ap: float  # mean over the thresholds and over the classes with a counted instance
    ap50: float
    ap25: float
    recall: float  # of all predictions whatever their score, means as above
    recall50: float
    recall25: float
    per_class: dict[int, AveragePrecision]  # empty where class-agnostic
    thresholds: tuple[float, ...]  # of ap; an IoU must exceed them
    background: Background
    min_points: int
    scenes: int
    counted: int  # true instances of at least min_points, in the classes evaluated
    ignored: int  # smaller ones
    predictions: int  # of at least min_points, in the classes evaluated
    left_out: int  # other predictions

    def table(self) -> str:
        """One line per class and one for all, in per cent, under a line that says how they were computed.

        >>> print(scannet_ap([[1001] * 100], [[range(100)]], [[1]], [[0.5]], classes=[1]).table())
        scannet AP, IoU > 0.50 … 0.90 (9 thresholds), background void, min_points 100, 1 scenes
        class            AP   AP50   AP25  counted ignored predictions
        1             100.0  100.0  100.0        1       0           1
        all           100.0  100.0  100.0        1       0           1
        """
        low, high = min(self.thresholds), max(self.thresholds)
        how = f"IoU > {low:.2f} … {high:.2f} ({len(self.thresholds)} thresholds), background {self.background}"
        lines = [f"scannet AP, {how}, min_points {self.min_points}, {self.scenes} scenes"]
        lines.append(f"{'class':10}{'AP':>9}{'AP50':>7}{'AP25':>7}  counted ignored predictions")
        for name, row in [*self.per_class.items(), ("all", self)]:
            scores = f"{100 * row.ap:9.1f}{100 * row.ap50:7.1f}{100 * row.ap25:7.1f}"
            lines.append(f"{name!s:10}{scores}{row.counted:9}{row.ignored:8}{row.predictions:12}")
        return "\n".join(lines)


def scannet_ap(
    gts: Sequence[Array] | None = None,
    masks: Sequence[Masks] | None = None,
    labels: Sequence[Array] | None = None,
    scores: Sequence[Array | Sequence[float]] | None = None,
    *,
    classes: Sequence[int] | None = None,
    instances: Sequence[Array] | None = None,
    semantics: Sequence[Array] | None = None,
    min_points: int = 100,
    background: Background = "void",
    thresholds: Thresholds | Sequence[float] = "scannet",
) -> ScannetAp:
    """AP, AP50 and AP25 of scored instance masks, pooled over scenes (Dai et al., ScanNet, CVPR 2017, its evaluator).

    Every list holds one entry per scene, of N points and P predictions, in NumPy, PyTorch or plain lists; those of one
    scene alone need no list around them:

    - ``gts``: (N,) integers, class × 1000 + instance; 0 is background, negative not annotated. Or, as scenes with
      instance numbers above 999 need, ``instances`` (N,), 0 for none, with ``semantics`` (N,), their classes.
    - ``masks``: (P, N) bool; or P arrays, each an (N,) bool or the numbers of the points; or, where predictions do not
      overlap, one (N,) array with the number 1 … P of each point's prediction, 0 for none.
    - ``labels``: (P,) integers, the classes of the predictions; ``scores``: (P,), higher is surer.

    ``classes`` are those evaluated; None is class-agnostic: no labels are looked at, every instance counts.
    ``min_points`` is the size under which instances are ignored and predictions left out. ``background="void"``
    forgives a prediction as much of its points outside the evaluated instances as the letter does; under
    ``"negative"`` only points that nobody annotated excuse it. ``thresholds`` are ``"scannet"``, 0.50 … 0.90 in nine
    steps as the published program has them, ``"coco"``, 0.50 … 0.95 in ten, or numbers in [0, 1).

    ``ValueError`` for lengths that do not fit, points out of range, scores that are not finite and packed labels whose
    instances have run into the next class, as far as that shows; ``TypeError`` for what are no integers or masks.

    >>> gt = np.repeat([1001, 1002, 0], 200)                        # two instances and background
    >>> masks = [range(200), range(240, 400), range(400, 600)]      # IoU 1 and 0.8; the third lies on background
    >>> found = scannet_ap([gt], [masks], [[1, 1, 1]], [[0.9, 0.8, 0.7]], classes=[1])
    >>> round(found.ap, 3), found.ap50, found.counted, found.background
    (0.833, 1.0, 2, 'void')
    """
    chosen = check_choices(classes, min_points, background)
    limits = _thresholds(thresholds)
    given = as_lists(gts, instances, semantics, masks, labels, scores)
    gts, instances, semantics, masks, labels, scores = given
    ranked = _scores(scores, masks)
    labels = [np.zeros(len(s), np.int64) for s in ranked] if classes is None else labels
    scenes = overlaps(gts, masks, labels, classes, instances, semantics)
    for s, (scene, score) in enumerate(zip(scenes, ranked)):
        if len(score) != len(scene.size):
            raise ValueError(
                f"masks[{s}] and scores[{s}] must agree, got {len(scene.size)} and {len(score)} predictions"
            )
    rows = {c: _one_class(scenes, ranked, c, min_points, background, limits) for c in chosen}
    total = {name: sum(getattr(row, name) for row in rows.values()) for name in ("counted", "ignored", "predictions")}
    return ScannetAp(
        *(_mean([row[k] for row in rows.values()]) for k in range(6)),
        per_class={} if classes is None else rows,
        thresholds=tuple(limits.tolist()),
        background=background,
        min_points=min_points,
        scenes=len(scenes),
        **total,
        left_out=sum(len(scene.size) for scene in scenes) - total["predictions"],
    )


def _thresholds(given: Thresholds | Sequence[float]) -> np.ndarray:
    if isinstance(given, str) and given not in THRESHOLDS:
        raise ValueError(f"thresholds must be one of {', '.join(THRESHOLDS)}, or numbers, got {given!r}")
    limits = THRESHOLDS[given] if isinstance(given, str) else np.asarray(given, np.float64)
    if limits.ndim != 1 or not len(limits) or not ((limits >= 0) & (limits < 1)).all():
        raise ValueError(f"thresholds must be numbers in [0, 1), at least one, got {given}")
    return limits


def _scores(scores: Sequence[Array | Sequence[float]] | None, masks: Sequence[Masks] | None) -> list[np.ndarray]:
    if scores is None or masks is None or len(scores) != len(masks):
        got = f"{None if masks is None else len(masks)} and {None if scores is None else len(scores)}"
        raise ValueError(f"masks and scores must hold one entry for each scene, got {got}")
    found = [np.asarray(as_array(s), np.float64) for s in scores]
    for i, s in enumerate(found):
        if s.ndim != 1 or not np.isfinite(s).all():
            bad = f"{(~np.isfinite(s)).sum()} that are not" if s.ndim == 1 else f"shape {s.shape}"
            raise ValueError(f"scores[{i}] must be (P,) finite numbers, got {bad}")
    return found


def _one_class(
    scenes: list[Overlaps],
    scores: list[np.ndarray],
    label: int,
    min_points: int,
    background: Background,
    limits: np.ndarray,
) -> AveragePrecision:
    """The scores of one class, its predictions and instances pooled over the scenes."""
    parts, counted, ignored, predictions = [], 0, 0, 0
    for scene, score in zip(scenes, scores):
        chosen = (scene.label == label) & (scene.size >= min_points)
        part = scene.of(chosen, label)
        large = part.truth_size >= min_points
        excused = (part.void(background) + part.shared[:, ~large].sum(1)) / part.size
        parts.append((part.iou(), score[chosen], excused, large))
        counted, ignored, predictions = counted + large.sum(), ignored + (~large).sum(), predictions + chosen.sum()
    numbers = (int(counted), int(ignored), int(predictions))
    if not counted:
        return AveragePrecision(*[np.nan] * 6, *numbers)
    area = np.array([_area(*_detections(parts, t)) for t in (*limits, 0.5, 0.25)])
    mean, (half, quarter) = area[:-2].mean(0), area[-2:]
    return AveragePrecision(*map(float, (mean[0], half[0], quarter[0], mean[1], half[1], quarter[1])), *numbers)


def _detections(parts: list[tuple], threshold: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores (D,) of the detections of one class, which of them are true (D,), and how many instances have none."""
    true, false, missed = [], [], 0
    for iou, score, excused, large in parts:
        hit = iou > threshold
        free = np.ones(len(score), bool)
        for g in np.flatnonzero(large):
            rivals = np.flatnonzero(hit[:, g] & free)
            if not len(rivals):
                missed += 1
                continue
            # The program takes the first one out of the race, but books the highest score as the true one.
            free[rivals[0]] = False
            ranked = np.sort(score[rivals])
            true.append(ranked[-1:])
            false.append(ranked[:-1])
        false.append(score[~hit.any(1) & (excused <= threshold)])
    detections = np.concatenate([np.empty(0), *true, *false])
    return detections, np.arange(len(detections)) < len(true), missed


def _area(scores: np.ndarray, true: np.ndarray, missed: int) -> tuple[float, float]:
    """Area under the precision–recall curve, and the recall of all detections."""
    order = np.argsort(scores, kind="stable")
    scores, true = scores[order], true[order]
    first = np.unique(scores, return_index=True)[1]  # equal scores are accepted together
    tp = true[::-1].cumsum()[::-1][first]
    precision = np.append(tp / (len(scores) - first), 1.0)
    recall = np.append(tp / (true.sum() + missed), 0.0)
    step = np.convolve([recall[0], *recall, 0.0], [-0.5, 0.0, 0.5], "valid")
    return float(precision @ step), float(recall[0])


def _mean(values: Sequence[float]) -> float:
    """Over those that are not NaN; NaN where all are."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
