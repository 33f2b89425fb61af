"""How far a score may be from its expectation: the expected score of sets as large, drawn anew from the same laws.

No cloud is ever drawn twice: twins would be each other's nearest neighbours. ``docs/metrics.md`` gives the coverage
that was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import t as student

from pcgen.metrics.occupancy import divergence

__all__ = [
    "Interval",
    "between_sets",
    "check_level",
    "halves_sd",
    "jackknife_jsd_sd",
    "mean_interval",
    "score_interval",
]

SPLITS = 100


class Interval(NamedTuple):
    """From ``low`` to ``high``."""

    low: float
    high: float


def check_level(level: float) -> float:
    """``level`` itself; ``ValueError`` unless 0 ≤ level < 1."""
    if not 0 <= level < 1:
        raise ValueError(f"interval must be a level in [0, 1), 0 for none, got {level}")
    return level


def halves_sd(
    scores: Callable[[np.ndarray, np.ndarray], np.ndarray], references: int, samples: int, seed: int
) -> np.ndarray:
    """Standard deviations of full-size scores, from scores of disjoint halves; NaN for sets of fewer than 4 clouds.

    Both sets are cut in two at random. The halves are independent draws of half the size, so half the squared
    difference of their scores is an unbiased estimate of a score's variance at that size, whatever the score;
    variances fall as 1/size. (Politis, Romano and Wolf, Subsampling, 1999, chapters 2 and 3; the halves being
    disjoint takes the bias out that overlapping subsamples of a score of neighbours have.)

    ``scores(i, j)`` gives the K scores of references ``i`` and samples ``j``.
    """
    if min(references, samples) < 4:
        return np.full_like(scores(np.arange(references), np.arange(samples)), np.nan)
    rng, squares = np.random.default_rng(seed), []
    R, S = references // 2, samples // 2
    for _ in range(SPLITS):
        i, j = rng.permutation(references), rng.permutation(samples)
        squares.append((scores(i[:R], j[:S]) - scores(i[R : 2 * R], j[S : 2 * S])) ** 2)
    return np.sqrt(np.mean(squares, 0) / 2 * (R + S) / (references + samples))


def jackknife_jsd_sd(references: csr_array, samples: csr_array) -> float:
    """Standard deviation of the divergence between sets with the cell counts (R, C) and (S, C).

    By leaving out one cloud at a time (Efron and Stein, Annals of Statistics 9, 1981), which suits a smooth function
    of sums; the divergence of halves is another one, since half the points leave more cells empty.
    """
    totals = [np.asarray(counts.sum(0)) for counts in (references, samples)]
    variance = 0.0
    for counts, own, other in ((references, *totals), (samples, *totals[::-1])):
        left_out = np.array([divergence(own - counts[[i]].toarray()[0], other) for i in range(counts.shape[0])])
        variance += (len(left_out) - 1) * left_out.var()
    return float(np.sqrt(variance))


def score_interval(value: float, sd: float, level: float, clouds: int, highest: float = 1.0) -> Interval:
    """The interval about a score in [0, highest] whose deviation was found from ``clouds`` clouds.

    >>> score_interval(0.99, 0.02, 0.9, 100)
    Interval(low=0.956..., high=1.0)
    """
    reach = student.ppf((1 + level) / 2, clouds - 1) * sd
    return Interval(float(np.maximum(value - reach, 0.0)), float(np.minimum(value + reach, highest)))


def mean_interval(values: Sequence[float] | np.ndarray, level: float, highest: float = np.inf) -> Interval:
    """Student's interval about the mean of independent values in [0, highest].

    >>> mean_interval([1.0, 2.0, 3.0], 0.9)
    Interval(low=0.314..., high=3.685...)
    """
    values = np.asarray(values, dtype=np.float64)
    sd = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return score_interval(float(values.mean()), sd, level, max(len(values), 2), highest)


def between_sets(scores: Sequence[Mapping[str, float]], level: float) -> dict[str, Interval]:
    """For each score, Student's interval about its mean over independently generated sets."""
    highest = {name: np.inf if name.startswith("mmd") else 1.0 for name in scores[0]}
    return {name: mean_interval([s[name] for s in scores], level, highest[name]) for name in scores[0]}
