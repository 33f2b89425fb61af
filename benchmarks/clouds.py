"""The clouds that operations are measured on, by name, as pairs of sets (S, N, 3) float32.

Surfaces, volumes and data packs; these are taken from a folder `shared/data` beside the repository and left out,
loudly, where it is absent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[2] / "shared" / "data"

Pair = tuple[np.ndarray, np.ndarray]


def _sphere(random: np.random.Generator, *shape: int) -> np.ndarray:
    x = random.standard_normal((*shape, 3))
    return 0.5 * x / np.linalg.norm(x, axis=-1, keepdims=True)


def _box(random: np.random.Generator, *shape: int) -> np.ndarray:
    """The surface of a cube."""
    x = random.random((*shape, 3)) - 0.5
    face = random.integers(0, 3, shape)[..., None] == np.arange(3)
    return np.where(face, np.sign(x) * 0.5, x)


def _volume(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.random((*shape, 3)) - 0.5


def _gauss(random: np.random.Generator, *shape: int) -> np.ndarray:
    return 0.25 * random.standard_normal((*shape, 3))


def _bodies(clouds: int, points: int) -> Pair:
    files = sorted(DATA.glob("generation/bodies.PC15k/**/*.npy"))[: 2 * clouds]
    x = np.stack([np.load(file, allow_pickle=False)[:points] for file in files])
    return x[0::2], x[1::2]


def _bricks(clouds: int, points: int) -> Pair:
    with np.load(DATA / "generation" / "bricks.npz", allow_pickle=False) as file:
        x = next(array for array in (file[name] for name in file.files) if array.ndim == 3)
    return x[:clouds, :points], x[clouds : 2 * clouds, :points]


def shapes(clouds: int, points: int) -> dict[str, Pair]:
    """Pairs of sets of small clouds."""
    random = np.random.default_rng(0)
    shape = (clouds, points)
    found = {
        "sphere": (_sphere(random, *shape), _sphere(random, *shape)),
        "box": (_box(random, *shape), _box(random, *shape)),
        "sphere, box": (_sphere(random, *shape), _box(random, *shape)),
        "Gaussian": (_gauss(random, *shape), _gauss(random, *shape)),
    }
    for name, pack in (("bodies", _bodies), ("bricks", _bricks)):
        if DATA.is_dir():
            found[name] = pack(clouds, points)
        else:
            print(f"{name}: left out, {DATA} is absent")
    return _float32(found)


def degenerate(points: int) -> dict[str, Pair]:
    """Pairs of single clouds that assignment algorithms do not like."""
    random = np.random.default_rng(1)
    line = np.linspace(0, 1, points)[:, None] * np.array([1.0, 0.5, 0.25])
    side = int(np.ceil(points ** (1 / 3)))
    lattice = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:points] / side
    clusters = [_gauss(random, points) * 0.02 + random.integers(0, 2, (points, 1)) ** p for p in (1, 1)]
    clusters[1][: points // 4] = clusters[1][: points // 4] * 0.01 + 3
    found = {
        "collinear": (line, random.permutation(line) + 0.1 * np.array([1.0, 0.5, 0.25])),
        "lattice": (lattice, random.permutation(lattice) + 0.5 / side),
        "far apart": (_gauss(random, points), _gauss(random, points) + 100),
        "clusters": tuple(clusters),
    }
    return _float32({name: (x[None], y[None]) for name, (x, y) in found.items()})


def scans(points: int) -> dict[str, Pair]:
    """Pairs of single large clouds."""
    random = np.random.default_rng(2)
    makers: dict[str, Callable] = {"sphere": _sphere, "Gaussian": _gauss, "uniform": _volume}
    found = {name: (make(random, points), make(random, points)) for name, make in makers.items()}
    found["far apart"] = (_volume(random, points), _volume(random, points) + 2)  # a corner is nearest to all
    along = np.array([2.0, 0.0, 0.0])
    found["far on an axis"] = (_volume(random, points), _volume(random, points) + along)  # a whole face is near
    house = DATA / "segmentation" / "indoor" / "house.ply"
    if house.is_file():
        from pcgen.data.ply import read_ply

        vertex = read_ply(house)["vertex"]
        x = random.permutation(np.stack([vertex[axis] for axis in "xyz"], 1))
        found["house"] = (x[:points], x[points : 2 * points])
    else:
        print(f"house: left out, {house} is absent")
    return _float32({name: (x[None], y[None]) for name, (x, y) in found.items()})


def _float32(pairs: dict[str, Pair]) -> dict[str, Pair]:
    return {name: tuple(np.ascontiguousarray(x, np.float32) for x in pair) for name, pair in pairs.items()}
