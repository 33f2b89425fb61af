"""Clusters of points by distance: DBSCAN, exact, in time and memory that do not follow the number of close pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from pcgen import ops

__all__ = ["as_points", "cluster"]

BLOCK = 1 << 24  # numbers held at once


def cluster(points: Any, radius: float, min_points: int = 1) -> Tensor:
    """DBSCAN (Ester et al., KDD 1996): the cluster 1 … K, in order of their first points, of each point, 0 for none.

    A core point has at least ``min_points`` points within ``radius``, itself one of them; core points within a radius
    of each other are in one cluster; any other point is in that of the nearest core point within a radius. Exact, and
    independent of the order of ``points`` (N, 2) or (N, 3) up to the numbering and to ties of border points. Cells
    whose diagonal is the radius hold points of one cluster only, so that time and memory do not grow with the number of
    pairs (Gunawan, A faster algorithm for DBSCAN, 2013). ``ValueError`` for other shapes, NaN or infinity, a radius
    that is not positive, and ``min_points`` under 1.

    >>> cluster([[0.0, 0.0], [5.0, 0.0], [1.0, 0.0], [9.0, 9.0]], radius=1.0, min_points=2)
    tensor([1, 0, 1, 0])
    """
    x = as_points(points)
    if not 0 < radius < np.inf or min_points < 1:
        raise ValueError(f"radius must be positive and min_points at least 1, got {radius} and {min_points}")
    labels = torch.zeros(len(x), dtype=torch.int64)
    if not len(x):
        return labels
    cell = ops.voxel_groups(x - x.amin(0), radius / x.shape[1] ** 0.5 * (1 - 1e-9))
    core = _core(x, cell, radius, min_points)
    if not bool(core.any()):
        return labels
    cores = x[core]
    labels[core] = _connect(cores, cell.cells, cell.group[core], radius)
    others = (~core).nonzero()[:, 0]
    if len(others):
        distance, index = ops.nearest(x[others], cores)
        labels[others] = torch.where(distance <= radius**2, labels[core][index], 0)
    return _renumbered(labels)


def as_points(points: Any) -> Tensor:
    """``points`` as float64 on the CPU; ``ValueError`` unless they are (N, 2) or (N, 3) and finite."""
    x = torch.as_tensor(points if isinstance(points, Tensor) else np.asarray(points)).detach().cpu()
    if x.ndim != 2 or x.shape[1] not in (2, 3):
        raise ValueError(f"points must be (N, 3) or (N, 2), got {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"points {tuple(x.shape)} must be finite, got {int((~x.isfinite()).sum())} NaN or infinite")
    return x.double()


def _core(x: Tensor, cell: ops.VoxelGroups, radius: float, min_points: int) -> Tensor:
    """Which points (N,) have at least ``min_points`` within the radius."""
    core = (cell.counts >= min_points)[cell.group]
    rest = (~core).nonzero()[:, 0]
    for rows in rest.split(max(BLOCK // min_points, 1)) if len(rest) else ():
        core[rows] = ops.ball_query(x[rows], x, radius, min_points, "index").count == min_points
    return core


def _connect(cores: Tensor, cells: Tensor, group: Tensor, radius: float) -> Tensor:
    """The cluster (C,) from 1 of each core point, whose cell is ``cells[group]``."""
    used, group = group.unique(return_inverse=True)
    order = group.argsort(stable=True)
    sizes = group.bincount()
    start = sizes.cumsum(0) - sizes
    rows = cores[order]
    one = rows[start]  # a core point of each cell
    component = torch.arange(len(used))
    for i, j in _neighbours(cells[used]):
        near = (one[i] - one[j]).square().sum(1) <= radius**2
        component = _merge(component, i[near], j[near])
        apart = (component[i] != component[j]) & (sizes[i] * sizes[j] > 1)
        i, j = i[apart], j[apart]
        if len(i):
            near = _touch(rows, start, sizes, i, j, radius)
            component = _merge(component, i[near], j[near])
    return component[group] + 1


def _neighbours(cells: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (i, j) of cells (V, D), at most 2 apart on each axis, each pair once, the closest first."""
    D, place, width = cells.shape[1], [], []
    for axis in cells.T:  # wide gaps shrunk to 3: one far point must not make the keys overflow
        values, rank = axis.unique(return_inverse=True)
        gaps = torch.cat([torch.full((1,), 3), values.diff().clamp_max(3)])
        place.append(gaps.cumsum(0)[rank])
        width.append(int(place[-1].max()) + 3)
    if np.prod(width, dtype=float) >= 2**63:
        raise ValueError(f"points spread over {width} cells, too many to number: expected a larger radius")
    strides = torch.tensor([int(np.prod(width[a + 1 :], dtype=np.int64)) for a in range(D)])
    key = (torch.stack(place, 1) * strides).sum(1)
    sorted_key, order = key.sort()
    steps = [step for step in itertools.product(range(-2, 3), repeat=D) if step > (0,) * D]
    for step in sorted(steps, key=lambda s: sum(k * k for k in s)):
        wanted = sorted_key + int((torch.tensor(step) * strides).sum())
        found = torch.searchsorted(sorted_key, wanted).clamp_max(len(key) - 1)
        hit = sorted_key[found] == wanted
        yield order[hit], order[found[hit]]


def _touch(rows: Tensor, start: Tensor, sizes: Tensor, i: Tensor, j: Tensor, radius: float) -> Tensor:
    """Whether some points of the cells i (E,) and j (E,) are within a radius of each other."""
    total = (sizes[i] + sizes[j]).cumsum(0)
    near = torch.zeros(len(i), dtype=torch.bool)
    for pairs in torch.arange(len(i)).tensor_split((total // BLOCK).diff().nonzero()[:, 0] + 1):
        (x, x_offsets), (y, y_offsets) = (_packed(rows, start[k[pairs]], sizes[k[pairs]]) for k in (i, j))
        distance = ops.nearest(x, y, x_offsets=x_offsets, y_offsets=y_offsets).distance
        pair = torch.arange(len(pairs)).repeat_interleave(x_offsets.diff())
        near[pairs[pair[distance <= radius**2]]] = True
    return near


def _packed(rows: Tensor, start: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The slices rows[start : start + size] one after the other, and where each begins and ends."""
    ends = sizes.cumsum(0)
    index = torch.arange(int(ends[-1])) + (start - ends + sizes).repeat_interleave(sizes)
    return rows[index], torch.cat([ends.new_zeros(1), ends])


def _merge(component: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Components (V,) from 0, those of the members i (E,) and j (E,) of each pair made one."""
    if not len(i):
        return component
    count = int(component.max()) + 1
    edges = (component[i].numpy(), component[j].numpy())
    graph = coo_array((np.ones(len(i), np.int8), edges), shape=(count, count))
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long()[component]


def _renumbered(labels: Tensor) -> Tensor:
    """Labels 1 … K in the order of their first points, 0 staying 0."""
    first = torch.full((int(labels.max()) + 1,), len(labels))
    first.scatter_reduce_(0, labels, torch.arange(len(labels)), "amin")
    first[0] = -1
    return first.argsort().argsort()[labels]
