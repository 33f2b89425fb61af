"""Points that predicted instances share with true ones: all that the scores of a segmentation rest on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from pcgen.metrics.truth import Array, Truth, as_array, integers, packed_truth, truth

__all__ = ["AGNOSTIC", "Background", "Masks", "Overlaps", "as_lists", "check_choices", "members", "overlaps"]

Background = Literal["void", "negative"]
Masks = Array | Sequence[Array]  # of one scene; the forms are those of pcgen.metrics.scannet_ap
AGNOSTIC = (0,)  # the only class where there is none


@dataclass(frozen=True)
class Overlaps:
    """Numbers of points of one scene with P predictions and G true instances of the classes evaluated."""

    shared: np.ndarray  # (P, G) int64, in both
    size: np.ndarray  # (P,) int64, in the prediction
    background: np.ndarray  # (P,) int64, of the prediction, annotated but in none of the G instances
    unannotated: np.ndarray  # (P,) int64, of the prediction, with a negative label
    label: np.ndarray  # (P,) int64, class of the prediction; 0 where class-agnostic
    truth_size: np.ndarray  # (G,) int64, in the instance
    truth_label: np.ndarray  # (G,) int64, its class; 0 where class-agnostic

    def of(self, predictions: np.ndarray, label: int) -> Overlaps:
        """Only some predictions (P,) bool, and the instances of one class."""
        p, g = predictions, self.truth_label == label
        rows = (self.size[p], self.background[p], self.unannotated[p], self.label[p])
        return Overlaps(self.shared[p][:, g], *rows, self.truth_size[g], self.truth_label[g])

    def void(self, background: Background) -> np.ndarray:
        """(P,) int64, the points of each prediction that say nothing about it."""
        return self.unannotated + self.background if background == "void" else self.unannotated

    def iou(self, left_out: np.ndarray | int = 0) -> np.ndarray:
        """(P, G) float64, intersection over union after ``left_out`` (P,) points of each prediction."""
        rest = np.broadcast_to(self.size - left_out, len(self.size))[:, None]
        return self.shared / (rest + self.truth_size - self.shared)


def as_lists(gts: Any, instances: Any, *others: Any) -> list[Any]:
    """All arguments as lists of scenes: the arrays of one scene alone, whose truth is (N,), as lists of one.

    >>> as_lists([1001, 1001, 0], None, [[0, 1]])
    [[[1001, 1001, 0]], None, [[[0, 1]]]]
    """
    arguments = [gts, instances, *others]
    truth = gts if instances is None else instances
    if truth is None or not len(truth) or np.ndim(truth[0]):
        return arguments
    return [None if given is None else [given] for given in arguments]


def overlaps(
    gts: Sequence[Array] | None,
    masks: Sequence[Masks] | None,
    labels: Sequence[Array] | None,
    classes: Sequence[int] | None,
    instances: Sequence[Array] | None,
    semantics: Sequence[Array] | None,
    disjoint: bool = False,
) -> list[Overlaps]:
    """Counts scene by scene, from the arguments that all scores of a segmentation share, checked.

    ``disjoint``: a point in two predictions is a ``ValueError``.
    """
    _check_sources(gts, masks, labels, classes, instances, semantics)
    scenes = len(gts if instances is None else instances)
    if not scenes:
        raise ValueError("gts must hold the labels of at least one scene, got none")
    for name, values in (("masks", masks), ("labels", labels), ("semantics", semantics)):
        if values is not None and len(values) != scenes:
            raise ValueError(f"{name} must hold one entry for each of {scenes} scenes, got {len(values)}")
    found = []
    for s in range(scenes):
        if instances is None:
            true = packed_truth(gts[s], classes, f"gts[{s}]")
        else:
            true = truth(instances[s], None if semantics is None else semantics[s], classes, f"instances[{s}]")
        label = None if labels is None else integers(labels[s], f"labels[{s}]")
        found.append(_count(true, masks[s], label, classes is None, disjoint, f"masks[{s}]"))
    return found


def check_choices(classes: Sequence[int] | None, min_points: int, background: str) -> tuple[int, ...]:
    """The classes to go through; ``ValueError`` for what no score of a segmentation takes."""
    if min_points < 1:
        raise ValueError(f"min_points must be at least 1, got {min_points}")
    if background not in get_args(Background):
        raise ValueError(f"background must be one of {', '.join(get_args(Background))}, got {background!r}")
    if classes is None:
        return AGNOSTIC
    found = tuple(integers(list(classes), "classes").tolist())
    if not found or len(set(found)) < len(found) or min(found) < 0:
        raise ValueError(f"classes must be distinct numbers, none negative, at least one, got {list(classes)}")
    return found


def _check_sources(gts, masks, labels, classes, instances, semantics) -> None:
    if (gts is None) == (instances is None):
        both = "neither" if gts is None else "both"
        raise ValueError(f"the truth must come as gts=, packed, or as instances= and semantics=, got {both}")
    if gts is not None and semantics is not None:
        raise ValueError("semantics= goes with instances=, got it with gts=, which are class × 1000 + instance")
    if gts is not None and classes is not None and 0 in classes:
        raise ValueError("classes must not hold 0 with packed gts, where 0 … 999 have no class; give instances=")
    if masks is None:
        raise ValueError("masks must hold the predictions of each scene, got None")
    if classes is not None and (labels is None or (gts is None and semantics is None)):
        missing = "labels" if labels is None else "semantics"
        raise ValueError(f"{missing} must be given to tell classes apart, got None (classes=None needs no classes)")


def _count(true: Truth, masks: Masks, label: np.ndarray | None, agnostic: bool, disjoint: bool, name: str) -> Overlaps:
    N, G = len(true.column), len(true.label)
    if _is_map(masks, N):
        histogram = _histogram_of_map(integers(masks, name), true.column, G + 2, label, name)
    else:
        points = _disjoint(members(masks, N, name), N, name) if disjoint else members(masks, N, name)
        rows = [np.bincount(true.column[index], minlength=G + 2) for index in points]
        histogram = np.stack(rows) if rows else np.zeros((0, G + 2), np.int64)
    if label is not None and len(label) != len(histogram):
        raise ValueError(f"{name} and labels must agree, got {len(histogram)} predictions and {len(label)} labels")
    if agnostic:
        label = np.zeros(len(histogram), np.int64)
    shared, background, unannotated = histogram[:, :G], histogram[:, G], histogram[:, G + 1]
    return Overlaps(shared, histogram.sum(1), background, unannotated, label, true.size, true.label)


def _is_map(masks: Masks, points: int) -> bool:
    """Whether ``masks`` is one (N,) array of the predictions' numbers."""
    if not isinstance(masks, (np.ndarray, Tensor)) or masks.ndim != 1 or len(masks) != points:
        return False
    return isinstance(masks, Tensor) or masks.dtype.kind != "O"


def _histogram_of_map(numbers: np.ndarray, column: np.ndarray, columns: int, label: np.ndarray | None, name: str):
    found = int(numbers.max(initial=0))
    count = found if label is None else len(label)
    if found > count:
        raise ValueError(f"{name} must hold numbers of predictions up to {count}, one for each label, got {found}")
    inside = numbers > 0
    cell = (numbers[inside] - 1) * columns + column[inside]
    return np.bincount(cell, minlength=count * columns).reshape(count, columns)


def members(masks: Masks, points: int, name: str) -> Iterator[np.ndarray]:
    """The numbers of the points of each prediction."""
    place = np.zeros(points, np.int64)  # tells a repeated point without sorting
    for p, mask in enumerate(masks):
        array = as_array(mask)
        if array.ndim != 1 or (array.dtype.kind not in "biu" and array.size):
            raise TypeError(
                f"{name}[{p}] must be a bool mask ({points},) or the numbers of its points, "
                f"got {array.dtype} {array.shape}"
            )
        if array.dtype == bool or getattr(masks, "ndim", 1) == 2:
            if len(array) != points:
                raise ValueError(f"{name}[{p}] must be a mask of {points} points, got {array.shape}")
            yield np.flatnonzero(array)
            continue
        index = array.astype(np.int64, copy=False)
        if len(index) and (index.min() < 0 or index.max() >= points):
            raise ValueError(f"{name}[{p}] must hold points 0 … {points - 1}, got {index.min()} … {index.max()}")
        order = np.arange(len(index))
        place[index] = order
        if (place[index] != order).any():
            raise ValueError(f"{name}[{p}] must name each of its points once (masks must be bool), got repeated ones")
        yield index


def _disjoint(members: Iterator[np.ndarray], points: int, name: str) -> Iterator[np.ndarray]:
    seen = np.zeros(points, bool)
    for p, index in enumerate(members):
        if seen[index].any():
            raise ValueError(f"{name} must not overlap, got {seen[index].sum()} points of [{p}] in another one before")
        seen[index] = True
        yield index
