"""Balls that meet, by k-d trees: one for each octave of radii, so that one large ball widens no other search."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial import cKDTree

__all__ = ["touching"]


def touching(
    centres: np.ndarray, radius: np.ndarray, balls: np.ndarray, others: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs (P,) of one of ``balls`` and one of ``others``, a lower index, whose distance is below the sum of radii.

    ``balls`` and ``others`` are indices of ``centres`` (S, D) and ``radius`` (S,). Only as many of the first of
    ``balls`` are taken as have about ``limit`` pairs, at least one; the third result is their number.

    >>> touching(np.array([[0.0], [1.0], [5.0]]), np.ones(3), np.array([1, 2]), np.arange(3), 100)
    (array([1]), array([0]), 2)
    """
    trees = list(_trees(centres, radius, others))
    counts = np.zeros(len(balls), dtype=np.int64)
    for _, tree, largest in trees:
        counts += tree.query_ball_point(centres[balls], radius[balls] + largest, return_length=True)
    balls = balls[: max(1, int(np.searchsorted(counts.cumsum(), limit, side="right")))]
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for mine, own, reach in _trees(centres, radius, balls):
        for theirs, tree, largest in trees:
            found = own.sparse_distance_matrix(tree, reach + largest, output_type="ndarray")
            ball, other = mine[found["i"]], theirs[found["j"]]
            meet = (other < ball) & (found["v"] < radius[ball] + radius[other])
            pairs.append(np.stack([ball[meet], other[meet]]))
    ball, other = np.concatenate(pairs, axis=1)
    return ball, other, len(balls)


def _trees(centres: np.ndarray, radius: np.ndarray, balls: np.ndarray) -> Iterator[tuple[np.ndarray, cKDTree, float]]:
    """For each octave of radii above 0 the balls of it, their tree, and the largest radius."""
    balls = balls[radius[balls] > 0]
    octave = np.frexp(radius[balls])[1]
    for value in np.unique(octave):
        members = balls[octave == value]
        yield members, cKDTree(centres[members]), radius[members].max()
