"""Where objects stand: on a floor or on one another, apart by a gap that holds by construction.

Bodies are compared slab by slab: a body's part in a horizontal slab is replaced by its convex outline in plan, given
by its support function h(u) = max ⟨u, x⟩ in evenly spread directions u. The distance of two convex outlines A and B, B
moved by q, is max_u ⟨u, q⟩ − h_A(u) − h_B(−u); over finitely many u it is never overestimated, so a gap found is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..meshes import Mesh

__all__ = ["Body", "body", "clearance", "lay_out", "moved"]

_ANGLES = 2 * np.pi * np.arange(720) / 720
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)  # (K, 2); the opposite of k is k + K/2
_AXES = np.arange(4) * (len(_ANGLES) // 4)  # +x, +y, -x, -y
_TRIES = 100  # positions before an object is given up
_FLAT = 0.02  # share of the height within which a top or a base counts as level
_FILLED = 0.8  # share of its outline that a top must cover for something to stand on it


@dataclass(frozen=True, eq=False)
class Body:
    """An upright object, turned and scaled already, as the layout sees it."""

    outline: np.ndarray  # (Z, K) support of each slab about the object's own axis, -inf where the slab is empty
    base: np.ndarray  # (K,) support of what it stands on
    top: np.ndarray | None  # (K,) support of its level top; None if nothing can stand there
    height: float
    radius: float  # of a circle about its axis that holds it in plan
    position: np.ndarray  # (3,) of its axis at its base
    support: int = -1  # the body it stands on, by its place in the layout; -1 is the floor


def body(mesh: Mesh, slab: float, slabs: int) -> Body:
    """The outlines of ``mesh``, which stands on z = 0, in ``slabs`` layers of height ``slab``."""
    corners = mesh.vertices[mesh.faces]
    height = float(corners[..., 2].max())
    level = _FLAT * height
    bottom = mesh.vertices[mesh.vertices[:, 2] <= level]
    radius = float(np.linalg.norm(corners[..., :2], axis=2).max())
    outline, base, top = _outlines(corners, slab, slabs), _support(bottom), _top(corners, height, level)
    return Body(outline, base, top, height, radius, np.zeros(3))


def moved(it: Body, position: np.ndarray, support: int, slab: float) -> Body:
    """``it`` at ``position``; its outlines go up by whole slabs, each spread over the two that it then reaches into."""
    lift = position[2] / slab
    whole = int(np.floor(lift))
    outline = np.full_like(it.outline, -np.inf)
    outline[whole:] = it.outline[: len(outline) - whole]
    if lift > whole:
        outline[whole + 1 :] = np.maximum(outline[whole + 1 :], it.outline[: len(outline) - whole - 1])
    return replace(it, outline=outline, position=position, support=support)


def clearance(a: Body, b: Body) -> float:
    """A lower bound of the distance in plan between two bodies where they share a slab; inf where they share none."""
    between = _sum(a, b)
    return float((_DIRECTIONS @ (b.position - a.position)[:2] - between).max(axis=1).min())


def lay_out(
    meshes: list[Mesh],
    floor: tuple[float, float],
    gap: float,
    touching: float,
    stacked: float,
    rng: np.random.Generator,
    walls: Sequence[int | None],
) -> dict[int, Body]:
    """Where each of ``meshes``, upright on z = 0, stands on a ``floor`` (width, depth) about the origin.

    Bodies keep ``gap`` (negative: they may overlap by that much) from each other, and a positive one from the edge. Of
    those on the floor a share ``touching`` stand at exactly ``gap`` from another; a share ``stacked``, the smallest,
    stand on another's level top as far as there is one that is large enough. Those with one of the ``walls`` (0 towards
    +x, 1 +y, 2 -x, 3 -y) stand at it if on the floor. Those that find no place are left out.
    """
    slab = max((float(mesh.vertices[:, 2].max()) for mesh in meshes), default=0.0) / 16 or 1.0
    bodies = [body(mesh, slab, 34) for mesh in meshes]  # enough for one on another
    on_top = np.zeros(len(meshes), bool)
    on_top[np.argsort([it.radius for it in bodies])[: rng.binomial(len(meshes), stacked)]] = True
    placed: dict[int, Body] = {}
    for i in np.argsort(on_top, kind="stable"):
        found = _stack(bodies[i], placed, floor, gap, slab, rng) if on_top[i] else None
        found = found or _stand(bodies[i], placed, floor, gap, touching, rng, walls[i])
        if found:
            placed[int(i)] = found
    return placed


def _stand(
    it: Body,
    placed: dict[int, Body],
    floor: tuple[float, float],
    gap: float,
    touching: float,
    rng: np.random.Generator,
    wall: int | None,
) -> Body | None:
    """``it`` somewhere on the floor, or at a wall; None if there seems to be no room."""
    neighbours = [other for other in placed.values() if other.support < 0]
    beside = bool(neighbours) and rng.random() < touching
    reach = it.outline.max(axis=0)[_AXES].reshape(2, 2)  # towards +x, +y; -x, -y
    half = np.array(floor) / 2 - max(gap, 0.0)
    low, high = reach[1] - half, half - reach[0]
    if (low > high).any():
        return None
    for _ in range(_TRIES):
        if beside:
            other = neighbours[rng.integers(len(neighbours))]
            angle = rng.uniform(0, 2 * np.pi) if wall is None else (wall + 1 + 2 * rng.integers(2)) * np.pi / 2
            at = _slide(other, it, angle, gap)
        else:
            at = rng.uniform(low, high)
        if wall is not None:
            at[wall % 2] = (high if wall < 2 else low)[wall % 2]
        there = replace(it, position=np.array([*at, 0.0]))
        if (at >= low).all() and (at <= high).all() and _is_free(there, placed, gap):
            return there
    return None


def _stack(
    it: Body, placed: dict[int, Body], floor: tuple[float, float], gap: float, slab: float, rng: np.random.Generator
) -> Body | None:
    """``it`` on the level top of a body that stands on the floor, its base within that top."""
    supports = [i for i, other in placed.items() if other.support < 0 and other.top is not None]
    half = np.array([*floor, *floor]) / 2 - max(gap, 0.0)
    for i in rng.permutation(supports).astype(int):
        under = placed[i]
        reach = under.top[_AXES].reshape(2, 2)
        for at in rng.uniform(-reach[1], reach[0], (_TRIES // 4, 2)):
            shift = under.position + np.array([*at, under.height])
            inside = (it.base + _DIRECTIONS @ at <= under.top).all()
            in_room = (it.outline.max(axis=0)[_AXES] + _DIRECTIONS[_AXES] @ shift[:2] <= half).all()
            if inside and in_room:
                there = moved(it, shift, i, slab)
                if _is_free(there, {j: other for j, other in placed.items() if j != i}, gap):
                    return there
    return None


def _is_free(it: Body, placed: dict[int, Body], gap: float) -> bool:
    def is_far(other: Body) -> bool:  # by the circles around both, which is cheap
        return np.linalg.norm((it.position - other.position)[:2]) > it.radius + other.radius + max(gap, 0.0)

    return all(is_far(other) or clearance(other, it) >= gap - 1e-9 for other in placed.values())


def _slide(fixed: Body, it: Body, angle: float, gap: float) -> np.ndarray:
    """(2,) the nearest position to ``fixed`` in a direction at which the clearance is ``gap``."""
    way = np.array([np.cos(angle), np.sin(angle)])
    along = _DIRECTIONS @ way
    ahead = along > 1e-6
    steps = (gap + _sum(fixed, it)[:, ahead]) / along[ahead]
    return fixed.position[:2] + way * steps.min(axis=1).max()


def _sum(a: Body, b: Body) -> np.ndarray:
    """(Z, K) h_A(u) + h_B(-u) of each slab."""
    return a.outline + np.roll(b.outline, len(_ANGLES) // 2, axis=1)


def _support(points: np.ndarray) -> np.ndarray:
    """(K,) the support in plan of (…, 3) points; -inf of none."""
    return (points.reshape(-1, 3)[:, :2] @ _DIRECTIONS.T).max(axis=0, initial=-np.inf)


def _outlines(corners: np.ndarray, slab: float, slabs: int) -> np.ndarray:
    """(Z, K) the support of the triangles (F, 3, 3) that reach into each slab."""
    low, high = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)
    layers = ((low <= (k + 1) * slab) & (high >= k * slab) for k in range(slabs))
    return np.stack([_support(corners[layer]) for layer in layers])


def _top(corners: np.ndarray, height: float, level: float) -> np.ndarray | None:
    """The support of the level top, if triangles cover most of its outline."""
    highest = corners[(corners[..., 2] >= height - level).all(axis=1)]
    if not len(highest):
        return None
    (a, b), (c, d) = (highest[:, 1] - highest[:, 0])[:, :2].T, (highest[:, 2] - highest[:, 0])[:, :2].T
    areas = (a * d - b * c) / 2
    h, step = _support(highest), _ANGLES[1]
    # The outline has an edge of this length across each direction.
    edges = (np.roll(h, 1) + np.roll(h, -1) - 2 * h * np.cos(step)) / np.sin(step)
    filled = max(areas[areas > 0].sum(), -areas[areas < 0].sum())
    return h if filled >= _FILLED * (h @ edges) / 2 else None
