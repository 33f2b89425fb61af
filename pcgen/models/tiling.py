"""Instances of scans of any size: tile by tile, with margins, and put together across the seams.

A point of a tile's margin is seen by several tiles. Two of their instances are the same object if their IoU exceeds ½
over the points that both tiles saw. What a tile finds is disjoint, so at most one instance of a tile can agree with
another one so far (as in panoptic quality, Kirillov et al., CVPR 2019), no object is counted twice, and one larger than
the margin is still joined from its pieces. The alternative, to keep an instance where its centre lies, loses an object
or doubles it when two tiles do not place the centre to the last digit alike, and cuts what exceeds the margin. The
centre has a say all the same, in a conflict about a point: an instance whose centre lies in a tile that found it was
seen whole, and goes before pieces.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pcgen.data.scenes import Scene, Tile, box_without_strays, tiles
from pcgen.models.inference import Progress
from pcgen.models.instances import REMNANT, DecodingConfig, Instances
from pcgen.models.polar_targets import instance_extents

if TYPE_CHECKING:
    from pcgen.models.polarmask3d import PolarMask3D

__all__ = ["segment_scan", "tile_size"]

POINTS = 1_000_000  # of a tile with its margin, unless asked otherwise: bounds the memory of the network
MARGIN = 5.0  # usual radii of an object: the margin unless asked otherwise
FINEST = 1024  # cells along the longer edge of a scan, by which the size of tiles is chosen
AGREEMENT = 0.5  # IoU; not below, or an instance could agree with two of one tile
_SAID = ("classes", "scores", "centres", "lengths", "valid", "volumes")  # columns of an instance, whatever its points


def segment_scan(
    model: PolarMask3D,
    scene: Scene,
    tile: float | None = None,
    overlap: float | None = None,
    progress: Progress | None = None,
    decoding: DecodingConfig | None = None,
) -> Instances:
    """The objects that ``model`` finds in ``scene``, whose points are metres; the order of the points is no matter.

    Args:
        tile: edge in metres of the square tiles, seen along the model's ``up``, that are looked at one by one; as large
            as keeps their points below a million unless given. Memory grows with a tile's points; with the scan's only
            a few numbers a point.
        overlap: margin in metres of a tile, in which it looks but leaves what it finds to others: at least the radius
            of the objects; 5 times the model's ``scale`` unless given.
        progress: is told (points done, points in all) after each tile.
        decoding: in place of the thresholds in the model's configuration.

    The result is that of :func:`pcgen.models.instances.predict_instances`; centres are relative to ``scene.offset`` as
    the points are. Objects found by several tiles have the star and the score of the one that saw most of them.
    ``ValueError`` for a scene without points, a size that is not positive, and a negative overlap.
    """
    if not len(scene):
        raise ValueError("a scan to be segmented needs at least one point, got none")
    up = model.config.up
    overlap = MARGIN * model.config.scale if overlap is None else overlap
    if not 0 <= overlap < np.inf:
        raise ValueError(f"overlap must not be negative, got {overlap}")
    tile = tile_size(scene.points, overlap, up) if tile is None else tile
    found, done = _Found(len(scene)), 0
    for part in tiles(scene, tile, overlap, up):
        with warnings.catch_warnings():
            if done:  # the first tile has said what is missing
                warnings.filterwarnings("ignore", "the model was made for")
            instances = _predict(model, scene, part.index, decoding)
        found.add(part, instances, _at_home(instances.centres, part, up))
        done += int(part.owned.sum())
        if progress:
            progress(done, len(scene))
    return found.instances(scene)


def tile_size(points: np.ndarray, overlap: float, up: str = "z", most: int = POINTS) -> float:
    """Edge of the largest tiles that hold about ``most`` of the ``points`` (N, 3) with their margins.

    Never below twice the ``overlap``, where margins would be most of what is looked at.

    >>> points = np.random.default_rng(0).uniform(0, 100, (10_000, 3))
    >>> tile_size(points, 1.0, most=10_000), tile_size(points, 1.0, most=2500)
    (100.0, 34.0)
    """
    flat = points[:, [axis for axis in range(3) if "xyz"[axis] != up]]
    low, high = box_without_strays(flat)
    cell = max(2 * overlap, float((high - low).max()) / FINEST) or 1.0
    cells = np.floor((flat.clip(low, high) - low) / cell).astype(np.int64)
    side = int(cells.max()) + 1
    counts = np.bincount(cells @ [side, 1], minlength=side * side).reshape(side, side)
    for across in sorted({-(-side // parts) for parts in range(1, side)}, reverse=True):
        starts = np.arange(0, side, across)
        fullest = np.add.reduceat(np.add.reduceat(counts, starts, 0), starts, 1).max()
        if min(fullest * (1 + 2 * overlap / (across * cell)) ** 2, len(points)) <= most:
            return across * cell
    return cell


def _predict(model: PolarMask3D, scene: Scene, index: np.ndarray, decoding: DecodingConfig | None) -> Instances:
    """The instances among some points of the scene. Sums depend on the order of points: here it is always the same."""
    points = scene.points[index]
    features = {name: column[index] for name, column in scene.features.items()}
    columns = [column for values in features.values() for column in values.reshape(len(index), -1).T]
    order = np.lexsort((*columns, *points.T[::-1]))
    given = {name: torch.from_numpy(column[order]) for name, column in features.items()}
    found = model.predict_instances(torch.from_numpy(points[order]), given, decoding)
    labels = torch.empty_like(found.labels, device="cpu")
    labels[torch.from_numpy(order)] = found.labels.cpu()
    return replace(found, labels=labels)


def _at_home(centres: Tensor, tile: Tile, up: str) -> np.ndarray:
    """(K,) whether the centres (K, 3) lie in the tile without its margin."""
    flat = centres.cpu().numpy()[:, [axis for axis in range(3) if "xyz"[axis] != up]]
    return ((flat >= tile.low) & (flat < tile.high)).all(1)


def _partners(old: np.ndarray, new: np.ndarray, count: int) -> np.ndarray:
    """(count + 1,) the number in ``old`` (P,) that agrees with 0 … ``count`` in ``new`` (P,); 0 where none does."""
    both = (old > 0) & (new > 0)
    pairs, shared = np.unique(old[both] * (count + 1) + new[both], return_counts=True)
    a, b = np.divmod(pairs, count + 1)
    total = np.bincount(old, minlength=1)[a] + np.bincount(new, minlength=count + 1)[b] - shared
    agree = shared > AGREEMENT * total
    partners = np.zeros(count + 1, np.int64)
    partners[b[agree]] = a[agree]
    return partners


class _Found:
    """What the tiles so far have found."""

    def __init__(self, points: int):
        self.labels = np.zeros(points, np.int64)  # the object of each point
        self.seen = np.zeros(points, bool)  # by any tile
        self.whole = np.zeros(1, bool)  # of each object, whether a tile that found it has its centre; 0 is nobody
        self.numbers: list[np.ndarray] = []  # of each tile (K,) the objects that its instances are
        self.tables: list[Instances] = []  # of each tile, without labels

    def add(self, tile: Tile, found: Instances, home: np.ndarray) -> None:
        """Takes over what was found in a tile; ``home`` (K,) says which instances have their centre in it."""
        labels = found.labels.numpy()
        old, seen = self.labels[tile.index], self.seen[tile.index]
        number = _partners(old[seen], labels[seen], len(found))
        fresh = np.flatnonzero(number[1:] == 0)
        number[1 + fresh] = len(self.whole) + np.arange(len(fresh))
        self.numbers.append(number[1:])
        self.tables.append(replace(found, labels=torch.empty(0, dtype=torch.int64)))
        self.whole = np.append(self.whole, np.zeros(len(fresh), bool))
        self.whole[number[1:][home]] = True

        new = number[labels]
        whole_old, whole_new = self.whole[old], self.whole[new]
        stays = np.where(tile.owned | ~seen, whole_old & ~whole_new, whole_old | ~whole_new)
        self.labels[tile.index] = np.where(stays, old, new)
        self.seen[tile.index] = True

    def instances(self, scene: Scene) -> Instances:
        """All objects, but those that others left only a remnant of, the best first."""
        table = {name: torch.cat([getattr(part, name).cpu() for part in self.tables]) for name in (*_SAID, "points")}
        number, claimed = np.concatenate(self.numbers), table.pop("points").numpy()
        rows = np.lexsort((-claimed, number))
        rows = rows[np.unique(number[rows], return_index=True)[1]]  # of each object, the one with most points
        labels = torch.from_numpy(self.labels)
        count = torch.bincount(labels, minlength=len(rows) + 1)[1:]
        extents = instance_extents(torch.from_numpy(scene.points), labels - 1, len(rows))
        said = {name: column[torch.from_numpy(rows)] for name, column in table.items()}
        found = Instances(labels, **said, extents=extents, points=count, rays=self.tables[0].rays)
        order = found.scores.argsort(descending=True, stable=True)
        return found.take(order[(count > REMNANT * torch.from_numpy(claimed[rows]))[order]])
