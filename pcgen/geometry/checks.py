"""What the functions of geometry ask of their arguments, each refusal one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64)


def check_floats(name: str, given: Tensor, *shape: int | str) -> Tensor:
    """``given``, if it is a float32 or float64 tensor whose last axes are ``shape``; a name stands for any number."""
    if not isinstance(given, Tensor) or given.dtype not in FLOATS:
        got = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise TypeError(f"{name} must be a float32 or float64 tensor, got {got}")
    last = given.shape[given.ndim - len(shape) :]
    if given.ndim < len(shape) or any(isinstance(n, int) and n != m for n, m in zip(shape, last)):
        expected = ", ".join(map(str, shape))
        raise ValueError(f"{name} must have the shape (..., {expected}), got {tuple(given.shape)}")
    return given


def check_finite(name: str, given: Tensor) -> None:
    """``ValueError`` where a value is NaN or infinite."""
    bad = ~given.isfinite()
    if bad.any():
        raise ValueError(f"{name} must be finite, got {int(bad.sum())} of {bad.numel()} values NaN or infinite")


def check_choice(name: str, given: str, legal: Sequence[str] | object) -> None:
    """``ValueError`` unless ``given`` is one of the ``legal`` words, a sequence or a ``Literal``."""
    words = get_args(legal) or legal
    if given not in words:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}, got {given!r}")
