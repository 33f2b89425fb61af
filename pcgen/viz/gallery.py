"""Pictures of point clouds: a grid of small shaded drawings with a label for every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from pcgen.data.files import replacing
from pcgen.viz.drawing import draw, half_extent, project

__all__ = ["compose", "draw_cloud", "gallery", "save_figure"]


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
        views = [project(cloud, up, view, f"a cloud of row {label!r}") for cloud in _clouds(clouds, label)]
        lines += [(label if i == 0 else "", views[i : i + columns]) for i in range(0, len(views), columns)]
    if not lines:
        raise ValueError("a gallery needs at least one cloud, got none")
    extents = [half_extent(points) for _, line in lines for points in line if len(points)]
    common = np.max(extents, axis=0) if same_scale and extents else np.ones(2)
    pixels = np.ceil(100 * size * np.maximum(common / common.max(), 0.3)).astype(int)  # width, height
    tiles = [[draw(points, common if same_scale else None, pixels) for points in line] for _, line in lines]
    return compose([label for label, _ in lines], tiles, pixels, title, Path(path))


def draw_cloud(cloud: ArrayLike, pixels: int, *, up: str = "y", view: tuple[float, float] = (20.0, 35.0)) -> np.ndarray:
    """One cloud ``(N, 3)`` as an image ``(pixels, pixels, 3)`` of float32 colours in [0, 1], fitted to the frame.

    >>> draw_cloud([(0, 0, 0), (0, 1, 0)], 32).shape
    (32, 32, 3)
    """
    image = draw(project(cloud, up, view, "the cloud"), None, np.array([pixels, pixels]))
    return np.ones((pixels, pixels, 3), dtype=np.float32) if image is None else image


def _clouds(clouds: ArrayLike | Sequence[ArrayLike], label: str) -> list:
    """A row as a list of clouds; a single (N, 3) array is one cloud."""
    shape = getattr(clouds, "shape", None)
    if shape is not None and len(shape) == 2:
        return [clouds]
    if shape is not None and len(shape) != 3:
        raise ValueError(f"row {label!r} must be (S, N, 3) or a sequence of (N, 3), got {tuple(shape)}")
    return list(clouds)


def compose(
    labels: Sequence[str],
    tiles: Sequence[Sequence],
    pixels: np.ndarray,
    title: str | None,
    path: Path,
    names: Sequence[str] = (),
) -> Path:
    """The drawings as a PNG, the labels at the left, the title above or ``names`` of the columns; None says "empty"."""
    from matplotlib.figure import Figure

    width, height = pixels
    canvas = np.ones((len(tiles) * height, max(map(len, tiles)) * width, 3), dtype=np.float32)
    left, top = max((12 + 7 * len(label) for label in labels if label), default=0), 26 if title or names else 0
    full = np.array([canvas.shape[1] + left, canvas.shape[0] + top])
    figure = Figure(figsize=full / 100, dpi=100, facecolor="white")
    axes = figure.add_axes((left / full[0], 0, 1 - left / full[0], 1 - top / full[1]))
    for i, (label, line) in enumerate(zip(labels, tiles)):
        # Words may be names of files, in which a $ is a $.
        axes.text(-4, (i + 0.5) * height, label, ha="right", va="center", fontsize=8, parse_math=False)
        for j, tile in enumerate(line):
            if tile is None:
                axes.text((j + 0.5) * width, (i + 0.5) * height, "empty", ha="center", va="center", color="0.5")
            else:
                canvas[i * height : (i + 1) * height, j * width : (j + 1) * width] = tile
    for j, name in enumerate(names):
        axes.text((j + 0.5) * width, -13, name, ha="center", va="center", fontsize=10, parse_math=False)
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    if title:
        figure.text(0.5, 1 - 13 / full[1], title, ha="center", va="center", fontsize=10, parse_math=False)
    return save_figure(figure, path)


def save_figure(figure: object, path: Path) -> Path:
    """Writes a matplotlib figure as PNG under a temporary name and renames it, so that no half picture is seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with replacing(path) as stream:
        FigureCanvasAgg(figure).print_png(stream)
    return path
