"""Who may import whom: nothing imports a room to its right."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Rooms of one step do not see each other.
STEPS = [
    {"_version"},
    {"config", "ops"},
    {"geometry"},
    {"flows", "data", "metrics"},
    {"models"},
    {"training"},
    {"viz"},
    {"cli"},
    {"__main__"},
]
ROOM_STEP = {room: i for i, step in enumerate(STEPS) for room in step}
EXTRA = {("metrics", "models")}  # forbidden whatever the order says


def imported_rooms(path):
    """The rooms of pcgen that a module imports, wherever in the file the import stands."""
    package = ("pcgen", *path.relative_to(ROOT / "pcgen").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        yield from (name[1] for name in names if name[0] == "pcgen" and len(name) > 1)


MODULES = [p for p in sorted((ROOT / "pcgen").rglob("*.py")) if p != ROOT / "pcgen" / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_import_order(path):
    here = path.relative_to(ROOT / "pcgen").parts[0].removesuffix(".py")
    assert here in ROOM_STEP, f"{here} is no room of the house"
    for room in imported_rooms(path):
        if room == here or room not in ROOM_STEP:
            continue
        assert ROOM_STEP[room] < ROOM_STEP[here], f"{path.name} of {here} imports {room}"
        assert (here, room) not in EXTRA


def test_no_package_shadows_others():
    assert not (ROOT / "cuda" / "__init__.py").exists()
    assert not (ROOT / "datasets" / "__init__.py").exists()


@pytest.mark.parametrize(
    "name", ["open3d", "pykeops", "torch_scatter", "tensorboard", "accelerate", "matplotlib", "laspy"]
)
def test_core_imports_without(name):
    import subprocess
    import sys

    rooms = ", ".join(f"pcgen.{room}" for room in ("ops", "models", "metrics", "data", "training", "viz", "cli"))
    code = f"import sys; sys.modules[{name!r}] = None; import {rooms}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
