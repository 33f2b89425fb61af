"""Tensors in, tensors out: nearest neighbours and the distances between point clouds."""

from pcgen.ops.distances import (
    Chamfer,
    Emd,
    EmdMatrix,
    EmdVariant,
    Nearest,
    chamfer,
    chamfer_matrix,
    emd,
    emd_matrix,
    nearest,
)

__all__ = [
    "Chamfer",
    "Emd",
    "EmdMatrix",
    "EmdVariant",
    "Nearest",
    "chamfer",
    "chamfer_matrix",
    "emd",
    "emd_matrix",
    "nearest",
]
