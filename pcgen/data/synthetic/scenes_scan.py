"""Points of a surface: drawn by area, or seen from a sensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..meshes import Mesh

__all__ = ["Hits", "sample_area", "scan"]

_PAIRS = 1 << 20  # triangle-pixel pairs handled at a time


class Hits(NamedTuple):
    """Points on a mesh."""

    points: np.ndarray  # (N, 3) float64
    face: np.ndarray  # (N,) int64, the triangle that each lies on


def sample_area(mesh: Mesh, spacing: float, rng: np.random.Generator) -> Hits:
    """Independent draws, uniform by area, one for each square of edge ``spacing``.

    The square-root map of two uniform numbers: Osada et al., Shape distributions, 2002, eq. 1.
    """
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    cumulative = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1)) / 2
    count = round(float(cumulative[-1]) / spacing**2) if len(cumulative) else 0
    if not count:
        return Hits(np.empty((0, 3)), np.empty(0, np.int64))
    which, u, v = rng.random((3, count))
    face = np.searchsorted(cumulative[:-1], which * cumulative[-1], side="right")
    u = np.sqrt(u)[:, None]
    return Hits(a[face] + u * (b - a)[face] + u * v[:, None] * (c - b)[face], face)


def scan(mesh: Mesh, sensor: np.ndarray, step: float) -> Hits:
    """What a panoramic scanner at ``sensor`` (3,) sees: the first hit of each ray, rays ``step`` radians apart.

    The rays stand in rings of equal elevation, in each as many as fit, so that they are spread evenly. A z-buffer over
    them replaces a search tree: each triangle is intersected with the rays in the ring segments that bound it. Rays
    through an edge that two triangles share meet at least one of them, since both compute the same number for it.
    """
    rings = _rings(step)
    corners = mesh.vertices[mesh.faces] - sensor
    a, b, c = np.moveaxis(corners, 1, 0)
    edges = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)  # (F, 3, 3)
    volume = np.einsum("fi,fi->f", a, edges[:, 0])
    nearest = np.full(rings.start[-1], np.inf)
    face = np.full(rings.start[-1], -1)
    for triangle, ring, first, count in _segments(corners, rings):
        chosen = np.repeat(np.arange(len(count)), count)
        column = first[chosen] + np.arange(len(chosen)) - (np.cumsum(count) - count)[chosen]
        triangle, ring = triangle[chosen], ring[chosen]
        pixel = rings.start[ring] + column % rings.count[ring]
        sides = np.einsum("pki,pi->pk", edges[triangle], rings.directions[pixel])
        total = sides.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = volume[triangle] / total
        hit = ((sides >= 0).all(axis=1) | (sides <= 0).all(axis=1)) & (distance > 0) & (distance < np.inf)
        _keep_nearest(pixel[hit], distance[hit], triangle[hit], nearest, face)
    seen = face >= 0
    return Hits(sensor + rings.directions[seen] * nearest[seen, None], face[seen])


class _Rings(NamedTuple):
    step: float  # radians between rings
    count: np.ndarray  # (R,) rays in each ring
    start: np.ndarray  # (R + 1,) the number of its first ray
    directions: np.ndarray  # (P, 3)


def _rings(step: float) -> _Rings:
    rings = max(2, int(np.ceil(np.pi / step)))
    elevation = np.pi * ((np.arange(rings) + 0.5) / rings - 0.5)
    count = np.maximum(1, np.ceil(2 * np.pi * np.cos(elevation) / step)).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(count)])
    ring = np.repeat(np.arange(rings), count)
    azimuth = 2 * np.pi * (np.arange(start[-1]) - start[ring] + 0.5) / count[ring]
    flat, up = np.cos(elevation)[ring], np.sin(elevation)[ring]
    return _Rings(np.pi / rings, count, start, np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), up], axis=1))


def _segments(corners: np.ndarray, rings: _Rings) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of (triangle, ring, first column, columns) that hold every ray which meets the triangles."""
    lowest, highest, middle, left, right = _bounds(corners)
    pad = 1e-9
    first = np.clip(np.ceil((lowest - pad + np.pi / 2) / rings.step - 0.5), 0, None).astype(np.int64)
    last = np.clip(np.floor((highest + pad + np.pi / 2) / rings.step - 0.5), None, len(rings.count) - 1).astype(
        np.int64
    )
    spans = np.maximum(last - first + 1, 0)
    triangle = np.repeat(np.arange(len(corners)), spans)
    ring = first[triangle] + np.arange(len(triangle)) - (np.cumsum(spans) - spans)[triangle]
    per_radian = rings.count[ring] / (2 * np.pi)
    start = np.ceil((middle + left)[triangle] * per_radian - 0.5 - pad * per_radian).astype(np.int64)
    stop = np.floor((middle + right)[triangle] * per_radian - 0.5 + pad * per_radian).astype(np.int64)
    count = np.clip(stop - start + 1, 0, rings.count[ring])
    total = np.cumsum(count)
    cuts = np.searchsorted(total, np.arange(_PAIRS, total[-1] if len(total) else 0, _PAIRS))
    for block in np.split(np.arange(len(total)), cuts):
        yield triangle[block], ring[block], start[block], count[block]


def _bounds(corners: np.ndarray) -> tuple[np.ndarray, ...]:
    """Triangles (F, 3, 3) from the origin: lowest and highest elevation, an azimuth, bounds left and right of that."""
    flat, z = corners[..., :2], corners[..., 2]
    far, near = np.linalg.norm(flat, axis=2).max(axis=1), _distance_in_plan(flat)
    low, high = z.min(axis=1), z.max(axis=1)
    lowest = np.arctan2(low, np.where(low < 0, near, far))
    highest = np.arctan2(high, np.where(high > 0, near, far))
    centre = flat.mean(axis=1)
    middle = np.arctan2(centre[:, 1], centre[:, 0])
    turned = np.arctan2(flat[..., 1], flat[..., 0]) - middle[:, None]
    turned = (turned + np.pi) % (2 * np.pi) - np.pi
    around = near <= 1e-9 * far  # above or below the origin: all round
    left = np.where(around, -np.pi, turned.min(axis=1))
    right = np.where(around, np.pi, turned.max(axis=1))
    return lowest, highest, middle, left, right


def _distance_in_plan(flat: np.ndarray) -> np.ndarray:
    """(F,) the distance of the origin to each triangle (F, 3, 2), 0 inside."""
    start, edge = flat, np.roll(flat, -1, axis=1) - flat
    length = np.maximum((edge**2).sum(axis=2), 1e-300)
    along = np.clip(-(start * edge).sum(axis=2) / length, 0, 1)
    distance = np.linalg.norm(start + along[..., None] * edge, axis=2).min(axis=1)
    turn = start[..., 0] * edge[..., 1] - start[..., 1] * edge[..., 0]
    inside = (turn >= 0).all(axis=1) | (turn <= 0).all(axis=1)
    flat_on_edge = np.abs(turn).max(axis=1) == 0  # a vertical triangle is a line in plan
    return np.where(inside & ~flat_on_edge, 0.0, distance)


def _keep_nearest(
    pixel: np.ndarray, distance: np.ndarray, triangle: np.ndarray, nearest: np.ndarray, face: np.ndarray
) -> None:
    """Put into ``nearest`` and ``face`` what is nearer than there; of equals the first triangle counts."""
    order = np.lexsort((distance, pixel))
    pixel, distance, triangle = pixel[order], distance[order], triangle[order]
    first = np.flatnonzero(np.diff(pixel, prepend=-1))
    pixel, distance, triangle = pixel[first], distance[first], triangle[first]
    nearer = distance < nearest[pixel]
    nearest[pixel[nearer]] = distance[nearer]
    face[pixel[nearer]] = triangle[nearer]
