"""Settings of labelled scenes to train on: which scans and generated rooms, what labels mean, how crops are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pcgen.config import Settings

from .scenes import STUFF
from .scenes.augmentation import AugmentationConfig
from .scenes.crops import CropConfig
from .synthetic.scenes import SceneSettings

__all__ = ["GeneratedConfig", "SceneDataConfig"]


@dataclass(frozen=True)
class GeneratedConfig(Settings):
    """Scenes made by the generator; no object is in two of train, val and test."""

    train: int = 48
    val: int = 4
    test: int = 8
    seed: int = 0
    amodal: bool = False  # ray lengths of whole objects, cast against their meshes, instead of those of the points
    scene: SceneSettings = field(default_factory=SceneSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.train, self.val, self.test, self.seed) < 0:
            given = f"{self.train}, {self.val}, {self.test} and {self.seed}"
            raise ValueError(f"train, val, test and seed must not be negative, got {given}")


@dataclass(frozen=True)
class SceneDataConfig(Settings):
    """Which scenes, what their labels mean, and how crops of them are drawn."""

    source: str | None = None  # a folder of scans, or one scan; None: only generated scenes
    # Files, folders or patterns, relative to `source`. All (): its folders train, val and test; without such, all scans
    # there, and a share of them is held out.
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    generated: GeneratedConfig | None = None  # scenes to train on too, or alone
    # Class of each name (or number, of labels without names): 1 … C; 0 background. {}: objects are of one class
    classes: Mapping[str | int, int] = field(default_factory=dict)
    semantic: str | None = None  # the column of classes, where its name is unusual
    instance: str | None = None  # the column of instances, likewise
    stuff: tuple[str, ...] = STUFF  # names of classes whose instances are background
    zero_unannotated: bool = False  # label 0 says that nobody annotated the point
    scale: float = 1.0  # metres in a unit of the files, what coordinates are multiplied by
    repeat: int = 1  # how often the points of scans are seen in an epoch, those of generated scenes once
    crop: CropConfig = field(default_factory=CropConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    val_share: float = 0.1  # of the scans, where none are named
    test_share: float = 0.1
    strict: bool = False  # raise at the first unusable scan instead of skipping it

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.val_share, self.test_share) < 0 or self.val_share + self.test_share >= 1:
            raise ValueError(
                f"val_share and test_share must not be negative and must leave scenes to train on, "
                f"got {self.val_share} and {self.test_share}"
            )
        if not 0 < self.scale < np.inf:
            raise ValueError(f"scale must be a positive number of metres, got {self.scale}")
        if self.repeat < 1:
            raise ValueError(f"repeat must be at least 1, got {self.repeat}")
        numbers = sorted({number for number in self.classes.values() if number != 0})
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"classes must be numbered 1, 2, … without gaps, or 0 for background, got {numbers}")

    @property
    def class_names(self) -> dict[int, str]:
        """The names of classes 1 … C; of several that are one, all."""
        names: dict[int, list[str]] = {}
        for name, number in self.classes.items():
            names.setdefault(number, []).append(str(name))
        return {number: " or ".join(names[number]) for number in sorted(names) if number > 0}
