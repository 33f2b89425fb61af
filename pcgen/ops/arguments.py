"""Options that are no tensors, checked: one line for what PyTorch would answer obscurely or not at all."""

from __future__ import annotations

import math

import numpy as np
import torch

__all__ = ["flag", "integer", "number"]


def integer(name: str, value: int) -> int:
    """``value``, Python's, NumPy's or a symbol of ``torch.compile``; ``TypeError`` for all else, bool included.

    >>> integer("k", np.int64(3))
    3
    >>> integer("k", 3.0)
    Traceback (most recent call last):
    TypeError: k must be an integer, got float
    """
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return value
    if isinstance(value, np.integer):
        return int(value)
    raise TypeError(f"{name} must be an integer, got {type(value).__name__}")


def number(name: str, value: float) -> float:
    """``value``, Python's or NumPy's, as a float; ``TypeError`` for all else, bool included.

    >>> number("radius", np.float32(0.5)), number("radius", 10**400)
    (0.5, inf)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def flag(name: str, value: bool) -> bool:
    """``value``, Python's or NumPy's; ``TypeError`` for all else.

    >>> flag("squared", 0.1)
    Traceback (most recent call last):
    TypeError: squared must be True or False, got float
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
    return bool(value)
