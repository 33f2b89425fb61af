"""Convolutions over the voxels that hold a point: a pyramid of them, who neighbours whom, and the sums of products.

A kernel position is a list of pairs (source row, target row) in which no target occurs twice. A convolution goes
through the positions one by one, target += source · weight, so its sums have one order on every device. Neighbours are
found by binary search among sorted keys (submanifold convolution: Graham, Engelcke and van der Maaten, CVPR 2018).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen import ops

__all__ = ["Level", "Pairs", "convolve", "neighbour_pairs", "surroundings", "voxel_pyramid"]

ROWS = 8192  # products at once on a CPU: they stay in the cache between gathering and adding


class Pairs(NamedTuple):
    """Who contributes to whom, one kernel position after the other."""

    source: Tensor  # (E,) int64 rows
    target: Tensor  # (E,) int64 rows, none twice within a kernel position
    sizes: tuple[int, ...]  # (K,) pairs of each kernel position
    sources: int  # rows there are
    targets: int

    def reversed(self) -> Pairs:
        """The same pairs from target to source."""
        return Pairs(self.target, self.source, self.sizes, self.targets, self.sources)


class Level(NamedTuple):
    """The voxels of one size."""

    cells: Tensor  # (V, 3) int64, ordered by cloud, then by cell
    cloud: Tensor  # (V,) int64
    neighbours: Pairs  # 27 positions: x − 1 … x + 1, in it y, in it z
    parents: Pairs | None  # 8 positions, the octants: from these voxels to those twice as large; None for the largest


def voxel_pyramid(x: Tensor, size: float, depth: int, offsets: Tensor | None = None) -> tuple[Tensor, list[Level]]:
    """The voxel (N,) of each point of ``x`` (N, 3), and ``depth`` levels of edges size, 2 · size, 4 · size …

    ``offsets`` (B + 1,) of packed clouds. Errors are those of :func:`pcgen.ops.voxel_groups`.

    >>> voxel, levels = voxel_pyramid(torch.tensor([[0.1, 0.1, 0.1], [0.6, 0.1, 0.1], [2.6, 0.1, 0.1]]), 0.5, 3)
    >>> voxel, [len(level.cells) for level in levels]
    (tensor([0, 1, 2]), [3, 2, 2])
    """
    found = ops.voxel_groups(x, size, offsets=offsets)
    clouds = 1 if offsets is None else len(offsets) - 1
    voxel, cells, cloud = found.group, found.cells, found.cloud
    levels = []
    for coarsest in (k == depth - 1 for k in range(depth)):
        neighbours, parents = neighbour_pairs(cells, cloud), None
        if not coarsest:
            bounds = torch.searchsorted(cloud, torch.arange(clouds + 1, device=cloud.device))
            halved = ops.voxel_groups(cells.double(), 2.0, offsets=bounds)
            parents = _octants(cells, halved.group, len(halved.cells))
        levels.append(Level(cells, cloud, neighbours, parents))
        if parents is not None:
            cells, cloud = halved.cells, halved.cloud
    return voxel, levels


def neighbour_pairs(cells: Tensor, cloud: Tensor) -> Pairs:
    """The pairs of a 3 × 3 × 3 kernel on ``cells`` (V, 3), ordered by ``cloud`` (V,), then by cell."""
    keys, strides = _keys(cells, cloud)
    rows = torch.arange(len(keys), device=keys.device)
    padded = torch.cat([keys, keys.new_full((3,), -1)])  # what lies behind the last key matches none
    half: list[tuple[Tensor, Tensor]] = []
    for dx, dy in itertools.islice(itertools.product((-1, 0, 1), repeat=2), 5):
        wanted = keys + dx * strides[0] + dy * strides[1] - 1
        place = torch.searchsorted(keys, wanted)
        for dz in range(1 if dx == dy == 0 else 3):  # the three of a column stand side by side
            hit = padded[place] == wanted + dz
            target = hit.nonzero()[:, 0]
            half.append((place[target], target))
            place = place + hit
    mirrored = [(target, source) for source, target in reversed(half)]
    positions = [*half, (rows, rows), *mirrored]
    sources, targets = (torch.cat(side) for side in zip(*positions))
    return Pairs(sources, targets, tuple(len(target) for _, target in positions), len(rows), len(rows))


def _keys(cells: Tensor, cloud: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Ascending keys (V,) in which only neighbours differ by 1 along z, and what a step along x and y adds."""
    columns = []
    for column in cells.unbind(1):
        places, index = torch.unique(column, return_inverse=True)
        gaps = places.diff(prepend=places[:1] - 1).clamp(max=2)  # wide gaps shrink: keys of far points do not overflow
        columns.append(gaps.cumsum(0)[index])
    x, y, z = columns
    width, depth = int(y.max()) + 2, int(z.max()) + 2
    height = int(x.max()) + 2
    return ((cloud * height + x) * width + y) * depth + z, (width * depth, depth)


def _octants(cells: Tensor, parent: Tensor, parents: int) -> Pairs:
    octant = (cells & 1) @ cells.new_tensor([4, 2, 1])
    order = octant.argsort(stable=True)
    sizes = torch.bincount(octant, minlength=8).tolist()
    return Pairs(order, parent[order], tuple(sizes), len(cells), parents)


def convolve(x: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
    """Sums (targets, Cout) over kernel positions and pairs of ``x`` (sources, Cin) times ``weight`` (K, Cin, Cout).

    Differentiable in x and weight; the products are not kept for the gradient.
    """
    return _Convolution.apply(x, weight, pairs)


def surroundings(levels: Sequence[Level], positions: Tensor, counts: Tensor) -> Tensor:
    """Where the points around each of the finest voxels lie, (V, 3 · depth): means relative to the voxel's position.

    The points of the 27 voxels around its own at each level, in edges of that level's voxels, the first being 1: what a
    network of convolutions can only guess from which voxels are empty.

    Args:
        positions, counts: (V, 3) the mean of each voxel's points, (V,) how many.
    """
    weighted = torch.cat([positions * counts[:, None], counts[:, None]], 1).double()
    ancestor, columns = torch.arange(len(positions), device=positions.device), []
    for depth, level in enumerate(levels):
        around = convolve(weighted, torch.eye(4).to(weighted).expand(27, 4, 4), level.neighbours)
        mean = around[:, :3] / around[:, 3:]
        columns.append((mean[ancestor] - positions) / 2**depth)
        if level.parents is not None:
            weighted = convolve(weighted, torch.eye(4).to(weighted).expand(8, 4, 4), level.parents)
            parent = torch.empty_like(level.parents.source)
            parent[level.parents.source] = level.parents.target
            ancestor = parent[ancestor]
    return torch.cat(columns, 1).to(positions.dtype)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pairs = pairs
        return _sum_of_products(x, weight, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _sum_of_products(gradient, weight.transpose(1, 2), ctx.pairs.reversed())
        if ctx.needs_input_grad[1]:
            dw = torch.zeros_like(weight)
            for position, source, target in _pieces(ctx.pairs, x.device):
                dw[position].addmm_(x.index_select(0, source).T, gradient.index_select(0, target))
        return dx, dw, None


def _sum_of_products(x: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
    out = x.new_zeros(pairs.targets, weight.shape[2])
    for position, source, target in _pieces(pairs, x.device):
        out.index_add_(0, target, x.index_select(0, source) @ weight[position])
    return out


def _pieces(pairs: Pairs, device: torch.device):
    """(kernel position, source, target), piece by piece."""
    rows = ROWS if device.type == "cpu" else max(1, len(pairs.source))
    first = 0
    for position, size in enumerate(pairs.sizes):
        for start in range(first, first + size, rows):
            piece = slice(start, min(start + rows, first + size))
            yield position, pairs.source[piece], pairs.target[piece]
        first += size
