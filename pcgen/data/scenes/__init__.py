"""Labelled scans: readers and writers, tiles and crops, and a guess at the unit."""

from .readers import STUFF, find_scenes, read_scene
from .scale import ScaleGuess, box_without_strays, scale_guess, warn_scale
from .scene import BACKGROUND, UNANNOTATED, Scene, Source, make_scene
from .tiles import Tile, crop, tiles
from .writers import write_scene

__all__ = [
    "BACKGROUND",
    "STUFF",
    "UNANNOTATED",
    "ScaleGuess",
    "Scene",
    "Source",
    "Tile",
    "box_without_strays",
    "crop",
    "find_scenes",
    "make_scene",
    "read_scene",
    "scale_guess",
    "tiles",
    "warn_scale",
    "write_scene",
]
