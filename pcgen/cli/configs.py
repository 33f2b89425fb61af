"""The configurations that are shipped, by name."""

from __future__ import annotations

from pathlib import Path

from pcgen.cli.parser import nearest

__all__ = ["find_config", "shipped_configs"]

PACKAGE = Path(__file__).parents[1]


def shipped_configs() -> dict[str, Path]:
    """Name (``pointflow/demo``) → file; they are inside an installed package and beside a checkout's."""
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if files := sorted(folder.rglob("*.yaml")):
            return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
    return {}


def find_config(name: str) -> Path:
    """The file that ``name`` means: a path, a shipped name, or the last part of one.

    >>> find_config("demo") == find_config("pointflow/demo")
    True
    >>> find_config("dmeo")
    Traceback (most recent call last):
    FileNotFoundError: no configuration 'dmeo' (nearest: 'demo'); there are airplane, airplane_fm, ...
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    by_last_part = {full.rsplit("/", 1)[-1]: path for full, path in shipped.items()}
    found = shipped.get(name) or by_last_part.get(name)
    if found:
        return found
    if Path(name).suffix in (".yaml", ".yml") or not shipped:
        raise FileNotFoundError(f"no configuration file {name}")
    if Path(name).is_dir():
        raise FileNotFoundError(f"{name} is a folder, not a configuration: --data {name} trains on the shapes in it")
    near = nearest(name.rsplit("/", 1)[-1], by_last_part)
    raise FileNotFoundError(f"no configuration {name!r} (nearest: {near!r}); there are {', '.join(by_last_part)}")
