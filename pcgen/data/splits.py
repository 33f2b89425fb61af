"""Which files of a folder are the shapes of which category, and which of them train, validate and test."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

from .formats import shape_files

__all__ = ["SPLITS", "SYNSETS", "ShapeFile", "Skipped", "find_shapes", "hash_splits", "nearest"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# The categories of ShapeNetCore.v2 by WordNet synset id (Chang et al., arXiv 1512.03012).
SYNSETS = {
    **{"02691156": "airplane", "02747177": "can", "02773838": "bag", "02801938": "basket"},
    **{"02808440": "bathtub", "02818832": "bed", "02828884": "bench", "02843684": "birdhouse"},
    **{"02871439": "bookshelf", "02876657": "bottle", "02880940": "bowl", "02924116": "bus"},
    **{"02933112": "cabinet", "02942699": "camera", "02946921": "tin_can", "02954340": "cap"},
    **{"02958343": "car", "02992529": "cellphone", "03001627": "chair", "03046257": "clock"},
    **{"03085013": "keyboard", "03207941": "dishwasher", "03211117": "monitor", "03261776": "earphone"},
    **{"03325088": "faucet", "03337140": "file", "03467517": "guitar", "03513137": "helmet"},
    **{"03593526": "jar", "03624134": "knife", "03636649": "lamp", "03642806": "laptop"},
    **{"03691459": "speaker", "03710193": "mailbox", "03759954": "microphone", "03761084": "microwave"},
    **{"03790512": "motorcycle", "03797390": "mug", "03928116": "piano", "03938244": "pillow"},
    **{"03948459": "pistol", "03991062": "pot", "04004475": "printer", "04074963": "remote_control"},
    **{"04090263": "rifle", "04099429": "rocket", "04225987": "skateboard", "04256520": "sofa"},
    **{"04330267": "stove", "04379243": "table", "04401088": "telephone", "04460130": "tower"},
    **{"04468005": "train", "04530566": "vessel", "04554684": "washer"},
}


class ShapeFile(NamedTuple):
    """One file that is to be a shape."""

    path: Path
    name: str  # relative to the root, by "/", without the suffix
    category: str
    split: Split


class Skipped(NamedTuple):
    """Something in a folder that became no shape."""

    path: Path
    reason: str


class Found(NamedTuple):
    """What a folder holds before any file is read."""

    files: tuple[ShapeFile, ...]  # by name
    skipped: tuple[Skipped, ...]


def find_shapes(
    root: str | Path, categories: Sequence[str] = (), val_share: float = 0.1, test_share: float = 0.1
) -> Found:
    """The clouds and meshes in ``root`` and below, each with its category and split.

    The category is the first folder on the way to the file that is no split, synset ids by their name; without
    such a folder, or when each would hold a single shape, it is the name of ``root``. ``categories`` selects by
    name or synset id.

    The split is, in this order: the folder ``train``, ``val`` or ``test`` among the first two on the way; the
    lists ``train.txt``, ``val.txt`` and ``test.txt`` in ``root``, a relative name, file name or stem a line; or
    :func:`hash_splits` with the shares given. Files without a split beside others that have one, and listed names
    without a file, are reported as skipped.

    ``FileNotFoundError`` without such a folder; ``ValueError`` without a shape in it, for an unknown category,
    or a name in two lists.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    paths = {path: path.relative_to(root) for path in shape_files(root)}
    if not paths:
        raise ValueError(f"no shapes in {root}: expected clouds (.npy .npz .ply .xyz …) or meshes (.obj .off …)")
    label = _categories(root, paths)
    chosen = select_categories(categories, label.values())
    splits, skipped = _splits(root, paths, val_share, test_share)
    files = [ShapeFile(path, _name(paths[path]), label[path], split) for path, split in splits.items()]
    files = sorted((file for file in files if file.category in chosen), key=lambda file: (file.name, file.path))
    return Found(tuple(files), tuple(s for s in skipped if s.path not in label or label[s.path] in chosen))


def hash_splits(names: Iterable[str], val_share: float, test_share: float) -> dict[str, Split]:
    """The split of each name by a hash of that name alone, so that a new one never moves the others.

    The shares hold on average. Of three names and more at least two train and one validates, of fewer one trains, for
    which as few as needed are moved.

    >>> hash_splits(["a", "b", "c"], 0.1, 0.1)
    {'c': 'val', 'b': 'train', 'a': 'train'}
    """
    digests = {name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest() for name in names}
    place = {name: int(digest[:13], 16) / 16**13 for name, digest in digests.items()}  # uniform in [0, 1)
    order = sorted(place, key=lambda name: (place[name], name))
    n_val = sum(place[name] < val_share for name in order)
    n_test = sum(place[name] < val_share + test_share for name in order) - n_val
    few = len(order) < 3
    spare = max(0, len(order) - (1 if few else 2))
    n_val = min(n_val if few else max(n_val, 1), spare)
    n_test = min(n_test, spare - n_val)
    counts = {"val": n_val, "test": n_test, "train": len(order) - n_val - n_test}
    splits = [split for split, count in counts.items() for _ in range(count)]
    return cast("dict[str, Split]", dict(zip(order, splits)))


def select_categories(wanted: Sequence[str], there: Iterable[str]) -> set[str]:
    """The categories ``wanted``, by name or synset id, of those there are; all of them when none is named."""
    there = set(there)
    chosen = {SYNSETS.get(name, name) for name in wanted}
    if unknown := sorted(chosen - there):
        raise ValueError(f"no category {unknown[0]!r}{nearest(unknown[0], there)}")
    return chosen or there


def nearest(name: str, legal: Iterable[str]) -> str:
    """What to add to the answer to a wrong name.

    >>> nearest("chairs", ["car", "chair"])
    " (nearest: 'chair'; there are car, chair)"
    """
    legal = sorted(legal)
    near = difflib.get_close_matches(name, legal, n=1, cutoff=0.0)
    shown = ", ".join(legal[:12]) + (" …" if len(legal) > 12 else "")
    return f" (nearest: {near[0]!r}; there are {shown})" if near else ""


def _name(relative: Path) -> str:
    return relative.with_suffix("").as_posix()


def _categories(root: Path, paths: dict[Path, Path]) -> dict[Path, str]:
    """The category of every file."""
    own = SYNSETS.get(root.resolve().name, root.resolve().name)
    label = {}
    for path, relative in paths.items():
        folder = next((f for i, f in enumerate(relative.parts[:-1]) if i != _split_level(relative)), None)
        label[path] = own if folder is None else SYNSETS.get(folder, folder)
    shapes_have_folders = len(label) > 1 and len(set(label.values())) == len(label)
    return dict.fromkeys(label, own) if shapes_have_folders else label


def _split_level(relative: Path) -> int | None:
    """Which of the first two folders is the split; the inner one of two, since "train" is a category too."""
    levels = [i for i, folder in enumerate(relative.parts[:-1][:2]) if folder in SPLITS]
    return levels[-1] if levels else None


def _splits(
    root: Path, paths: dict[Path, Path], val_share: float, test_share: float
) -> tuple[dict[Path, Split], list[Skipped]]:
    """The split of every file that has one, and what has none."""
    levels = {path: _split_level(relative) for path, relative in paths.items()}
    if any(level is not None for level in levels.values()):
        splits = {p: cast("Split", paths[p].parts[i]) for p, i in levels.items() if i is not None}
        return splits, [Skipped(p, "not in a train, val or test folder") for p in paths if p not in splits]
    lists = {split: root / f"{split}.txt" for split in SPLITS if (root / f"{split}.txt").is_file()}
    if lists:
        return _listed_splits(lists, paths)
    hashed = hash_splits(map(_name, paths.values()), val_share, test_share)
    return {path: hashed[_name(relative)] for path, relative in paths.items()}, []


def _listed_splits(lists: dict[Split, Path], paths: dict[Path, Path]) -> tuple[dict[Path, Split], list[Skipped]]:
    of_entry: dict[str, list[Path]] = {}
    for path, relative in paths.items():
        for entry in {relative.as_posix(), _name(relative), relative.name, relative.stem}:
            of_entry.setdefault(entry, []).append(path)
    splits: dict[Path, Split] = {}
    skipped = []
    for split, file in lists.items():
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        for entry in filter(None, map(str.strip, lines)):
            if entry not in of_entry:
                skipped.append(Skipped(file, f"lists {entry!r}, which is no shape here"))
            for path in of_entry.get(entry, ()):
                if splits.setdefault(path, split) != split:
                    raise ValueError(f"{file} lists {entry!r}, which {splits[path]}.txt lists too")
    skipped += [Skipped(path, "in none of the lists of splits") for path in paths if path not in splits]
    return splits, skipped
