"""What every kernel of :mod:`pcgen.ops` computes, in plain PyTorch: the definition that faster code must meet.

Clouds are rows (ΣN, D) with spans (B, 2), see :mod:`pcgen.ops.clouds`. Nothing here checks its arguments; everything
runs on any device, in blocks, so that memory grows with the number of points and not with its square.
"""

from pcgen.ops.reference.annealed import ANNEALING, annealed_emd, annealed_match
from pcgen.ops.reference.distances import chamfer_matrix, nearest, nearest_both, squared_distances

__all__ = [
    "ANNEALING",
    "annealed_emd",
    "annealed_match",
    "chamfer_matrix",
    "nearest",
    "nearest_both",
    "squared_distances",
]
