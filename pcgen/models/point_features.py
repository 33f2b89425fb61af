"""What is known of each point besides its place, by name, as columns that a network takes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["FeatureName", "Up", "checked_feature", "feature_columns", "feature_width", "height_above_floor"]

FeatureName = Literal["colour", "height", "intensity", "normals"]
Up = Literal["x", "y", "z"]

WIDTHS = {"colour": 3, "height": 1, "intensity": 1, "normals": 3}
FLOOR = 0.01  # share of a cloud's points that may lie below its floor


def feature_width(names: Sequence[FeatureName]) -> int:
    """How many columns these features have together."""
    return sum(WIDTHS[name] for name in names)


def feature_columns(
    names: Sequence[FeatureName],
    points: Tensor,
    offsets: Tensor,
    given: Mapping[str, Tensor],
    up: Up = "z",
) -> Tensor:
    """Columns (N, feature_width(names)) of the packed clouds ``points`` (N, 3), roughly in −1 … 1.

    Args:
        given: by name, ``colour`` (N, 3) in 0 … 1, unit ``normals`` (N, 3), ``intensity`` (N,) or (N, 1) and
            ``height`` above the floor (N,) or (N, 1), in metres. Others are ignored.

    The height is derived where it is not given. A warning names any other feature that is missing; its columns are 0,
    the middle of the range. ``ValueError`` for a shape that does not fit, NaN or infinity.
    """
    columns = []
    for name in names:
        if name in given:
            column = checked_feature(name, given[name], points)
        elif name == "height":
            column = height_above_floor(points, offsets, up)[:, None]
        else:
            warnings.warn(f"the model was made for {name}, which these points lack: it is taken as 0", stacklevel=3)
            columns.append(points.new_zeros(len(points), WIDTHS[name]))
            continue
        columns.append(2 * column - 1 if name == "colour" else column.asinh() if name == "intensity" else column)
    return torch.cat(columns, 1) if columns else points.new_zeros(len(points), 0)


def checked_feature(name: str, column: Tensor, points: Tensor) -> Tensor:
    """The column (N, width) of a feature of ``points`` (N, 3); ``ValueError`` for another shape, NaN or infinity."""
    width = WIDTHS[name]
    if column.shape not in {(len(points), width), (len(points),) if width == 1 else None}:
        raise ValueError(f"{name} must be ({len(points)}, {width}), a row for each point, got {tuple(column.shape)}")
    column = column.to(points).reshape(len(points), width)
    if not bool(column.isfinite().all()):
        raise ValueError(f"{name} must be finite, got {int((~column.isfinite()).sum())} values that are not")
    return column


def height_above_floor(points: Tensor, offsets: Tensor, up: Up = "z") -> Tensor:
    """(N,) how far each of the packed ``points`` (N, 3) is above the floor of its cloud: its lowest percent.

    >>> height_above_floor(torch.tensor([[0.0, 0.0, 2.0], [1.0, 0.0, 5.0]]), torch.tensor([0, 2]))
    tensor([0., 3.])
    """
    along = points[:, "xyz".index(up)]
    parts = along.split(offsets.diff().tolist())
    return torch.cat([part - part.kthvalue(1 + int(FLOOR * (len(part) - 1))).values for part in parts])
