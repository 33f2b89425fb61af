"""Tables and desks: rectangular, round or oval tops on four legs, a pedestal or trestles."""

# ruff: noqa: RUF005  (a tuple added to an array is a sum)
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcgen.data.synthetic.draw import pick
from pcgen.data.synthetic.solids import Mesh, box, extrude, loft, oval, revolve, strut

PARTS = ("top", "support", "apron", "shelf", "drawers")

_OUTLINE = {"rectangle": 40.0, "rounded": 5.0, "ellipse": 2.0}  # superellipse exponents


@dataclass(frozen=True)
class Table:
    """Sizes in nominal metres before the shape is scaled to its frame; the long side is along x."""

    support: str  # "square", "tapered", "turned", "splayed", "pedestal" or "trestle"
    outline: str  # of the top: "rectangle", "rounded" or "ellipse" (a circle if width equals depth)
    width: float
    depth: float
    height: float
    thickness: float  # of the top
    leg: float  # thickness of a leg
    inset: float  # how far the legs stand in from the edge
    apron: float  # height of the frame under the top, 0 for none
    shelf: float  # height of the shelf above the ground, 0 for none
    drawers: int  # 0, or the number of drawers under the top
    cabinet: str  # a pedestal of drawers that stands on the ground: "none", "one" or "two"


def draw(rng: np.random.Generator) -> Table:
    """A table with the proportions of its kind: a coffee table is low, a side table small, a desk has drawers."""
    kind = pick(rng, {"dining": 4, "coffee": 3, "side": 2, "desk": 3})
    long = {"dining": (1.3, 2.2), "coffee": (0.9, 1.4), "side": (0.4, 0.6), "desk": (1.1, 1.7)}[kind]
    height = {"dining": (0.71, 0.77), "coffee": (0.36, 0.48), "side": (0.5, 0.75), "desk": (0.71, 0.77)}[kind]
    outline = "rectangle" if kind == "desk" else pick(rng, {"rectangle": 4, "rounded": 2, "ellipse": 4})
    width = rng.uniform(*long)
    circle = kind == "side" or (outline == "ellipse" and rng.random() < 0.6)
    if circle and kind == "dining":
        width *= 0.72
    support = {"square": 3, "tapered": 2, "turned": 2, "splayed": 2}
    if outline == "ellipse":
        support = {"pedestal": 5, "splayed": 3, "turned": 1}
    elif kind in ("dining", "coffee"):
        support["trestle"] = 3
    support = pick(rng, support)
    legged = support not in ("pedestal", "trestle")
    cabinet = pick(rng, {"none": 2, "one": 2, "two": 2}) if kind == "desk" and legged else "none"
    framed = legged and support != "splayed" and outline != "ellipse"
    drawn_out = framed and cabinet == "none" and rng.random() < {"desk": 0.8, "side": 0.5}.get(kind, 0.15)
    return Table(
        support=support,
        outline=outline,
        width=width,
        depth=width if circle else width * rng.uniform(0.45, 0.68),
        height=rng.uniform(*height),
        thickness=rng.uniform(0.02, 0.055),
        leg=rng.uniform(0.035, 0.055) * (1.6 if support == "turned" and kind == "dining" else 1),
        inset=rng.uniform(0.0, 0.08),
        apron=rng.uniform(0.06, 0.12) if framed and (drawn_out or rng.random() < 0.6) else 0.0,
        shelf=rng.uniform(0.12, 0.2) if framed and cabinet == "none" and rng.random() < 0.35 else 0.0,
        drawers=int(rng.integers(1, 4)) if drawn_out else 0,
        cabinet=cabinet,
    )


def build(t: Table) -> dict[str, list[Mesh]]:
    """The solids of each part."""
    return {
        "top": [_top(t)],
        "support": _support(t),
        "apron": _apron(t) if t.apron else [],
        "shelf": [_shelf(t)] if t.shelf else [],
        "drawers": _drawers(t),
    }


def _top(t: Table) -> Mesh:
    edge = 0.25 * t.thickness
    outline = oval((t.width, t.depth), _OUTLINE[t.outline], 44)
    heights = t.height + np.array([-t.thickness, edge - t.thickness, -edge, 0])
    inner = 1 - 2 * edge / t.width
    return extrude(outline, heights, [inner, 1, 1, inner])


def _corners(t: Table, inset: float) -> np.ndarray:
    """Where the legs stand, (4, 2) of (x, z): right front, right rear, left rear, left front."""
    reach = 0.70 if t.outline == "ellipse" else 0.95 if t.outline == "rounded" else 1.0
    half = np.array([t.width, t.depth]) / 2 * reach - t.leg / 2 - inset
    return np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)]) * half


def _at(corners: np.ndarray, y: float) -> np.ndarray:
    return np.insert(corners, 1, y, axis=1)


def _support(t: Table) -> list[Mesh]:
    under = t.height - t.thickness
    if t.support == "pedestal":
        return _pedestal(t, under)
    if t.support == "trestle":
        return _trestle(t, under)
    if t.cabinet == "two":
        return []
    corners = _corners(t, t.inset)
    if t.cabinet == "one":  # the cabinet on the right stands in for two legs
        corners = corners[2:]
    foot, top = _at(corners, 0.0), _at(corners, under)
    if t.support == "turned":
        return [revolve(_BALUSTER * (t.leg, under), foot, sides=14)]
    if t.support == "splayed":
        return [strut(_at(corners * 1.06, 0.0), _at(corners * 0.82, under), 0.28 * t.leg, 0.55 * t.leg)]
    post = np.insert(oval((t.leg, t.leg), 12, 12), 1, 0.0, axis=1)
    foot_size = 0.55 if t.support == "tapered" else 1.0
    return [loft(np.stack([foot[:, None] + foot_size * post, top[:, None] + post], axis=1))]


# A turned leg: (radius in leg thicknesses, height in leg heights).
_BALUSTER = np.array(
    [(0, 0), (0.25, 0), (0.35, 0.04), (0.25, 0.08), (0.3, 0.15), (0.42, 0.45), (0.45, 0.6), (0.3, 0.68)]
    + [(0.5, 0.71), (0.5, 0.74), (0.35, 0.77), (0.5, 0.8), (0.5, 1.0), (0, 1.0)]
)


def _pedestal(t: Table, under: float) -> list[Mesh]:
    """A column on a disc if the leg is thin, on four feet otherwise."""
    r, reach = 0.6 * t.leg + 0.02 * t.width, 0.30 * t.depth
    hub = [(0, 0.1 * under), (r, 0.1 * under)]
    if t.leg < 0.045:
        hub = [(0, 0), (reach, 0), (reach, 0.02), (0.4 * reach, 0.05), (r, 0.12 * under)]
    column = [(0.9 * r, 0.3 * under), (1.2 * r, 0.6 * under), (0.8 * r, 0.85 * under), (2 * r, under), (0, under)]
    post = revolve(hub + column)
    if t.leg < 0.045:
        return [post]
    ends = np.array([(1, 0, 1), (1, 0, -1), (-1, 0, -1), (-1, 0, 1)]) * 0.8 * reach
    return [post, strut((0, 0.22 * under, 0), ends + (0, 0.02, 0), 0.5 * t.leg, 0.35 * t.leg)]


def _trestle(t: Table, under: float) -> list[Mesh]:
    """At each end a foot, a crossed or upright post and a head, joined by a beam."""
    x = np.array([-1, 1]) * (0.36 * t.width)
    leg, depth = 1.3 * t.leg, 0.8 * t.depth
    at = np.stack([x, np.zeros(2), np.zeros(2)], -1)
    beam = box((0, 0.35 * under, 0), (0.72 * t.width, leg, 0.5 * leg))
    if t.inset > 0.04:  # crossed
        low, high = np.array((0, 0, 0.45)) * depth, np.array((0, 0, 0.38)) * depth + (0, under, 0)
        far = high * (1, 1, -1)
        return [strut(at + low, at + far, 0.5 * leg), strut(at - low, at + high, 0.5 * leg), beam]
    foot = box(at + (0, 0.5 * leg, 0), (leg, leg, depth))
    head = box(at + (0, under - 0.4 * leg, 0), (leg, 0.8 * leg, 0.9 * depth))
    post = box(at + (0, under / 2, 0), (leg, under - 1.8 * leg, 2.2 * leg))
    return [foot, head, post, beam]


def _apron(t: Table) -> list[Mesh]:
    """Four boards between the legs, under the top."""
    (x, z), y = _corners(t, t.inset + 0.01)[0], t.height - t.thickness - t.apron / 2
    length, side = box([(0, y, z), (0, y, -z)], (2 * x - t.leg, t.apron, 0.02)), 2 * z - t.leg
    return [length, box([(x, y, 0), (-x, y, 0)], (0.02, t.apron, side))]


def _shelf(t: Table) -> Mesh:
    x, z = _corners(t, t.inset)[0]
    return box((0, t.shelf, 0), (2 * x, 0.02, 2 * z))


def _drawers(t: Table) -> list[Mesh]:
    if t.cabinet != "none":
        return _cabinets(t)
    if not t.drawers:
        return []
    (x, z), y = _corners(t, t.inset + 0.01)[0], t.height - t.thickness - t.apron / 2
    pitch = (2 * x - t.leg) / t.drawers
    at = np.stack([(np.arange(t.drawers) - (t.drawers - 1) / 2) * pitch] + [np.full(t.drawers, v) for v in (y, z)], -1)
    front = box(at + (0, 0, 0.015), (0.92 * pitch, 0.8 * t.apron, 0.02))
    return [front, strut(at + (0, 0, 0.02), at + (0, 0, 0.055), 0.014, sides=8)]


def _cabinets(t: Table) -> list[Mesh]:
    """Chests of drawers under one or both ends of a desk, each drawer with its handle."""
    x, z = _corners(t, 0.0)[0] + t.leg / 2
    size = np.array([0.27 * t.width, t.height - t.thickness, 2 * z - 0.04])
    centre = np.array([[x - size[0] / 2 - 0.01, size[1] / 2, 0]])
    if t.cabinet == "two":
        centre = np.concatenate([centre, centre * (-1, 1, 1)])
    level = (np.arange(3) - 1)[:, None, None] * (0, 0.31 * size[1], 0) + (0, 0, size[2] / 2)
    fronts = box((centre + level).reshape(-1, 3), (0.9 * size[0], 0.27 * size[1], 0.02))
    handle = (centre + level + (0, 0, 0.03)).reshape(-1, 3)
    return [box(centre, size), fronts, box(handle, (0.35 * size[0], 0.02, 0.04))]
