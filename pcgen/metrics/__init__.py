"""Scores of generated, reconstructed and segmented clouds."""

from pcgen.metrics.generation import GenerationScores, evaluate
from pcgen.metrics.intervals import Interval
from pcgen.metrics.memorisation import Memorisation, memorisation
from pcgen.metrics.occupancy import jsd, outside_ball
from pcgen.metrics.probe import LinearProbe, linear_probe, raw_moments
from pcgen.metrics.protocols import PROTOCOLS, Protocol, pc15k_references
from pcgen.metrics.reconstruction import ReconstructionScores, oracle, reconstruction
from pcgen.metrics.sets import DistanceScores, Frame, distance_scores, unit_frame

__all__ = [
    "PROTOCOLS",
    "DistanceScores",
    "Frame",
    "GenerationScores",
    "Interval",
    "LinearProbe",
    "Memorisation",
    "Protocol",
    "ReconstructionScores",
    "distance_scores",
    "evaluate",
    "jsd",
    "linear_probe",
    "memorisation",
    "oracle",
    "outside_ball",
    "pc15k_references",
    "raw_moments",
    "reconstruction",
    "unit_frame",
]
