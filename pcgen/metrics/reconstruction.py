"""How closely reconstructed clouds follow their originals, pair by pair."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from pcgen import ops
from pcgen.metrics.sets import Clouds, as_clouds

__all__ = ["ReconstructionScores", "reconstruction"]


class ReconstructionScores(NamedTuple):
    """Means over the pairs."""

    cd: float  # squared Chamfer distance
    emd: float | None  # exact earth mover's distance, a length
    f_score: float | None  # in [0, 1]
    threshold: float | None  # of the F-score, a length
    pairs: int


def reconstruction(
    reconstructed: Clouds,
    references: Clouds,
    emd: Literal["exact", "none"] = "exact",
    threshold: float | None = None,
) -> ReconstructionScores:
    """Compare ``reconstructed[i]`` (N, 3) with ``references[i]`` (M, 3), arrays, tensors or sequences of clouds.

    The exact EMD needs N = M. The F-score (Knapitsch et al., 2017) is taken where a ``threshold`` is given, a
    length in the units of the data. ``ValueError`` for unequal numbers of clouds, bad shapes, NaN or infinity.

    >>> clouds = torch.rand(2, 8, 3, generator=torch.Generator().manual_seed(0))
    >>> scores = reconstruction(clouds + torch.tensor([0.1, 0.0, 0.0]), clouds)
    >>> round(scores.emd, 6)
    0.1
    """
    if emd not in ("exact", "none"):
        raise ValueError(f"emd must be one of exact, none, got {emd!r}")
    Y = as_clouds(references, "references")
    X = as_clouds(reconstructed, "reconstructed").to(Y.device)
    if len(X) != len(Y):
        raise ValueError(f"every cloud needs its reference: got {len(X)} reconstructed and {len(Y)} references")
    # One pair at a time: nothing of size pairs x N x M is ever held.
    cds = [ops.chamfer(x, y) for x, y in zip(X, Y)]
    emds = [ops.emd(x, y).value for x, y in zip(X, Y)] if emd == "exact" else []
    f_scores = [cd.f_score(threshold) for cd in cds] if threshold is not None else []
    return ReconstructionScores(
        cd=torch.stack([cd.value for cd in cds]).mean().item(),
        emd=torch.stack(emds).mean().item() if emds else None,
        f_score=torch.stack(f_scores).mean().item() if f_scores else None,
        threshold=threshold,
        pairs=len(X),
    )
