"""The convex hull of a set of directions: its facets, and the solid angles of the cells that they bound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull
from torch import Tensor

__all__ = ["facets", "polygons", "solid_angles"]

COPLANAR = 1e-9  # facets whose unit normals differ by less are one polygon


def polygons(directions: Tensor) -> list[tuple[int, ...]]:
    """The facets of the hull of ``directions`` (n, 3), corners counter-clockwise from outside, the lowest first.

    Facets that Qhull cut from one plane are put together again, since where it cuts them is arbitrary.
    """
    points = directions.numpy()
    hull = ConvexHull(points)
    i, side = np.nonzero(np.ones_like(hull.neighbors))
    j = hull.neighbors[i, side]
    same = np.abs(hull.equations[i] - hull.equations[j]).max(1) < COPLANAR
    graph = coo_array((np.ones(same.sum()), (i[same], j[same])), shape=(len(hull.simplices),) * 2)
    _, label = connected_components(graph, directed=False)
    planes = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
    return sorted(_around(points, np.unique(hull.simplices[p]), hull.equations[p[0], :3]) for p in planes)


def _around(points: np.ndarray, corners: np.ndarray, normal: np.ndarray) -> tuple[int, ...]:
    """The corners of a convex polygon, counter-clockwise about its normal, the lowest first."""
    arms = points[corners] - points[corners].mean(0)
    angle = np.arctan2(np.cross(arms[0], arms) @ normal, arms @ arms[0])
    return tuple(corners[np.argsort(np.mod(angle, 2 * np.pi), kind="stable")].tolist())


def facets(polygons: Sequence[Sequence[int]], permutations: Tensor) -> Tensor:
    """The polygons cut into triangles (F, 3), the same way wherever a rotation of the set takes one to another.

    Of the polygons that rotations ``permutations`` (G, n) carry into each other, the first is cut by a fan from its
    lowest corner, and the cut is carried along. Nothing is left to chance but where a polygon is turned into itself by
    a quarter or less: no cut of it survives that. Rotations that are squares of others go first; of a cube's 24 they
    are the 12 of the tetrahedron, under which its squares keep their diagonals.
    """
    cut: dict[frozenset[int], list[list[int]]] = {}
    carry = _squares_first(permutations.numpy()) if any(len(polygon) > 3 for polygon in polygons) else ()
    for polygon in polygons:
        if len(polygon) == 3:
            cut[frozenset(polygon)] = [list(polygon)]
        elif frozenset(polygon) not in cut:
            fan = np.array([(polygon[0], *polygon[k : k + 2]) for k in range(1, len(polygon) - 1)])
            for permutation in carry:
                cut.setdefault(frozenset(permutation[list(polygon)].tolist()), permutation[fan].tolist())
    triangles = [triangle for pieces in cut.values() for triangle in pieces]
    turned = [t[t.index(min(t)) :] + t[: t.index(min(t))] for t in triangles]
    return torch.tensor(sorted(turned))


def _squares_first(permutations: np.ndarray) -> Iterable[np.ndarray]:
    squares = {np.take(p, p).tobytes() for p in permutations}
    return sorted(permutations, key=lambda p: p.tobytes() not in squares)


def solid_angles(directions: Tensor, triangles: Tensor) -> Tensor:
    """The areas (n,) of the spherical Voronoi cells of ``directions`` (n, 3), whose hull's facets are ``triangles``.

    A cell is a ring of right-angled triangles (ray, middle of an edge, centre of the circle through a facet), negative
    where that centre lies beyond the edge; their areas: Van Oosterom and Strackee, IEEE Trans. Biomed. Eng. 1983.
    """
    a, b, c = directions[triangles].unbind(1)
    centre = _unit(torch.linalg.cross(b - a, c - a))
    areas = torch.zeros(len(directions), dtype=torch.float64)
    for k in range(3):
        here, there = (directions[triangles[:, (k + i) % 3]] for i in (0, 1))
        half = _excess(here, _unit(here + there), centre)  # the other end's share is the mirror image
        areas.index_add_(0, triangles[:, k], half).index_add_(0, triangles[:, (k + 1) % 3], half)
    return areas


def _excess(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The signed solid angle of the spherical triangles of unit vectors a, b, c (..., 3)."""
    volume = (a * torch.linalg.cross(b, c)).sum(-1)
    return 2 * torch.atan2(volume, 1 + (a * b).sum(-1) + (b * c).sum(-1) + (c * a).sum(-1))


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)
