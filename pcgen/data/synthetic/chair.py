"""Chairs: four legs, a pedestal or a sled; solid, slatted, spindle or ladder backs; with arms or without."""

# ruff: noqa: RUF005  (a tuple added to an array is a sum)
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcgen.data.synthetic.draw import pick
from pcgen.data.synthetic.solids import Mesh, box, cushion, loft, oval, revolve, strut, tube

PARTS = ("seat", "back", "legs", "arms")


@dataclass(frozen=True)
class Chair:
    """Sizes in nominal metres before the shape is scaled to its frame; the front is towards +z."""

    base: str  # "straight", "tapered", "splayed", "pedestal" or "sled"
    back: str  # "solid", "slats", "spindles" or "ladder"
    arms: str  # "none", "posts", "loop" or "panels"
    width: float  # of the seat
    depth: float
    height: float  # of the top of the seat above the ground
    thickness: float  # of the seat
    roundness: float  # superellipse exponent of the seat's outline
    back_height: float
    rake: float  # backward run of the back per unit of height
    curl: float  # further backward run at the top, which curves the back in side view
    bow: float  # how far the sides of the back come forward
    flare: float  # widening of the back towards its top
    crown: float  # narrowing of a solid back at its very top, 0 for square corners
    bars: int  # slats, spindles or rungs of the back
    leg: float  # half the thickness of a leg
    stretcher: bool  # bars between the legs


def draw(rng: np.random.Generator) -> Chair:
    """A chair with the proportions of its kind: a lounge chair is low, wide and raked, an office chair turns."""
    kind = pick(rng, {"dining": 5, "office": 2, "lounge": 2})
    base = {
        "dining": {"straight": 3, "tapered": 3, "splayed": 3, "sled": 1},
        "office": {"pedestal": 1},
        "lounge": {"tapered": 1, "splayed": 2, "sled": 2, "straight": 1},
    }[kind]
    base = pick(rng, base)
    back = pick(rng, {"solid": 1} if kind == "office" else {"solid": 3, "slats": 2, "spindles": 2, "ladder": 2})
    arms = {"dining": {"none": 4, "posts": 1}, "office": {"none": 1, "loop": 2}, "lounge": {"none": 1, "posts": 3}}
    lounge = kind == "lounge"
    arms = pick(rng, {"none": 1, "panels": 2} if lounge and back == "solid" else arms[kind])
    width = rng.uniform(0.55, 0.72) if lounge else rng.uniform(0.40, 0.52)
    upholstered = back == "solid" and (arms == "panels" or rng.random() < 0.6)
    return Chair(
        base=base,
        back=back,
        arms=arms,
        width=width,
        depth=width * rng.uniform(0.88, 1.05),
        height=rng.uniform(0.34, 0.42) if lounge else rng.uniform(0.43, 0.50),
        thickness=rng.uniform(0.08, 0.15) if upholstered else rng.uniform(0.025, 0.05),
        roundness=rng.uniform(3.0, 4.5) if back == "spindles" else rng.uniform(4.0, 16.0),
        back_height=rng.uniform(0.38, 0.75) if lounge else rng.uniform(0.36, 0.62),
        rake=rng.uniform(0.22, 0.42) if lounge else rng.uniform(0.02, 0.22),
        curl=max(0.0, rng.normal(0.05, 0.06)),
        bow=width * max(0.0, rng.normal(0.12, 0.1)),
        flare=rng.uniform(-0.15, 0.18),
        crown=rng.uniform(0.2, 0.75) if back == "solid" and rng.random() < 0.5 else 0.0,
        bars=int(rng.integers(5, 10)) if back == "spindles" else int(rng.integers(3, 6)),
        leg=rng.uniform(0.015, 0.028),
        stretcher=rng.random() < 0.4,
    )


def build(c: Chair) -> dict[str, list[Mesh]]:
    """The solids of each part."""
    return {"seat": [_seat(c)], "back": _back(c), "legs": _legs(c), "arms": _arms(c)}


def _seat(c: Chair) -> Mesh:
    centre = (0, c.height - c.thickness / 2, 0)
    return cushion(centre, (c.width, c.thickness, c.depth), exponent=c.roundness)


def _on_back(c: Chair, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Points of the back's middle surface: u from -1 (left) to 1 (right), v from 0 (seat) to 1 (top)."""
    u, v = np.broadcast_arrays(u, v)
    x = u * (0.46 * c.width) * (1 + c.flare * v) * (1 - c.crown * np.maximum(0, v) ** 6)
    z = -0.45 * c.depth - c.rake * c.back_height * v - c.curl * v**2 + c.bow * (u**2 - 1) * np.minimum(1, v + 0.3)
    return np.stack([x, c.height - 0.3 * c.thickness + c.back_height * v, z], -1)


def _panel(c: Chair, low: float, high: float, thickness: float) -> Mesh:
    """A curved board over the full width of the back, between two heights."""
    u = np.linspace(-1, 1, 9)
    v = low + (high - low) * np.array([0, 0.04, 0.2, 0.45, 0.7, 0.85, 0.95, 1])
    front = _on_back(c, u, v[:, None])
    half = thickness / 2 * np.array([0.5, 1, 1, 1, 1, 1, 1, 0.5])[:, None, None] * (0, 0, 1)
    return loft(np.concatenate([front + half, front[:, ::-1] - half], axis=1))


def _back(c: Chair) -> list[Mesh]:
    if c.back == "solid":
        return [_panel(c, 0.25 if c.base == "pedestal" else 0.0, 1.0, max(0.03, 0.7 * c.thickness)), *_spine(c)]
    rail = 0.022
    ends = np.array([-1.0, 1.0])[:, None]
    parts = [tube(_on_back(c, ends, np.linspace(0, 0.98, 7)), c.leg, up=(0, 0, 1))]
    across = np.linspace(-1, 1, 9)
    if c.back == "ladder":
        v = np.linspace(0.3, 0.97, c.bars)[:, None]
        return [*parts, tube(_on_back(c, across, v), np.full((9, 2), (0.01, 0.03)), up=(0, 0, 1))]
    u = np.linspace(-1, 1, c.bars + 2)[1:-1, None]
    bar = (0.4 * c.width / c.bars, 0.008) if c.back == "slats" else (0.009, 0.009)
    bars = tube(_on_back(c, u, np.linspace(0.0, 0.97, 7)), np.full((7, 2), bar), up=(0, 0, 1))
    top = tube(_on_back(c, across, np.array(0.97)), np.full((9, 2), (rail, 0.035)), up=(0, 0, 1))
    return [*parts, bars, top]


def _spine(c: Chair) -> list[Mesh]:
    """The bar that carries the back of an office chair."""
    if c.base != "pedestal":
        return []
    path = _on_back(c, np.array(0.0), np.linspace(-0.1, 0.5, 5)) - (0, 0, 0.5 * c.thickness + 0.02)
    path[0] = (0, c.height - c.thickness - 0.01, -0.2 * c.depth)
    return [tube(path, np.full((5, 2), (0.035, 0.012)), up=(0, 0, 1))]


def _corners(c: Chair, reach: float) -> np.ndarray:
    """The four corners (x, z) of the seat, scaled by ``reach``: right front, right rear, left rear, left front."""
    half = np.array([c.width, c.depth]) / 2 * reach
    return np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)]) * half


def _at(corners: np.ndarray, y: float) -> np.ndarray:
    return np.insert(corners, 1, y, axis=1)


def _legs(c: Chair) -> list[Mesh]:
    if c.base == "pedestal":
        return _pedestal(c)
    if c.base == "sled":
        return _sled(c)
    top = _at(_corners(c, 0.80 if c.base == "splayed" else 0.86), c.height - 0.8 * c.thickness)
    foot = _at(_corners(c, {"straight": 0.86, "tapered": 0.9, "splayed": 1.12}[c.base]), 0.0)
    if c.base == "straight":
        post = np.insert(oval((2 * c.leg, 2 * c.leg), 12, 12), 1, 0.0, axis=1)
        legs = loft(np.stack([foot[:, None] + post, top[:, None] + post], axis=1))
    else:
        legs = strut(foot, top, 0.55 * c.leg, 1.15 * c.leg)
    if not c.stretcher:
        return [legs]
    at = foot + (top - foot) * 0.35
    ends = np.array([at[1], at[2]]), np.array([at[0], at[3]])
    middle = (at[0] + at[1]) / 2, (at[2] + at[3]) / 2
    return [legs, strut(*ends, 0.5 * c.leg), strut(*middle, 0.5 * c.leg)]


def _pedestal(c: Chair) -> list[Mesh]:
    """A gas spring on a star of five feet with castors."""
    angle = 2 * np.pi * np.arange(5) / 5
    star = np.stack([np.sin(angle), np.zeros(5), np.cos(angle)], -1) * 0.62 * c.width
    low, bottom = 0.09, c.height - c.thickness
    column = revolve(
        [(0, 0.07), (0.045, 0.07), (0.035, 0.14), (0.03, 0.5 * bottom), (0.018, 0.5 * bottom)]
        + [(0.018, bottom - 0.03), (0.09, bottom), (0, bottom)],
        sides=16,
    )
    feet = strut((0, low + 0.015, 0), star + (0, 0.065, 0), 0.026, 0.016)
    axle = 0.018 * np.stack([np.cos(angle), np.zeros(5), -np.sin(angle)], -1)
    return [column, feet, strut(star + (0, 0.03, 0) - axle, star + (0, 0.03, 0) + axle, 0.03, sides=12)]


def _sled(c: Chair) -> list[Mesh]:
    """Two bent runners, joined under the seat."""
    x = np.array([-1, 1]) * 0.46 * c.width
    top, r, back, front = c.height - c.thickness, 0.05, -0.46 * c.depth, 0.46 * c.depth
    side = [(top, back + 0.04), (r, back), (0.3 * r, back + 0.3 * r), (0, back + r), (0, front - r)]
    side += [(0.3 * r, front - 0.3 * r), (r, front), (top, front - 0.04)]
    path = np.empty((2, len(side), 3))
    path[:, :, 0], path[:, :, 1:] = x[:, None], side
    bars = np.array([(x[0], top, z) for z in (back + 0.06, front - 0.06)])
    return [tube(path + (0, 0.7 * c.leg, 0), 0.7 * c.leg), strut(bars, bars * (-1, 1, 1), 0.6 * c.leg)]


def _arms(c: Chair) -> list[Mesh]:
    if c.arms == "none":
        return []
    if c.arms == "panels":
        low, high = c.height - c.thickness - 0.04, c.height + 0.2
        size = (0.11, high - low, c.depth + 0.04)
        return [cushion((side * (c.width / 2 + 0.045), (low + high) / 2, -0.01), size, 12, 0.15) for side in (-1, 1)]
    x, level = 0.5 * c.width + 0.02, c.height + min(0.22, 0.6 * c.back_height)
    front = 0.32 * c.depth
    if c.arms == "loop":
        side = [(c.height - 0.7 * c.thickness, 0.12), (c.height, 0.16), (level - 0.04, 0.16), (level, 0.12)]
        side = [(y, k * c.depth) for y, k in side] + [(level, -0.15 * c.depth), (level - 0.04, -0.2 * c.depth)]
        side += [(c.height, -0.2 * c.depth), (c.height - 0.7 * c.thickness, -0.15 * c.depth)]
        path = np.empty((2, len(side), 3))
        path[:, :, 0], path[:, :, 1:] = np.array([[-x], [x]]), side
        path[:, [0, -1], 0] *= 0.7
        return [tube(path, 0.02), box([(-x, level + 0.015, 0), (x, level + 0.015, 0)], (0.06, 0.03, 0.5 * c.depth))]
    sides = np.array([-1.0, 1.0])
    end = _on_back(c, sides, np.array((level - c.height) / c.back_height))
    start = np.stack([sides * x, np.full(2, level), np.full(2, front + 0.04)], -1)
    rest = np.stack([start, (start + end) / 2 + (0, 0.01, 0), end], 1)
    rest[:, 1, 0] = sides * (x + 0.01)
    foot = np.stack([sides * 0.47 * c.width, np.full(2, c.height - 0.5 * c.thickness), np.full(2, front)], -1)
    return [tube(rest, np.full((3, 2), (0.03, 0.012)), up=(0, 1, 0)), strut(foot, start - (0, 0, 0.05), 0.7 * c.leg)]
