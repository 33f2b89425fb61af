"""Rays against triangle meshes: first and last hits, what a sensor sees, and the ray lengths of whole objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pcgen.geometry.checks import check_choice
from pcgen.geometry.meshtree import Bundle, MeshTree, mesh_tree, search
from pcgen.geometry.rays import Rays
from pcgen.geometry.targets import Targets

__all__ = ["Hit", "Hits", "MeshTree", "cast", "mesh_rays", "mesh_tree", "visible", "visible_rays"]

Hit = Literal["first", "last"]
BLOCK = 1 << 14  # rays at once


class Hits(NamedTuple):
    """Where rays meet a mesh."""

    distance: Tensor  # (...) float64, in lengths of the ray's direction; infinity where it misses
    face: Tensor  # (...) int64, the triangle, the first of several at one distance; −1 where it misses


def cast(
    tree: MeshTree,
    origins: ArrayLike | Tensor,
    directions: ArrayLike | Tensor,
    hit: Hit = "first",
    near: float = 0.0,
) -> Hits:
    """The ``hit`` of rays from ``origins`` (..., 3) along ``directions`` (..., 3), which need not be unit vectors.

    Both sides of a triangle count, and so do its edges: no ray slips through between two triangles that share one
    (Woop, Benthin and Wald, Watertight Ray/Triangle Intersection, JCGT 2013). A ray in a triangle's plane misses it.
    Hits at distances up to ``near``, in lengths of the direction, are passed over.

    ``ValueError`` for shapes that do not fit, coordinates that are not finite and directions of no length.

    >>> tree = mesh_tree([[0, 0, 2], [1, 0, 2], [0, 1, 2]], [[0, 1, 2]])
    >>> cast(tree, [0.1, 0.1, 0.0], [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    Hits(distance=tensor([2., inf], dtype=torch.float64), face=tensor([ 0, -1]))
    """
    check_choice("hit", hit, Hit)
    origins, directions = _checked(origins, directions)
    shape = directions.shape[:-1]
    origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
    sign = 1.0 if hit == "first" else -1.0
    # The hit looked for is the least of sign × distance.
    best, face = np.full(len(origins), np.inf), np.full(len(origins), -1)
    for start in range(0, len(origins) if len(tree) else 0, BLOCK):
        part = slice(start, start + BLOCK)
        best[part], face[part] = search(tree, Bundle.of(origins[part], directions[part]), sign, near)
    distance = np.where(face < 0, np.inf, sign * best)
    return Hits(torch.from_numpy(distance.reshape(shape)), torch.from_numpy(face.reshape(shape)))


def visible(
    tree: MeshTree, sensor: ArrayLike | Tensor, points: ArrayLike | Tensor, tolerance: float | None = None
) -> Tensor:
    """Which ``points`` (..., 3) a ``sensor`` (3,), or one for each of them (..., 3), sees past the mesh: (...) bool.

    What stands less than ``tolerance`` in front of a point does not hide it, in units of the mesh; as a rule 1e-5 of
    its extent, so that the surface does not hide its own points. Errors as in :func:`cast`; a point at the sensor is
    seen.

    >>> wall = mesh_tree([[1, -1, -1], [1, 3, -1], [1, -1, 3]], [[0, 1, 2]])
    >>> visible(wall, [0.0, 0.0, 0.0], [[0.5, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    tensor([ True,  True, False])
    """
    tolerance = 1e-5 * tree.extent if tolerance is None else tolerance
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be a length of at least 0, got {tolerance}")
    points, sensor = np.asarray(points, dtype=np.float64), np.asarray(sensor, dtype=np.float64)
    sight = points - sensor
    length = torch.from_numpy(np.linalg.norm(sight, axis=-1))
    here = (length == 0).numpy()[..., None]
    hits = cast(tree, sensor, np.where(here, 1.0, sight))
    return (hits.distance * length >= length - tolerance) | (length == 0)


def mesh_rays(rays: Rays, centres: ArrayLike | Tensor, trees: Sequence[MeshTree], hit: Hit = "last") -> Targets:
    """T5: the lengths of ``rays`` from ``centres`` (K, 3) to the meshes ``trees``, one for each centre; float64.

    The ``"last"`` hit is PolarMask's largest distance; the ``"first"`` is where a body around its centre ends. They
    differ where the body is no star about that centre. A ray that misses is not valid. The whole object is measured,
    its hidden side included; :func:`visible_rays` says which lengths a sensor can know. ``ValueError`` for other
    shapes, rays in the plane, and as in :func:`cast`.

    >>> from pcgen.geometry.rays import icosphere
    >>> wall = mesh_tree([[1, -9, -9], [1, 9, -9], [1, 0, 9]], [[0, 1, 2]])
    >>> lengths, valid = mesh_rays(icosphere(12), [[0.0, 0.0, 0.0]], [wall])
    >>> bool((lengths[valid] >= 1).all()), bool((lengths[~valid] == 0).all())
    (True, True)
    """
    if rays.dimension != 3:
        raise ValueError(f"rays must be in space to meet a mesh, got {rays.name} in {rays.dimension} dimensions")
    centres = np.asarray(centres, dtype=np.float64)
    if centres.shape != (len(trees), 3):
        raise ValueError(f"centres must be ({len(trees)}, 3), one for each mesh, got {centres.shape}")
    hits = [cast(tree, centre, rays.directions, hit) for tree, centre in zip(trees, centres)]
    distance = torch.stack([h.distance for h in hits]) if hits else torch.empty(0, len(rays), dtype=torch.float64)
    valid = distance.isfinite()
    return Targets(torch.where(valid, distance, 0.0), valid)


def visible_rays(
    rays: Rays,
    centres: ArrayLike | Tensor,
    lengths: Tensor,
    tree: MeshTree,
    sensor: ArrayLike | Tensor,
    tolerance: float | None = None,
) -> Tensor:
    """Which rays of stars at ``centres`` (K, 3) with ``lengths`` (K, n) end where a ``sensor`` (3,) sees: (K, n) bool.

    ``tree`` holds every mesh of the scene; the rest is as in :func:`visible`.

    >>> from pcgen.geometry.rays import icosphere
    >>> rays = icosphere(12)
    >>> nothing = mesh_tree([[0, 0, 0]], torch.empty(0, 3, dtype=torch.int64))
    >>> bool(visible_rays(rays, [[0.0, 0.0, 0.0]], torch.ones(1, 12), nothing, [9.0, 0.0, 0.0]).all())
    True
    """
    ends = torch.as_tensor(centres).double()[:, None] + lengths.double()[..., None] * rays.directions
    return visible(tree, sensor, ends, tolerance)


def _checked(origins: ArrayLike | Tensor, directions: ArrayLike | Tensor) -> tuple[np.ndarray, np.ndarray]:
    origins, directions = np.asarray(origins, dtype=np.float64), np.asarray(directions, dtype=np.float64)
    try:
        if not origins.ndim or origins.shape[-1] != 3:
            raise ValueError
        origins, directions = np.broadcast_arrays(origins, directions)
    except ValueError:
        given = f"{origins.shape} and {directions.shape}"
        raise ValueError(f"origins and directions must be (..., 3) and fit together, got {given}") from None
    if not (np.isfinite(origins).all() and np.isfinite(directions).all()):
        raise ValueError(f"origins and directions {directions.shape} must be finite, got NaN or infinity")
    if not directions.any(-1).all():
        raise ValueError(f"directions {directions.shape} must have a length, got a zero vector")
    return origins, directions
