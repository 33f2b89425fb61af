"""Pictures of point clouds: a grid of small shaded drawings with a label for every row.

Each point is drawn as a disc into a depth buffer, coloured by height and lit by the normal of its neighbourhood
(Hoppe et al., "Surface reconstruction from unorganized points", 1992). Eye-dome lighting (Boucheny, PhD thesis,
Grenoble 2009), which darkens a pixel by how far it lies behind its neighbours, then draws the outlines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from pcgen.data.files import replacing

__all__ = ["draw_cloud", "gallery", "save_figure"]

MOST_POINTS = 60_000  # of a cloud that are drawn: more would not show at the size of a tile

_SUPERSAMPLING = 2
_MARGIN = 0.92  # part of a drawing that the largest cloud fills
_COLOURS = np.array([(0.20, 0.36, 0.62), (0.38, 0.67, 0.70), (0.98, 0.80, 0.45)])  # low, middle, high
_LIGHT = np.array([-0.35, 0.75, 0.56])  # towards the light: from the viewer's upper left
_UP = {"x": (1, 2, 0), "y": (2, 0, 1), "z": (0, 1, 2)}  # axes taken as forward, left and up


def gallery(
    rows: Mapping[str, ArrayLike | Sequence[ArrayLike]],
    path: str | Path,
    *,
    columns: int = 8,
    up: str = "y",
    view: tuple[float, float] = (20.0, 35.0),
    title: str | None = None,
    size: float = 1.5,
    same_scale: bool = True,
) -> Path:
    """Draws ``rows``, label -> clouds ``(S, N, 3)`` or a sequence of ``(N, 3)``, into a PNG, and returns its path.

    A row longer than ``columns`` runs on in further lines. ``view`` is (elevation, azimuth) in degrees; azimuth 0
    looks at the front (+z if y is up, +x if z is). ``size`` is the longer side of one drawing in inches, at 100
    dots each. All clouds share one scale unless ``same_scale`` is false; each is centred on its bounding box.
    Points that are not finite are left out. Raises ``ValueError`` for wrong shapes, axes or sizes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gallery({"noise": np.random.default_rng(0).normal(size=(3, 64, 3))}, f"{folder}/noise.png").name
    'noise.png'
    """
    if columns < 1 or size <= 0:
        raise ValueError(f"columns and size must be positive, got {columns} and {size}")
    lines = []
    for label, clouds in rows.items():
        views = [_project(cloud, up, view, f"a cloud of row {label!r}") for cloud in _clouds(clouds, label)]
        lines += [(label if i == 0 else "", views[i : i + columns]) for i in range(0, len(views), columns)]
    if not lines:
        raise ValueError("a gallery needs at least one cloud, got none")
    extents = [_extent(points) for _, line in lines for points in line if len(points)]
    common = np.max(extents, axis=0) if same_scale and extents else np.ones(2)
    pixels = np.ceil(100 * size * np.maximum(common / common.max(), 0.3)).astype(int)  # width, height
    tiles = [[_draw(points, common if same_scale else None, pixels) for points in line] for _, line in lines]
    return _compose([label for label, _ in lines], tiles, pixels, title, Path(path))


def draw_cloud(cloud: ArrayLike, pixels: int, *, up: str = "y", view: tuple[float, float] = (20.0, 35.0)) -> np.ndarray:
    """One cloud ``(N, 3)`` as an image ``(pixels, pixels, 3)`` of float32 colours in [0, 1], fitted to the frame.

    >>> draw_cloud([(0, 0, 0), (0, 1, 0)], 32).shape
    (32, 32, 3)
    """
    image = _draw(_project(cloud, up, view, "the cloud"), None, np.array([pixels, pixels]))
    return np.ones((pixels, pixels, 3), dtype=np.float32) if image is None else image


def _clouds(clouds: ArrayLike | Sequence[ArrayLike], label: str) -> list:
    """A row as a list of clouds; a single (N, 3) array is one cloud."""
    shape = getattr(clouds, "shape", None)
    if shape is not None and len(shape) == 2:
        return [clouds]
    if shape is not None and len(shape) != 3:
        raise ValueError(f"row {label!r} must be (S, N, 3) or a sequence of (N, 3), got {tuple(shape)}")
    return list(clouds)


def _project(cloud: ArrayLike, up: str, view: tuple[float, float], name: str) -> np.ndarray:
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


def _extent(points: np.ndarray) -> np.ndarray:
    """Half the width and half the height of the frame that holds a projected cloud."""
    return np.maximum(np.abs(points[:, :2]).max(0), 1e-12)


def _draw(points: np.ndarray, extent: np.ndarray | None, pixels: np.ndarray) -> np.ndarray | None:
    """A projected cloud in a frame of ``pixels`` (width, height), fitted to it unless ``extent`` says how large."""
    if not len(points):
        return None
    width, height = side = pixels * _SUPERSAMPLING
    scale = _MARGIN / 2 * float((side / (_extent(points) if extent is None else extent)).min())
    colours = _colours(points)
    radius = float(np.clip(0.6 * side.max() / np.sqrt(len(points)), 2.0, 0.02 * side.max()))
    points = points[:, :3] * (scale, -scale, scale) + (width / 2, height / 2, 0)
    image = _shade(*_splat(points, colours, radius, width, height), radius)
    return image.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3), dtype=np.float32)


def _colours(points: np.ndarray) -> np.ndarray:
    """A colour for each point, by its height and by how much its neighbourhood faces the light."""
    blend = 2 * points[:, 3:]
    low, middle, high = _COLOURS
    colour = np.where(blend < 1, low + (middle - low) * blend, middle + (high - middle) * (blend - 1))
    return colour * (0.68 + 0.42 * _facing(points[:, :3]))[:, None]


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


def _compose(
    labels: Sequence[str], tiles: Sequence[Sequence], pixels: np.ndarray, title: str | None, path: Path
) -> Path:
    """The drawings with the labels at the left and the title above, as a PNG; a missing one says "empty"."""
    from matplotlib.figure import Figure

    width, height = pixels
    canvas = np.ones((len(tiles) * height, max(map(len, tiles)) * width, 3), dtype=np.float32)
    left, top = max((12 + 7 * len(label) for label in labels if label), default=0), 26 if title else 0
    full = np.array([canvas.shape[1] + left, canvas.shape[0] + top])
    figure = Figure(figsize=full / 100, dpi=100, facecolor="white")
    axes = figure.add_axes((left / full[0], 0, 1 - left / full[0], 1 - top / full[1]))
    for i, (label, line) in enumerate(zip(labels, tiles)):
        axes.text(-4, (i + 0.5) * height, label, ha="right", va="center", fontsize=8)
        for j, tile in enumerate(line):
            if tile is None:
                axes.text((j + 0.5) * width, (i + 0.5) * height, "empty", ha="center", va="center", color="0.5")
            else:
                canvas[i * height : (i + 1) * height, j * width : (j + 1) * width] = tile
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    if title:
        figure.text(0.5, 1 - 13 / full[1], title, ha="center", va="center", fontsize=10)
    return save_figure(figure, path)


def save_figure(figure: object, path: Path) -> Path:
    """Writes a matplotlib figure as PNG under a temporary name and renames it, so that no half picture is seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with replacing(path) as stream:
        FigureCanvasAgg(figure).print_png(stream)
    return path
