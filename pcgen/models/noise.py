"""Prior noise from one stream per (seed, shape): the same on every device, in every batch and chunk.

A stream is sequential, so more points extend a cloud and more shapes extend a set: the first ones stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

__all__ = ["choices", "path_noise", "point_noise", "seed_of", "shape_noise"]

SHAPE, POINT, PATH, CHOICE = 0, 1, 2, 3  # what a stream is for


def seed_of(generator: torch.Generator | int | None) -> int:
    """A seed for the streams: the integer itself, or a draw from the generator (None: PyTorch's own).

    >>> seed_of(7), seed_of(torch.Generator().manual_seed(0)) == seed_of(torch.Generator().manual_seed(0))
    (7, True)
    """
    if isinstance(generator, (int, np.integer)):
        if generator < 0:
            raise ValueError(f"a seed must not be negative, got {generator}")
        return int(generator)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a seed or a torch.Generator, got {type(generator).__name__}")
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))


def shape_noise(
    seed: int,
    shapes: int,
    dim: int,
    *,
    first: int = 0,
    temperature: float = 1.0,
    truncation: float | None = None,
) -> Tensor:
    """(shapes, dim) float32 normal noise; row i is that of shape ``first + i``."""
    return _noise(seed, range(first, first + shapes), SHAPE, (dim,), temperature, truncation)


def point_noise(
    seed: int,
    shapes: int,
    points: int,
    *,
    first: int = 0,
    temperature: float = 1.0,
    truncation: float | None = None,
) -> Tensor:
    """(shapes, points, 3) float32 normal noise; row i is that of shape ``first + i``.

    >>> few, many = point_noise(0, 1, 10), point_noise(0, 2, 1000)
    >>> torch.equal(few[0], many[0, :10])
    True
    """
    return _noise(seed, range(first, first + shapes), POINT, (points, 3), temperature, truncation)


def path_noise(seed: int, shape: int, draws: int, points: int) -> Tensor:
    """(draws, points, 3) float32 normal noise to train a shape's paths on, apart from what it is sampled with."""
    return _noise(seed, range(shape, shape + 1), PATH, (draws, points, 3), 1.0, None)[0]


def choices(seed: int, shapes: int, shares: Sequence[float]) -> list[int]:
    """One of several things for each of so many shapes, as often as its share of the sum; entry i is that of shape i.

    >>> choices(0, 6, (1, 0, 2))
    [0, 2, 2, 0, 2, 2]
    """
    ends = np.cumsum(np.asarray(shares, dtype=np.float64))
    draws = [_stream(seed, shape, CHOICE).random() for shape in range(shapes)]
    return np.searchsorted(ends, np.array(draws) * ends[-1], side="right").tolist()


def _stream(seed: int, shape: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(shape, purpose))))


def _noise(
    seed: int,
    shapes: range,
    purpose: int,
    size: tuple[int, ...],
    temperature: float,
    truncation: float | None,
) -> Tensor:
    if not 0 <= temperature < np.inf:
        raise ValueError(f"temperature must be finite and not negative, got {temperature}")
    if truncation is not None and not truncation > 0:
        raise ValueError(f"truncation must be positive (standard deviations), got {truncation}")
    noise = np.empty((len(shapes), *size), dtype=np.float32)
    for row, shape in zip(noise, shapes):
        _stream(seed, shape, purpose).standard_normal(dtype=np.float32, out=row)
    if truncation is not None:
        # The quantile map to the truncated normal: every value keeps its rank, so streams stay aligned.
        tail = ndtr(-float(truncation))
        noise = ndtri(tail + ndtr(noise.astype(np.float64)) * (1 - 2 * tail)).astype(np.float32)
    return torch.from_numpy(noise) * temperature
