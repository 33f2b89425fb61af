"""Tensors in, tensors out: nearest neighbours and the distances between point clouds."""

from pcgen.ops.distances import Chamfer, chamfer, chamfer_matrix
from pcgen.ops.emd import Emd, EmdMatrix, EmdVariant, emd, emd_matrix
from pcgen.ops.kernels import Server, servers
from pcgen.ops.neighbours import Nearest, nearest

__all__ = [
    "Chamfer",
    "Emd",
    "EmdMatrix",
    "EmdVariant",
    "Nearest",
    "Server",
    "chamfer",
    "chamfer_matrix",
    "emd",
    "emd_matrix",
    "nearest",
    "servers",
]
