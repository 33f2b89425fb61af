"""Sofas: one to four seats, with arms or none, with a chaise longue at one end or none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcgen.data.synthetic.draw import pick
from pcgen.data.synthetic.solids import Mesh, box, cushion, loft, strut

PARTS = ("frame", "seat", "back", "arms", "legs")


@dataclass(frozen=True)
class Sofa:
    """Sizes in nominal metres; the seats are side by side along x, the front is towards +z."""

    seats: int
    seat_width: float
    depth: float
    seat_height: float  # of the upper side of the cushions
    height: float  # of the back
    cushion: float  # thickness of a seat's cushion
    back: str  # "cushions", one for each seat, or "plain"
    back_thickness: float  # without cushions
    recline: float  # how far the top of the back stands behind its foot
    arms: str  # "box", "rolled", "low" or "none"
    arm_width: float
    arm_height: float
    base: str  # "legs" or "skirt"
    leg: float  # height of the legs, or of the gap under a skirt
    chaise: str  # the end with the long seat, seen from behind: "left", "right" or "none"
    chaise_depth: float  # of that seat, from the rear


def draw(rng: np.random.Generator) -> Sofa:
    """A sofa for one to four; only a wide one has a chaise longue."""
    seats = int(pick(rng, {"1": 2, "2": 4, "3": 5, "4": 2}))
    depth, seat_height = rng.uniform(0.75, 1.0), rng.uniform(0.36, 0.46)
    arms = pick(rng, {"box": 5, "rolled": 3, "low": 2, "none": 2})
    arm_width = {"box": (0.08, 0.25), "rolled": (0.14, 0.22), "low": (0.15, 0.3), "none": (0.0, 0.0)}[arms]
    arm_height = {"box": (0.14, 0.24), "rolled": (0.16, 0.24), "low": (0.02, 0.08), "none": (0.0, 0.0)}[arms]
    base = pick(rng, {"legs": 3, "skirt": 2})
    return Sofa(
        seats=seats,
        seat_width=rng.uniform(0.52, 0.78),
        depth=depth,
        seat_height=seat_height,
        height=seat_height + rng.uniform(0.28, 0.55),
        cushion=rng.uniform(0.1, 0.19),
        back=pick(rng, {"cushions": 3, "plain": 2}),
        back_thickness=rng.uniform(0.1, 0.2),
        recline=rng.uniform(0.0, 0.12),
        arms=arms,
        arm_width=rng.uniform(*arm_width),
        arm_height=seat_height + rng.uniform(*arm_height),
        base=base,
        leg=rng.uniform(0.06, 0.16) if base == "legs" else rng.uniform(0.01, 0.03),
        chaise=pick(rng, {"none": 4, "left": 1, "right": 1}) if seats > 1 else "none",
        chaise_depth=depth * rng.uniform(1.55, 1.9),
    )


def build(s: Sofa) -> dict[str, list[Mesh]]:
    """The solids of each part."""
    return {
        "frame": _frame(s),
        "seat": [_cushion(s, x, depth) for x, depth in zip(_middles(s), _depths(s))],
        "back": _back(s),
        "arms": _arms(s) if s.arms != "none" else [],
        "legs": _legs(s),
    }


def _middles(s: Sofa) -> np.ndarray:
    """Of the seats along x, (seats,)."""
    return (np.arange(s.seats) - (s.seats - 1) / 2) * s.seat_width


def _depths(s: Sofa) -> np.ndarray:
    """Of the seats from the rear of the sofa, (seats,)."""
    depths = np.full(s.seats, s.depth)
    if s.chaise != "none":
        depths[0 if s.chaise == "left" else -1] = s.chaise_depth
    return depths


def _rear(s: Sofa) -> float:
    return -s.depth / 2


def _frame(s: Sofa) -> list[Mesh]:
    """Under each seat a box; a chaise longue reaches out in front of the others."""
    height, depth = s.seat_height - s.cushion - s.leg, _depths(s)
    y = np.full(s.seats, s.leg + height / 2)
    size = np.stack([np.full(s.seats, s.seat_width), np.full(s.seats, height), depth], -1)
    return [box(np.stack([_middles(s), y, _rear(s) + depth / 2], -1), size)]


def _cushion(s: Sofa, x: float, depth: float) -> Mesh:
    front, behind = _rear(s) + depth, _rear(s) + s.back_thickness
    centre = (x, s.seat_height - s.cushion / 2, (front + behind) / 2)
    return cushion(centre, (s.seat_width - 0.01, s.cushion, front - behind), exponent=12.0, edge=0.25)


def _back(s: Sofa) -> list[Mesh]:
    """A slab that leans back, and against it a cushion on each seat."""
    x, low = s.seats * s.seat_width / 2 * np.array([-1, 1, 1, -1]), s.seat_height - s.cushion
    z = _rear(s) + np.array([0, 0, 1, 1]) * s.back_thickness
    foot, top = np.stack([x, np.full(4, low), z], -1), np.stack([x, np.full(4, s.height), z - s.recline], -1)
    slab = loft(np.stack([foot, top]))
    if s.back == "plain":
        return [slab]
    height, thickness = s.height - s.seat_height + 0.03, 0.16
    z = _rear(s) + s.back_thickness + thickness / 2 - 0.6 * s.recline
    size = (s.seat_width - 0.015, height, thickness + 0.04)
    return [slab, *(cushion((x, s.seat_height + height / 2, z), size, 5.0, 0.2) for x in _middles(s))]


def _arms(s: Sofa) -> list[Mesh]:
    x = np.array([-1, 1]) * (s.seats * s.seat_width + s.arm_width) / 2
    height = s.arm_height - s.leg
    side = box([(u, s.leg + height / 2, 0) for u in x], (s.arm_width, height, s.depth))
    if s.arms != "rolled":
        return [side]
    ends = np.array([[(u, s.arm_height, z) for u in x] for z in (-0.98 * s.depth / 2, 1.03 * s.depth / 2)])
    return [side, strut(*ends, 0.6 * s.arm_width, sides=16)]


def _legs(s: Sofa) -> list[Mesh]:
    """A leg in each corner, also of the chaise longue; a skirt hides low gliders."""
    x, front = s.seats * s.seat_width / 2 - 0.05, s.depth / 2 - 0.06
    feet = [(-x, _rear(s) + 0.06), (x, _rear(s) + 0.06), (-x, front), (x, front)]
    if s.chaise != "none":
        end = -x if s.chaise == "left" else x
        feet += [(u, _rear(s) + s.chaise_depth - 0.06) for u in (end, end - np.sign(end) * (s.seat_width - 0.1))]
    foot = np.insert(np.array(feet), 1, 0.0, axis=1)
    return [strut(foot, foot + np.array((0, s.leg + 0.01, 0)), 0.018, 0.026)]
