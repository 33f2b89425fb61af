"""A guess at the unit of a scan from its extent and the distance between its points."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .scene import Scene

__all__ = ["ScaleGuess", "box_without_strays", "scale_guess", "warn_scale"]

_METRES = {
    **{"metres": 1.0, "millimetres": 1e-3, "centimetres": 1e-2, "feet": 0.3048, "inches": 0.0254},
    **{"kilometres": 1e3, "micrometres": 1e-6},
}
_PROBES = 32  # points whose nearest neighbour is looked for
_ROWS = 1 << 14  # points that they are compared with at a time
_STRAY = 4.0  # extents of the middle 98 % of a scan beyond which a point is a stray
_SOME = 100_000  # points that say where the middle is


class ScaleGuess(NamedTuple):
    """What :func:`scale_guess` thinks of a scan."""

    unit: str | None  # "metres", "millimetres", … or None when no unit fits
    factor: float  # what to multiply coordinates by to have metres; 1 when no unit fits
    extent: float  # the diagonal of the middle 98 % of the points, in the scan's unit
    spacing: float  # the median distance to the nearest other point, in the scan's unit


def scale_guess(
    points: ArrayLike, extent: tuple[float, float] = (0.5, 5000.0), spacing: tuple[float, float] = (5e-4, 2.0)
) -> ScaleGuess:
    """The unit of (N, 3) points of which metres are expected.

    Metres are believed when the extent and the spacing both lie in the ranges given in metres, by default those of
    scans from a chair to a few kilometres; otherwise the unit that brings both into range, the one nearest to their
    (geometric) middle of several. Where none does, a scan with an extent of metres and too small a spacing is a dense
    one in metres. Who knows better, as a model knows what it was trained on, gives narrower ranges.

    >>> room = np.random.default_rng(0).uniform(0, 5000, (2000, 3))
    >>> scale_guess(room)[:2]
    ('millimetres', 0.001)
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"points must be (N, 3) with N at least 1, got {points.shape}")
    with np.errstate(over="ignore"):
        size, step = _extent(points), _spacing(points)
    if not size or not step:
        return ScaleGuess(None, 1.0, size, step)
    fits = {}
    for unit, factor in _METRES.items():
        ranges = ((size * factor, extent), (step * factor, spacing))
        if all(low <= value <= high for value, (low, high) in ranges):
            fits[unit] = sum(abs(np.log(value / np.sqrt(low * high))) for value, (low, high) in ranges)
    dense = extent[0] <= size <= extent[1] and step < spacing[0]
    unit = "metres" if "metres" in fits else min(fits, key=fits.__getitem__, default="metres" if dense else None)
    return ScaleGuess(unit, _METRES.get(unit, 1.0), size, step)


def warn_scale(scene: Scene, **ranges: tuple[float, float]) -> ScaleGuess:
    """Warn, naming the unit, when ``scene`` does not look like metres; ``ranges`` are those of :func:`scale_guess`."""
    guess = scale_guess(scene.points, **ranges)
    if guess.unit != "metres" and guess.spacing:
        size = f"extent {guess.extent:.4g}, spacing {guess.spacing:.3g}"
        if guess.unit is None:
            message = f"{scene.source} fits no unit ({size}): metres are expected"
        else:
            message = f"{scene.source} looks like {guess.unit} ({size}): multiply by {guess.factor:g} for metres"
        warnings.warn(message, stacklevel=2)
    return guess


def box_without_strays(points: ArrayLike) -> np.ndarray:
    """(2, D) the lowest and the highest corner of finite points (N, D), N at least 1, but for strays.

    One point at the origin beside coordinates of a map would make tiles of kilometres, and a picture of two dots.
    Strays lie beyond the middle 98 % of the points by more than four times its extent; there are none where that has
    no extent.

    >>> box_without_strays([[0.0, 0.0], *[[1.0, 1.0]] * 98, [2.0, 1.0], [900.0, 1.0]]).tolist()
    [[0.0, 0.0], [6.0, 1.0]]
    """
    points = np.asarray(points)
    low, high = points.min(axis=0), points.max(axis=0)
    lower, upper = _middle(points)
    margin = _STRAY * (upper - lower).max() or np.inf
    return np.stack([np.maximum(low, lower - margin), np.minimum(high, upper + margin)])


def _extent(points: np.ndarray) -> float:
    """The diagonal of the box of the middle 98 % along each axis, which a few stray points do not stretch."""
    low, high = _middle(points)
    return float(np.linalg.norm(high - low))


def _middle(points: np.ndarray) -> np.ndarray:
    """(2, D) the corners of the box of the middle 98 % along each axis, of points all through the scan."""
    return np.percentile(points[:: max(1, len(points) // _SOME)], (1, 99), axis=0)


def _spacing(points: np.ndarray) -> float:
    """The median, over points all through the scan, of the distance to the nearest point that lies elsewhere."""
    probes = points[np.linspace(0, len(points) - 1, min(_PROBES, len(points))).astype(int)]
    nearest = np.full(len(probes), np.inf)
    for start in range(0, len(points), _ROWS):
        x, y, z = np.array(points[start : start + _ROWS].T, np.float64, order="C")
        for i, (a, b, c) in enumerate(probes):
            square = (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2
            nearest[i] = min(nearest[i], square[square > 0].min(initial=np.inf))
    nearest = nearest[np.isfinite(nearest)]
    return float(np.sqrt(np.median(nearest))) if len(nearest) else 0.0
