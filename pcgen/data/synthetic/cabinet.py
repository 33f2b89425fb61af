"""Cabinets: bookcases with and without books, wardrobes, sideboards, chests of drawers and shop shelves."""

# ruff: noqa: RUF005  (a tuple added to an array is a sum)
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pcgen.data.synthetic.draw import pick
from pcgen.data.synthetic.solids import Mesh, box, strut

PARTS = ("carcass", "shelves", "doors", "drawers", "books", "feet")

_FRONT = 0.02  # thickness of a door or the front of a drawer


@dataclass(frozen=True)
class Cabinet:
    """Sizes in nominal metres; the long side is along x. From the ground up: feet, drawers, doors, open shelves."""

    kind: str  # "bookcase", "wardrobe", "sideboard", "chest" or "shop"
    width: float
    depth: float
    height: float
    board: float  # thickness of a board
    base: str  # "plinth", "legs" or "ground"
    foot: float  # height of the base, 0 on the ground
    drawn: float  # share of the height above the base that has drawers
    closed: float  # share that has doors
    rows: int  # of drawers
    bays: int  # of shelves and of drawers, side by side
    doors: int  # side by side
    levels: int  # of open shelves
    sides: str  # of the open part: "panel" or "post"
    back: str  # of the open part: "rear", "middle" (shelves on both sides of it) or "none"
    handle: str  # "bar", "knob" or "none"
    books: float  # share of the length of the shelves that they fill, 0 for none
    arrangement: int  # seed of the books


class _Levels(NamedTuple):
    """Heights at which one kind of front ends and the next starts."""

    base: float
    doors: float
    open: float


def draw(rng: np.random.Generator) -> Cabinet:
    """A cabinet with the proportions of its kind: a wardrobe is tall, a sideboard low and long."""
    kind = pick(rng, {"bookcase": 5, "wardrobe": 3, "sideboard": 3, "chest": 2, "shop": 3})
    width = {"bookcase": (0.4, 3.0), "wardrobe": (0.5, 3.0), "sideboard": (0.9, 2.8), "chest": (0.4, 1.4)}
    depth = {"bookcase": (0.25, 0.42), "wardrobe": (0.45, 0.7), "sideboard": (0.35, 0.55), "chest": (0.38, 0.55)}
    height = {"bookcase": (0.6, 2.3), "wardrobe": (1.6, 2.3), "sideboard": (0.4, 0.95), "chest": (0.45, 1.4)}
    width = rng.uniform(*width.get(kind, (0.9, 3.0)))
    depth = rng.uniform(*depth.get(kind, (0.4, 0.8)))
    height = rng.uniform(*height.get(kind, (1.0, 2.3)))
    base = {"sideboard": {"legs": 4, "plinth": 2, "ground": 1}, "chest": {"legs": 3, "plinth": 2, "ground": 1}}
    base = pick(rng, base.get(kind, {"plinth": 4, "ground": 3, "legs": 1}))
    drawn, closed = _fronts(kind, rng)
    back = {"bookcase": {"rear": 5, "none": 1}, "shop": {"middle": 4, "none": 1}}
    stocked = {"bookcase": 0.7, "shop": 0.6}.get(kind, 0.0)
    return Cabinet(
        kind=kind,
        width=width,
        depth=depth,
        height=height,
        board=rng.uniform(0.016, 0.035),
        base=base,
        foot={"plinth": rng.uniform(0.04, 0.12), "legs": rng.uniform(0.08, 0.2), "ground": 0.0}[base],
        drawn=drawn,
        closed=closed,
        rows=max(1, round(drawn * height / rng.uniform(0.16, 0.3))),
        bays=max(1, round(width / rng.uniform(0.6, 1.0))),
        doors=max(1, round(width / rng.uniform(0.4, 0.6))),
        levels=max(1, round((1 - drawn - closed) * height / rng.uniform(0.27, 0.42))),
        sides="post" if kind == "shop" and rng.random() < 0.4 else "panel",
        back=pick(rng, back.get(kind, {"rear": 1})),
        handle=pick(rng, {"bar": 3, "knob": 2, "none": 1}),
        books=rng.uniform(0.3, 1.0) if rng.random() < stocked else 0.0,
        arrangement=int(rng.integers(2**32)),
    )


def _fronts(kind: str, rng: np.random.Generator) -> tuple[float, float]:
    """Shares of the height that have drawers and doors."""
    if kind == "bookcase":
        return 0.0, rng.uniform(0.2, 0.4) if rng.random() < 0.25 else 0.0
    if kind == "shop":
        return 0.0, 0.0
    if kind == "chest":
        return 1.0, 0.0
    drawn = rng.uniform(0.15, 0.4) if rng.random() < 0.4 else 0.0
    open_ = rng.uniform(0.3, 0.5) if kind == "sideboard" and rng.random() < 0.4 else 0.0
    return drawn, 1.0 - drawn - open_


def build(c: Cabinet) -> dict[str, list[Mesh]]:
    """The solids of each part."""
    inside = c.height - c.foot
    at = _Levels(c.foot, c.foot + c.drawn * inside, c.foot + (c.drawn + c.closed) * inside)
    opened = at.open < c.height - 1e-9
    return {
        "carcass": _block(c, at) + (_frame(c, at) if opened else []),
        "shelves": _shelves(c, at) if opened and c.levels > 1 else [],
        "doors": _doors(c, at) if c.closed else [],
        "drawers": _drawers(c, at) if c.drawn else [],
        "books": _books(c, at) if opened and c.books else [],
        "feet": _feet(c) if c.foot else [],
    }


def _block(c: Cabinet, at: _Levels) -> list[Mesh]:
    """All that is behind doors and drawers, as one solid: nobody sees into it."""
    size = np.array((c.width, at.open - at.base, c.depth - _FRONT))
    return [box((0, (at.base + at.open) / 2, -_FRONT / 2), size)] if c.drawn + c.closed else []


def _uprights(c: Cabinet) -> np.ndarray:
    """Where the sides of the bays stand, (bays + 1,) along x."""
    return np.linspace(-1, 1, c.bays + 1) * (c.width - c.board) / 2


def _frame(c: Cabinet, at: _Levels) -> list[Mesh]:
    """The sides, the top, the bottom and the back of the open part."""
    x, y, height = _uprights(c), (at.open + c.height) / 2, c.height - at.open
    if c.sides == "post":
        z = (c.depth - c.board) / 2
        at_posts = [(u, y, v) for u in x for v in (-z, z)]
        sides = box(at_posts, (c.board, height, c.board))
    else:
        sides = box([(u, y, 0) for u in x], (c.board, height, c.depth))
    ends = [(0, level, 0) for level in (at.open + c.board / 2, c.height - c.board / 2)]
    frame = [sides, box(ends, (c.width, c.board, c.depth))]
    if c.back == "none":
        return frame
    rear = 0.0 if c.back == "middle" else 0.005 - c.depth / 2
    return [*frame, box((0, y, rear), (c.width, height, 0.01))]


def _floors(c: Cabinet, at: _Levels) -> np.ndarray:
    """The heights of the upper sides of the bottom and the shelves, (levels,), from the lowest."""
    return at.open + c.board + np.arange(c.levels) * (c.height - at.open - c.board) / c.levels


def _shelves(c: Cabinet, at: _Levels) -> list[Mesh]:
    middle = (_uprights(c)[1:] + _uprights(c)[:-1]) / 2
    centres = [(x, y - c.board / 2, 0) for x in middle for y in _floors(c, at)[1:]]
    return [box(centres, ((c.width - c.board) / c.bays - c.board, c.board, c.depth - 0.01))]


def _handles(c: Cabinet, at: np.ndarray, along: tuple[int, int, int]) -> list[Mesh]:
    """Bars ``along`` an axis, or knobs, on the fronts at ``at`` (..., 3)."""
    if c.handle == "none":
        return []
    if c.handle == "knob":
        return [strut(at, at + (0, 0, 0.03), 0.008, 0.015, sides=8)]
    return [box(at + (0, 0, 0.015), 0.12 * np.array(along) + (0.012, 0.012, 0.03))]


def _doors(c: Cabinet, at: _Levels) -> list[Mesh]:
    """Leaves in pairs that open away from each other; an odd last one opens as if it had a partner."""
    pitch, height, k = c.width / c.doors, at.open - at.doors, np.arange(c.doors)
    x = (k - (c.doors - 1) / 2) * pitch
    leaf = np.stack([x, np.full(c.doors, (at.doors + at.open) / 2), np.full(c.doors, (c.depth - _FRONT) / 2)], -1)
    side = np.where((k % 2 == 0) & (c.doors > 1), 1, -1)
    handle = leaf + np.stack([side * (pitch / 2 - 0.05), 0 * x, np.full(c.doors, _FRONT / 2)], -1)
    return [box(leaf, (pitch - 0.006, height - 0.006, _FRONT)), *_handles(c, handle, (0, 1, 0))]


def _drawers(c: Cabinet, at: _Levels) -> list[Mesh]:
    pitch, height = c.width / c.bays, (at.doors - at.base) / c.rows
    x = (np.arange(c.bays) - (c.bays - 1) / 2) * pitch
    y = at.base + (np.arange(c.rows) + 0.5) * height
    front = np.array([(u, v, (c.depth - _FRONT) / 2) for u in x for v in y])
    return [box(front, (pitch - 0.006, height - 0.006, _FRONT)), *_handles(c, front + (0, 0, _FRONT / 2), (1, 0, 0))]


def _books(c: Cabinet, at: _Levels) -> list[Mesh]:
    """On every shelf a row from the left, until its share of the length is full; its front is a little uneven."""
    rng = np.random.default_rng(c.arrangement)
    faces = (1, -1) if c.back == "middle" else (1,)
    place = np.array([(x, y, f) for x in _uprights(c)[:-1] + c.board / 2 for y in _floors(c, at) for f in faces])
    length = (c.width - c.board) / c.bays - c.board
    clear = (c.height - at.open - c.board) / c.levels - c.board
    room = min(0.24, c.depth / len(faces) - 0.03)
    thickness = rng.uniform(0.02, 0.06, (len(place), int(length / 0.02)))
    full = np.clip(c.books + rng.uniform(-0.4, 0.3, (len(place), 1)), 0, 1) * length
    end = thickness.cumsum(1)
    shelf, nth = np.nonzero(end <= full)
    size = rng.uniform((0, 0.55, 0.6), (0, 0.95, 0.98), (len(shelf), 3)) * (1, clear, room)
    size[:, 0] = thickness[shelf, nth]
    left, floor, face = place[shelf].T
    front = c.depth / 2 - rng.uniform(0.01, 0.02, len(shelf))
    centre = [left + end[shelf, nth] - size[:, 0] / 2, floor + size[:, 1] / 2, face * (front - size[:, 2] / 2)]
    return [box(np.stack(centre, -1), size)] if len(shelf) else []


def _feet(c: Cabinet) -> list[Mesh]:
    if c.base == "plinth":
        return [box((0, c.foot / 2, -0.01), (c.width - 0.02, c.foot, c.depth - 0.06))]
    x = np.linspace(-1, 1, 2 if c.width < 1.8 else 3) * (c.width / 2 - 0.05)
    top = np.array([(u, c.foot, v) for u in x for v in (0.05 - c.depth / 2, c.depth / 2 - 0.05)])
    return [strut(top * (1, 0, 1), top, 0.014, 0.024)]
