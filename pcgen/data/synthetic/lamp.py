"""Lamps: floor and table lamps, pendants and desk lamps with arms; cone, drum, dome and globe shades."""

# ruff: noqa: RUF005  (a tuple added to an array is a sum)
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcgen.data.synthetic.draw import pick
from pcgen.data.synthetic.solids import Mesh, ellipsoid, revolve, strut, tube

PARTS = ("base", "stem", "shade", "bulb")


@dataclass(frozen=True)
class Lamp:
    """Sizes in nominal metres before the shape is scaled to its frame."""

    kind: str  # "floor", "table", "pendant" or "desk"
    shade: str  # "cone", "drum", "dome" or "globe"
    body: str  # a table lamp's: "vase", "gourd", "column" or "stick"
    base: str  # "disc" or "tripod"
    height: float  # of the stem or the body, or the length of the cord
    shade_radius: float  # at its widest
    shade_height: float
    narrowing: float  # radius of a cone's small end over that of its wide end
    base_radius: float
    stem: float  # radius of the stem or the cord
    arc: float  # how far a floor lamp's stem leans over, 0 for upright
    elbow: float  # a desk lamp's lower arm, radians back from the vertical
    reach: float  # a desk lamp's upper arm, radians forward from the vertical
    tilt: float  # of a desk lamp's shade, radians from straight down


def draw(rng: np.random.Generator) -> Lamp:
    """A lamp with the proportions of its kind; a larger lamp carries a larger shade on a wider foot."""
    kind = pick(rng, {"floor": 3, "table": 4, "pendant": 3, "desk": 3})
    height = {"floor": (1.2, 1.6), "table": (0.26, 0.42), "pendant": (0.35, 0.9), "desk": (0.6, 0.8)}[kind]
    shade = {
        "floor": {"cone": 4, "drum": 4, "dome": 1, "globe": 1},
        "table": {"cone": 4, "drum": 3, "dome": 2, "globe": 1},
        "pendant": {"cone": 3, "drum": 2, "dome": 4, "globe": 3},
        "desk": {"cone": 3, "dome": 3},
    }[kind]
    shade = pick(rng, shade)
    radius = {"floor": (0.17, 0.28), "table": (0.12, 0.22), "pendant": (0.15, 0.32), "desk": (0.07, 0.12)}[kind]
    radius = rng.uniform(*radius)
    proportion = {"cone": (0.9, 1.4), "drum": (0.7, 1.5), "dome": (0.8, 1.15), "globe": (1.9, 2.0)}[shade]
    arched = kind == "floor" and shade in ("dome", "cone") and rng.random() < 0.5
    return Lamp(
        kind=kind,
        shade=shade,
        body=pick(rng, {"vase": 3, "gourd": 3, "column": 2, "stick": 2}),
        base=pick(rng, {"disc": 2, "tripod": 1}) if kind == "floor" and not arched else "disc",
        height=rng.uniform(*height),
        shade_radius=radius * (0.75 if shade == "globe" else 1),
        shade_height=radius * rng.uniform(*proportion) * (0.75 if shade == "globe" else 1),
        narrowing=rng.uniform(0.3, 0.7),
        base_radius=radius * rng.uniform(0.55, 0.8) * (1.15 if kind == "desk" else 1),
        stem=rng.uniform(0.004, 0.007) if kind == "pendant" else rng.uniform(0.009, 0.016),
        arc=rng.uniform(0.4, 0.8) if arched else 0.0,
        elbow=rng.uniform(0.2, 0.6),
        reach=rng.uniform(0.8, 1.35),
        tilt=rng.uniform(0.0, 0.6),
    )


def build(lamp: Lamp) -> dict[str, list[Mesh]]:
    """The solids of each part."""
    return {"floor": _floor, "table": _table, "pendant": _pendant, "desk": _desk}[lamp.kind](lamp)


def _shade(lamp: Lamp, top: np.ndarray, down: np.ndarray) -> dict[str, list[Mesh]]:
    """The shade hung from its ``top`` with its opening towards ``down``, and the bulb inside."""
    r, h, wall = lamp.shade_radius, lamp.shade_height, 0.004
    if lamp.shade == "globe":
        return {"shade": [ellipsoid(top + down * r, (r, r, r), 24)]}
    if lamp.shade == "dome":
        angle = np.linspace(0.12, np.pi / 2, 9)
        outer = np.stack([r * np.sin(angle), h * (1 - np.cos(angle))], -1)
    else:
        outer = np.array([(r * (lamp.narrowing if lamp.shade == "cone" else 1), 0.0), (r, h)])
    profile = np.concatenate([outer, outer[::-1] - (wall, 0), outer[:1]])
    bulb = min(0.035, 0.3 * r)
    socket = strut(top, top + down * (0.4 * h), 0.5 * bulb)
    return {
        "shade": [revolve(profile, top, down, 32)],
        "bulb": [socket, ellipsoid(top + down * (0.4 * h + bulb), (bulb, 1.2 * bulb, bulb), 12)],
    }


def _disc(radius: float, thickness: float) -> Mesh:
    rim = 0.5 * thickness
    return revolve([(0, 0), (radius, 0), (radius, rim), (0.85 * radius, thickness), (0, thickness)], sides=28)


def _spokes(lamp: Lamp, y: float) -> Mesh:
    """Three wires that carry a cone or a drum from the stem."""
    angle = 2 * np.pi * np.arange(3) / 3
    r = lamp.shade_radius * (lamp.narrowing if lamp.shade == "cone" else 1)
    end = np.stack([r * np.sin(angle), np.full(3, y), r * np.cos(angle)], -1)
    return strut((0, y, 0), end, 0.006, sides=6)


def _floor(lamp: Lamp) -> dict[str, list[Mesh]]:
    h, top = lamp.height, np.array([0.0, lamp.height, 0.0])
    if lamp.arc:
        return _arched(lamp)
    if lamp.base == "tripod":
        angle = 2 * np.pi * (np.arange(3) + 0.5) / 3
        foot = np.stack([np.sin(angle), np.zeros(3), np.cos(angle)], -1) * 0.24 * h
        base, stem = strut(foot, (0, 0.9 * h, 0), 0.008, 0.014), strut((0, 0.85 * h, 0), top, 0.02)
    else:
        base, stem = _disc(0.9 * lamp.base_radius, 0.03), strut((0, 0.02, 0), top, lamp.stem)
    hang = _below_top(lamp, top)
    return {"base": [base], "stem": [stem, *hang.pop("stem", [])], **hang}


def _below_top(lamp: Lamp, top: np.ndarray) -> dict[str, list[Mesh]]:
    """A shade standing on the top of a stem: a globe sits on it, the others surround it."""
    if lamp.shade == "globe":
        return _shade(lamp, top + (0, 2 * lamp.shade_radius, 0), np.array([0.0, -1.0, 0.0]))
    lift = 0.75 * lamp.shade_height
    parts = _shade(lamp, top + (0, lift, 0), np.array([0.0, -1.0, 0.0]))
    if lamp.shade != "dome":
        parts["stem"] = [_spokes(lamp, top[1] + lift - 0.01)]
    return parts


def _arched(lamp: Lamp) -> dict[str, list[Mesh]]:
    """A stem that leans over in an arc, with the shade hanging from its end."""
    s = np.linspace(0, 1, 14)
    rise, lean = lamp.height, lamp.arc
    angle = np.pi * np.clip((s - 0.4) / 0.6, 0, 1)
    y = np.where(s < 0.4, s / 0.4 * 0.75 * rise, 0.75 * rise + 0.25 * rise * np.sin(0.85 * angle))
    z = lean * (1 - np.cos(angle)) / 2
    path = np.stack([np.zeros(14), y, z], -1)
    return {
        "base": [_disc(1.1 * lamp.base_radius, 0.035)],
        "stem": [tube(path, lamp.stem)],
        **_shade(lamp, path[-1], np.array([0.0, -1.0, 0.0])),
    }


# Bodies of table lamps: (radius over that of the base, height over that of the body).
_BODIES = {
    "vase": [(0, 0), (0.7, 0), (0.72, 0.04), (0.55, 0.08), (0.85, 0.35), (0.95, 0.55), (0.8, 0.75), (0.35, 0.88)]
    + [(0.12, 0.92), (0.12, 1.0), (0, 1.0)],
    "gourd": [(0, 0), (0.75, 0), (0.98, 0.15), (1.0, 0.3), (0.8, 0.45), (0.42, 0.55), (0.5, 0.65), (0.55, 0.72)]
    + [(0.45, 0.82), (0.15, 0.9), (0.12, 1.0), (0, 1.0)],
    "column": [(0, 0), (1, 0), (1, 0.06), (0.5, 0.1), (0.38, 0.14), (0.34, 0.8), (0.45, 0.84), (0.45, 0.88)]
    + [(0.12, 0.9), (0.12, 1.0), (0, 1.0)],
    "stick": [(0, 0), (1, 0), (1, 0.05), (0.1, 0.08), (0.1, 1.0), (0, 1.0)],
}


def _table(lamp: Lamp) -> dict[str, list[Mesh]]:
    base = revolve(np.array(_BODIES[lamp.body]) * (lamp.base_radius, lamp.height), sides=28)
    return {"base": [base], **_below_top(lamp, np.array([0.0, lamp.height, 0.0]))}


def _pendant(lamp: Lamp) -> dict[str, list[Mesh]]:
    canopy = 0.35 * lamp.shade_radius + 0.02
    rose = revolve([(0, 0), (canopy, 0), (canopy, -0.015), (0.3 * canopy, -0.04), (0, -0.04)])
    end = np.array([0.0, -lamp.height, 0.0])
    parts = _shade(lamp, end, np.array([0.0, -1.0, 0.0]))
    if lamp.shade in ("cone", "drum"):
        parts["stem"] = [_spokes(lamp, -lamp.height - 0.01)]
    cord = strut((0, -0.03, 0), end, lamp.stem, sides=8)
    return {"base": [rose], **parts, "stem": [cord, *parts.get("stem", [])]}


def _desk(lamp: Lamp) -> dict[str, list[Mesh]]:
    """Two arms, leaning back and then forward, from a heavy foot to a tilted shade."""
    half = lamp.height / 2
    foot = np.array([0.0, 0.03, 0.0])
    elbow = foot + half * np.array([0, np.cos(lamp.elbow), -np.sin(lamp.elbow)])
    head = elbow + half * np.array([0, np.cos(lamp.reach), np.sin(lamp.reach)])
    down = np.array([0, -np.cos(lamp.tilt), np.sin(lamp.tilt)])
    side = np.array([[-1.0], [1.0]]) * (0.012, 0, 0)  # the arms are pairs of rods
    joint = strut(elbow - (0.025, 0, 0), elbow + (0.025, 0, 0), 0.022)
    arms = [strut(foot + side, elbow + side, 0.007, sides=8), strut(elbow + side, head + side, 0.007, sides=8)]
    return {"base": [_disc(lamp.base_radius, 0.035)], "stem": [*arms, joint], **_shade(lamp, head, down)}
