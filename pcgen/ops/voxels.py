"""The voxels of a cloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcgen.ops import native, reference
from pcgen.ops.arguments import number
from pcgen.ops.clouds import Clouds, batch_of, clouds, may_look
from pcgen.ops.kernels import define

__all__ = ["VoxelGroups", "voxel_groups"]


class VoxelGroups(NamedTuple):
    """The voxels of a cloud that hold a point, ordered by cloud, then by cell, the first axis first."""

    group: Tensor  # (..., N) int64, the voxel of each point; −1 for padding
    cells: Tensor  # (V, D) int64, floor(x / size)
    counts: Tensor  # (V,) int64, number of points
    cloud: Tensor  # (V,) int64, the cloud that the voxel belongs to


def voxel_groups(
    x: Tensor,
    size: float | Sequence[float],
    *,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    validate: bool = True,
) -> VoxelGroups:
    """The voxels of edge ``size``, a length or one for each axis, in which the points of ``x`` lie.

    ``x`` is (N, D) or (B, N, D), padded or packed as in :func:`pcgen.ops.nearest`, whose errors it raises. A point is
    in the cell floor(x / size), computed in float64. ``ValueError`` unless sizes are positive, and where coordinates
    of x's type are too coarse to tell cells apart: 2²³ of them from the origin in float32, 2⁵² in float64;
    ``TypeError`` where sizes are no numbers.

    How many voxels there are depends on the data: ``torch.compile`` takes this function where
    ``torch._dynamo.config.capture_dynamic_output_shape_ops`` is set. Together with :func:`segment_reduce` it thins a
    cloud out to one point per voxel:

    >>> from pcgen.ops import segment_reduce
    >>> x = torch.tensor([[0.5, 0.5], [-0.5, 0.5], [0.7, 0.9]])
    >>> voxels = voxel_groups(x, 1.0)
    >>> voxels
    VoxelGroups(group=tensor([1, 0, 1]), cells=tensor([[-1,  0], [ 0,  0]]), counts=tensor([1, 2]),
                cloud=tensor([0, 0]))
    >>> segment_reduce(x, voxels.group, len(voxels.cells), "mean").value
    tensor([[-0.5000,  0.5000],
            [ 0.6000,  0.7000]])
    """
    given = clouds("x", x, lengths, offsets, validate)
    sizes = _sizes(size, given)
    if may_look(x, validate):
        _check_resolution(given, sizes, x.dtype)
    group, *voxels = _VOXELS(given.points.detach(), given.spans, sizes)
    return VoxelGroups(given.like_points(group), *voxels)


def _sizes(size: float | Sequence[float], x: Clouds) -> list[float]:
    several = isinstance(size, (Sequence, np.ndarray)) and not isinstance(size, str)
    sizes = [number("size", edge) for edge in (size if several else [size] * x.shape[-1])]
    if len(sizes) != x.shape[-1] or not all(0 < edge < float("inf") for edge in sizes):
        raise ValueError(f"size must be a positive length or {x.shape[-1]} of them for {tuple(x.shape)}, got {size}")
    return sizes


def _check_resolution(x: Clouds, sizes: list[float], dtype: torch.dtype) -> None:
    limit = 1 / torch.finfo(dtype).eps
    extremes = torch.stack(x.points.aminmax(dim=0)).abs().amax(0).tolist()  # of padding too, in one pass
    if all(coordinate <= limit * edge for coordinate, edge in zip(extremes, sizes)):
        return
    _, inside = batch_of(x.spans, len(x.points))
    farthest = torch.where(inside[:, None], x.points, 0.0).abs().amax(0).tolist()
    for axis, (coordinate, edge) in enumerate(zip(farthest, sizes)):
        if coordinate > limit * edge:
            raise ValueError(
                f"{x.name} {tuple(x.shape)} is too far from the origin for voxels of size {edge:g}: {dtype} tells them "
                f"apart up to ±{limit * edge:.4g}, got {coordinate:.4g} on axis {axis}"
            )


def _voxel_shapes(x: Tensor, spans: Tensor, size: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    voxels = torch.library.get_ctx().new_dynamic_size()
    shapes = (len(x),), (voxels, x.shape[1]), (voxels,), (voxels,)
    return tuple(spans.new_empty(shape) for shape in shapes)


def _cpu(x: Tensor, spans: Tensor, size: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, dimension = x.shape
    group, cells, found = spans.new_full((rows,), -1), spans.new_empty(rows, dimension), spans.new_empty(1)
    counts, cloud = spans.new_empty(rows), spans.new_empty(rows)
    edges = torch.tensor(size, dtype=torch.float64)
    native.call_on("voxel_groups", x, rows, spans, len(spans), edges, group, cells, counts, cloud, found)
    voxels = int(found)
    if voxels < 0:  # more cells than the kernel can number
        return reference.voxel_groups(x, spans, size)
    return group, *(column[:voxels].clone() for column in (cells, counts, cloud))


_VOXELS = define(
    "voxel_groups(Tensor x, Tensor spans, float[] size) -> (Tensor, Tensor, Tensor, Tensor)",
    reference.voxel_groups,
    _voxel_shapes,
    cpu=_cpu,
)
