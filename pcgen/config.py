"""YAML files and ``key=value`` overrides, read into typed frozen dataclasses and written back.

A setting is declared once, in a frozen dataclass that inherits :class:`Settings` and stands beside the code
that reads it. Validation is pydantic's; this module only merges the sources and makes one clear line of what
went wrong, with the nearest legal name for a mistyped key.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

__all__ = ["Settings", "from_dict", "parse_override", "read", "read_yaml", "to_dict", "to_yaml"]

T = TypeVar("T", bound="Settings")


class Settings:
    """Base of every settings dataclass: unknown keys are refused, never ignored."""

    __pydantic_config__: typing.ClassVar[dict] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Choices are checked in Python too, where no YAML and so no pydantic stands between; call it with super()."""
        for name, hint in typing.get_type_hints(type(self)).items():
            value = getattr(self, name, None)
            if typing.get_origin(hint) is typing.Literal and value not in typing.get_args(hint):
                legal = ", ".join(map(repr, typing.get_args(hint)))
                raise ValueError(f"{name} must be one of {legal}, got {value!r}")


def read_yaml(path: str | Path) -> dict:
    """The mapping in a YAML file; ``FileNotFoundError`` or ``ValueError`` says what is wrong with it."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of settings, it holds a {type(values).__name__}")
    return values


def parse_override(text: str) -> dict:
    """``"model.latent=64"`` as a nested mapping; the value is read as YAML.

    >>> parse_override("model.point_flow.dims=[64, 64]")
    {'model': {'point_flow': {'dims': [64, 64]}}}
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ValueError(f"an override reads key=value, got {text!r}")
    try:
        parsed: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"the value of {key!r} is not readable YAML: {value!r}") from None
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return parsed


def _merge(base: Mapping, over: Mapping) -> dict:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def read(cls: type[T], path: str | Path | None = None, overrides: Sequence[str] = (), base: Mapping | None = None) -> T:
    """The defaults of ``cls``, then ``base``, then the file, then the overrides, the later one winning."""
    values = _merge(to_dict(cls()), base or {})
    if path is not None:
        values = _merge(values, read_yaml(path))
    for text in overrides:
        values = _merge(values, parse_override(text))
    return from_dict(cls, values)


def from_dict(cls: type[T], values: Mapping) -> T:
    """``values`` as a ``cls``; ``ValueError`` names every bad key in one line.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Optimiser(Settings):
    ...     rate: float = 2e-3
    >>> from_dict(Optimiser, {"rate": "1e-3"})       # YAML 1.1 reads 1e-3 as a string
    Optimiser(rate=0.001)
    >>> from_dict(Optimiser, {"rat": 1})
    Traceback (most recent call last):
    ValueError: unknown setting 'rat' (nearest: 'rate')
    """
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        raise ValueError("; ".join(_explain(cls, e) for e in error.errors())) from None


def _explain(cls: type, error: Mapping) -> str:
    path = [str(part) for part in error["loc"]]
    where = ".".join(path)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        legal = _legal_names(cls, path[:-1])
        near = difflib.get_close_matches(path[-1], legal, n=1, cutoff=0.0)
        prefix = "".join(f"{part}." for part in path[:-1])
        below = [f"{prefix}{name}.{path[-1]}" for name in legal if path[-1] in _legal_names(cls, [*path[:-1], name])]
        hint = f" (nearest: {below[0] if below else prefix + near[0]!r})" if near else ""
        return f"unknown setting {where!r}{hint}"
    if error["type"] == "literal_error":
        legal = error["ctx"]["expected"]
        return f"{where} must be {legal}, got {error['input']!r}"
    if error["type"] == "tuple_type":  # pydantic's word for what YAML writes as a list
        return f"{where} must be a list, as in {where}=[{error['input']}], got {error['input']!r}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":  # a settings class's own words, which say what was given
        return f"{where}: {message}" if where else message
    return f"{where or 'settings'}: {message}, got {error['input']!r}"


def _legal_names(cls: type, path: Sequence[str]) -> list[str]:
    """The field names of the dataclass that ``path`` leads to."""
    for part in path:
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        cls = next((t for t in (hints.get(part), *typing.get_args(hints.get(part))) if _is_settings(t)), cls)
    return [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _is_settings(t: object) -> bool:
    return isinstance(t, type) and issubclass(t, Settings)


def to_dict(settings: Settings) -> dict:
    """Plain nested mappings and lists, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        return value

    return plain(dataclasses.asdict(settings))  # type: ignore[call-overload]


def to_yaml(settings: Settings) -> str:
    """The settings as YAML that :func:`read` turns back into an equal object."""
    return yaml.safe_dump(to_dict(settings), sort_keys=False, default_flow_style=None, width=100)
