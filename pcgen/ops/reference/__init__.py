"""What every kernel of :mod:`pcgen.ops` computes, in plain PyTorch: the definition that faster code must meet.

Clouds are rows (ΣN, D) with spans (B, 2), see :mod:`pcgen.ops.clouds`. Nothing here checks its arguments; everything
runs on any device, in blocks, so that memory grows with the number of points and not with its square; only
the exact assignment holds all N × N costs.
"""

from pcgen.ops.reference.annealed import ANNEALING, annealed, annealed_gradient, annealed_matrix
from pcgen.ops.reference.distances import chamfer_matrix, nearest, nearest_both, squared_distances
from pcgen.ops.reference.exact import emd_exact, emd_exact_matrix
from pcgen.ops.reference.neighbours import gather, neighbours
from pcgen.ops.reference.sampling import farthest_point_sampling
from pcgen.ops.reference.segments import segment_max, segment_rows, segment_softmax, segment_sum, voxel_groups
from pcgen.ops.reference.sinkhorn import softmin, softmin_pull

__all__ = [
    "ANNEALING",
    "annealed",
    "annealed_gradient",
    "annealed_matrix",
    "chamfer_matrix",
    "emd_exact",
    "emd_exact_matrix",
    "farthest_point_sampling",
    "gather",
    "nearest",
    "nearest_both",
    "neighbours",
    "segment_max",
    "segment_rows",
    "segment_softmax",
    "segment_sum",
    "softmin",
    "softmin_pull",
    "squared_distances",
    "voxel_groups",
]
