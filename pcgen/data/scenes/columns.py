"""Which columns of a file are colours, normals, intensity and labels, by the names that programs give them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import numpy as np

__all__ = ["feature_columns", "feature_names", "features_of", "label_name", "position_of"]

# Names in lower case and without CloudCompare's "scalar_"; of several the first that a file has counts.
_POSITION = (
    *(("points",), ("coord",), ("coords",), ("xyz",), ("position",), ("positions",), ("pos",), ("vertices",)),
    ("x", "y", "z"),
)
_FEATURES = {
    "colour": (
        *(("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b")),
        *(("colour",), ("color",), ("colors",), ("rgb",)),
    ),
    "normals": (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"), ("normals",), ("normal",)),
    "intensity": (("intensity",), ("reflectance",), ("strength",)),
}
_LABELS = {
    "semantic": (
        *("semantic", "semantics", "semantic_label", "semantic_labels", "sem_label", "sem_labels", "class", "classes"),
        *("label", "labels", "segment", "category", "classification"),
    ),
    "instance": (
        *("instance", "instances", "instance_id", "instance_ids", "instance_label", "instance_labels", "ins_label"),
        *("ins_labels", "inst", "object_id", "treeid", "tree_id"),
    ),
}


def position_of(columns: Mapping[str, np.ndarray]) -> tuple[str, ...] | None:
    """The names of the columns that hold the coordinates."""
    return _first(columns, _POSITION)


def feature_names(columns: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For each feature that a file has, the names of its columns."""
    named = {feature: _first(columns, options) for feature, options in _FEATURES.items()}
    return {feature: names for feature, names in named.items() if names}


def features_of(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Colour in 0 … 1, normals and intensity as far as there are columns for them.

    >>> features_of({"red": np.array([255, 0], np.uint8), "green": np.zeros(2), "blue": np.zeros(2)})["colour"][0]
    array([1., 0., 0.], dtype=float32)
    """
    found = {}
    for name, names in feature_names(columns).items():
        parts = [np.asarray(columns[n]) for n in names]
        values = parts[0] if len(parts) == 1 else np.stack([part.reshape(len(part)) for part in parts], axis=1)
        if name == "intensity":
            found[name] = values.reshape(len(values)).astype(np.float32)
        elif values.ndim == 2 and values.shape[1] >= 3:  # a single number called "color" is a code, not a colour
            found[name] = _unit_range(values[:, :3]) if name == "colour" else values[:, :3].astype(np.float32)
    return found


def feature_columns(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features as the columns that other programs expect: 8-bit red, green, blue; nx, ny, nz; intensity."""
    columns = {}
    for name, values in features.items():
        if name == "colour":
            values = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
        names = _FEATURES[name][0] if name in _FEATURES else (name,)
        columns |= {n: values[:, i] for i, n in enumerate(names)} if len(names) > 1 else {names[0]: values}
    return columns


def label_name(columns: Iterable[str], kind: str, wanted: str | None = None) -> str | None:
    """The column that holds the ``kind`` of label, ``"semantic"`` or ``"instance"``; ``wanted`` must be there."""
    columns = list(columns)
    if wanted is None:
        names = _first(columns, [(name,) for name in _LABELS[kind]])
        return names[0] if names else None
    if wanted not in columns:
        near = difflib.get_close_matches(wanted, columns, n=1, cutoff=0.0)
        hint = f" (nearest: {near[0]!r}; there are {', '.join(columns)})" if near else ""
        raise ValueError(f"no column {wanted!r}{hint}")
    return wanted


def _first(columns: Iterable[str], options: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The first option whose names are all there, as the file spells them."""
    spelled = {name.lower().removeprefix("scalar_"): name for name in columns}
    for option in options:
        if all(name in spelled for name in option):
            return tuple(spelled[name] for name in option)
    return None


def _unit_range(colour: np.ndarray) -> np.ndarray:
    """Colours of any type as float32 in 0 … 1.

    Integers reach 255, or 65535 when one of them is larger; so do floats unless all are at most 1.
    """
    top = colour.max(initial=0, where=~np.isnan(colour))
    whole = colour.dtype.kind in "iub"
    scale = 1 if not whole and top <= 1 else 255 if top <= 255 else 65535
    return (colour / np.float32(scale)).astype(np.float32)
