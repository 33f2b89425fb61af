"""Drawing the parameters of a shape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """One of the names, with probability proportional to its weight.

    >>> pick(np.random.default_rng(0), {"a": 1, "b": 0})
    'a'
    """
    bounds = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))]
