"""Clouds that the commands are given: a set from a file or folder, or one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["read_input", "read_one"]


def read_input(path: str, seed: int = 0) -> tuple[Sequence[np.ndarray], tuple[str, ...]]:
    """The clouds (N_i, 3) of a file or folder, and their names; meshes are sampled by ``seed``."""
    from pcgen.data import read_clouds

    return read_clouds(Path(path).expanduser(), seed=seed)


def read_one(path: str, seed: int = 0) -> np.ndarray:
    """One cloud (N, 3): that of a file, or number ``INDEX``, from 0, of ``FILE:INDEX``.

    Raises:
        ValueError: the file holds several and none is named, or not as many.
    """
    file, _, index = path.rpartition(":")
    numbered = index.isdecimal() and not Path(path).exists()
    clouds, _ = read_input(file if numbered else path, seed)
    if not numbered and len(clouds) > 1:
        raise ValueError(f"{path} holds {len(clouds)} clouds: say which one, as in {path}:0")
    number = int(index) if numbered else 0
    if number >= len(clouds):
        raise ValueError(f"{file} holds {len(clouds)} clouds, numbers 0 to {len(clouds) - 1}; {number} was asked for")
    return clouds[number]
