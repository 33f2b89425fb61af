"""Noise of a training step: one stream for each (seed, epoch, step, place in the batch), whoever has that place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from pcgen.data.shapes import Batch, Places, ShapeSplit
from pcgen.models import PointFlow

__all__ = ["shown", "step_noise"]


def step_noise(seed: int, epoch: int, step: int, rows: Iterable[int]) -> list[torch.Generator]:
    """The generators of these places in the batch.

    >>> one, both = step_noise(0, 1, 2, [5]), step_noise(0, 1, 2, [4, 5])
    >>> one[0].initial_seed() == both[1].initial_seed() != both[0].initial_seed()
    True
    """
    streams = (np.random.SeedSequence((seed, epoch, step), spawn_key=(row, 2)) for row in rows)
    words = (int(stream.generate_state(1, np.uint64)[0] >> np.uint64(1)) for stream in streams)
    return [torch.Generator().manual_seed(word) for word in words]


def shown(
    model: PointFlow, x: Tensor, batch: Batch | Places, split: ShapeSplit, noise: Sequence[torch.Generator], up: str
) -> Tensor | None:
    """What a conditional model is shown of the clouds x of a batch, of its classes no more than the device of x.

    None for other models.
    """
    return model.shown(x, [split.categories[i] for i in batch.index.tolist()], noise, up)
