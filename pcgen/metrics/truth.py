"""True instances of a labelled scene, from packed labels or from two arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

__all__ = ["Array", "Truth", "as_array", "integers", "packed_truth", "truth"]

Array = np.ndarray | Tensor | Sequence[int]


class Truth(NamedTuple):
    """The G instances of a scene that belong to the classes evaluated, by class, then by number."""

    column: np.ndarray  # (N,) int64, the point's instance, 0 … G − 1; G: background; G + 1: not annotated
    label: np.ndarray  # (G,) int64, class; 0 where class-agnostic
    size: np.ndarray  # (G,) int64, number of points


def packed_truth(gt: Array, classes: Sequence[int] | None, name: str) -> Truth:
    """From labels (N,) = class × 1000 + instance; 0 is background, a negative label not annotated.

    To ScanNet's letter, instance 0 of a class is an instance. ``ValueError`` where an instance above 999 shows.

    >>> packed_truth([2001, 0, 2001, -1, 3001], [2], "gt")
    Truth(column=array([0, 1, 0, 2, 1]), label=array([2]), size=array([2]))
    """
    keys, rank = _ranks(integers(gt, name))
    _check_packed(keys, classes, name)
    chosen = keys > 0 if classes is None else np.isin(keys // 1000, list(classes))
    return _truth(rank, chosen, keys < 0, keys // 1000 if classes is not None else np.zeros_like(keys))


def truth(instances: Array, semantics: Array | None, classes: Sequence[int] | None, name: str) -> Truth:
    """From the number (N,) of each point's instance, 0 for none, and its class (N,); negative ones: not annotated.

    Points of one instance and two classes are two instances, as in packed labels.

    >>> truth([1, 1216, 0, 1216], [2, 2, 2, 3], None, "instances")
    Truth(column=array([0, 1, 3, 2]), label=array([0, 0, 0]), size=array([1, 1, 1]))
    """
    numbers, number = _ranks(integers(instances, name))
    kinds, kind = _ranks(np.zeros_like(number) if semantics is None else integers(semantics, "semantics", len(number)))
    pairs, rank = _ranks(kind * len(numbers) + number)
    numbers, kinds = numbers[pairs % max(len(numbers), 1)], kinds[pairs // max(len(numbers), 1)]
    chosen = numbers > 0
    if classes is not None:
        chosen &= np.isin(kinds, list(classes))
    unknown = (numbers < 0) | (kinds < 0)
    return _truth(rank, chosen, unknown, kinds if classes is not None else np.zeros_like(kinds))


def integers(values: Array, name: str, length: int | None = None) -> np.ndarray:
    """``values`` as (N,) int64; ``TypeError`` for what is no array of integers, ``ValueError`` for another shape."""
    array = as_array(values)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} must be an array of integers, got {array.dtype} {array.shape}")
    if array.ndim != 1 or (length is not None and len(array) != length):
        expected = "(N,)" if length is None else f"({length},)"
        raise ValueError(f"{name} must be {expected} integers, one array per scene, got {array.shape}")
    return array.astype(np.int64, copy=False)


def as_array(values: Array) -> np.ndarray:
    """``values`` in NumPy; floating-point tensors as float64, since NumPy has no bfloat16.

    >>> import torch
    >>> as_array(torch.tensor([0.5], dtype=torch.bfloat16))
    array([0.5])
    """
    if not isinstance(values, Tensor):
        return np.asarray(values)
    tensor = values.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def _truth(rank: np.ndarray, chosen: np.ndarray, unknown: np.ndarray, label: np.ndarray) -> Truth:
    """From what holds for each distinct key, and the key (N,) of each point."""
    G = int(chosen.sum())
    column = np.where(chosen, np.cumsum(chosen) - 1, np.where(unknown, G + 1, G))
    size = np.bincount(rank, minlength=len(column))
    return Truth(column[rank], label[chosen], size[chosen])


def _check_packed(keys: np.ndarray, classes: Sequence[int] | None, name: str) -> None:
    """``ValueError`` where instance numbers have run into the next class."""
    found = None
    if classes is None and ((keys > 0) & (keys < 1000)).any() and (keys >= 1000).any():
        found = f"numbers of 1 … 999, which have no class, beside {keys.max()}"
    over = keys[1:][(np.diff(keys) == 1) & (keys[1:] % 1000 == 0) & (keys[1:] >= 1000)]
    if len(over):
        found = f"{over[0]} after {over[0] - 1}, an instance 1000"
    if found:
        raise ValueError(
            f"{name} must hold class × 1000 + instance, got {found}; "
            "instances of 1000 and more need instances= and semantics= as two arrays"
        )


def _ranks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values, ascending, and the place of each value among them."""
    if len(values) and int(values.max()) - int(values.min()) < 4 * len(values) + 2**16:
        low = values.min()  # a table takes a tenth of the time of sorting
        there = np.bincount(values - low) > 0
        return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[values - low]
    return np.unique(values, return_inverse=True)
