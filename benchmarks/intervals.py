"""How often the 90 % intervals of the generation scores contain the expected score.

Pairs of sets of random ellipsoids are drawn again and again; the expected score is the mean over all of them. Printed:
the share of intervals that contain it, which should be 0.85 to 0.95, and in brackets the mean half-width of the
interval in standard deviations of the score (1.65 to 1.7 would be exact for a normal score).

    python benchmarks/intervals.py [--pairs 200]
"""

from __future__ import annotations

import argparse
import warnings
from typing import NamedTuple

import numpy as np

from pcgen.metrics import GenerationScores, evaluate

SCORES = ("mmd_cd", "mmd_cd_samples", "cov_cd", "one_nna_cd", "one_nna_cd_samples", "one_nna_cd_references", "jsd")


class Case(NamedTuple):
    """Numbers of clouds, and the spread of the samples' axes; the references' is 0.3."""

    samples: int
    references: int
    spread: float


CASES = (
    *(Case(n, n, 0.3) for n in (30, 60, 120)),
    Case(40, 80, 0.3),
    Case(80, 40, 0.3),
    *(Case(60, 60, spread) for spread in (0.15, 0.45)),
    *(Case(30, 30, spread) for spread in (0.15, 0.45)),
)


def ellipsoids(rng: np.random.Generator, count: int, spread: float, points: int = 64) -> np.ndarray:
    """Random ellipsoids (count, points, 3) of log-normal axes, each about a place of its own."""
    axes = 0.2 * np.exp(rng.normal(size=(count, 1, 3)) * spread)
    sphere = rng.normal(size=(count, points, 3))
    sphere /= np.linalg.norm(sphere, axis=-1, keepdims=True)
    return sphere * axes + 0.03 * rng.normal(size=(count, 1, 3))


def measure(case: Case, pairs: int) -> list[GenerationScores]:
    rng = np.random.default_rng(0)
    return [
        evaluate(
            ellipsoids(rng, case.samples, case.spread),
            ellipsoids(rng, case.references, 0.3),
            "pointflow",
            emd="none",
            seed=seed,
        )
        for seed in range(pairs)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    pairs = parser.parse_args().pairs
    warnings.filterwarnings("ignore", message=".*outside the JSD grid's ball")
    print(f"| S | R | spread | {' | '.join(SCORES)} |\n|{'---|' * (len(SCORES) + 3)}")
    for case in CASES:
        found, cells = measure(case, pairs), []
        for name in SCORES:
            values = np.array([scores.scores()[name] for scores in found])
            ends = np.array([scores.intervals[name] for scores in found])
            inside = ((ends[:, 0] <= values.mean()) & (values.mean() <= ends[:, 1])).mean()
            cells.append(f"{inside:.3f} ({np.ptp(ends, axis=1).mean() / 2 / values.std():.2f})")
        print(f"| {case.samples} | {case.references} | {case.spread} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
