"""PointFlow's encoder q(z | X): a permutation-invariant PointNet with one head, or two for mean and variance."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pcgen.config import Settings
from pcgen.flows import products
from pcgen.flows.norm import BatchNorm

__all__ = ["Encoder", "EncoderConfig", "Posterior"]

POINTS_AT_ONCE = 65_536  # bounds the memory of encoding large clouds


@dataclass(frozen=True)
class EncoderConfig(Settings):
    """Widths of the encoder; the defaults are the paper's."""

    widths: tuple[int, ...] = (128, 128, 256, 512)  # pointwise layers, before the maximum over points
    head: tuple[int, ...] = (256, 128)  # hidden layers of each head
    variational: bool = True  # two heads (mean and log-variance), else one: an autoencoder

    def __post_init__(self):
        super().__post_init__()
        if not self.widths or min(self.widths) < 1 or any(h < 1 for h in self.head):
            raise ValueError(f"layer widths must be positive, got widths={self.widths}, head={self.head}")


class Posterior(NamedTuple):
    """A diagonal Gaussian over shape codes, or a single code."""

    mean: Tensor  # (B, Z)
    logvar: Tensor | None  # (B, Z), None for a deterministic encoder

    def sample(self, noise: Tensor) -> Tensor:
        """z = μ + exp(½ logvar)·ε, for standard normal ``noise`` (B, Z); the mean where there is no variance."""
        return self.mean if self.logvar is None else self.mean + (0.5 * self.logvar).exp() * noise


class Encoder(nn.Module):
    """Pointwise layers with batch norm (ReLU after all but the last), maximum over points, heads.

    >>> encoder = Encoder(latent=16, config=EncoderConfig()).eval()
    >>> encoder(torch.zeros(2, 100, 3)).mean.shape
    torch.Size([2, 16])
    """

    def __init__(self, latent: int, config: EncoderConfig):
        super().__init__()
        sizes = (3, *config.widths)
        self.points = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(BatchNorm(width) for width in config.widths)
        self.mean = _head(config.widths[-1], config.head, latent)
        self.logvar = _head(config.widths[-1], config.head, latent) if config.variational else None

    def forward(self, x: Tensor) -> Posterior:
        """x (B, N, 3) → posterior over z."""
        # Batch norm needs all points at once to train; afterwards the maximum can be taken piece by piece.
        parts = [x] if self.training else x.split(max(1, POINTS_AT_ONCE // len(x)), dim=1)
        h = self._features(parts[0])
        for part in parts[1:]:
            h = torch.maximum(h, self._features(part))
        return Posterior(self.mean(h), None if self.logvar is None else self.logvar(h))

    def _features(self, x: Tensor) -> Tensor:
        """The largest value over points of each pointwise feature, (B, H)."""
        shapes, points, _ = x.shape
        h = x.reshape(shapes * points, 3)
        for i, (linear, norm) in enumerate(zip(self.points, self.norms)):
            h = norm(products.linear(h, linear.weight, linear.bias))
            if i < len(self.points) - 1:
                h = torch.relu(h)
        return _largest(h.reshape(shapes, points, -1))


def _largest(h: Tensor, block: int = 32) -> Tensor:
    """The largest of h (B, N, H) over N, as ``h.max(1).values``, in a quarter of its time on a CPU.

    There ``max`` along a middle axis goes element by element, for the index that its gradient needs; ``amax`` does not.
    So the first block that holds the largest value is found by ``amax``, and the index in that block alone.
    """
    shapes, points, width = h.shape
    if points % block:
        return h.max(1).values
    with torch.no_grad():
        first = h.reshape(shapes, -1, block, width).amax(2).argmax(1, keepdim=True) * block  # (B, 1, H)
        inside = h.gather(1, first + torch.arange(block, device=h.device)[:, None]).argmax(1, keepdim=True)
    return h.gather(1, first + inside).squeeze(1)


def _head(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Linear, batch norm, ReLU for each hidden width, then a linear layer."""
    layers: list[nn.Module] = []
    for a, b in zip((inputs, *hidden), hidden):
        layers += [nn.Linear(a, b), BatchNorm(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((inputs, *hidden)[-1], outputs))
