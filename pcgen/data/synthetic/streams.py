"""Random numbers of generated shapes and scenes: a stream for each seed and purpose."""

from __future__ import annotations

import operator

import numpy as np

__all__ = ["stream"]


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random numbers that belong to ``seed`` and ``key``, of which no two share any.

    ``TypeError`` for a seed that is no integer, ``ValueError`` for a negative one.

    >>> bool(stream(0, 1).random() == stream(0, 1).random() != stream(0, 2).random())
    True
    """
    try:
        seed = operator.index(seed)
    except TypeError:
        raise TypeError(f"the seed must be an integer, got {seed!r}") from None
    if seed < 0:
        raise ValueError(f"the seed must be 0 or more, got {seed}")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
