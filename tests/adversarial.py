"""Clouds that break things, for the tests of several modules."""

from __future__ import annotations

import os

import torch
from hypothesis import strategies as st

# The definitions, or kernels that were compiled to be checked: tens of times slower than those that are shipped.
SLOW = "PCGEN_KERNELS" in os.environ

KINDS = {
    "random": lambda x: x,
    "coincident": lambda x: x[:1].expand_as(x).clone(),
    "duplicates": lambda x: x[torch.arange(len(x)) % 3 % len(x)],
    "collinear": lambda x: x[:, :1] * torch.arange(1.0, x.shape[1] + 1, dtype=x.dtype),
    "coplanar": lambda x: torch.cat([x[:, :-1], torch.ones_like(x[:, :1])], 1),
    "lattice": lambda x: x.mul(1.5).round(),
    "far": lambda x: x + 1e6,
    "tiny": lambda x: x * 1e-6,
    "two clusters": lambda x: x + 1e4 * (torch.arange(len(x)) % 2)[:, None],
}
seeds = st.integers(0, 2**31 - 1)
sizes = st.one_of(st.sampled_from([1, 15, 16, 17, 257]), st.integers(1, 70))
dimensions = st.integers(1, 4)
kinds = st.sampled_from(sorted(KINDS))
dtypes = st.sampled_from([torch.float32, torch.float64])


def cloud(seed: int, *shape: int, kind: str = "random", dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Points (..., D) of a kind, the same for a seed."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return KINDS[kind](x).to(dtype)


def rotation(seed: int) -> torch.Tensor:
    return torch.linalg.qr(cloud(seed, 3, 3)).Q
