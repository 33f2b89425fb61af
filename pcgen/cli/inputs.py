"""Clouds that the commands are given: a set from a file or folder, or one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pcgen.cli.data import skipped_lines

if TYPE_CHECKING:
    from pcgen.data import Clouds

__all__ = ["keep_inputs", "read_input", "read_one"]


def keep_inputs(inputs: Iterable[str], outputs: Iterable[Path | None], what: str = "an input") -> None:
    """``ValueError`` if an output would be written over an input; an input may be ``FILE:INDEX``, outputs be none."""
    written = {path.expanduser().resolve() for path in outputs if path is not None}
    for given in inputs:
        file, _, index = given.rpartition(":")
        names = [given, file] if index.isdecimal() and file else [given]
        if any(Path(name).expanduser().resolve() in written for name in names):
            raise ValueError(f"{given} is {what}, which would be lost: give the output another file")


def read_input(path: str, seed: int = 0, strict: bool = False) -> Clouds:
    """The clouds (N_i, 3) of a file or folder and their names; meshes are sampled by ``seed``.

    Unusable files of a folder are skipped and listed on stderr, or raise if ``strict``.
    """
    from pcgen.data import Clouds, UnreadableFile, read_clouds
    from pcgen.data.formats import shape_files

    root = Path(path).expanduser()
    if strict or not root.is_dir():
        return read_clouds(root, seed=seed)
    points, names, skipped = [], [], []
    for file in shape_files(root):
        stem = file.relative_to(root).with_suffix("").as_posix()
        try:
            clouds = read_clouds(file, seed=seed)
        except (UnreadableFile, FileNotFoundError) as error:  # a dangling link is not found
            skipped.append((file, getattr(error, "reason", "no such file")))
            continue
        points += clouds.points
        names += [stem] if len(clouds.points) == 1 else [f"{stem}/{name}" for name in clouds.names]
    for line in skipped_lines(skipped):
        print(line, file=sys.stderr)
    if not points:
        raise ValueError(f"no usable shape in {root}: expected clouds (npz, npy, ply …) or meshes (obj, off, stl …)")
    return Clouds(points, tuple(names))


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
