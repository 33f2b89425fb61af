"""The sets that ``pcgen evaluate`` is given: which clouds of a file or folder are taken, and which of their points."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pcgen.cli.inputs import read_input

__all__ = ["Given", "named", "read_set"]

H5_SUFFIXES = (".h5", ".hdf5")
SPLITS = ("train", "val", "test")
WHOLE = 15000  # points of a PC15k cloud


class Given(NamedTuple):
    """A set of clouds and where it is from."""

    clouds: list[np.ndarray]  # S arrays (N_i, 3)
    name: str  # short, for tables
    path: str
    what: str  # in words: how many clouds, which points, from where
    departure: str | None  # from the protocol, in words


def named(samples: Given, references: Given) -> tuple[str, str]:
    """Names that tell the two sets apart: of the files, their paths, or what they are for."""
    pairs = (samples.name, references.name), (samples.path, references.path), ("samples", "references")
    return next(pair for pair in pairs if pair[0] != pair[1])


def read_set(role: str, path: str, args: argparse.Namespace, split: str | None = None) -> Given:
    """The clouds at ``path``; of a PC15k folder the protocol's points of ``split``, or of the one that is named.

    A ``UserWarning`` where a split is not the one that is wanted, and where its clouds are no whole ones.

    Raises:
        ValueError: several splits or categories lie there, and it is not clear which one is meant.
    """
    folder = _folder(role, Path(path).expanduser(), split)
    clouds, by_seed = _read(folder, args.seed)
    of_split, departure = folder.is_dir() and folder.name in SPLITS, None
    sizes = sorted({len(cloud) for cloud in clouds})
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    if of_split and sizes[0] >= WHOLE:
        clouds, points = _protocols_points(clouds, args), _range(args)
        if split not in (None, folder.name):
            departure = f"{role} of the {folder.name} split in place of {split}"
            warnings.warn(f"{path}: {departure}", stacklevel=2)
    else:
        points = f"{size} points"
        if args.points and args.points < sizes[-1]:
            points = f"{args.points:,} of {points}, {f'drawn by seed {args.seed}' if by_seed else 'the first ones'}"
        if of_split:
            warnings.warn(f"{path}: clouds of {size} points, PC15k has {WHOLE:,}: taken as they are", stacklevel=2)
    name = f"{folder.absolute().parent.name}/{folder.name}" if of_split else folder.name or path
    return Given(clouds, name, path, f"{len(clouds):,} clouds, {points}, from {folder}", departure)


def _folder(role: str, root: Path, split: str | None) -> Path:
    """``root`` itself, or its split."""
    if not root.is_dir() or root.name in SPLITS:
        return root
    here = [name for name in SPLITS if (root / name).is_dir()]
    if split in here:
        return root / split
    if here:
        found = f"no {split} split, only {', '.join(here)}" if split else f"the splits {', '.join(here)}"
        raise ValueError(f"{root} has {found}: say which are the {role}, as in {root / here[0]}")
    below = sorted(folder.name for folder in root.iterdir() if any((folder / name).is_dir() for name in SPLITS))
    if below:
        more = ", …" if len(below) > 3 else ""
        raise ValueError(f"{root} holds the categories {', '.join(below[:3])}{more}: name one, as in {root / below[0]}")
    return root


def _protocols_points(clouds: list[np.ndarray], args: argparse.Namespace) -> list[np.ndarray]:
    from pcgen.metrics import pc15k_references

    return list(pc15k_references(clouds, args.protocol, args.points, args.normalise).numpy())


def _range(args: argparse.Namespace) -> str:
    from pcgen.metrics import PROTOCOLS

    first, last = PROTOCOLS[args.protocol].point_range
    return f"points {first}:{first + args.points if args.points else last}"


def _read(path: Path, seed: int) -> tuple[list[np.ndarray], bool]:
    """All clouds of a file or folder, and whether the order of some one's points was drawn by ``seed``."""
    from pcgen.data.clouds import ARRAY_SUFFIXES
    from pcgen.data.formats import shape_files

    if path.suffix.lower() in H5_SUFFIXES:
        return _read_h5(path), False
    clouds = read_input(str(path), seed, strict=True).points
    files = shape_files(path) if path.is_dir() else [path]
    return clouds, any(file.suffix.lower() not in ARRAY_SUFFIXES for file in files)


def _read_h5(path: Path) -> list[np.ndarray]:
    """Clouds (S, N, 3) of an HDF5 file: its data set ``points`` or ``samples``, or the only one of that shape."""
    from pcgen.data import UnreadableFile
    from pcgen.data.files import reading

    try:
        import h5py
    except ImportError:
        raise UnreadableFile(path, "reading HDF5 needs h5py (pip install h5py)") from None
    with reading(path), h5py.File(path) as file:
        found: dict[str, h5py.Dataset] = {}
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        clouds = [name for name, item in found.items() if item.ndim == 3 and item.shape[2] == 3]
        chosen = [name for name in ("points", "samples") if name in clouds] or clouds
        if len(chosen) != 1:
            raise UnreadableFile(
                path, f"expected one data set (S, N, 3), or 'points', got {', '.join(found) or 'none'}"
            )
        return list(np.asarray(found[chosen[0]][()], dtype=np.float32))
