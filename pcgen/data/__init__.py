"""Shapes on disk and in batches: readers, writers, splits, normalisation."""

from .formats import (
    Clouds,
    Mesh,
    UnreadableFile,
    read_cloud,
    read_clouds,
    read_mesh,
    read_shape,
    sample_surface,
    write_clouds,
)
from .importer import ImportReport, import_folder
from .normalise import Normalisation, fit, normalisation_of
from .shapes import Batch, DataConfig, Shapes, ShapeSplit, Skipped, batches, load, steps_per_epoch

__all__ = [
    "Batch",
    "Clouds",
    "DataConfig",
    "ImportReport",
    "Mesh",
    "Normalisation",
    "ShapeSplit",
    "Shapes",
    "Skipped",
    "UnreadableFile",
    "batches",
    "fit",
    "import_folder",
    "load",
    "normalisation_of",
    "read_cloud",
    "read_clouds",
    "read_mesh",
    "read_shape",
    "sample_surface",
    "steps_per_epoch",
    "write_clouds",
]
