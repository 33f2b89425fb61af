"""Tensors in, tensors out: nearest neighbours and the distances between point clouds."""

from pcgen.ops.closest import Nearest, nearest
from pcgen.ops.distances import Chamfer, chamfer, chamfer_matrix
from pcgen.ops.emd import Emd, EmdMatrix, EmdVariant, emd, emd_matrix
from pcgen.ops.kernels import Server, servers
from pcgen.ops.neighbours import Ball, BallOrder, Knn, ball_query, gather, interpolate, knn
from pcgen.ops.sampling import farthest_point_sampling
from pcgen.ops.segments import SegmentReduction, segment_reduce
from pcgen.ops.voxels import VoxelGroups, voxel_groups

__all__ = [
    "Ball",
    "BallOrder",
    "Chamfer",
    "Emd",
    "EmdMatrix",
    "EmdVariant",
    "Knn",
    "Nearest",
    "SegmentReduction",
    "Server",
    "VoxelGroups",
    "ball_query",
    "chamfer",
    "chamfer_matrix",
    "emd",
    "emd_matrix",
    "farthest_point_sampling",
    "gather",
    "interpolate",
    "knn",
    "nearest",
    "segment_reduce",
    "servers",
    "voxel_groups",
]
