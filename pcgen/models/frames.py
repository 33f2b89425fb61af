"""Where clouds stand that a model is to see: what standardises them is the data set's, their own, or given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcgen.data.normalise import Normalisation, fit

__all__ = ["Frames", "frames_of", "own_frames"]


class Frames(NamedTuple):
    """Mean and scale of each cloud, in data units."""

    mean: Tensor  # (B or 1, 1, 3)
    scale: Tensor  # (B or 1, 1, 3), positive

    def apply(self, x: Tensor, like: Tensor) -> Tensor:
        """x (B, N, 3) standardised, in the type and on the device of ``like``.

        A mean far from the origin is subtracted before the cloud is rounded to that type.
        """
        return ((x - self.mean.to(x.device)) / self.scale.to(x.device)).to(like)

    def invert(self, x: Tensor) -> Tensor:
        """Standardised clouds (B, N, 3) in data units."""
        return x * self.scale.to(x) + self.mean.to(x)

    def log_det(self) -> Tensor:
        """Σ log scale (B or 1,): a log-density of standardised points less this is that of points in data units."""
        return self.scale.log().sum(-1).squeeze(-1)


def own_frames(x: Tensor) -> Frames:
    """Of each cloud (B, N, 3) its own, as :func:`pcgen.data.normalise.fit` has them; in float64.

    ``ValueError`` for a cloud that has no extent.

    >>> mean, scale = own_frames(torch.tensor([[[0.0, 0.0, 0.0], [6.0, 0.0, 0.0]]]))
    >>> mean.tolist(), scale.square().round(decimals=3).tolist()
    ([[[3.0, 0.0, 0.0]]], [[[5.0, 5.0, 5.0]]])
    """
    clouds = x.detach().cpu().double().numpy()
    if flat := np.flatnonzero((clouds == clouds[:, :1]).all((1, 2))).tolist():
        raise ValueError(f"cloud {flat[0]} has no extent to standardise it by: all its points are equal")
    return frames_of([fit([cloud]) for cloud in clouds])


def frames_of(normalisations: Sequence[Normalisation]) -> Frames:
    """Of one cloud each, or of all clouds the only one."""
    values = ([getattr(each, name) for each in normalisations] for name in ("mean", "scale"))
    return Frames(*(torch.from_numpy(np.stack(each))[:, None] for each in values))
