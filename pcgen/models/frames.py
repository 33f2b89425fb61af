"""Where clouds stand that a model is to see: what standardises them is the data set's, their own, or given."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.data.normalise import Normalisation

__all__ = ["Frames", "given_frame", "own_frames"]


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
    x = x.double()
    mean = x.mean(1, keepdim=True)
    scale = (x - mean.mean(-1, keepdim=True)).square().mean((1, 2), keepdim=True).sqrt().expand(-1, 1, 3)
    if flat := (scale[:, 0, 0] <= 0).nonzero().flatten().tolist():
        raise ValueError(f"cloud {flat[0]} has no extent to standardise it by: all its points are equal")
    return Frames(mean, scale)


def given_frame(frame: Normalisation) -> Frames:
    """Of every cloud the same."""
    return Frames(*(torch.tensor(values).reshape(1, 1, 3) for values in (frame.mean, frame.scale)))
