"""How good found objects are: the network's, the oracle's, and those of clustering, which it has to beat."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from pcgen.data.scenes import scale_guess
from pcgen.geometry.rays import Rays
from pcgen.metrics.coverage import InstanceCoverage, instance_coverage
from pcgen.metrics.panoptic import PanopticQuality, panoptic_quality
from pcgen.metrics.segmentation import ScannetAp
from pcgen.models.clustering import ClusteringConfig, Clusters, Labelled, cluster_instances, tune
from pcgen.models.instances import Instances, look
from pcgen.models.oracle import OracleScores, encode_and_decode, oracle_scores
from pcgen.models.polar_targets import LabelledCloud
from pcgen.models.polarmask3d import PolarMask3D
from pcgen.models.tuning import average_precision, evaluated

__all__ = ["SegmentationScores", "clustering_scores", "oracle_of", "segmentation_scores"]

REACHES = (1.5, 2.0, 3.0, 4.0, 6.0)  # radii of neighbourhoods that are tried, in distances between points
PLANES = (0, 1, 5)  # none; a floor; a floor and four walls
THICKNESS = 1.0  # of a plane, in distances between points


class SegmentationScores(NamedTuple):
    """Of objects found in labelled scenes; background counts as wrong."""

    ap: ScannetAp
    pq: PanopticQuality
    coverage: InstanceCoverage

    HEADER = f"{'':34}{'AP':>7}{'AP50':>7}{'AP25':>7}{'PQ':>7}{'mCov':>7}{'counted':>9}{'found':>7}"

    def row(self, name: str) -> str:
        """One line under ``HEADER``, in per cent."""
        shares = (self.ap.ap, self.ap.ap50, self.ap.ap25, self.pq.pq, self.coverage.mcov)
        numbers = "".join(f"{100 * share:7.1f}" for share in shares)
        return f"{name:34}{numbers}{self.ap.counted:9}{self.ap.predictions:7}"

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, each with what it counts."""
        ap, pq, coverage = self
        found = {
            **{name: getattr(ap, name) for name in ("ap", "ap50", "ap25", "recall", "recall50", "recall25")},
            **{name: getattr(pq, name) for name in ("pq", "sq", "rq")},
            **{name: getattr(coverage, name) for name in ("mcov", "mwcov", "mprec", "mrec")},
            **{name: getattr(ap, name) for name in ("counted", "ignored", "predictions", "min_points", "background")},
        }
        return {**_known(found), "per_class": {k: _known(row._asdict()) for k, row in ap.per_class.items()}}


def segmentation_scores(
    found: Sequence[Instances | Clusters], clouds: Sequence[LabelledCloud], classes: int = 1, min_points: int = 100
) -> SegmentationScores:
    """AP, PQ and coverage of what was found in each cloud, class-agnostic for one class.

    Instances of fewer than ``min_points`` points are ignored by all three.
    """
    given = evaluated(found, clouds, classes, min_points)
    return SegmentationScores(
        average_precision(found, clouds, classes, min_points), panoptic_quality(**given), instance_coverage(**given)
    )


def oracle_of(clouds: Sequence[LabelledCloud], rays: Rays, min_points: int = 100) -> OracleScores:
    """What stars can hold of the clouds' instances, class-agnostic; clouds without any are left out."""
    held = [encode_and_decode(rays, c.points, c.instance) for c in clouds if bool((c.instance > 0).any())]
    return oracle_scores(held, rays, "optimal", "nearest", min_points)


def clustering_scores(
    model: PolarMask3D, train: Sequence[LabelledCloud], test: Sequence[LabelledCloud], min_points: int = 100
) -> Mapping[str, SegmentationScores]:
    """Class-agnostic scores of DBSCAN: of all points without planes, and of what ``model`` calls foreground.

    Its radius and the number of planes are tuned on ``train``.
    """
    guess = [scale_guess(cloud.points.numpy()).spacing for cloud in train]
    spacing = float(np.median(guess))
    scores = {}
    for name, planes, seen in (
        ("DBSCAN without planes", PLANES, lambda cloud: Labelled(cloud.points, cloud.instance)),
        ("DBSCAN of the network's foreground", (0,), lambda cloud: _foreground(model, cloud)),
    ):
        grid = [
            ClusteringConfig(radius=reach * spacing, planes=count, thickness=THICKNESS * spacing)
            for count, reach in itertools.product(planes, REACHES)
        ]
        config = tune([seen(cloud) for cloud in train], grid, min_points).config
        inputs = [seen(cloud) for cloud in test]
        found = [cluster_instances(x.points, config, x.classes, x.probability) for x in inputs]
        scores[name] = segmentation_scores(found, test, 1, min_points)
    return scores


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """None for NaN, which JSON does not have."""
    return {name: None if value != value else value for name, value in values.items()}


def _foreground(model: PolarMask3D, cloud: LabelledCloud) -> Labelled:
    """The points of voxels that are of some class, by the model's threshold."""
    with torch.no_grad():
        scan = look(model, cloud.points, cloud.features, replace(model.config.decoding, turns=1))
    seen = scan.said.seen
    probability = scan.everywhere(seen.logits.sigmoid().amax(1)[seen.voxel]).cpu()
    return Labelled(cloud.points, cloud.instance, (probability >= model.config.decoding.foreground).long(), probability)
