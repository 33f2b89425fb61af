"""Batches of standardised points: a pure function of (seed, epoch, step), so that a resumed run repeats nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from .normalise import Normalisation

if TYPE_CHECKING:
    from .shapes import DataConfig, ShapeSplit

__all__ = ["Batch", "Places", "batches", "draw_points", "places", "steps_per_epoch"]


class Places(NamedTuple):
    """What a step visits of a split, as far as it is one process's."""

    index: torch.Tensor  # (B,) int64, which shape of the split each one is
    rows: range  # B, their places in the step's batch
    share: float = 1.0  # of the shapes of the step's batch that these are; 0: they stand in where none are left


class Batch(NamedTuple):
    """Points of some shapes of a split."""

    points: torch.Tensor  # (B,n,3) float32, standardised
    index: torch.Tensor  # (B,) int64, which shape of the split each one is
    rows: range  # B, their places in the step's batch, of which a process has a part
    share: float = 1.0  # of the shapes of the step's batch that these are; 0: they stand in where none are left
    noise: torch.Tensor | None = None  # (B,n,3) float32, what the points are paired with where the split says so


def batches(
    split: ShapeSplit,
    normalisation: Normalisation,
    config: DataConfig,
    batch: int,
    seed: int,
    epoch: int,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """One epoch in batches of ``batch`` shapes, from step ``start`` on: every shape once, in shuffled order.

    Of each shape ``config.points`` points are drawn with replacement from its input points, turned by a random
    angle about ``config.up`` through the origin of the data if ``config.rotate``, and standardised by
    ``normalisation``, or by the shape's own statistics if ``config.normalise`` is ``"shape"``. Where the split has
    noise for its points, one of each point's is drawn along, and turned with it. The order comes
    from the random stream of (``seed``, ``epoch``), the points of place i in the batch of step k from that of
    (``seed``, ``epoch``, k, i). So ``part``, (process, processes), cuts batches and changes nothing in them: processes
    get equal parts, but for one shape; one that would get none gets the batch's first shape and a share of 0.

    Batch norm needs two shapes, so a single one left over joins the batch before it. ``ValueError`` when
    ``batch`` is less than 2 or ``start`` beyond the epoch.

    >>> from pcgen.data.shapes import DataConfig, ShapeSplit
    >>> split = ShapeSplit(("a", "b", "c"), ("x",) * 3, tuple(np.eye(3, dtype=np.float32) for _ in range(3)))
    >>> unit = Normalisation(np.zeros(3), np.ones(3))
    >>> [tuple(b.points.shape) for b in batches(split, unit, DataConfig(points=5), batch=2, seed=0, epoch=0)]
    [(3, 5, 3)]
    """
    visits = places(len(split), batch, seed, epoch, start, part)
    return (_draw(split, normalisation, config, visit, (seed, epoch, step)) for step, visit in enumerate(visits, start))


def places(
    shapes: int, batch: int, seed: int, epoch: int, start: int = 0, part: tuple[int, int] = (0, 1)
) -> Iterator[Places]:
    """What the steps of :func:`batches` visit of so many shapes, without their points; its arguments and errors.

    >>> [(len(visit.index), visit.rows, visit.share) for visit in places(5, 2, seed=0, epoch=0, part=(1, 2))]
    [(1, range(1, 2), 0.5), (2, range(1, 3), 0.6666666666666666)]
    """
    bounds, (process, processes) = _bounds(shapes, batch), part
    if not 0 <= start <= len(bounds):
        raise ValueError(f"start must be between 0 and the {len(bounds)} steps of the epoch, got {start}")
    # The spawn key sets this stream apart from that of step 0: seeds are padded with zeros.
    order = np.random.default_rng(np.random.SeedSequence((seed, epoch), spawn_key=(0,))).permutation(shapes)

    def visit(first: int, last: int) -> Places:
        rows = range(process * (last - first) // processes, (process + 1) * (last - first) // processes)
        share, rows = len(rows) / (last - first), rows or range(1)
        index = order[first + rows.start : first + rows.stop]
        return Places(torch.from_numpy(index.astype(np.int64)), rows, share)

    return (visit(*bounds[step]) for step in range(start, len(bounds)))


def steps_per_epoch(shapes: int, batch: int) -> int:
    """How many batches :func:`batches` makes of so many shapes.

    >>> steps_per_epoch(32, 16), steps_per_epoch(33, 16), steps_per_epoch(34, 16)
    (2, 2, 3)
    """
    return len(_bounds(shapes, batch))


def _bounds(shapes: int, batch: int) -> list[tuple[int, int]]:
    """First and last-but-one position of each batch in the order of the epoch."""
    if batch < 2:
        raise ValueError(f"a batch needs at least 2 shapes (batch norm has no spread in one), got {batch}")
    firsts = list(range(0, shapes, batch))
    if shapes % batch == 1 and shapes > 1:
        firsts.pop()
    return list(zip(firsts, [*firsts[1:], shapes]))


def _draw(
    split: ShapeSplit, normalisation: Normalisation, config: DataConfig, visit: Places, stream: tuple[int, int, int]
) -> Batch:
    # The spawn key sets these streams apart from that of the order.
    rngs = [np.random.default_rng(np.random.SeedSequence(stream, spawn_key=(place, 1))) for place in visit.rows]
    points, noise = draw_points(split, normalisation, config, visit.index.tolist(), rngs)
    return Batch(points, *visit, noise)


def draw_points(
    split: ShapeSplit,
    normalisation: Normalisation,
    config: DataConfig,
    index: Sequence[int],
    rngs: Sequence[np.random.Generator],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Points of these shapes, of each as :func:`batches` draws, turns and standardises them, by its own of ``rngs``.

    Returns:
        points (B, n, 3) float32 and, where the split has noise, what they are paired with, (B, n, 3).
    """
    points, angles = np.empty((len(index), config.points, 3), np.float32), np.empty(len(index))
    noise = None if split.noise is None else np.empty_like(points)
    own = config.normalise == "shape"
    for row, (rng, i) in enumerate(zip(rngs, index, strict=True)):
        cloud = split.input(i)
        drawn = rng.integers(len(cloud), size=config.points)
        points[row] = cloud.take(drawn, axis=0)  # far faster than by brackets
        angles[row] = rng.uniform(0, 2 * np.pi)
        if own:  # before turning: the shape's statistics turn with it
            points[row] = split.own_normalisations[i].apply(points[row])
        if noise is not None:
            of_shape = split.noise[i]
            noise[row] = of_shape[rng.integers(len(of_shape), size=config.points), drawn]
    if config.rotate:
        points = _turn(points, angles, config.up)
        noise = None if noise is None else _turn(noise, angles, config.up)
    if not own:
        points = normalisation.apply(points)
    return torch.from_numpy(points), None if noise is None else torch.from_numpy(noise)


def _turn(points: np.ndarray, angles: np.ndarray, up: str) -> np.ndarray:
    """(B,n,3) points turned by one angle each (B,), radians, right-handed about the axis ``up``."""
    axis = "xyz".index(up)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    cos, sin = (f(angles).astype(points.dtype)[:, None] for f in (np.cos, np.sin))
    turned = points.copy()
    turned[..., first] = cos * points[..., first] - sin * points[..., second]
    turned[..., second] = sin * points[..., first] + cos * points[..., second]
    return turned
