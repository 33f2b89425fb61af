"""Training curves: one small panel for each quantity, training and validation together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pcgen.viz.gallery import save_figure

__all__ = ["curves"]

_AXES = ("step", "epoch", "seconds")  # what a curve is drawn against, the first that the history has
_SPLITS = ("train", "val", "test")


def curves(history: Sequence[Mapping[str, float]], path: str | Path, *, columns: int = 3) -> Path:
    """Draws ``history``, one mapping of names to numbers per row of the log, into a PNG, and returns its path.

    ``"train/total"`` and ``"val/total"`` share the panel ``total``; any other ``"evaluations/points"`` is the curve
    ``points`` of the panel ``evaluations``. The horizontal axis is ``"step"``, else ``"epoch"``, else ``"seconds"``,
    else the row's number. Missing keys and numbers that are not finite are skipped; an axis is logarithmic if its
    values are positive and span more than two decades. Raises ``ValueError`` if there is nothing to draw.

    >>> import tempfile
    >>> rows = [{"step": i, "train/total": 1 / (i + 1), "val/total": 2 / (i + 1)} for i in range(5)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     curves(rows, f"{folder}/curves.png").name
    'curves.png'
    """
    from matplotlib.figure import Figure

    panels = _panels(history)
    if not panels:
        raise ValueError(f"the history of {len(history)} rows holds no finite quantity to draw")
    columns = min(columns, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.4 * lines), dpi=110, layout="constrained")
    label = next((name for name in _AXES if any(name in row for row in history)), "row")
    for axes, (quantity, series) in zip(figure.subplots(lines, columns, squeeze=False).flat, panels.items()):
        for name, (x, y) in series.items():
            colour = f"C{_SPLITS.index(name)}" if name in _SPLITS else None  # the same in every picture
            marker = "." if len(x) < 30 else None
            axes.plot(x, y, label=name, color=colour, linewidth=1.2, marker=marker, markersize=4)
        if _spans_decades(np.concatenate([y for _, y in series.values()])):
            axes.set_yscale("log")
        axes.set_title(quantity, fontsize=9)
        axes.set_xlabel(label, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
        if list(series) != [quantity]:
            axes.legend(fontsize=7, frameon=False)
    for axes in figure.axes[len(panels) :]:
        axes.set_axis_off()
    return save_figure(figure, Path(path))


def _panels(history: Sequence[Mapping[str, float]]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """panel -> series -> (x, y), in the order in which the names first occur."""
    points: dict[str, dict[str, list]] = {}
    position = next((name for name in _AXES if any(name in row for row in history)), None)
    for number, row in enumerate(history):
        x = row.get(position, math.nan) if position else number
        for name, value in row.items():
            if name not in _AXES and math.isfinite(x) and math.isfinite(value):
                panel, series = _panel_and_series(name)
                points.setdefault(panel, {}).setdefault(series, []).append((x, value))
    return {
        panel: {name: tuple(np.array(sorted(xy)).T) for name, xy in series.items()} for panel, series in points.items()
    }


def _panel_and_series(name: str) -> tuple[str, str]:
    group, _, rest = name.partition("/")
    if not rest:
        return name, name
    return (rest, group) if group in _SPLITS else (group, rest)


def _spans_decades(values: np.ndarray) -> bool:
    return bool(values.min() > 0 and values.max() > 100 * values.min())
