"""Labelled scenes to train, validate and test on: scans of files, and generated ones, as many in memory as allowed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import UnreadableFile
from .scene_config import GeneratedConfig, SceneDataConfig
from .scenes import UNANNOTATED, Scene, find_scenes, read_scene, warn_scale
from .splits import SPLITS, Skipped, hash_splits
from .synthetic.scenes import GeneratedScene, generate_scene

__all__ = ["GeneratedConfig", "SceneDataConfig", "SceneSet", "SceneSets", "TrainingScene", "load_scenes"]

Progress = Callable[[int, int], None]  # scenes done, scenes in all
HELD = 20_000_000  # points of scenes in memory, some 60 bytes each; the least recently used go first
FLOOR = 0.01  # share of a scan's points that may lie below its floor, as for the network


class TrainingScene(NamedTuple):
    """A scene as a network takes it: in metres, with the features it asks for and classes 1 … C."""

    scene: Scene
    floor: float  # m, along `up`: what heights are above
    generated: GeneratedScene | None  # what is known of it besides; None of a scan, and unless `amodal`


class SceneSet(Sequence[TrainingScene]):
    """Scenes that are read or made when they are asked for, and kept while there is room."""

    def __init__(self, names: Sequence[str], makers: Sequence[Callable[[], TrainingScene]]):
        self.names, self._makers = tuple(names), tuple(makers)
        self._kept: OrderedDict[int, TrainingScene] = OrderedDict()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> TrainingScene:
        if i not in self._kept:
            self._kept[i] = self._makers[i]()
            while len(self._kept) > 1 and sum(len(kept.scene) for kept in self._kept.values()) > HELD:
                self._kept.popitem(last=False)
        self._kept.move_to_end(i)
        return self._kept[i]


class SceneSets(NamedTuple):
    """The scenes of a run."""

    train: SceneSet
    val: SceneSet  # without any, scenes of `train`
    test: SceneSet
    visits: tuple[int, ...]  # crops of each training scene in an epoch, as many as hold its points once, or `repeat`
    skipped: tuple[Skipped, ...]  # what was found and not used, with the reason
    notes: tuple[str, ...]  # what people should know
    source: str  # one line: where from, and how many


def load_scenes(
    config: SceneDataConfig, features: Sequence[str] = (), up: str = "z", progress: Progress | None = None
) -> SceneSets:
    """The scenes that ``config`` describes, with ``features`` of the points; every scan is read once to be checked.

    ``FileNotFoundError`` for what is not there, ``ValueError`` where no scene has labels to train on, a scan lacks a
    feature, or an object is of a class that ``config.classes`` leaves out.

    >>> sets = load_scenes(SceneDataConfig(generated=GeneratedConfig(train=2, val=1, test=0)))
    >>> len(sets.train), len(sets.test), sets.train[0].scene.instances > 0
    (2, 0, True)
    """
    if config.source is None and config.generated is None:
        raise ValueError("no scenes to train on: give data.source (--data FOLDER) or data.generated")
    if "colour" in features and config.generated:
        raise ValueError("generated scenes have no colour: leave colour out of model.features, or data.generated out")
    files = _files(config) if config.source is not None else dict.fromkeys(SPLITS, ())
    usable, sizes, skipped = _check(config, files, features, progress or (lambda done, total: None))
    if config.source is not None and config.generated and not any(usable.values()):  # else training would hide it
        raise ValueError(f"no labelled scenes in {config.source}: {_nothing(config, files, skipped)}")
    parts = {split: _SetParts([], []) for split in SPLITS}
    for split, paths in usable.items():
        for path in paths:
            parts[split].add(str(path), _reader(config, path, features, up))
    visits = [config.repeat * -(-sizes[path] // config.crop.points) for path in usable["train"]]
    if config.generated:
        for split in SPLITS:
            for i in range(getattr(config.generated, split)):
                parts[split].add(f"generated/{split}/{i:04d}", _generator(config, split, i, features, up))
    sets = {split: SceneSet(*part) for split, part in parts.items()}
    if not sets["train"]:
        raise ValueError(f"no labelled scenes to train on: {_nothing(config, files, skipped)}")
    if len(visits) < len(sets["train"]):  # generated scenes are about as large as the first of them
        each = -(-len(sets["train"][len(visits)].scene) // config.crop.points)
        visits += [each] * (len(sets["train"]) - len(visits))
    notes = []
    if not sets["val"]:
        sets["val"] = sets["train"]
        notes.append("no scenes to validate on: validation and thresholds use scenes of the training")
    if not sets["test"]:
        notes.append("no scenes to test on: the run ends without scores (data.test names some)")
    counts = ", ".join(f"{len(parts[split].names)} {split}" for split in SPLITS)
    source = f"{config.source or 'generated'}{' and generated' * bool(config.source and config.generated)}: {counts}"
    return SceneSets(*(sets[split] for split in SPLITS), tuple(visits), tuple(skipped), tuple(notes), source)


class _SetParts(NamedTuple):
    names: list[str]
    makers: list[Callable[[], TrainingScene]]

    def add(self, name: str, make: Callable[[], TrainingScene]) -> None:
        self.names.append(name)
        self.makers.append(make)


def _files(config: SceneDataConfig) -> dict[str, tuple[Path, ...]]:
    """The scans of each split, none twice."""
    root = Path(config.source).expanduser()
    named = {split: getattr(config, split) for split in SPLITS}
    if not root.exists():
        raise FileNotFoundError(f"data.source must be a folder of scans or a scan, there is no {root}")
    if not any(named.values()):
        folders = {split: root / split for split in SPLITS if (root / split).is_dir()}
        named = {split: (split,) if split in folders else () for split in SPLITS}
    found: dict[str, tuple[Path, ...]] = {}
    for split in reversed(SPLITS):  # what is to be tested on is not trained on, though a pattern of `train` has it too
        paths = {path: None for pattern in named[split] for path in _matching(root, pattern)}
        found[split] = tuple(path for path in paths if not any(path in earlier for earlier in found.values()))
    if not any(named.values()):
        found["train"] = tuple(find_scenes(root))
    if not found["val"]:
        share = 0.0 if found["test"] else config.test_share
        names = {path: path.relative_to(root).as_posix() for path in found["train"]}
        split_of = hash_splits(names.values(), config.val_share, share)
        held = {s: tuple(path for path, name in names.items() if split_of[name] == s) for s in SPLITS}
        found |= {s: held[s] for s in ("train", "val")} | ({} if found["test"] else {"test": held["test"]})
    return found


def _matching(root: Path, pattern: str) -> Iterator[Path]:
    """The scans that a file, a folder or a pattern means."""
    path = root / pattern
    paths = [path] if path.exists() else sorted(root.glob(pattern)) if not Path(pattern).is_absolute() else []
    if not paths:
        raise FileNotFoundError(f"no scan, folder or match {pattern!r} in {root}")
    for each in paths:
        yield from find_scenes(each)


class _Checked(NamedTuple):
    """What a first look at all scans found."""

    usable: dict[str, list[Path]]  # by split
    sizes: dict[Path, int]  # points
    skipped: list[Skipped]


def _check(
    config: SceneDataConfig, files: Mapping[str, Sequence[Path]], features: Sequence[str], tell: Progress
) -> _Checked:
    """Read every scan once: the unusable ones are skipped, or raise if ``strict``."""
    checked = _Checked({split: [] for split in SPLITS}, {}, [])
    total, done = sum(map(len, files.values())), 0
    for split, paths in files.items():
        for path in paths:
            done += 1
            try:
                scene = _read(config, path)
                if not scene.instances:
                    raise UnreadableFile(path, "no object is annotated")
            except (UnreadableFile, FileNotFoundError) as error:  # a dangling link is not found
                if config.strict:
                    raise
                checked.skipped.append(Skipped(path, getattr(error, "reason", "no such file")))
            else:
                if not checked.sizes:  # the others are hardly in another unit
                    warn_scale(scene)
                checked.sizes[path] = len(_prepared(config, scene, features))
                checked.usable[split].append(path)
            tell(done, total)
    return checked


def _nothing(config: SceneDataConfig, files: Mapping[str, Sequence[Path]], skipped: Sequence[Skipped]) -> str:
    """Why there are none."""
    if skipped:
        path, reason = skipped[0]
        return f"none of {sum(map(len, files.values()))} scans is usable, the first: {path}: {reason}"
    return f"data.train names none in {config.source} and data.generated.train is 0 or not given"


def _reader(config: SceneDataConfig, path: Path, features: Sequence[str], up: str) -> Callable[[], TrainingScene]:
    def make() -> TrainingScene:
        scene = _prepared(config, _read(config, path), features)
        return TrainingScene(scene, _floor(scene, up), None)

    return make


def _generator(
    config: SceneDataConfig, split: str, i: int, features: Sequence[str], up: str
) -> Callable[[], TrainingScene]:
    def make() -> TrainingScene:
        wanted = config.generated
        # No two (seed, split, i) share a seed.
        seed = (wanted.seed * 2**32 + i) * len(SPLITS) + SPLITS.index(split)
        made = generate_scene(seed, replace(wanted.scene, split=split))
        scene = _prepared(config, made.scene, features)
        return TrainingScene(scene, _floor(scene, up), made if wanted.amodal else None)

    return make


def _read(config: SceneDataConfig, path: Path) -> Scene:
    columns = {"semantic": config.semantic, "instance": config.instance}
    scene = read_scene(path, **columns, stuff=config.stuff, zero_unannotated=config.zero_unannotated, labelled=True)
    return scene if config.scale == 1 else replace(scene, points=scene.points * config.scale)


def _floor(scene: Scene, up: str) -> float:
    """The height that all but the lowest percent of the points exceed."""
    along = scene.points[:, "xyz".index(up)]
    lowest = int(FLOOR * (len(along) - 1))
    return float(np.partition(along, lowest)[lowest])


def _prepared(config: SceneDataConfig, scene: Scene, features: Sequence[str]) -> Scene:
    """The scene with the features that are wanted and no other columns, its classes those of ``config``."""
    given = [name for name in features if name != "height"]  # which is derived
    if missing := [name for name in given if name not in scene.features]:
        known = ", ".join(scene.features) or "coordinates alone"
        raise ValueError(f"{scene.source} has no {missing[0]}, which model.features asks for: it has {known}")
    scene = replace(scene, features={name: scene.features[name] for name in given}, attributes={})
    if not config.classes:
        return replace(scene, semantic=None)
    return scene.with_labels(*_of_classes(config, scene), config.class_names)


def _of_classes(config: SceneDataConfig, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Semantic and instance labels (N,), the classes those of ``config``; objects of class 0 are background."""
    if scene.semantic is None:
        raise ValueError(f"{scene.source} has no classes, which data.classes maps: leave data.classes out")
    objects = scene.instance > 0
    kinds = [int(kind) for kind in np.unique(scene.semantic[objects]) if kind != UNANNOTATED]
    names = {kind: scene.classes.get(kind, str(kind)) for kind in kinds}
    number_of = {str(name): number for name, number in config.classes.items()}
    if unknown := sorted(set(names.values()) - set(number_of)):
        raise ValueError(
            f"{scene.source} has objects of class {', '.join(map(repr, unknown))}, which data.classes leaves out: "
            f"give a number from 1, or 0 for background"
        )
    semantic = np.minimum(scene.instance, 0)  # 0 and −1 where there is no object
    semantic[objects] = UNANNOTATED
    for kind, name in names.items():
        semantic[objects & (scene.semantic == kind)] = number_of[name]
    return semantic, np.where(objects & (semantic == 0), 0, scene.instance)
