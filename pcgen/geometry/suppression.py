"""Of detections that overlap, the best: greedy suppression of masks and of stars, and matrix NMS.

Ranks are by score, the higher first, equal ones by index. Everything is done within what is given: call it for each
class by itself where detections of different classes may overlap.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pcgen.geometry.checks import check_choice, check_finite, check_floats
from pcgen.geometry.overlap import POINTS, Stars, check_stars
from pcgen.geometry.rays import Rays
from pcgen.geometry.touching import touching

__all__ = ["Measure", "mask_nms", "matrix_nms", "star_nms"]

Measure = Literal["iou", "minimum"]
ROUGH = 512  # points in a star for a first estimate of an overlap; POINTS where that is too close to call
FIRST_BLOCK = 1024  # stars
PAIRS = 1 << 22  # of stars, at once


def mask_nms(
    masks: Tensor | Sequence[Tensor], scores: Tensor, threshold: float = 0.5, overlap: Measure = "iou"
) -> Tensor:
    """The masks to keep (M,) int64, best first: none overlaps a better one that is kept by more than ``threshold``.

    ``masks`` are (P, N) bool, or P tensors of indices of points; ``scores`` (P,). The ``overlap`` is intersection over
    union, or over the smaller of the two, of numbers of points, exactly. Only masks with a point in common are ever
    compared, and memory grows with the number of points in masks.

    ``ValueError`` for shapes that do not fit, scores that are not finite, negative indices and a threshold outside
    [0, 1]; ``TypeError`` for other types.

    >>> masks = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]]).bool()
    >>> mask_nms(masks, torch.tensor([0.7, 0.8, 0.9]), 0.5)
    tensor([2, 1])
    """
    _check_suppression(threshold, overlap)
    found = _Masks.of(masks, scores)
    alive = np.ones(len(scores), dtype=bool)
    for rank in range(len(scores)):
        if alive[rank]:
            shared, sizes = found.shared(rank), found.sizes
            smaller = np.minimum(sizes, sizes[rank])
            whole = sizes + sizes[rank] - shared if overlap == "iou" else smaller
            alive[rank + 1 :] &= ~(shared > threshold * whole)[rank + 1 :]
    return found.order[torch.from_numpy(alive).to(found.order.device)]


def matrix_nms(masks: Tensor | Sequence[Tensor], scores: Tensor, sigma: float = 2.0) -> Tensor:
    """The ``scores`` (P,) of ``masks``, lowered for what overlaps better ones, in the order given.

    score_j · min_i exp(−σ (IoU_ij² − c_i²)) over the masks i that rank above j, where c_i is the largest IoU of i with
    one above it (Wang et al., SOLOv2, NeurIPS 2020, its Gaussian decay). Masks and errors as in :func:`mask_nms`.

    >>> masks = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    >>> matrix_nms(masks, torch.tensor([0.9, 0.8, 0.7]))
    tensor([0.9000, 0.1083, 0.7000])
    """
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0, got {sigma}")
    found = _Masks.of(masks, scores)
    decay, largest = np.ones(len(scores)), np.zeros(len(scores))
    for rank in range(1, len(scores)):
        shared = found.shared(rank)[:rank]
        iou = shared / np.maximum(found.sizes[:rank] + found.sizes[rank] - shared, 1)
        largest[rank] = iou.max()
        decay[rank] = np.exp(-sigma * (iou**2 - largest[:rank] ** 2).max())
    lowered = scores.clone()
    lowered[found.order] *= torch.from_numpy(decay).to(scores)
    return lowered


def star_nms(
    rays: Rays,
    centres: Tensor,
    lengths: Tensor,
    scores: Tensor,
    threshold: float = 0.5,
    overlap: Measure = "iou",
) -> Tensor:
    """The stars to keep (M,) int64, best first: none overlaps a better one that is kept by more than ``threshold``.

    S stars are ``centres`` (S, D), ``lengths`` (S, n) and ``scores`` (S,). The ``overlap`` is intersection over union,
    or over the smaller of the two, as StarDist has it; :func:`pcgen.geometry.overlap.star_overlap` says what is
    computed. A star is compared with those kept whose balls share enough with its own, the closest first, so that most
    are settled by one comparison. What is kept is what a comparison of all pairs would keep.

    ``ValueError`` and ``TypeError`` as there, for scores that are not finite, and for a threshold outside [0, 1].

    >>> from pcgen.geometry.rays import fibonacci
    >>> centres = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [1.5, 0.0, 0.0]])
    >>> star_nms(fibonacci(96), centres, torch.ones(3, 96), torch.tensor([0.7, 0.8, 0.6]))
    tensor([1, 2])
    """
    _check_suppression(threshold, overlap)
    check_stars(rays, centres, lengths)
    with _one_thread():
        return _star_nms(rays, centres, lengths, scores, threshold, overlap)


def _star_nms(
    rays: Rays, centres: Tensor, lengths: Tensor, scores: Tensor, threshold: float, overlap: Measure
) -> Tensor:
    order = _ranks(scores, len(centres))
    stars = Stars.of(rays, centres[order], lengths[order])
    contest = _Contest(stars, threshold, overlap)
    kept = np.zeros(len(order), dtype=bool)
    done = 0
    while done < len(order):
        # Blocks grow with what is done, so that trees are built a few times in all.
        block = np.arange(done, min(len(order), done + max(FIRST_BLOCK, done // 2)))
        star, other, count = contest.pairs(block, kept.nonzero()[0])
        rest = contest.survivors(block[:count], star, other)
        done += count
        star, other, count = contest.pairs(rest, rest)
        kept[contest.winners(rest[:count], star, other)] = True
        done = rest[count] if count < len(rest) else done
    return order[torch.from_numpy(kept).to(order.device)]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch's threads wait for each other, spinning, after each of many short steps: on a busy machine most of it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Contest:
    """Stars by rank, and which suppresses which."""

    def __init__(self, stars: Stars, threshold: float, overlap: str) -> None:
        self.stars, self.threshold, self.overlap = stars, threshold, overlap
        self.doubt = stars.doubt(ROUGH)
        self.balls = stars.centres.cpu().numpy(), stars.radius.cpu().numpy()

    def pairs(self, block: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Pairs of a star of ``block`` and a better one of ``others`` that may suppress it, the likeliest first.

        Star by star, of so many of the first of ``block`` as the third result says.
        """
        star, other, count = touching(*self.balls, block, others, PAIRS)
        i, j, enough = self._volumes(star, other)
        may = self.stars.bound(i, j) > enough
        i, j, enough = i[may], j[may], enough[may]
        # Two balls of the stars' volumes overlap about as much as the stars.
        likely = self.stars.guess(i, j) / enough
        order = np.lexsort((-likely.cpu().numpy(), i.cpu().numpy()))
        return i.cpu().numpy()[order], j.cpu().numpy()[order], count

    def survivors(self, block: np.ndarray, star: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Those of ``block`` that no ``other`` suppresses; all others are kept."""
        alive = np.ones(len(self.balls[1]), dtype=bool)
        while len(star):
            first = _first(star)
            alive[star[first][self._suppresses(star[first], other[first])]] = False
            left = alive[star] & ~first
            star, other = star[left], other[left]
        return block[alive[block]]

    def winners(self, block: np.ndarray, star: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Those of ``block`` that no winner suppresses, from pairs of them."""
        undecided, won = np.zeros((2, len(self.balls[1])), dtype=bool)
        undecided[block] = True
        while True:
            # A star that has no better one left to fear wins.
            fears = np.zeros_like(won)
            fears[star] = True
            won |= undecided & ~fears
            undecided &= fears
            if not len(star):
                return won.nonzero()[0]
            against = won[other].nonzero()[0]
            first = against[_first(star[against])]
            undecided[star[first][self._suppresses(star[first], other[first])]] = False
            left = undecided[star] & (undecided[other] | won[other])
            left[first] = False
            star, other = star[left], other[left]

    def _volumes(self, *pair: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """The stars of pairs, and the volume that they must share for one to suppress the other."""
        i, j = (torch.from_numpy(x).to(self.stars.radius.device) for x in pair)
        v, w = self.stars.volume[i], self.stars.volume[j]
        whole = (v + w) / (1 + self.threshold) if self.overlap == "iou" else torch.minimum(v, w)
        return i, j, self.threshold * whole

    def _suppresses(self, *pair: np.ndarray) -> np.ndarray:
        i, j, enough = self._volumes(*pair)
        shared = self.stars.intersection(i, j, ROUGH)
        close = (shared - enough).abs() < torch.maximum(self.doubt[i], self.doubt[j])
        shared[close] = self.stars.intersection(i[close], j[close], POINTS)
        return (shared > enough).cpu().numpy()


def _first(star: np.ndarray) -> np.ndarray:
    """Which rows are the first of their star; rows are sorted by star."""
    return np.diff(star, prepend=-1) > 0


@dataclass(frozen=True)
class _Masks:
    """Masks by rank, as the points of each and the masks of each point."""

    order: Tensor  # (P,) int64, the masks by rank
    sizes: np.ndarray  # (P,) int64
    points: np.ndarray  # (Σ sizes,) int64, mask by mask
    starts: np.ndarray  # (P + 1,) int64, where the points of a mask begin
    owners: np.ndarray  # (Σ sizes,) int64, ranks, point by point
    owned: np.ndarray  # (N + 1,) int64, where the masks of a point begin

    @classmethod
    def of(cls, masks: Tensor | Sequence[Tensor], scores: Tensor) -> _Masks:
        order = _ranks(scores, len(masks))
        rank, point = _entries(masks, order)
        # Only the points of masks are numbered: memory does not grow with the cloud.
        _, point, holders = np.unique(point, return_inverse=True, return_counts=True)
        sizes = np.bincount(rank, minlength=len(order))
        starts, owned = (np.concatenate([[0], x.cumsum()]) for x in (sizes, holders))
        return cls(order, sizes, point, starts, rank[np.argsort(point, kind="stable")], owned)

    def shared(self, rank: int) -> np.ndarray:
        """The number of points (P,) that each mask has in common with the one of this rank."""
        points = self.points[self.starts[rank] : self.starts[rank + 1]]
        start, count = self.owned[points], self.owned[points + 1] - self.owned[points]
        step = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
        return np.bincount(self.owners[np.repeat(start, count) + step], minlength=len(self.sizes))


def _entries(masks: Tensor | Sequence[Tensor], order: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of a rank and a point in its mask, by rank, then by point."""
    if isinstance(masks, Tensor):
        if masks.dtype != torch.bool or masks.ndim != 2:
            raise TypeError(
                f"masks must be (P, N) bool or a sequence of indices, got {masks.dtype} {tuple(masks.shape)}"
            )
        rank, point = masks[order].nonzero().cpu().numpy().T
        return rank, np.ascontiguousarray(point)
    for mask in masks:
        if not isinstance(mask, Tensor) or mask.ndim != 1 or mask.is_floating_point() or mask.dtype == torch.bool:
            got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"masks must be (P, N) bool or a sequence of tensors of indices, got one of {got}")
    points = [np.unique(masks[k].cpu().numpy()).astype(np.int64) for k in order.tolist()]
    rank = np.repeat(np.arange(len(points)), [len(x) for x in points])
    point = np.concatenate([np.empty(0, np.int64), *points])
    if len(point) and point.min() < 0:
        raise ValueError(f"masks must hold indices of points, from 0, got {point.min()}")
    return rank, point


def _ranks(scores: Tensor, count: int) -> Tensor:
    """The detections (count,), best first, equal ones by index."""
    check_floats("scores", scores, "P")
    check_finite("scores", scores)
    if scores.shape != (count,):
        raise ValueError(f"scores must be ({count},), one a detection, got {tuple(scores.shape)}")
    return scores.sort(descending=True, stable=True).indices


def _check_suppression(threshold: float, overlap: str) -> None:
    check_choice("overlap", overlap, Measure)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
