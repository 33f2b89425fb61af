"""Shapes whose truth is known: labelled meshes and clouds, in unlimited supply by seed."""

from pcgen.data.synthetic.shapes import (
    CATEGORIES,
    PARTS,
    LabelledCloud,
    SyntheticShape,
    make_shape,
    sample_shape,
)

__all__ = ["CATEGORIES", "PARTS", "LabelledCloud", "SyntheticShape", "make_shape", "sample_shape"]
