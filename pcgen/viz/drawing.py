"""Point clouds as images: discs in a depth buffer, lit and outlined.

Each point is drawn as a disc, coloured by height unless it brings a colour, and lit by the normal of its neighbourhood
(Hoppe et al., "Surface reconstruction from unorganized points", 1992). Eye-dome lighting (Boucheny, PhD thesis,
Grenoble 2009), which darkens a pixel by how far it lies behind its neighbours, then draws the outlines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["draw", "half_extent", "project"]

MOST_POINTS = 60_000  # of a cloud that are drawn: more would not show at the size of a tile

_SUPERSAMPLING = 2
_MARGIN = 0.92  # part of a drawing that the largest cloud fills
_COLOURS = np.array([(0.20, 0.36, 0.62), (0.38, 0.67, 0.70), (0.98, 0.80, 0.45)])  # low, middle, high
_LIGHT = np.array([-0.35, 0.75, 0.56])  # towards the light: from the viewer's upper left
_UP = {"x": (1, 2, 0), "y": (2, 0, 1), "z": (0, 1, 2)}  # axes taken as forward, left and up


def project(cloud: ArrayLike, up: str, view: tuple[float, float], name: str) -> np.ndarray:
    """The finite points, centred on their box, as (right, above, towards the viewer, height from 0 to 1)."""
    if up not in _UP:
        raise ValueError(f"up must be 'x', 'y' or 'z', got {up!r}")
    points = np.asarray(cloud, dtype=np.float64)
    if points.size and (points.ndim != 2 or points.shape[1] != 3):
        raise ValueError(f"{name} must be (N, 3), got {points.shape}")
    points = points.reshape(-1, 3)
    points = points[np.isfinite(points).all(1)][:, _UP[up]]
    if not len(points):
        return np.empty((0, 4))
    low, high = points.min(0), points.max(0)
    points = points[:: -(-len(points) // MOST_POINTS)]  # in even strides: the order may be that of a scan
    height = (points[:, 2] - low[2]) / max(high[2] - low[2], 1e-12)
    elevation, azimuth = np.deg2rad(view)
    cos_e, sin_e, cos_a, sin_a = np.cos(elevation), np.sin(elevation), np.cos(azimuth), np.sin(azimuth)
    towards = (cos_e * cos_a, cos_e * sin_a, sin_e)
    above = (-sin_e * cos_a, -sin_e * sin_a, cos_e)
    right = (-sin_a, cos_a, 0.0)
    projected = (points - (low + high) / 2) @ np.array([right, above, towards]).T
    return np.concatenate([projected, height[:, None]], axis=1)


def half_extent(points: np.ndarray) -> np.ndarray:
    """Half the width and half the height of the frame that holds a projected cloud."""
    return np.maximum(np.abs(points[:, :2]).max(0), 1e-12)


def draw(
    points: np.ndarray, extent: np.ndarray | None, pixels: np.ndarray, colours: np.ndarray | None = None
) -> np.ndarray | None:
    """A projected cloud in a frame of ``pixels`` (width, height), fitted to it unless ``extent`` says how large.

    ``colours`` (N, 3), from 0 to 1, in place of those by height. None for a cloud without points.
    """
    if not len(points):
        return None
    width, height = side = pixels * _SUPERSAMPLING
    scale = _MARGIN / 2 * float((side / (half_extent(points) if extent is None else extent)).min())
    colours = (_by_height(points[:, 3:]) if colours is None else colours) * _light(points[:, :3])[:, None]
    radius = float(np.clip(0.6 * side.max() / np.sqrt(len(points)), 2.0, 0.02 * side.max()))
    points = points[:, :3] * (scale, -scale, scale) + (width / 2, height / 2, 0)
    image = _shade(*_splat(points, colours, radius, width, height), radius)
    return image.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3), dtype=np.float32)


def _by_height(height: np.ndarray) -> np.ndarray:
    """A colour (N, 3) for each height (N, 1), from 0 to 1."""
    blend = 2 * height
    low, middle, high = _COLOURS
    return np.where(blend < 1, low + (middle - low) * blend, middle + (high - middle) * (blend - 1))


def _light(points: np.ndarray) -> np.ndarray:
    """How bright each point is (N,), by how much its neighbourhood faces the light."""
    return 0.68 + 0.42 * _facing(points)


def _facing(points: np.ndarray, neighbours: int = 16) -> np.ndarray:
    """The cosine between light and normal, 0 to 1; one half as far as a neighbourhood has no clear normal."""
    from scipy.spatial import cKDTree

    if len(points) < 3:
        return np.full(len(points), 0.5)
    near = points[cKDTree(points).query(points, min(neighbours, len(points)))[1]]
    near = near - near.mean(1, keepdims=True)
    spread, axes = np.linalg.eigh(near.swapaxes(1, 2) @ near)
    clear = 1 - spread[:, 0] / np.maximum(spread[:, 1], 1e-30)
    normal = axes[..., 0] * np.where(axes[:, 2:, 0] < 0, -1, 1)  # towards the viewer
    return 0.5 + clear**2 * (np.maximum(0, normal @ _LIGHT) - 0.5)


def _splat(
    points: np.ndarray, colours: np.ndarray, radius: float, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Discs of ``radius`` about points in pixels: the depth (-inf where nothing is) and the colour of each pixel."""
    offset = np.arange(-int(radius), int(radius) + 1)
    dx, dy = (d.ravel() for d in np.meshgrid(offset, offset))
    bulge = radius**2 - dx**2 - dy**2  # a disc is the front of a ball
    dx, dy, bulge = dx[bulge >= 0], dy[bulge >= 0], np.sqrt(bulge[bulge >= 0])
    order = np.argsort(points[:, 2])
    points, colours = points[order], colours[order]
    column, row = np.rint(points[:, :1]).astype(int) + dx, np.rint(points[:, 1:2]).astype(int) + dy
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixel, value = (row * width + column)[inside], (points[:, 2:] + bulge)[inside]
    source = np.broadcast_to(np.arange(len(points))[:, None], inside.shape)[inside]
    depth, nearest = np.full(width * height, -np.inf), np.zeros(width * height, dtype=int)
    depth[pixel], nearest[pixel] = value, source  # far to near: of several points on a pixel the last one stays
    return depth.reshape(height, width), colours[nearest].reshape(height, width, 3)


def _shade(depth: np.ndarray, colour: np.ndarray, radius: float) -> np.ndarray:
    """Darkens what lies behind its neighbours or far away; white where nothing is."""
    covered = np.isfinite(depth)
    nearest, farthest = depth[covered].max(), depth[covered].min()
    depth = np.where(covered, depth, farthest)
    (height, width), reach = depth.shape, 2
    padded = np.pad(depth, reach, constant_values=farthest)
    behind = np.zeros_like(depth)
    for y, x in ((0, 2), (2, 0), (2, 4), (4, 2)):
        behind += np.clip(padded[y : y + height, x : x + width] - depth - 0.3 * radius, 0, 0.06 * width)
    light = 0.45 + 0.55 * np.exp(-behind / (0.08 * width))
    light *= 0.82 + 0.18 * (depth - farthest) / max(nearest - farthest, 1.0)
    return np.where(covered[..., None], np.clip(colour * light[..., None], 0, 1), 1.0)
