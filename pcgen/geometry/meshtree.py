"""A mesh as a tree of boxes, and rays that go down it together: what they hit first or last.

Triangles are sorted along a Morton curve; a box holds eight triangles or eight boxes. Pairs of ray and box that meet
go down a level at a time, so that a few array operations serve all rays. float64, on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

__all__ = ["Bundle", "MeshTree", "mesh_tree", "search"]

WIDTH = 8  # boxes to a node of the tree
PAIRS = 1 << 17  # pairs of a ray and a box at once
MARGIN = 1e-9  # of the mesh's extent, by which boxes are larger than what they hold


@dataclass(frozen=True, eq=False)
class MeshTree:
    """The triangles of a mesh under boxes; :func:`mesh_tree` makes it."""

    corners: np.ndarray  # (9 F,) float64: x, y, z of the three corners of each triangle, along a Morton curve
    faces: np.ndarray  # (F,) int64, the rows of these triangles among the faces given
    levels: tuple[np.ndarray, ...]  # (6, nodes) each: lower and upper corners of boxes; first of the triangles
    extent: float  # diagonal of the bounding box

    def __len__(self) -> int:
        return len(self.faces)


def mesh_tree(vertices: ArrayLike | Tensor, faces: ArrayLike | Tensor) -> MeshTree:
    """The tree of the triangles ``faces`` (F, 3) of ``vertices`` (V, 3), arrays or tensors; F may be 0.

    ``ValueError`` for other shapes, faces that name no vertex, and corners that are not finite; ``TypeError`` for faces
    that are no integers.

    >>> len(mesh_tree([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]))
    1
    """
    vertices, faces = np.asarray(vertices, dtype=np.float64), np.asarray(faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"a mesh is vertices (V, 3) and faces (F, 3), got {vertices.shape} and {faces.shape}")
    if faces.size and not np.issubdtype(faces.dtype, np.integer):
        raise TypeError(f"faces must be integers, got {faces.dtype} {faces.shape}")
    if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise ValueError(f"faces must name vertices 0 to {len(vertices) - 1}, got {faces.min()} to {faces.max()}")
    triangles = vertices[faces.astype(np.int64)]
    if not np.isfinite(triangles).all():
        raise ValueError(f"vertices {vertices.shape} must be finite, got NaN or infinity at the corner of a face")
    if not len(faces):
        return MeshTree(np.empty(0), np.empty(0, np.int64), (np.empty((6, 0)),), 0.0)
    order = np.argsort(_morton(triangles), kind="stable")
    triangles = triangles[order]
    a, b, c = triangles.transpose(1, 2, 0)
    lower, upper = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    extent = float(np.linalg.norm(upper.max(1) - lower.min(1)))
    # A margin, so that a ray in the plane of a box's side is not lost to rounding.
    levels = [np.concatenate([lower - MARGIN * extent, upper + MARGIN * extent])]
    while levels[-1].shape[1] > WIDTH:
        starts = np.arange(0, levels[-1].shape[1], WIDTH)
        lower, upper = np.split(levels[-1], 2)
        lower, upper = np.minimum.reduceat(lower, starts, axis=1), np.maximum.reduceat(upper, starts, axis=1)
        levels.append(np.concatenate([lower, upper]))
    return MeshTree(triangles.reshape(-1), order, tuple(levels), extent)


def _morton(triangles: np.ndarray) -> np.ndarray:
    """The place (F,) uint64 of the middles along a Morton curve: the bits of their cells on a grid, interleaved."""
    x = triangles.sum(1).T
    lower = x.min(1, keepdims=True)
    span = (x.max(1, keepdims=True) - lower).max()
    code = ((x - lower) / (span or 1.0) * (2**21 - 1)).astype(np.uint64)
    for shift, mask in (
        (32, 0x001F00000000FFFF),
        (16, 0x001F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        code = (code | code << np.uint64(shift)) & np.uint64(mask)
    return code[0] | code[1] << np.uint64(1) | code[2] << np.uint64(2)


class Bundle(NamedTuple):
    """Rays, ready to meet boxes and triangles. ``axes`` are the directions' coordinates, the largest one last."""

    origins: np.ndarray  # (3, R)
    inverse: np.ndarray  # (3, R), one over the direction
    axes: np.ndarray  # (3, R) int64, a permutation of 0, 1, 2
    turned: np.ndarray  # (3, R), the origin along ``axes``
    shear: np.ndarray  # (3, R): x/z, y/z and 1/z of the direction along ``axes``

    @classmethod
    def of(cls, origins: np.ndarray, directions: np.ndarray) -> Bundle:
        last = np.abs(directions).argmax(1)
        axes = (last + np.array([[1], [2], [3]])) % 3
        x, y, z = np.take_along_axis(directions.T, axes, 0)
        # A coordinate of 0 becomes one whose inverse is finite: 0 × ∞ would be NaN.
        least = 1e-200 * np.abs(z)
        inverse = 1 / np.where(np.abs(directions.T) < least, least, directions.T)
        turned = np.take_along_axis(origins.T, axes, 0)
        return cls(np.ascontiguousarray(origins.T), inverse, axes, turned, np.stack([x / z, y / z, 1 / z]))


@np.errstate(over="ignore")
def search(tree: MeshTree, rays: Bundle, sign: float, near: float) -> tuple[np.ndarray, np.ndarray]:
    """The least sign × distance (R,) of the hits of each ray, infinity of none, and its face (R,) or −1."""
    count, top = rays.origins.shape[1], len(tree.levels) - 1
    best, found = np.full(count, np.inf), []
    roots = tree.levels[top].shape[1]
    stack = [(top, np.repeat(np.arange(count), roots), np.tile(np.arange(roots), count))]
    while stack:
        level, ray, node = stack.pop()
        if len(ray) > PAIRS:  # one half after the other, which bounds memory by the depth of the tree
            half = len(ray) // 2
            stack += [(level, ray[half:], node[half:]), (level, ray[:half], node[:half])]
            continue
        meets = _meets(tree.levels[level], node, rays, ray, sign * best[ray], sign, near)
        ray, node = ray[meets], node[meets]
        if level:
            below = tree.levels[level - 1].shape[1]
            node = (node[:, None] * WIDTH + np.arange(WIDTH)).reshape(-1)
            ray = np.repeat(ray, WIDTH)[node < below]
            stack.append((level - 1, ray, node[node < below]))
        elif len(ray):
            distance = _intersect(tree.corners, node, rays, ray)
            hit = distance > near
            ray, distance = ray[hit], sign * distance[hit]
            np.minimum.at(best, ray, distance)
            found.append((ray, distance, tree.faces[node[hit]]))
    face = np.full(count, -1)
    if found:
        ray, distance, candidates = (np.concatenate(part) for part in zip(*found))
        order = np.lexsort((candidates, distance, ray))
        first = order[np.r_[True, np.diff(ray[order]) > 0][: len(order)]]
        face[ray[first]] = candidates[first]
    return best, face


def _meets(
    boxes: np.ndarray, node: np.ndarray, rays: Bundle, ray: np.ndarray, best: np.ndarray, sign: float, near: float
) -> np.ndarray:
    """Which of the pairs of a ray and a box meet where a better hit than ``best`` may lie."""
    enter, leave = -np.inf, np.inf
    for axis in range(3):
        origin, inverse = rays.origins[axis][ray], rays.inverse[axis][ray]
        one, other = (boxes[axis][node] - origin) * inverse, (boxes[axis + 3][node] - origin) * inverse
        enter, leave = np.maximum(enter, np.minimum(one, other)), np.minimum(leave, np.maximum(one, other))
    # Each bound is right to three roundings.
    leave = leave * (1 + 1e-15)
    return (enter <= leave) & (leave >= near) & ((enter <= best) if sign > 0 else (leave >= best))


def _intersect(corners: np.ndarray, face: np.ndarray, rays: Bundle, ray: np.ndarray) -> np.ndarray:
    """The distance (P,) at which ``ray`` meets the triangle ``face``, −∞ where it misses.

    The triangle is sheared so that the ray becomes the third axis. Rounding is monotone: a difference of two rounded
    products has the sign of the exact one or is 0, and 0 counts as inside, for both triangles at an edge.
    """
    axes, turned, (sx, sy, sz) = rays.axes[:, ray], rays.turned[:, ray], rays.shear[:, ray]
    x, y, z = [], [], []
    for corner in range(3):
        px, py, pz = (corners[9 * face + 3 * corner + axis] - origin for axis, origin in zip(axes, turned))
        x.append(px - sx * pz)
        y.append(py - sy * pz)
        z.append(sz * pz)
    u, v, w = (x[i] * y[j] - y[i] * x[j] for i, j in ((2, 1), (0, 2), (1, 0)))
    determinant = u + v + w
    inside = (np.minimum(np.minimum(u, v), w) >= 0) | (np.maximum(np.maximum(u, v), w) <= 0)
    inside &= determinant != 0
    height = u * z[0] + v * z[1] + w * z[2]
    return np.where(inside, height / np.where(inside, determinant, 1.0), -np.inf)
