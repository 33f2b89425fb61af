"""Posteriors of the training shapes, kept while the encoder stands still and the latent flow learns its codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pcgen.data.shapes import DataConfig, Shapes, draw_points
from pcgen.models.encoder import Encoder, Posterior
from pcgen.models.objective import draw_codes

__all__ = ["CLOUDS", "KeptPosteriors"]

CLOUDS = 16  # draws of a shape's points whose posteriors are kept, at most


class KeptPosteriors:
    """What a finished encoder says of ``clouds`` draws of each training shape's points, found when first asked for.

    A shape's draws depend on the seed and its number alone, and are encoded together: so codes do not depend on which
    process or which step asks first.
    """

    def __init__(self, encoder: Encoder, shapes: Shapes, config: DataConfig, seed: int, clouds: int = CLOUDS):
        self.encoder = encoder
        self.clouds = clouds
        self._drawing = replace(shapes.train, noise=None), shapes.normalisation, config
        self._seed = seed
        self._kept: dict[int, Posterior] = {}

    def codes(self, index: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """A code (B, Z) of each of these shapes: of one of its draws, from the posterior, both by its generator."""
        chosen = [int(torch.randint(self.clouds, (), generator=g)) for g in generators]
        found = [self._posteriors(i) for i in index]
        mean = torch.stack([mean[k] for (mean, _), k in zip(found, chosen, strict=True)])
        spread = [logvar[k] for (_, logvar), k in zip(found, chosen) if logvar is not None]
        return draw_codes(Posterior(mean, torch.stack(spread) if spread else None), generators)

    @torch.no_grad()
    def _posteriors(self, i: int) -> Posterior:
        if i not in self._kept:
            streams = (np.random.SeedSequence((self._seed, i), spawn_key=(k, 4)) for k in range(self.clouds))
            rngs = [np.random.default_rng(stream) for stream in streams]
            points, _ = draw_points(*self._drawing, [i] * self.clouds, rngs)
            self._kept[i] = self.encoder(points.to(next(self.encoder.parameters())))
        return self._kept[i]
