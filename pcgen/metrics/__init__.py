"""Scores of generated, reconstructed and segmented clouds."""

from pcgen.metrics.generation import PROTOCOLS, GenerationScores, Protocol, evaluate
from pcgen.metrics.reconstruction import ReconstructionScores, reconstruction
from pcgen.metrics.sets import DistanceScores, Frame, distance_scores, jsd, outside_ball, unit_frame

__all__ = [
    "PROTOCOLS",
    "DistanceScores",
    "Frame",
    "GenerationScores",
    "Protocol",
    "ReconstructionScores",
    "distance_scores",
    "evaluate",
    "jsd",
    "outside_ball",
    "reconstruction",
    "unit_frame",
]
