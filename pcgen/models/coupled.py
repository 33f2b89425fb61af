"""Noise that is coupled to the points of training shapes once, so that steps only draw pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from pcgen.data.shapes import DataConfig, Shapes
from pcgen.flows import exact_coupling
from pcgen.models.noise import path_noise
from pcgen.models.objective import ObjectiveConfig

__all__ = ["CoupledNoise", "coupled_once"]

MOST_POINTS = 4096  # paired at once: 10,000 in three parts cost a third of the time of one, and paths 1 % longer


class CoupledNoise(Sequence):
    """(K, P, 3) normal noise for the P input points of each training shape, coupled when first asked for, then kept.

    Every one of the K draws is paired with the shape's standardised points by optimal transport (see
    :func:`pcgen.flows.exact_coupling`). It depends on the seed and the shape's number alone.
    """

    def __init__(self, shapes: Shapes, config: DataConfig, draws: int, seed: int):
        self._shapes, self._config, self._draws, self._seed = shapes, config, draws, seed
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._shapes.train)

    def __getitem__(self, i: int) -> np.ndarray:
        if i not in self._kept:
            train, own = self._shapes.train, self._config.normalise == "shape"
            normalisation = train.own_normalisations[i] if own else self._shapes.normalisation
            x = torch.from_numpy(normalisation.apply(train.input(i)))
            noise = path_noise(self._seed, int(i), self._draws, len(x))
            self._kept[i] = exact_coupling(x.expand_as(noise), noise, most=MOST_POINTS)[1].numpy()
        return self._kept[i]


def coupled_once(shapes: Shapes, config: DataConfig, objective: ObjectiveConfig, seed: int) -> Shapes:
    """``shapes`` whose training batches bring coupled noise along, where ``objective`` says ``coupling: once``.

    >>> from pcgen.data import batches, load
    >>> config = DataConfig(shapes=4, mesh_points=100, points=50)
    >>> shapes = coupled_once(load(config), config, ObjectiveConfig(coupling="once"), seed=0)
    >>> batch = next(batches(shapes.train, shapes.normalisation, config, batch=2, seed=0, epoch=0))
    >>> batch.noise.shape
    torch.Size([2, 50, 3])
    """
    if (objective.name, objective.coupling) != ("flow_matching", "once"):
        return shapes
    noise = CoupledNoise(shapes, config, objective.noise_draws, seed)
    return replace(shapes, train=replace(shapes.train, noise=noise))
