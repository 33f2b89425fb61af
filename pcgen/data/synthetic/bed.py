"""Beds: single and double, with a head board, a foot board or neither, with pillows and a duvet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcgen.data.synthetic.draw import pick
from pcgen.data.synthetic.solids import Mesh, box, cushion, strut

PARTS = ("frame", "mattress", "headboard", "bedding", "legs")


@dataclass(frozen=True)
class Bed:
    """Sizes in nominal metres; the head is at the rear, the foot towards +z."""

    width: float
    length: float
    under: float  # height of the lower side of the frame
    rail: float  # height of the frame
    mattress: float  # thickness
    head: str  # "panel", "slats" or "none"
    head_height: float
    foot: str  # "panel" or "none"
    base: str  # "legs" or "box", which fills the space under the frame
    pillows: int  # side by side
    duvet: float  # the share of the length that it covers, 0 for none


def draw(rng: np.random.Generator) -> Bed:
    """A bed for one or two."""
    width = {"single": (0.8, 1.1), "double": (1.3, 1.85)}[pick(rng, {"single": 1, "double": 1})]
    width, under, rail = rng.uniform(*width), rng.uniform(0.08, 0.26), rng.uniform(0.1, 0.2)
    head = pick(rng, {"panel": 4, "slats": 2, "none": 1})
    mattress = rng.uniform(0.12, 0.28)
    return Bed(
        width=width,
        length=rng.uniform(1.9, 2.15),
        under=under,
        rail=rail,
        mattress=mattress,
        head=head,
        head_height=under + rail + mattress + rng.uniform(0.2, 0.7),
        foot=pick(rng, {"panel": 1, "none": 2}),
        base=pick(rng, {"legs": 2, "box": 1}),
        pillows=2 if width > 1.2 else 1,
        duvet=rng.uniform(0.5, 0.8) if rng.random() < 0.7 else 0.0,
    )


def build(b: Bed) -> dict[str, list[Mesh]]:
    """The solids of each part."""
    return {
        "frame": _frame(b),
        "mattress": [_lying(b, _top(b) - b.mattress / 2 - 0.02, (b.width - 0.04, b.mattress + 0.04, b.length - 0.04))],
        "headboard": _headboard(b),
        "bedding": _bedding(b),
        "legs": _legs(b),
    }


def _top(b: Bed) -> float:
    """The upper side of the mattress."""
    return b.under + b.rail + b.mattress


def _lying(b: Bed, y: float, size: tuple[float, float, float], x: float = 0.0, z: float = 0.0) -> Mesh:
    return cushion((x, y, z), size, exponent=14.0, edge=0.2)


def _frame(b: Bed) -> list[Mesh]:
    frame = [box((0, b.under + b.rail / 2, 0), (b.width, b.rail, b.length))]
    if b.base == "box":
        frame.append(box((0, b.under / 2, 0), (b.width - 0.08, b.under, b.length - 0.08)))
    if b.foot == "panel":
        height = b.rail + b.mattress + 0.08
        frame.append(box((0, b.under + height / 2, b.length / 2 + 0.015), (b.width, height, 0.03)))
    return frame


def _headboard(b: Bed) -> list[Mesh]:
    z, low = -b.length / 2 - 0.02, b.under
    height = b.head_height - low
    if b.head == "none":
        return []
    if b.head == "panel":
        return [box((0, low + height / 2, z), (b.width + 0.04, height, 0.04))]
    x = np.linspace(-1, 1, 2 + 2 * round(b.width / 0.24)) * (b.width / 2 - 0.02)
    slats = box([(u, low + height / 2, z) for u in x], (0.04, height, 0.025))
    return [slats, box((0, b.head_height, z), (b.width + 0.02, 0.06, 0.04))]


def _bedding(b: Bed) -> list[Mesh]:
    pitch, head = (b.width - 0.06) / b.pillows, -b.length / 2
    bedding = [
        cushion((x, _top(b) + 0.05, head + 0.28), (min(0.9 * pitch, 0.75), 0.14, 0.42), 4.0, 0.45)
        for x in (np.arange(b.pillows) - (b.pillows - 1) / 2) * pitch
    ]
    if b.duvet:
        length = b.duvet * b.length
        size = (b.width + 0.03, 0.6 * b.mattress + 0.06, length)
        bedding.append(_lying(b, _top(b) + 0.06 - size[1] / 2, size, z=b.length / 2 - 0.03 - length / 2))
    return bedding


def _legs(b: Bed) -> list[Mesh]:
    if b.base == "box":
        return []
    foot = np.array([(u, 0, v) for u in (-1, 1) for v in (-1, 1)]) * (b.width / 2 - 0.04, 0, b.length / 2 - 0.04)
    return [strut(foot, foot + np.array((0, b.under + 0.01, 0)), 0.03)]
