"""Triangle meshes from files, and points drawn uniformly from their surface."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import TOO_FAR, UnreadableFile, keeps_shape, reading
from .ply import read_ply, triangulate

__all__ = ["MESH_SUFFIXES", "Mesh", "read_mesh", "sample_surface"]

MESH_SUFFIXES = (".obj", ".ply", ".off", ".stl", ".glb", ".gltf")


class Mesh(NamedTuple):
    """Triangles that share vertices."""

    vertices: np.ndarray  # (V,3) float64, in the file's own unit
    faces: np.ndarray  # (F,3) int64, rows of `vertices`


def read_mesh(path: str | Path) -> Mesh:
    """The mesh in an OBJ, PLY, OFF, STL, GLB or glTF file, all its parts in one, polygons cut into triangles.

    Vertices are neither merged nor moved, but parts of a glTF scene are placed by their transforms.
    :class:`UnreadableFile` is raised for a file that is broken, cut short or of another kind, that has no
    triangles, or whose triangles have non-finite corners or no area.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "square.off")
    ...     _ = path.write_text("OFF 4 1 0  0 0 0  1 0 0  1 1 0  0 1 0  4 0 1 2 3".replace("  ", chr(10)))
    ...     read_mesh(path).faces.tolist()
    [[0, 1, 2], [0, 2, 3]]
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise UnreadableFile(path, f"not a mesh file: expected one of {' '.join(MESH_SUFFIXES)}")
    with reading(path):
        if suffix == ".ply":
            mesh = read_ply_mesh(path)
        elif suffix == ".off":
            mesh = _read_off(path)
        else:
            mesh = _read_with_trimesh(path)
        return checked_mesh(path, mesh)


def sample_surface(mesh: Mesh, points: int, rng: np.random.Generator) -> np.ndarray:
    """``points`` points (N,3) float32, independent and uniform by area on the surface of ``mesh``.

    A triangle is chosen in proportion to its area, then a point in it by the square-root map of two uniform
    numbers (Osada et al., Shape distributions, 2002, eq. 1). ``ValueError`` without a finite positive area.

    >>> square = Mesh(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0.0]]), np.array([[0, 1, 2]]))
    >>> sample_surface(square, 5, np.random.default_rng(0)).shape
    (5, 3)
    """
    if points < 1:
        raise ValueError(f"points to sample must be at least 1, got {points}")
    cumulative = np.cumsum(_double_areas(mesh))
    if not len(cumulative) or not 0 < cumulative[-1] < np.inf:
        total = cumulative[-1] / 2 if len(cumulative) else 0.0
        raise ValueError(f"the mesh needs a finite positive area to be sampled, it has {total}")
    chosen = np.searchsorted(cumulative, rng.random(points) * cumulative[-1], side="right")
    a, b, c = (mesh.vertices[mesh.faces[chosen, corner]] for corner in range(3))
    root, v = np.sqrt(rng.random((points, 1))), rng.random((points, 1))
    return ((1 - root) * a + root * (1 - v) * b + root * v * c).astype(np.float32)


def read_ply_mesh(path: str | Path) -> Mesh:
    """The vertices of a PLY file, unchecked, and its faces if it has any (a cloud has none)."""
    with reading(path):
        elements = read_ply(path)
        vertex, face = elements.get("vertex", {}), elements.get("face", {})
        if missing := [axis for axis in "xyz" if axis not in vertex]:
            raise UnreadableFile(
                path, f"its vertices have no {', '.join(missing)}, only {', '.join(vertex) or 'nothing'}"
            )
        vertices = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], axis=1)
        polygons = next((face[key] for key in ("vertex_indices", "vertex_index") if key in face), [])
        return Mesh(vertices, triangulate(polygons))


def checked_mesh(path: str | Path, mesh: Mesh) -> Mesh:
    """``mesh`` itself, or :class:`UnreadableFile` when nothing can be sampled from it."""
    vertices, faces = mesh
    if not len(faces):
        raise UnreadableFile(path, "no triangles" + (f", only {len(vertices)} vertices" if len(vertices) else ""))
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise UnreadableFile(path, f"a face refers to a vertex beyond the {len(vertices)} there are")
    broken = ~np.isfinite(vertices[faces]).all(axis=(1, 2))
    if broken.any():
        raise UnreadableFile(path, f"{broken.sum()} of {len(faces)} triangles have NaN or infinite corners")
    if not 0 < _double_areas(mesh).sum() < np.inf:
        raise UnreadableFile(path, "degenerate mesh: its triangles have no finite positive area")
    if not keeps_shape(vertices[faces].reshape(-1, 3)):
        raise UnreadableFile(path, f"the mesh has {TOO_FAR}")
    return mesh


def _double_areas(mesh: Mesh) -> np.ndarray:
    """Twice the area of every triangle, (F,) float64."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]].astype(np.float64, copy=False) for corner in range(3))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.linalg.norm(np.cross(b - a, c - a), axis=1)


def _read_off(path: Path) -> Mesh:
    """Geomview's OFF, also with the counts on the first line ("OFF490 518 0", as in ModelNet)."""
    text = path.read_text(encoding="latin-1")
    lines = [words for words in (line.partition("#")[0].split() for line in text.splitlines()) if words]
    magic = re.match(r"[CN]*OFF\s*(.*)", " ".join(lines[0]))
    if magic is None:
        raise UnreadableFile(path, "not an OFF file (it does not begin with 'OFF')")
    counts, body = (magic[1].split(), lines[1:]) if magic[1] else (lines[1], lines[2:])
    n_vertices, n_faces = int(counts[0]), int(counts[1])
    if len(body) < n_vertices + n_faces:
        raise UnreadableFile(path, f"cut short: {len(body)} lines for {n_vertices} vertices, {n_faces} faces")
    vertices = np.array([line[:3] for line in body[:n_vertices]], dtype=np.float64).reshape(-1, 3)
    polygons = [line[1 : 1 + int(line[0])] for line in body[n_vertices : n_vertices + n_faces]]
    if any(len(corners) < int(line[0]) for corners, line in zip(polygons, body[n_vertices:])):
        raise UnreadableFile(path, "cut short: a face has fewer corners than it declares")
    return Mesh(vertices, triangulate(polygons))


def _read_with_trimesh(path: Path) -> Mesh:
    import trimesh

    with warnings.catch_warnings():
        # NumPy's text parser only warns when it stops at something that is no number.
        warnings.filterwarnings("error", message="string or file could not be read")
        loaded = trimesh.load(path, process=False, skip_materials=True)
    scene = loaded if isinstance(loaded, trimesh.Scene) else trimesh.Scene(loaded)
    vertices, faces, offset = [np.empty((0, 3))], [np.empty((0, 3), np.int64)], 0
    for node in sorted(scene.graph.nodes_geometry):
        transform, name = scene.graph[node]
        part = scene.geometry[name]
        if not len(getattr(part, "faces", ())):
            continue
        vertices.append(trimesh.transform_points(part.vertices, transform))
        faces.append(np.asarray(part.faces, np.int64) + offset)
        offset += len(part.vertices)
    return Mesh(np.concatenate(vertices), np.concatenate(faces))
