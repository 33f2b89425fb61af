"""The thresholds of decoding, tuned on labelled scenes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pcgen.metrics.segmentation import ScannetAp, scannet_ap
from pcgen.models.instances import DecodingConfig, Instances, decode, look
from pcgen.models.polar_targets import LabelledCloud

if TYPE_CHECKING:
    from pcgen.models.polarmask3d import PolarMask3D

__all__ = ["GRID", "average_precision", "evaluated", "tune_decoding"]

GRID: dict[str, tuple[float, ...]] = {
    "foreground": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    "membership": (0.5, 0.3, 0.4, 0.6),
    "overlap": (0.3, 0.1, 0.2, 0.5),
    "score": (0.001, 0.01, 0.05, 0.1),
    "agreement": (0.0, 0.3, 0.5, 0.7),
}


def tune_decoding(
    model: PolarMask3D,
    clouds: Sequence[LabelledCloud],
    grid: Mapping[str, Sequence[Any]] = GRID,
    min_points: int = 100,
) -> DecodingConfig:
    """Thresholds with a large AP50 on ``clouds``, of equal ones a large AP: chosen one after the other from ``grid``.

    That holds the values to try by the name of the threshold, beside the model's own; of equally good ones its own is
    taken, then the first. All begin at their first value, so that two that let nothing pass do not hide each other.
    The network looks at each cloud once. ``ValueError`` for a name that is none and for no cloud.
    """
    config = model.config.decoding
    unknown = [name for name in grid if name in ("turns", "density") or not hasattr(config, name)]
    if unknown or not clouds:
        given = f"{len(clouds)} clouds and {', '.join(map(repr, unknown)) or 'no other names'}"
        raise ValueError(f"tuning needs at least 1 cloud and names of thresholds, got {given}")
    scans = [look(model, cloud.points, cloud.features, config) for cloud in clouds]

    @functools.cache  # the model's own value may be in the grid, and the best so far is tried with every threshold
    def worth(config: DecodingConfig) -> tuple[float, float]:
        found = average_precision(
            [decode(model, scan, config) for scan in scans], clouds, model.config.classes, min_points
        )
        return found.ap50, found.ap

    best = replace(config, **{name: values[0] for name, values in grid.items()})
    for name, values in grid.items():
        best = max((replace(best, **{name: value}) for value in (getattr(config, name), *values)), key=worth)
    return best


def evaluated(found: Sequence[Any], clouds: Sequence[LabelledCloud], classes: int, min_points: int) -> dict[str, Any]:
    """Keywords that all metrics of :mod:`pcgen.metrics.segmentation` share: the clouds' labels and what was found."""
    semantics = [c.instance.clamp(max=1) if c.semantic is None else c.semantic for c in clouds]
    return {
        "instances": [cloud.instance.cpu() for cloud in clouds],
        "semantics": [semantic.cpu() for semantic in semantics],
        "masks": [instances.labels.cpu() for instances in found],
        "labels": [instances.classes.cpu() for instances in found],
        "classes": None if classes == 1 else range(1, classes + 1),
        "min_points": min_points,
    }


def average_precision(
    found: Sequence[Instances], clouds: Sequence[LabelledCloud], classes: int = 1, min_points: int = 100
) -> ScannetAp:
    """AP of what was found in labelled clouds, class-agnostic for one class; what is found on background is wrong."""
    scores = [instances.scores.cpu() for instances in found]
    return scannet_ap(**evaluated(found, clouds, classes, min_points), scores=scores, background="negative")
