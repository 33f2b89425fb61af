"""How closely reconstructed clouds follow their originals, pair by pair."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcgen import ops
from pcgen.metrics.intervals import Interval, check_level, mean_interval
from pcgen.metrics.protocols import EmdChoice, one_of
from pcgen.metrics.sets import Clouds, as_clouds

__all__ = ["ReconstructionScores", "oracle", "reconstruction"]


class ReconstructionScores(NamedTuple):
    """Means over the pairs."""

    cd: float  # squared Chamfer distance
    emd: float | None  # earth mover's distance, a length unless the variant is pvd
    f_score: float | None  # in [0, 1]
    threshold: float | None  # of the F-score, a length
    pairs: int
    emd_variant: EmdChoice
    intervals: dict[str, Interval]  # of cd, emd and f_score, as far as they are there


def reconstruction(
    reconstructed: Clouds,
    references: Clouds,
    emd: EmdChoice = "exact",
    threshold: float | None = None,
    interval: float = 0.9,
) -> ReconstructionScores:
    """Compare ``reconstructed[i]`` (N, 3) with ``references[i]`` (M, 3), arrays, tensors or sequences of clouds.

    The EMD needs N = M; ``"pointflow"`` and ``"pvd"`` are the annealed ones of published tables, the reference on the
    left. The F-score (Knapitsch et al., 2017) is taken where a ``threshold`` is given, a length in the units of the
    data. The intervals, of level ``interval`` (0 for none), are Student's for the mean over shapes of the same kind.
    ``ValueError`` for an unknown EMD, unequal numbers of clouds, bad shapes, NaN or infinity.

    >>> clouds = torch.rand(2, 8, 3, generator=torch.Generator().manual_seed(0))
    >>> scores = reconstruction(clouds + torch.tensor([0.1, 0.0, 0.0]), clouds)
    >>> round(scores.emd, 6)
    0.1
    """
    one_of("emd", emd, ("exact", "pointflow", "pvd", "none"))
    check_level(interval)
    Y = as_clouds(references, "references")
    X = as_clouds(reconstructed, "reconstructed").to(Y.device)
    if len(X) != len(Y):
        raise ValueError(f"every cloud needs its reference: got {len(X)} reconstructed and {len(Y)} references")
    if emd != "none" and X.shape[1] != Y.shape[1]:
        raise ValueError(f"the EMD needs clouds of equal size, got {X.shape[1]} and {Y.shape[1]} points")
    # One pair at a time: nothing of size pairs x N x M is ever held.
    cds = [ops.chamfer(x, y) for x, y in zip(X, Y)]
    found = {"cd": _numpy([cd.value for cd in cds])}
    if emd != "none":
        found["emd"] = _numpy([ops.emd(y, x, emd).value for x, y in zip(X, Y)])
    if threshold is not None:
        found["f_score"] = _numpy([cd.f_score(threshold) for cd in cds])
    mean = {name: float(values.mean()) for name, values in found.items()}
    highest = {"cd": np.inf, "emd": np.inf, "f_score": 1.0}
    several = interval > 0 and len(X) > 1
    return ReconstructionScores(
        cd=mean["cd"],
        emd=mean.get("emd"),
        f_score=mean.get("f_score"),
        threshold=threshold,
        pairs=len(X),
        emd_variant=emd,
        intervals={n: mean_interval(v, interval, highest[n]) for n, v in found.items()} if several else {},
    )


def oracle(
    whole: Clouds,
    emd: EmdChoice = "exact",
    threshold: float | None = None,
    points: int = 2048,
    interval: float = 0.9,
) -> ReconstructionScores:
    """What a perfect reconstruction reaches: another draw of the points of the same shapes.

    Of PC15k clouds ``whole`` (S, 15000, 3), the first ``points`` against as many from number 10,000 on, which the
    published programs measure against. Options and errors as for :func:`reconstruction`.

    >>> whole = torch.rand(2, 15000, 3, generator=torch.Generator().manual_seed(0))
    >>> oracle(whole, points=64).pairs
    2
    """
    if points > 5000:
        raise ValueError(f"points must be at most 5000, the number of those from 10,000 on, got {points}")
    given = [as_clouds([cloud], f"whole[{i}]")[0] for i, cloud in enumerate(whole)]
    for i, cloud in enumerate(given):
        if len(cloud) < 10000 + points:
            raise ValueError(f"whole[{i}] must hold at least {10000 + points} points, got {len(cloud)}")
    left = [cloud[:points] for cloud in given]
    return reconstruction(left, [cloud[10000 : 10000 + points] for cloud in given], emd, threshold, interval)


def _numpy(values: list[Tensor]) -> np.ndarray:
    return torch.stack(values).double().cpu().numpy()
