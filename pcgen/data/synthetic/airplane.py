"""Airplanes: airliners, regional and business jets, propeller planes and delta-winged fighters."""

# ruff: noqa: RUF005  (a tuple added to an array is a sum)
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcgen.data.synthetic.draw import pick
from pcgen.data.synthetic.solids import Mesh, box, loft, revolve, tube

PARTS = ("fuselage", "wings", "tail", "engines")

_SIDES = np.array([-1.0, 1.0])


@dataclass(frozen=True)
class Airplane:
    """Lengths over the length of the fuselage, before the shape is scaled to its frame; the nose is towards +z."""

    kind: str  # "airliner", "business", "propeller" or "fighter"
    engines: str  # "two" or "four" under the wings, "tail", "nose", "props" on the wings, or "inside"
    tail: str  # "low", "tee" or "twin"
    wing_level: float  # height of the wing's root over the radius of the fuselage, -1 to 1
    radius: float  # of the fuselage
    nose: float  # length of the tapering nose
    stern: float  # length of the tapering stern
    upsweep: float  # rise of the stern over the radius
    span: float  # of one wing
    chord: float  # of the wing's root
    taper: float  # tip chord over root chord
    sweep: float  # of the leading edge, radians
    dihedral: float  # radians
    winglet: float  # height of the upturned tip, 0 for none
    wing_at: float  # where the root's leading edge is: distance from the nose
    fin: float  # height of the vertical tail
    stabiliser: float  # span of one horizontal tail surface
    engine: float  # radius of a nacelle, or length of a propeller blade


def draw(rng: np.random.Generator) -> Airplane:
    """An airplane with the proportions of its kind: fast ones are slender and swept, slow ones have straight wings."""
    kind = pick(rng, {"airliner": 5, "business": 3, "propeller": 3, "fighter": 3})
    engines = {
        "airliner": {"two": 3, "four": 2},
        "business": {"tail": 1},
        "propeller": {"nose": 2, "props": 2},
        "fighter": {"inside": 1},
    }[kind]
    engines = pick(rng, engines)
    tail = {"business": {"tee": 3, "low": 1}, "propeller": {"low": 2, "tee": 1}, "fighter": {"low": 2, "twin": 1}}
    tail = pick(rng, tail.get(kind, {"low": 1}))
    sweep = {"airliner": (0.40, 0.65), "business": (0.3, 0.6), "propeller": (-0.02, 0.12), "fighter": (0.75, 1.02)}
    sweep = rng.uniform(*sweep[kind])
    span = {"airliner": (0.42, 0.54), "business": (0.4, 0.52), "propeller": (0.55, 0.75), "fighter": (0.22, 0.32)}
    span = rng.uniform(*span[kind])
    delta = kind == "fighter" and rng.random() < 0.6
    chord = {"airliner": (0.17, 0.24), "business": (0.14, 0.2), "propeller": (0.15, 0.22), "fighter": (0.3, 0.4)}
    chord = span * np.tan(sweep) * rng.uniform(1.0, 1.12) if delta else rng.uniform(*chord[kind])
    radius = {
        "airliner": (0.046, 0.07),
        "business": (0.045, 0.06),
        "propeller": (0.06, 0.085),
        "fighter": (0.038, 0.05),
    }
    radius = rng.uniform(*radius[kind])
    high = kind == "propeller" and rng.random() < 0.6
    centre = rng.uniform(0.47, 0.53) + (0.08 if kind in ("business", "fighter") else -0.04 if engines == "nose" else 0)
    return Airplane(
        kind=kind,
        engines=engines,
        tail=tail,
        wing_level=0.85 if high else rng.uniform(-0.2, 0.2) if kind == "fighter" else rng.uniform(-0.7, -0.45),
        radius=radius,
        nose=rng.uniform(0.3, 0.4) if kind == "fighter" else radius * rng.uniform(1.8, 3.0),
        stern=rng.uniform(0.22, 0.4) if kind != "fighter" else 0.1,
        upsweep=rng.uniform(0.3, 0.8) if kind != "fighter" else 0.0,
        span=span,
        chord=chord,
        taper=0.05 if delta else rng.uniform(0.6, 1.0) if kind == "propeller" else rng.uniform(0.2, 0.38),
        sweep=sweep,
        dihedral=rng.uniform(0.0, 0.03) if high or kind == "fighter" else rng.uniform(0.05, 0.12),
        winglet=rng.uniform(0.03, 0.06) if kind in ("airliner", "business") and rng.random() < 0.6 else 0.0,
        wing_at=centre - chord / 2 - 0.35 * span * np.tan(sweep) * (1 if kind != "fighter" else 0.3),
        fin=rng.uniform(0.13, 0.19),
        stabiliser=0.0 if delta and rng.random() < 0.7 else rng.uniform(0.15, 0.2),
        engine=rng.uniform(0.42, 0.6) * radius if kind == "airliner" else rng.uniform(0.38, 0.5) * radius,
    )


def build(a: Airplane) -> dict[str, list[Mesh]]:
    """The solids of each part."""
    return {"fuselage": _fuselage(a), "wings": [_wings(a)], "tail": _tail(a), "engines": _engines(a)}


def _fuselage(a: Airplane) -> list[Mesh]:
    """A body of revolution with an ogive nose and a stern that rises to its tip, from the nose at z = 1/2 back."""
    run = np.concatenate([a.nose * (1 - np.cos(np.linspace(0, np.pi / 2, 9))), 1 - a.stern * np.linspace(1, 0, 8)])
    ahead = np.clip(1 - run / a.nose, 0, 1)
    behind = np.clip((run - 1 + a.stern) / a.stern, 0, 1)
    blunt = 0.55 if a.kind == "fighter" else 0.12
    radius = a.radius * (1 - ahead ** (1.3 if a.kind == "fighter" else 2.0)) ** 0.5 * (1 - (1 - blunt) * behind**1.6)
    path = np.stack(
        [np.zeros_like(run), a.upsweep * a.radius * behind**1.5 - 0.25 * a.radius * ahead**2, 0.5 - run], -1
    )
    body = tube(path, radius + 1e-4, sides=18, up=(0, 1, 0))
    if a.kind == "airliner":
        return [body]
    length = 0.16 if a.kind == "fighter" else 0.12
    at, t = 0.5 - 0.85 * a.nose - 0.02, np.linspace(0, 1, 7)
    bubble = np.stack([np.zeros(7), np.full(7, 0.55 * a.radius), at + length * (0.45 - t)], -1)
    rise = a.radius * (0.9 if a.kind == "fighter" else 0.65) * np.sin(np.pi * t) ** 0.7 + 1e-4
    return [body, tube(bubble, np.stack([0.6 * rise, rise], -1), sides=12, up=(0, 1, 0))]


# Half thickness of the symmetric four-digit section (Jacobs, Ward and Pinkerton, NACA report 460, 1933).
_X = np.array([0.0, 0.02, 0.1, 0.3, 0.6, 0.85, 1.0])
_T = 5 * (0.2969 * np.sqrt(_X) - 0.126 * _X - 0.3516 * _X**2 + 0.2843 * _X**3 - 0.1015 * _X**4)
_SECTION = np.concatenate([np.stack([_X, _T], -1), np.stack([_X, -_T], -1)[-1:0:-1]])


def _blade(edge: np.ndarray, chord: np.ndarray, normal: np.ndarray, thickness: float = 0.11) -> Mesh:
    """Wing sections behind a leading ``edge`` (..., M, 3), each ``chord`` (M,) long towards -z."""
    aft = _SECTION[:, :1] * (0, 0, -1)
    normal = np.asarray(normal, dtype=float)[..., None, :]
    offset = (aft + _SECTION[:, 1:] * thickness * normal) * np.asarray(chord)[:, None, None]
    return loft(edge[..., None, :] + offset)


def _mirrored(edge: np.ndarray) -> np.ndarray:
    """A right leading edge (M, 3) and its mirror image, (2, M, 3)."""
    return np.stack([edge, edge * (-1, 1, 1)])


def _wing_edge(a: Airplane, s: np.ndarray) -> np.ndarray:
    """The right wing's leading edge at fractions ``s`` of the span, from the middle of the fuselage."""
    x = 0.5 * a.radius + s * (a.span - 0.5 * a.radius)
    y = 0.9 * a.wing_level * a.radius + s * a.span * np.tan(a.dihedral)
    return np.stack([x, y, 0.5 - a.wing_at - s * a.span * np.tan(a.sweep)], -1)


def _wings(a: Airplane) -> Mesh:
    s = np.array([0.0, 0.35, 1.0])
    kink = a.taper + (1 - a.taper) * (0.5 if a.kind == "airliner" else 0.65)
    edge, chord = _wing_edge(a, s), a.chord * np.array([1.0, kink, a.taper])
    normal = np.broadcast_to((0.0, 1.0, 0.0), (3, 3))
    if a.winglet:
        tip = edge[-1:] + (0.4 * a.winglet, a.winglet, -a.winglet)
        edge, chord = np.concatenate([edge, tip]), np.append(chord, 0.5 * chord[-1])
        normal = np.array([(0, 1, 0)] * 3 + [(-1.0, 0.2, 0.0)])
    flip = np.where(np.arange(2) == 0, 1.0, -1.0)[:, None, None] * (1, 0, 0) + (0, 1, 1)
    return _blade(_mirrored(edge), chord, normal * flip, 0.06 if a.kind == "fighter" else 0.12)


def _tail(a: Airplane) -> list[Mesh]:
    z, chord = -0.5 + 0.19, 0.17
    back = 0.55 if a.kind != "propeller" else 0.35
    low = 0.5 * a.radius * (1 + (a.upsweep if a.tail != "twin" else 0))
    run = np.array([0.0, 1.0])
    rise = np.stack([np.zeros(2), low + run * a.fin, z - run * a.fin * 2 * back], -1)
    if a.tail == "twin":
        rise = rise + run[:, None] * (0.25 * a.fin, 0, 0) + (1.1 * a.radius, 0, 0)
        fins = _blade(_mirrored(rise), chord * np.array([0.9, 0.5]), (1.0, 0, 0), 0.08)
    else:
        fins = _blade(rise, chord * np.array([1.0, 0.55]), (1.0, 0, 0), 0.1)
    if not a.stabiliser:
        return [fins]
    root = np.array([0.3 * a.radius, 0.4 * a.upsweep * a.radius, z - 0.03])
    if a.tail == "tee":
        root = rise[-1] + (0, -0.004, 0.01)
    edge = root + run[:, None] * (a.stabiliser, 0.1 * a.stabiliser * (a.tail == "low"), -back * a.stabiliser)
    return [fins, _blade(_mirrored(edge), chord * np.array([0.75, 0.38]), (0, 1.0, 0), 0.09)]


def _nacelle(at: np.ndarray, radius: float, length: float) -> Mesh:
    """Turbofans with an open intake; ``at`` (..., 3) is the middle of the intake."""
    profile = [(0, -0.15), (0.8, -0.15), (0.85, 0.0), (0.97, 0.02), (1.0, -0.15), (0.95, -0.6), (0.6, -1.0)]
    profile += [(0.3, -1.0), (0.0, -1.15)]
    return revolve(np.array(profile) * (radius, length), at, (0, 0, 1), 16)


def _engines(a: Airplane) -> list[Mesh]:
    if a.engines in ("two", "four"):
        s = np.array([0.33] if a.engines == "two" else [0.3, 0.6])
        edge = _wing_edge(a, s)
        at = np.concatenate(_mirrored(edge + (0, -1.15 * a.engine, 0.9 * a.engine)))
        pylon = box(
            np.concatenate(_mirrored(edge - (0, 0.25 * a.engine, 1.2 * a.engine))), np.array((0.2, 0.7, 2)) * a.engine
        )
        return [_nacelle(at, a.engine, 3.6 * a.engine), pylon]
    if a.engines == "tail":
        at = np.array([[1.75 * a.radius, 0.35 * a.radius, -0.5 + 0.36]])
        pylon = box(np.concatenate(_mirrored(at - (0.7 * a.radius, 0, 0.06))), (0.9 * a.radius, 0.012, 0.07))
        return [_nacelle(np.concatenate(_mirrored(at)), 0.9 * a.engine, 0.15), pylon]
    if a.engines == "inside":
        x, z = 0.95 * a.radius, 0.5 - a.wing_at - 0.02
        intakes = box([(x, -0.2 * a.radius, z), (-x, -0.2 * a.radius, z)], np.array((0.8, 1.3, 4)) * a.radius)
        nozzle = revolve(
            np.array([(0, -0.02), (0.75, -0.03), (0.9, 0), (1, 0.05), (0, 0.05)]) * (0.7 * a.radius, 1),
            (0, 0, -0.53),
            (0, 0, 1),
        )
        return [intakes, nozzle]
    if a.engines == "nose":
        return _propellers(np.array([[0.0, -0.2 * a.radius, 0.5]]), 0.13, 2)
    at = np.concatenate(_mirrored(_wing_edge(a, np.array([0.3])) + (0, 0.1 * a.engine, 0.08)))
    body = np.array([(0, 0), (0.8, 0), (1.1, -0.05), (1.0, -0.2), (0, -0.26)]) * (a.engine, 1)
    return [revolve(body, at, (0, 0, 1), 14), *_propellers(at, 0.10, 4)]


def _propellers(at: np.ndarray, radius: float, blades: int) -> list[Mesh]:
    """A spinner and its blades in front of each point ``at`` (B, 3)."""
    spinner = revolve([(0, -0.005), (0.018, -0.005), (0.014, 0.02), (0, 0.035)], at, (0, 0, 1), 10)
    angle = 2 * np.pi * np.arange(blades) / blades + 0.6
    out = np.stack([np.sin(angle), np.cos(angle), np.zeros(blades)], -1) * radius
    start = np.repeat(at, blades, axis=0) + (0, 0, 0.01)
    path = np.stack([start, start + 0.6 * np.tile(out, (len(at), 1)), start + np.tile(out, (len(at), 1))], 1)
    return [spinner, tube(path, [(0.008, 0.005), (0.014, 0.004), (0.008, 0.003)], 8, up=(0, 0, 1))]
