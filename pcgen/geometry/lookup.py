"""Which of the cones that tile space holds a direction: a table over the cells of a cube's surface.

A set of cones is a tensor (m, k, D) of inward normals: cone i holds x where ``cones[i] @ x >= 0``. The table lists for
each cell the cones that reach into it. Most cells lie in one cone, and a look-up is then one gather; the rest is
decided among the few listed, in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ConeTable", "cone_table", "find_cones"]

CELLS_A_CONE = 128  # wanted, so that about four cells of five lie in one cone
CELLS = 6 * 128**2  # no finer than that, so that a table of thousands of cones is still made in seconds
REACH = 1e-6  # how far outside a cone, in units of its normals, a cell still counts: covers float32 directions
TIE = 2e-15  # scores of unit-sized directions that differ by less are equal: rounding of three products
BLOCK = 1 << 16


class ConeTable(NamedTuple):
    """The cones that reach into each cell of the cube [−1, 1]^D's surface."""

    candidates: Tensor  # (cells, K) int64, ascending, filled up with the first
    single: Tensor  # (cells,) bool, True where one cone covers the cell
    size: int  # cells along an edge of the cube

    def to(self, device: torch.device) -> ConeTable:
        return ConeTable(self.candidates.to(device), self.single.to(device), self.size)


@torch.no_grad()
def cone_table(cones: Tensor) -> ConeTable:
    """The table of ``cones`` (m, k, D), float64, k unit normals each, made by halving cells until they are fine enough.

    A cone that reaches into a cell is always listed: it is left out only if one of its planes has the whole cell behind
    it, which linear functions show at the cell's corners.
    """
    m, _, dim = cones.shape
    size, candidates = 1, torch.arange(m, device=cones.device).expand(2 * dim, m)
    listed = torch.ones_like(candidates, dtype=torch.bool)
    while True:
        blocks = zip(_corners(size, dim).to(cones).split(1024), candidates.split(1024))
        keep = listed & torch.cat([_reaches(cones[some], corners) for corners, some in blocks])
        count = keep.sum(1)
        order = keep.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, : int(count.max())]
        listed = torch.arange(order.shape[1], device=cones.device) < count[:, None]
        candidates = candidates.gather(1, order)
        if len(candidates) >= min(CELLS_A_CONE * m, CELLS):
            return ConeTable(torch.where(listed, candidates, candidates[:, :1]), count == 1, size)
        candidates, listed = _halved(candidates, size, dim), _halved(listed, size, dim)
        size *= 2


def _halved(rows: Tensor, size: int, dim: int) -> Tensor:
    """The rows (cells, K) of cells, for the cells of half their edge."""
    grid = rows.reshape(2 * dim, *[size] * (dim - 1), -1)
    for axis in range(1, dim):
        grid = grid.repeat_interleave(2, axis)
    return grid.flatten(0, -2)


def _corners(size: int, dim: int) -> Tensor:
    """The corners (cells, 2^(D−1), D) of the cells, face by face in the order +x, −x, +y, …"""
    lines = torch.linspace(-1, 1, size + 1, dtype=torch.float64)
    steps = torch.cartesian_prod(*[torch.arange(size)] * (dim - 1)).reshape(-1, 1, dim - 1)
    ends = torch.cartesian_prod(*[torch.arange(2)] * (dim - 1)).reshape(1, -1, dim - 1)
    square = lines[steps + ends]
    faces = []
    for axis in range(dim):
        for sign in (1.0, -1.0):
            height = torch.full_like(square[..., :1], sign)
            faces.append(torch.cat([square[..., :axis], height, square[..., axis:]], -1))
    return torch.cat(faces)


def _reaches(cones: Tensor, corners: Tensor) -> Tensor:
    """Whether no plane of ``cones`` (cells, K, k, D) has all ``corners`` (cells, C, D) of its cell behind it."""
    heights = torch.einsum("ncd,nkjd->nkjc", corners, cones)
    return (heights.amax(-1) >= -REACH).all(-1)


@torch.no_grad()
def find_cones(table: ConeTable, forms: Tensor, x: Tensor) -> Tensor:
    """The cones (N,) that hold the directions ``x`` (N, D), float32 or float64; 0 for the zero vector.

    Among candidates the one wins whose least ``forms[i] @ x`` is greatest, ``forms`` (m, l, D), float64; ties go to the
    lowest index. Memory does not grow with N beyond the answer.
    """
    index = torch.empty(len(x), dtype=torch.int64, device=x.device)
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        cell = _cells(part, table.size)
        found = table.candidates[cell, 0]
        open_ = (~table.single[cell]).nonzero()[:, 0]
        found[open_] = _best(forms, table.candidates[cell[open_]], part[open_].double())
        index[start : start + BLOCK] = found.masked_fill_((part == 0).all(1), 0)
    return index


def _cells(x: Tensor, size: int) -> Tensor:
    """The cell (N,) that each direction passes through."""
    height, axis = x.abs().max(1)
    cell = 2 * axis + (x.gather(1, axis[:, None])[:, 0] < 0)
    height = torch.where(height > 0, height, 1)
    for k in range(x.shape[1] - 1):
        other = torch.where(axis <= k, x[:, k + 1], x[:, k])
        step = ((other / height + 1) * (size / 2)).long()
        cell = cell * size + step.clamp_(max=size - 1)
    return cell


def _best(forms: Tensor, candidates: Tensor, x: Tensor) -> Tensor:
    """The candidate (N,) of (N, K), the first of several, whose least form is greatest."""
    x = x / x.abs().amax(1, keepdim=True)  # so that nothing overflows and TIE has a meaning
    score = (forms[candidates] * x[:, None, None]).sum(-1).amin(-1)
    tied = score >= score.amax(1, keepdim=True) - TIE
    return candidates.gather(1, tied.to(torch.uint8).argmax(1, keepdim=True))[:, 0]
