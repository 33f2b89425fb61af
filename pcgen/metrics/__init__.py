"""Scores of generated, reconstructed and segmented clouds."""

from pcgen.metrics.generation import GenerationScores, evaluate
from pcgen.metrics.intervals import Interval
from pcgen.metrics.memorisation import Memorisation, memorisation
from pcgen.metrics.occupancy import jsd, outside_ball
from pcgen.metrics.probe import LinearProbe, linear_probe, raw_moments
from pcgen.metrics.protocols import PROTOCOLS, Protocol, pc15k_references
from pcgen.metrics.reconstruction import ReconstructionScores, oracle, reconstruction
from pcgen.metrics.segmentation import (
    AveragePrecision,
    InstanceCoverage,
    PanopticQuality,
    ScannetAp,
    instance_coverage,
    panoptic_quality,
    scannet_ap,
    transfer_labels,
    transfer_masks,
)
from pcgen.metrics.sets import DistanceScores, Frame, distance_scores, unit_frame

__all__ = [
    "PROTOCOLS",
    "AveragePrecision",
    "DistanceScores",
    "Frame",
    "GenerationScores",
    "InstanceCoverage",
    "Interval",
    "LinearProbe",
    "Memorisation",
    "PanopticQuality",
    "Protocol",
    "ReconstructionScores",
    "ScannetAp",
    "distance_scores",
    "evaluate",
    "instance_coverage",
    "jsd",
    "linear_probe",
    "memorisation",
    "oracle",
    "outside_ball",
    "panoptic_quality",
    "pc15k_references",
    "raw_moments",
    "reconstruction",
    "scannet_ap",
    "transfer_labels",
    "transfer_masks",
    "unit_frame",
]
