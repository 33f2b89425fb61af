"""Rays against meshes: exact answers, every triangle tried, and no gaps between triangles."""

import numpy as np
import pytest
import torch
from adversarial import rotation, seeds
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from pcgen.data.synthetic.solids import Mesh, box, merge
from pcgen.geometry import meshtree
from pcgen.geometry.raycast import cast, mesh_rays, mesh_tree, visible, visible_rays
from pcgen.geometry.rays import circle, fibonacci, icosphere

EMPTY = mesh_tree(np.zeros((1, 3)), np.zeros((0, 3), dtype=np.int64))
BOX = mesh_tree(*box((0, 0, 0), (2, 2, 2)))  # from −1 to 1


def sphere(rays):
    """A sphere's mesh, its vertices the rays."""
    return rays.directions.numpy(), rays.faces.numpy()


def soup(seed, n, shift=0.0, scale=1.0):
    """Triangles without order, some long, some flat."""
    rng = np.random.default_rng(seed)
    corners = rng.normal(size=(n, 1, 3)) + rng.exponential(0.4, (n, 1, 1)) * rng.normal(size=(n, 3, 3))
    corners[::7, 2] = corners[::7, 1]  # without area
    return shift + scale * corners.reshape(-1, 3), np.arange(3 * n).reshape(n, 3)


def every_hit(vertices, faces, origin, direction):
    """The distances of all hits of one ray, and the triangles, by solving o + t d = a + u (b − a) + v (c − a)."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    matrix = np.stack([np.broadcast_to(direction, a.shape), a - b, a - c], -1)
    solvable = np.abs(np.linalg.det(matrix)) > 1e-300
    t, u, v = np.linalg.solve(matrix[solvable], (a - origin)[solvable][..., None])[..., 0].T
    hit = (t > 0) & (u >= 0) & (v >= 0) & (u + v <= 1)
    return t[hit], solvable.nonzero()[0][hit]


# against all triangles


@given(
    seeds, st.sampled_from([1, 7, 8, 9, 65, 300]), st.sampled_from([(0.0, 1.0), (1e6, 1.0), (0.0, 1e-9), (0.0, 1e9)])
)
def test_cast_finds_the_hits_of_all_triangles(seed, n, place):
    shift, scale = place
    vertices, faces = soup(seed, n, shift, scale)
    rng = np.random.default_rng(seed)
    origins = shift + scale * 2 * rng.normal(size=(40, 3))
    directions = scale * rng.normal(size=(40, 3))
    tree = mesh_tree(vertices, faces)
    first, last = (cast(tree, origins, directions, hit) for hit in ("first", "last"))
    for i, (origin, direction) in enumerate(zip(origins, directions)):
        t, face = every_hit(vertices, faces, origin, direction)
        assert (len(t) > 0) == bool(first.distance[i].isfinite()) == bool(last.distance[i].isfinite())
        if len(t):
            for found, best in ((first, t.argmin()), (last, t.argmax())):
                np.testing.assert_allclose(found.distance[i].item(), t[best], rtol=1e-6 if shift else 1e-10)
                assert found.face[i] == face[best]
        else:
            assert first.face[i] == last.face[i] == -1


def test_blocks_change_nothing(monkeypatch):
    vertices, faces = soup(0, 400)
    tree, rng = mesh_tree(vertices, faces), np.random.default_rng(1)
    rays = rng.normal(size=(500, 3)), rng.normal(size=(500, 3))
    whole = [cast(tree, *rays, hit) for hit in ("first", "last")]
    monkeypatch.setattr(meshtree, "PAIRS", 64)
    for hit, expected in zip(("first", "last"), whole):
        found = cast(tree, *rays, hit)
        assert torch.equal(found.distance, expected.distance) and torch.equal(found.face, expected.face)


# exact answers


def test_a_box_from_its_middle():
    rays = fibonacci(500)
    for hit in ("first", "last"):
        found = cast(BOX, np.zeros(3), rays.directions, hit)
        torch.testing.assert_close(found.distance, 1 / rays.directions.abs().amax(1), rtol=1e-14, atol=0)
    outside = cast(BOX, [3.0, 0.1, 0.2], [[-1.0, 0, 0], [1.0, 0, 0], [-2.0, 0, 0]])
    assert outside.distance.tolist() == [2, np.inf, 1]
    assert cast(BOX, [3.0, 0.1, 0.2], [-1.0, 0, 0], "last").distance == 4
    assert cast(BOX, [3.0, 0.1, 0.2], [-1.0, 0, 0], near=2.0).distance == 4


def test_rays_along_axes_and_sides():
    """Rays in the planes of boxes' sides, through edges and through corners."""
    steps = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    for axis in range(3):
        grid = np.stack(np.meshgrid([3.0], steps, steps, indexing="ij"), -1).reshape(-1, 3)
        direction = np.roll([-1.0, 0, 0], axis)
        found = cast(BOX, np.roll(grid, axis, 1), direction)
        assert (found.distance == 2).all()
        beside = np.nextafter(grid, np.sign(grid) * 9)
        misses = (np.abs(beside[:, 1:]) > 1).any(1)
        found = cast(BOX, np.roll(np.concatenate([grid[:, :1], beside[:, 1:]], 1), axis, 1), direction)
        assert torch.equal(found.distance.isinf(), torch.from_numpy(misses))


@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), (0.1, 0.2, 0.3), (0.5, -0.6, 0.1), (1e-9, 0.0, 0.9)])
def test_no_ray_slips_through(origin):
    """Aimed at vertices and at points of edges from within, every ray hits."""
    rays = icosphere(2562)
    vertices, faces = sphere(rays)
    turn, edges = rotation(0).numpy(), np.unique(np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), 1), axis=0)
    ends = [vertices, *(share * vertices[edges[:, 0]] + (1 - share) * vertices[edges[:, 1]] for share in (0.5, 0.3))]
    aims = np.concatenate(ends)
    for matrix in (np.eye(3), turn):
        found = cast(mesh_tree(vertices @ matrix.T, faces), origin @ matrix.T, (aims - origin) @ matrix.T)
        torch.testing.assert_close(found.distance, torch.ones(len(aims), dtype=torch.float64), rtol=1e-12, atol=0)


def test_equal_distances_give_the_lowest_face():
    vertices, faces = [[0, 0, 1], [1, 0, 1], [0, 1, 1.0]], [[0, 1, 2]] * 40
    assert cast(mesh_tree(vertices, faces), [0.2, 0.2, 0.0], [0, 0, 1.0]).face == 0
    assert cast(mesh_tree(vertices, faces), [0.2, 0.2, 0.0], [0, 0, 1.0], "last").face == 0


def test_tensors_of_any_type_and_shape():
    vertices, faces = box((0, 0, 0), (2, 2, 2))
    tree = mesh_tree(torch.tensor(vertices).float(), torch.tensor(faces).int())
    found = cast(tree, torch.zeros(3), torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)))
    assert found.distance.shape == found.face.shape == (2, 5) and found.distance.dtype == torch.float64
    assert cast(tree, torch.zeros(4, 1, 3), torch.ones(5, 3)).distance.shape == (4, 5)
    assert cast(tree, torch.zeros(0, 3), torch.zeros(0, 3)).distance.shape == (0,)
    assert cast(EMPTY, torch.zeros(3), torch.ones(3)).face == -1


# what is seen


def test_a_sensor_sees_the_near_half_of_a_sphere():
    vertices, faces = sphere(icosphere(642))
    sensor = np.array([5.0, 1.0, 2.0])
    seen = visible(mesh_tree(vertices, faces), sensor, vertices).numpy()
    towards = vertices @ sensor / np.linalg.norm(sensor)
    horizon = 1 / np.linalg.norm(sensor)
    assert seen[towards > horizon + 0.1].all() and not seen[towards < horizon - 0.1].any()


def test_what_stands_in_front_hides():
    wall = mesh_tree(*merge([box((2, 0, 0), (0.1, 1, 1)), box((9, 9, 9), (1, 1, 1))]))
    points = torch.tensor([[4.0, 0, 0], [1.0, 0, 0], [0.0, 0, 0], [4.0, 3, 0], [1.95, 0, 0]])
    assert visible(wall, np.zeros(3), points).tolist() == [False, True, True, True, True]
    assert visible(wall, torch.zeros(5, 3), points, tolerance=2.1).all()
    assert visible(EMPTY, np.zeros(3), points).all()


# rays of objects


def test_lengths_of_ellipsoids_first_and_last():
    rays = fibonacci(96)
    vertices, faces = sphere(icosphere(2562))
    both = merge([Mesh(0.5 * vertices, faces), Mesh(vertices * [1.0, 2.0, 3.0], faces)])
    shells, centres = mesh_tree(*both), np.zeros((1, 3))
    exact = 1 / (rays.directions / torch.tensor([1.0, 2.0, 3.0])).norm(dim=1)
    last, first = (mesh_rays(rays, centres, [shells], hit) for hit in ("last", "first"))
    torch.testing.assert_close(last.lengths[0], exact, rtol=5e-3, atol=0)
    torch.testing.assert_close(first.lengths[0], torch.full((96,), 0.5).double(), rtol=5e-3, atol=0)
    outside = mesh_rays(rays, [[9.0, 0, 0]], [shells])
    assert not outside.valid.all() and outside.valid.any() and (outside.lengths[~outside.valid] == 0).all()


def test_lengths_of_several_objects_and_of_none():
    rays = icosphere(42)
    moved = mesh_tree(*box((5, 0, 0), (4, 4, 4)))
    found = mesh_rays(rays, [[0.0, 0, 0], [5.0, 0, 0], [0.0, 0, 0]], [BOX, moved, EMPTY])
    torch.testing.assert_close(2 * found.lengths[0], found.lengths[1], rtol=1e-12, atol=0)
    assert not found.valid[2].any()
    assert mesh_rays(rays, np.zeros((0, 3)), []).lengths.shape == (0, 42)


def test_a_sensor_knows_the_rays_on_its_side():
    rays = icosphere(42)
    centres = torch.tensor([[0.0, 0, 0], [0.0, 0, 10.0]])
    vertices, faces = sphere(icosphere(642))
    both = mesh_tree(
        np.concatenate([vertices, vertices + np.array([0, 0, 10])]), np.concatenate([faces, faces + len(vertices)])
    )
    lengths = torch.ones(2, 42, dtype=torch.float64)
    seen = visible_rays(rays, centres, lengths, both, [0.0, 0, -50], tolerance=1e-2)
    assert seen[0].any() and torch.equal(seen[0], rays.directions[:, 2] < 0.03)
    assert not seen[1].any()  # the first one hides it


@pytest.mark.parametrize("name", ["spot", "koala"])
def test_real_meshes_agree_with_all_triangles(name):
    path = SHARED / "data" / "meshes" / f"{name}.obj"
    if not path.is_file():
        pytest.skip(f"no reference data: {path} is absent")
    lines = [line.split() for line in path.read_text().splitlines()]
    vertices = np.array([line[1:4] for line in lines if line[:1] == ["v"]], dtype=float)
    faces = np.array([[c.split("/")[0] for c in line[1:4]] for line in lines if line[:1] == ["f"]], dtype=int) - 1
    centre, rays = vertices.mean(0), icosphere(42)
    found = mesh_rays(rays, centre[None], [mesh_tree(vertices, faces)], "last")
    for i, direction in enumerate(rays.directions.numpy()):
        t, _ = every_hit(vertices, faces, centre, direction)
        np.testing.assert_allclose(found.lengths[0, i].item(), t.max(initial=0), rtol=1e-12)


# what is wrong


@pytest.mark.parametrize(
    ("error", "match", "vertices", "faces"),
    [
        (ValueError, r"\(4, 2\)", np.zeros((4, 2)), [[0, 1, 2]]),
        (ValueError, r"\(1, 4\)", np.zeros((4, 3)), [[0, 1, 2, 3]]),
        (ValueError, "0 to 2, got 0 to 3", np.zeros((3, 3)), [[0, 1, 3]]),
        (ValueError, "0 to 2, got -1 to 1", np.zeros((3, 3)), [[0, 1, -1]]),
        (TypeError, "float64", np.zeros((3, 3)), [[0.0, 1.0, 2.0]]),
        (ValueError, "finite", np.full((3, 3), np.nan), [[0, 1, 2]]),
    ],
)
def test_meshes_say_what_is_wrong(error, match, vertices, faces):
    with pytest.raises(error, match=match) as caught:
        mesh_tree(vertices, faces)
    assert "\n" not in str(caught.value)


def test_rays_say_what_is_wrong():
    for origin, direction, match in (
        (np.zeros(2), np.ones(3), r"\(2,\) and \(3,\)"),
        (np.zeros(3), np.ones((3, 2)), r"\(3, 2\)"),
        (np.zeros((2, 3)), np.ones((4, 3)), r"\(2, 3\) and \(4, 3\)"),
        (np.full(3, np.nan), np.ones(3), "finite"),
        (np.zeros(3), np.full(3, np.inf), "finite"),
        (np.zeros(3), np.zeros(3), "zero vector"),
    ):
        with pytest.raises(ValueError, match=match):
            cast(BOX, origin, direction)
    with pytest.raises(ValueError, match="'first', 'last'"):
        cast(BOX, np.zeros(3), np.ones(3), "nearest")
    with pytest.raises(ValueError, match="tolerance"):
        visible(BOX, np.zeros(3), np.ones(3), -1.0)
    with pytest.raises(ValueError, match=r"centres must be \(1, 3\)"):
        mesh_rays(icosphere(12), np.zeros((2, 3)), [BOX])
    with pytest.raises(ValueError, match="circle-4"):
        mesh_rays(circle(4), np.zeros((1, 3)), [BOX])
