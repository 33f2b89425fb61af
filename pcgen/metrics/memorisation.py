"""Does a generator copy its training shapes?"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu

from pcgen.metrics.blocks import Distance, Side, distance_matrix
from pcgen.metrics.measurement import StageProgress
from pcgen.metrics.protocols import Normalise, normalised, one_of
from pcgen.metrics.sets import Clouds, as_clouds, precision

__all__ = ["Memorisation", "memorisation"]

CLOSE = 0.05  # quantile of the held-out shapes' distances below which a sample is called close


class Memorisation(NamedTuple):
    """Distances to the nearest training shape: of the samples, and of shapes that training has not seen."""

    samples: np.ndarray  # (S,) distance of each sample to its nearest training shape
    held_out: np.ndarray  # (R,) the same of the held-out shapes
    nearest: np.ndarray  # (S,) int64, which training shape
    median_samples: float
    median_held_out: float
    close: float  # share of the samples closer than CLOSE of the held-out shapes are; CLOSE is expected
    closer: float  # chance that a sample is closer than a held-out shape, ties half; 1/2 is expected
    p_value: float  # of Mann and Whitney's test against "samples are no closer"

    def __str__(self) -> str:
        return (
            f"nearest training shape: samples at {self.median_samples:.4g}, held-out shapes at "
            f"{self.median_held_out:.4g} (medians); a sample is closer with chance {self.closer:.2f} "
            f"(p = {self.p_value:.2g}), {self.close:.0%} are closer than {CLOSE:.0%} of the held-out shapes"
        )


def memorisation(
    samples: Clouds,
    training: Clouds,
    held_out: Clouds,
    distance: Distance = "cd",
    points: int | None = None,
    normalise: Normalise = "none",
    cache: str | Path | None = None,
    progress: StageProgress | None = None,
) -> Memorisation:
    """Compare how near ``samples`` (S, N, 3) and ``held_out`` (R, N, 3) shapes come to ``training`` (T, N, 3).

    A model that has learnt the law of its training shapes makes new ones that are as far from them as unseen shapes
    of the same law; one that copies is nearer. The test is Mann and Whitney's on the distances, one-sided (Meehan,
    Chaudhuri and Dasgupta, AISTATS 2020, put the question this way). ``distance`` is ``"cd"`` or a variant of the EMD,
    the training shape on the left. ``points``, ``normalise``, ``cache`` and ``progress`` as for :func:`evaluate`; the
    clouds are measured in their own units. ``ValueError`` for an unknown distance, clouds of unequal size, NaN or
    infinity.

    >>> import torch
    >>> T, held_out = torch.rand(2, 6, 16, 3, generator=torch.Generator().manual_seed(0))
    >>> found = memorisation(T[:4] + 1e-3, T, held_out)
    >>> found.nearest, found.close, found.closer
    (array([0, 1, 2, 3]), 1.0, 1.0)
    """
    one_of("distance", distance, ("cd", "exact", "pointflow", "pvd"))
    one_of("normalise", normalise, ("none", "box", "half-box"))
    given = {"samples": samples, "training": training, "held_out": held_out}
    sides = {name: as_clouds(clouds, name, points) for name, clouds in given.items()}
    dtype = precision(*given.values())
    sizes = {name: clouds.shape[1] for name, clouds in sides.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"all clouds must have equally many points, got {sizes} (points= takes the first of each)")
    sides = {name: Side.of(normalised(clouds, normalise).to(dtype)) for name, clouds in sides.items()}

    def to_training(name: str) -> tuple[np.ndarray, np.ndarray]:
        tell = progress and (lambda done, total: progress(f"{distance} training x {name}", done, total))
        found = distance_matrix(
            distance, sides["training"], sides[name], cache=None if cache is None else Path(cache), progress=tell
        )
        nearest = found.value.min(0)
        return nearest.values.cpu().numpy(), nearest.indices.cpu().numpy()

    (near, which), (far, _) = to_training("samples"), to_training("held_out")
    test = mannwhitneyu(near, far, alternative="less")
    return Memorisation(
        samples=near,
        held_out=far,
        nearest=which,
        median_samples=float(np.median(near)),
        median_held_out=float(np.median(far)),
        close=float((near < np.quantile(far, CLOSE)).mean()),
        closer=float(1 - test.statistic / (len(near) * len(far))),
        p_value=float(test.pvalue),
    )
