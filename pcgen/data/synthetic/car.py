"""Cars: sedans, hatchbacks, coupés, SUVs, vans and pickups, lofted along their length."""

# ruff: noqa: RUF005  (a tuple added to an array is a sum)
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pcgen.data.synthetic.draw import pick
from pcgen.data.synthetic.solids import Mesh, box, ellipsoid, revolve, sheet, strut

PARTS = ("body", "cabin", "wheels", "mirrors", "spoiler", "rack")


@dataclass(frozen=True)
class Car:
    """Sizes in nominal metres before the shape is scaled to its frame; the front is towards +z."""

    style: str  # "sedan", "hatchback", "coupe", "suv", "van" or "pickup"
    length: float
    width: float
    height: float
    clearance: float  # of the sill above the ground
    belt: float  # height of the lower edge of the windows
    hood: float  # length from the nose to the windscreen
    screen: float  # horizontal run of the windscreen
    rear: float  # horizontal run of the rear window
    deck: float  # length of the trunk or the bed, 0 if the cabin ends the car
    slope: float  # fall of the roof to the rear window
    nose: float  # height of the front edge of the hood over that of the belt
    rounding: float  # narrowing of both ends seen from above, over the width
    tumblehome: float  # how far the windows lean inward per unit of height
    wheel: float  # radius
    wheelbase: float
    spoiler: bool
    rack: bool  # rails on the roof


class _Style(NamedTuple):
    length: tuple[float, float]  # from … to
    width: tuple[float, float]
    height: tuple[float, float]
    clearance: tuple[float, float]
    wheel: tuple[float, float]
    belt: float  # over the height
    hood: float  # over the length, as are the rest
    screen: float
    rear: float
    deck: float


_STYLES = {
    "sedan": _Style((4.3, 5.1), (1.72, 1.9), (1.38, 1.5), (0.22, 0.27), (0.3, 0.36), 0.65, 0.26, 0.13, 0.12, 0.13),
    "hatchback": _Style((3.5, 4.4), (1.62, 1.8), (1.4, 1.6), (0.2, 0.27), (0.28, 0.35), 0.62, 0.22, 0.14, 0.07, 0.0),
    "coupe": _Style((4.0, 4.8), (1.74, 1.94), (1.16, 1.34), (0.15, 0.21), (0.30, 0.34), 0.68, 0.31, 0.15, 0.2, 0.07),
    "suv": _Style((4.2, 5.1), (1.8, 2.02), (1.62, 1.9), (0.3, 0.44), (0.36, 0.44), 0.61, 0.24, 0.1, 0.05, 0.0),
    "van": _Style((4.4, 5.6), (1.8, 2.05), (1.85, 2.4), (0.26, 0.34), (0.32, 0.38), 0.56, 0.13, 0.13, 0.02, 0.0),
    "pickup": _Style((4.9, 5.9), (1.82, 2.05), (1.7, 1.92), (0.36, 0.5), (0.38, 0.46), 0.62, 0.25, 0.11, 0.03, 0.32),
}


def draw(rng: np.random.Generator) -> Car:
    """A car with the proportions of its style."""
    style = pick(rng, {"sedan": 4, "hatchback": 3, "coupe": 3, "suv": 3, "van": 2, "pickup": 3})
    t = _STYLES[style]
    length, height = rng.uniform(*t.length), rng.uniform(*t.height)
    return Car(
        style=style,
        length=length,
        width=rng.uniform(*t.width),
        height=height,
        clearance=rng.uniform(*t.clearance),
        belt=height * (t.belt + rng.uniform(-0.04, 0.04)),
        hood=length * (t.hood + rng.uniform(-0.035, 0.035)),
        screen=length * t.screen * rng.uniform(0.65, 1.35),
        rear=length * t.rear * rng.uniform(0.6, 1.6),
        deck=length * t.deck * rng.uniform(0.8, 1.15),
        slope=rng.uniform(0.02, 0.07) if t.rear < 0.1 else rng.uniform(0.03, 0.12),
        nose=rng.uniform(0.85, 0.98),
        rounding=rng.uniform(0.05, 0.4),
        tumblehome=rng.uniform(0.12, 0.24) if style in ("van", "suv") else rng.uniform(0.25, 0.42),
        wheel=rng.uniform(*t.wheel),
        wheelbase=length * rng.uniform(0.55, 0.63),
        spoiler=rng.random() < {"coupe": 0.5, "hatchback": 0.4, "sedan": 0.2}.get(style, 0.0),
        rack=rng.random() < {"suv": 0.6, "van": 0.4, "hatchback": 0.25}.get(style, 0.0),
    )


def build(c: Car) -> dict[str, list[Mesh]]:
    """The solids of each part."""
    body, cabin = _shell(c)
    return {
        "body": body,
        "cabin": cabin,
        "wheels": _wheels(c),
        "mirrors": _mirrors(c),
        "spoiler": _spoiler(c) if c.spoiler else [],
        "rack": _rack(c) if c.rack else [],
    }


def _axles(c: Car) -> np.ndarray:
    """z of the rear and the front axle; the front overhang is the shorter one."""
    front = c.length / 2 - 0.165 * c.length - 0.1
    return np.array([front - c.wheelbase, front])


def _roof_line(c: Car) -> tuple[np.ndarray, np.ndarray]:
    """The silhouette above the belt: where (z, increasing) and how high (y)."""
    nose, tail = c.length / 2, -c.length / 2
    base = nose - c.hood  # of the windscreen
    back = tail + c.deck + 0.02 * c.length
    z = [tail, back, back + c.rear, (back + base) / 2, base - c.screen, base, nose]
    y = [0.98 * c.belt, c.belt, c.height - c.slope, c.height, c.height - 0.05, c.belt, c.nose * c.belt]
    return np.array(z), np.array(y)


def _bed(c: Car) -> tuple[float, float]:
    """z of the rear and the front wall inside a pickup's bed."""
    return -c.length / 2 + 0.08, -c.length / 2 + c.deck - 0.04


def _stations(c: Car) -> np.ndarray:
    """Where the body is cut across: evenly, and exactly at the corners of its outline and of the wheel arches."""
    ends = np.array([0.0, 0.03, 0.08, 0.16])
    even = np.linspace(-c.length / 2 + 0.25, c.length / 2 - 0.25, 25)
    arch = 1.17 * c.wheel * np.sin(np.linspace(-np.pi / 2, np.pi / 2, 9))
    arch = np.concatenate([_axles(c)[:, None] + arch, _axles(c)[:, None] + [-1.2 * c.wheel, 1.2 * c.wheel]], 1)
    z = [-c.length / 2 + ends, even, c.length / 2 - ends, _roof_line(c)[0], arch.ravel()]
    if c.style == "pickup":
        z.append(np.add.outer(_bed(c), (-0.01, 0.01)).ravel())
    return np.unique(np.concatenate(z).round(4))


def _shell(c: Car) -> tuple[list[Mesh], list[Mesh]]:
    """The painted body and the cabin: one closed grid of points along z and around, cut at the belt."""
    z = _stations(c)
    end = np.clip((c.length / 2 - np.abs(z)) / (0.1 * c.length), 0, 1)
    half = c.width / 2 * (1 - c.rounding * (1 - np.sqrt(1 - (1 - end) ** 2)))
    half[[0, -1]] = 0.0  # both ends close on a vertical line in the middle of the bumper
    roof = _roof_line(c)
    belt = np.interp(z, (roof[0][0], roof[0][-2], roof[0][-1]), (c.belt, 0.97 * c.belt, roof[1][-1] - 0.06))
    top = np.maximum(np.interp(z, *roof), belt + 0.02) - 0.05 * (1 - end) ** 3
    bottom = np.minimum(_underside(c, z) + 0.1 * (1 - end) ** 2, belt - 0.06)
    lower = _lower_half(half, bottom, belt)
    upper = _upper_half(c, half, belt, top)
    if c.style == "pickup":
        rear, front = _bed(c)
        inside = (z > rear) & (z < front)
        upper[inside] = _bed_half(half, belt, c.clearance + 0.35)[inside]
    # Counter-clockwise about z: from the left belt under the floor to the right one, and back over the roof.
    lower = np.concatenate([lower * (-1, 1), lower[:, -2::-1]], axis=1)
    upper = np.concatenate([upper, upper[:, -2::-1] * (-1, 1)], axis=1)
    under, over = (
        np.concatenate([xy, np.broadcast_to(z[:, None, None], (*xy.shape[:2], 1))], axis=2) for xy in (lower, upper)
    )
    first, last = np.searchsorted(z, (roof[0][1] - 1e-3, roof[0][5] - 1e-3))
    body = [sheet(under), sheet(over[: first + 1]), sheet(over[last:])]
    return [part for part in body if len(part.faces)], [sheet(over[first : last + 1])]


def _underside(c: Car, z: np.ndarray) -> np.ndarray:
    """The height of the floor, raised to an arch over each axle."""
    from_axle = np.abs(z[:, None] - _axles(c)).min(1)
    radius = 1.18 * c.wheel
    return np.where(from_axle < radius, c.wheel + np.sqrt(np.maximum(0, radius**2 - from_axle**2)), c.clearance)


def _half(*points: tuple) -> np.ndarray:
    """Right halves of cross-sections, (stations, K, 2), from K points (x, y) that vary along the car."""
    return np.stack([np.stack(np.broadcast_arrays(x, y), -1) for x, y in points], axis=-2)


def _lower_half(half: np.ndarray, bottom: np.ndarray, belt: np.ndarray) -> np.ndarray:
    """From the belt down the door, which bulges below the belt, to the middle of the floor."""
    rise = belt - bottom
    door = (0.99 * half, belt - 0.1 * rise), (half, belt - 0.35 * rise), (half, bottom + 0.3 * rise)
    return _half((0.96 * half, belt), *door, (0.97 * half, bottom + 0.03), (0.93 * half, bottom), (0 * half, bottom))


def _upper_half(c: Car, half: np.ndarray, belt: np.ndarray, top: np.ndarray) -> np.ndarray:
    """From the belt up the window to the middle of the roof, or over the edge of the hood to its middle."""
    rise = top - belt
    side = np.maximum(0.96 * half - 0.1 * np.minimum(1, rise / 0.4) * (half > 0) - c.tumblehome * rise, 0)
    edge = 0.35 * np.minimum(rise, 0.2)
    rim = np.maximum(side - 0.12, 0.0)
    return _half((0.96 * half, belt), (side, top - edge), (rim, top), (0.5 * rim, top + 0.02), (0 * half, top + 0.025))


def _bed_half(half: np.ndarray, belt: np.ndarray, floor: float) -> np.ndarray:
    """From the belt over the wall of the bed to the middle of its floor."""
    wall = 0.96 * half - 0.08
    return _half((0.96 * half, belt), (wall, belt), (wall, floor), (0.5 * wall, floor), (0 * half, floor))


def _wheels(c: Car) -> list[Mesh]:
    """Tyres with rims set back, two on each axle."""
    width = 0.62 * c.wheel
    hub = [(0, 0.38), (0.2, 0.38), (0.25, 0.3), (0.6, 0.3), (0.66, 0.46), (0.92, 0.5), (1, 0.4)]
    profile = np.array(hub + [(r, -h) for r, h in hub[::-1]]) * (c.wheel, width)
    at = [(side * (c.width / 2 - 0.52 * width), c.wheel, z) for side in (-1, 1) for z in _axles(c)]
    return [revolve(profile, at, (1, 0, 0), 24)]


def _mirrors(c: Car) -> list[Mesh]:
    z = c.length / 2 - c.hood - 0.55 * c.screen
    at = np.array([(-1, 1, 1), (1, 1, 1)]) * (c.width / 2 + 0.07, c.belt + 0.07, z)
    return [ellipsoid(at, (0.1, 0.075, 0.06), 10), strut(at * (0.88, 1, 1) - (0, 0.06, 0), at, 0.025, sides=6)]


def _spoiler(c: Car) -> list[Mesh]:
    """A wing on struts over the deck, or a lip behind the roof of a car without one."""
    if not c.deck:
        z = _roof_line(c)[0][2]
        return [box((0, c.height - 0.03, z - 0.1), (0.68 * c.width, 0.03, 0.28))]
    z, y = -c.length / 2 + 0.14, c.belt + 0.2
    posts = np.array([(-0.3 * c.width, c.belt - 0.02, z), (0.3 * c.width, c.belt - 0.02, z)])
    return [box((0, y, z), (0.88 * c.width, 0.03, 0.22)), strut(posts, posts + (0, 0.22, 0), 0.03, sides=6)]


def _rack(c: Car) -> list[Mesh]:
    """Two rails along the roof, and bars across."""
    z = _roof_line(c)[0][[2, 4]] + (0.05, -0.05)
    rise = c.height - c.belt
    x, y = 0.96 * c.width / 2 - 0.24 - c.tumblehome * rise, c.height + 0.035
    rails = np.array([(side * x, y, z[0]) for side in (-1, 1)]), np.array([(side * x, y, z[1]) for side in (-1, 1)])
    across = z[0] + (z[1] - z[0]) * np.array([0.2, 0.8])
    bars = np.array([(-x, y, at) for at in across]), np.array([(x, y, at) for at in across])
    return [strut(*rails, 0.022, sides=6), strut(*bars, 0.02, sides=6)]
