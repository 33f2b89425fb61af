"""The rotations that carry a set of directions into itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

__all__ = ["Rotations", "find_rotations"]

SAME = 1e-9  # directions and solid angles that differ by less are the same


class Rotations(NamedTuple):
    """Proper rotations that permute the rays, the identity first: ``v[permutations[g]] == v @ matrices[g].T``."""

    matrices: Tensor  # (G, D, D) float64
    permutations: Tensor  # (G, n) int64, where each ray goes


def find_rotations(directions: Tensor, weights: Tensor) -> Rotations:
    """All proper rotations that permute ``directions`` (n, D), D = 2 or 3, ordered by their permutations.

    A rotation is known by where it takes two rays: to rays of equal ``weights`` (n,), as far apart. The two are chosen
    among those with the fewest equals.
    """
    v = directions.numpy()
    matrices = _candidates(v, _classes(weights.numpy()))
    tree = cKDTree(v)
    for some in (v[:8], v):  # a few rays refute most candidates
        apart, permutations = tree.query(some @ matrices.transpose(0, 2, 1))
        matrices, permutations = (x[(apart < SAME).all(1)] for x in (matrices, permutations))
    order = np.lexsort(permutations.T[::-1])
    return Rotations(_fitted(v, permutations[order]), torch.from_numpy(permutations[order]))


def _classes(weights: np.ndarray) -> np.ndarray:
    """A label (n,) for each ray, the same for equal weights."""
    order = np.argsort(weights, kind="stable")
    label = np.empty(len(weights), dtype=np.int64)
    label[order] = np.concatenate([[0], np.cumsum(np.diff(weights[order]) > SAME)])
    return label


def _candidates(v: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The rotations (C, D, D) that carry one ray, or a pair of rays, to another like it."""
    size = np.bincount(label)[label]
    first = int(np.argmin(size))
    firsts = np.flatnonzero(label == label[first])
    if v.shape[1] == 2:
        return _frames(v[firsts]) @ _frames(v[first]).T
    slanted = np.abs(v @ v[first]) < 1 - 1e-6
    second = int(np.argmin(np.where(slanted, size, len(v) + 1)))
    seconds = np.flatnonzero(label == label[second])
    i, j = np.nonzero(np.abs(v[firsts] @ v[seconds].T - v[first] @ v[second]) < SAME)
    return _frames(v[firsts[i]], v[seconds[j]]) @ _frames(v[first], v[second]).T


def _frames(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Right-handed orthonormal frames (..., D, D), in columns, of which the first is a (and b in the second's half)."""
    if b is None:
        return np.stack([a, np.stack([-a[..., 1], a[..., 0]], -1)], -1)
    b = b - (a * b).sum(-1, keepdims=True) * a
    b = b / np.linalg.norm(b, axis=-1, keepdims=True)
    return np.stack([a, b, np.cross(a, b)], -1)


def _fitted(v: np.ndarray, permutations: np.ndarray) -> Tensor:
    """The rotations (G, D, D) that fit the permutations best (Kabsch 1976), so that errors of two rays do not count."""
    left, _, right = np.linalg.svd(np.einsum("gni,nj->gij", v[permutations], v))
    left[..., -1] *= np.sign(np.linalg.det(left @ right))[:, None]
    return torch.from_numpy(left @ right)
