"""Generated scenes: objects stand, keep their distance and are labelled; a scan sees what brute force sees."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcgen.config import from_dict
from pcgen.data import Mesh, SceneSettings, UnreadableFile, generate_scene
from pcgen.data.scenes import read_scene, write_scene
from pcgen.data.synthetic import make_shape, solids
from pcgen.data.synthetic.scenes_layout import body, clearance, moved
from pcgen.data.synthetic.scenes_scan import _rings, sample_area, scan
from pcgen.geometry.raycast import cast, mesh_tree

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
COARSE = SceneSettings(spacing=0.1)
seeds = st.integers(0, 2**32)
quick = settings(max_examples=8)


def tops(made):
    return [0.0, *(thing.mesh.vertices[:, 2].max() for thing in made.objects)]


def shadows(meshes, slab):
    """For each mesh the least and the largest extent of its part in each horizontal slab along 1440 directions."""
    angles = 2 * np.pi * np.arange(1440) / 1440
    directions = np.stack([np.cos(angles), np.sin(angles)])
    for mesh in meshes:
        z = mesh.vertices[mesh.faces, 2]
        low, high = np.full((40, 1440), np.inf), np.full((40, 1440), -np.inf)
        for k in range(40):
            rows = np.unique(mesh.faces[(z.min(1) < (k + 1) * slab) & (z.max(1) > k * slab)])
            if len(rows):
                along = mesh.vertices[rows, :2] @ directions
                low[k], high[k] = along.min(0), along.max(0)
        yield low, high


def separation(a, b):
    """The widest gap between two shadows that some vertical plane shows, in the worst slab they share."""
    return (b[0] - a[1]).max(axis=1).min()


@quick
@given(seeds, st.sampled_from([0.0, 0.03, 0.2]), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.7]))
def test_objects_stand_apart_on_the_floor_or_on_each_other(seed, gap, touching, stacked):
    config = dataclasses.replace(COARSE, gap=gap, touching=touching, stacked=stacked, objects=(6, 6), floor=(4, 4))
    made = generate_scene(seed, config)
    assert made.objects
    meshes, top = [thing.mesh for thing in made.objects], tops(made)
    for thing, mesh in zip(made.objects, meshes):
        assert mesh.vertices[:, 2].min() == pytest.approx(top[thing.support], abs=1e-9)
        assert np.abs(mesh.vertices[:, :2]).max() <= 2 - gap + 1e-9
    slab = max(thing.model.vertices[:, 2].max() for thing in made.objects) / 16
    cast = list(shadows(meshes, slab))
    for i, thing in enumerate(made.objects):
        assert all(separation(cast[i], cast[j]) >= gap - 1e-8 for j in range(i) if j + 1 != thing.support)


def test_a_gap_of_zero_touches():
    config = dataclasses.replace(COARSE, gap=0.0, touching=1.0, stacked=0.0, objects=(7, 7), floor=(9, 9))
    meshes = [thing.mesh for thing in generate_scene(0, config).objects]
    cast = list(shadows(meshes, max(mesh.vertices[:, 2].max() for mesh in meshes) / 16))
    for i in range(1, len(meshes)):
        nearest = min(separation(cast[i], other) for other in cast[:i])
        assert nearest == pytest.approx(0, abs=2e-3)  # the layout's directions are half a degree apart


def test_a_negative_gap_overlaps():
    config = dataclasses.replace(COARSE, gap=-0.1, touching=1.0, stacked=0.0, objects=(5, 5), categories=("car",))
    cast = list(shadows([thing.mesh for thing in generate_scene(1, config).objects], 0.02))
    assert -0.11 < min(separation(a, b) for i, a in enumerate(cast) for b in cast[:i]) < -0.05


def test_stacked_objects_rest_on_a_level_top():
    config = dataclasses.replace(COARSE, stacked=0.7, objects=(10, 10), categories=("table", "lamp", "car"))
    stacked = 0
    for seed in range(4):
        made = generate_scene(seed, config)
        for thing in made.objects:
            if thing.support:
                stacked += 1
                under = made.objects[thing.support - 1]
                assert under.support == 0
                base, top = thing.mesh.vertices, under.mesh.vertices
                base = base[base[:, 2] <= base[:, 2].min() + 1e-6, :2]
                top = top[top[:, 2] >= top[:, 2].max() - 0.02, :2]
                assert (base.max(0) <= top.max(0) + 1e-9).all()
                assert (base.min(0) >= top.min(0) - 1e-9).all()
    assert stacked >= 8


def test_distance_of_boxes():
    box = solids.box((0, 0, 0.5), (2, 1, 1))
    a = body(Mesh(*box), 0.25, 8)
    beside = dataclasses.replace(a, position=np.array([2.5, 0, 0]))
    diagonal = dataclasses.replace(a, position=np.array([2.3, 1.4, 0]))
    assert clearance(a, beside) == pytest.approx(0.5)
    assert 0.5 * 0.9999 < clearance(a, diagonal) <= 0.5 + 1e-12
    assert clearance(a, dataclasses.replace(a, position=np.array([0.5, 0, 0]))) == pytest.approx(-1.0)  # along y


def test_a_lifted_body_fills_every_slab_it_reaches_into():
    it = body(Mesh(*solids.box((0, 0, 0.45), (1, 1, 0.9))), 0.25, 8)
    for height in (0.0, 0.1, 0.2, 0.25, 0.6):
        filled = np.isfinite(moved(it, np.array([0, 0, height]), 0, 0.25).outline).all(axis=1)
        k = np.arange(8)
        assert filled[(k * 0.25 < height + 0.9) & ((k + 1) * 0.25 > height)].all()
        assert not filled[(k * 0.25 > height + 1.15) | ((k + 1) * 0.25 < height - 0.25)].any()


# ---------------------------------------------------------------------------------------------------- truth


def distance_to_triangles(points, corners):
    """(P, F) by brute force: the plane where the projection falls inside, else the nearest edge."""
    a, b, c = np.moveaxis(corners, 1, 0)
    normal = np.cross(b - a, c - a)
    height = np.einsum("pfi,fi->pf", points[:, None] - a, normal) / np.linalg.norm(normal, axis=1)
    foot = points[:, None] - height[..., None] * normal / np.linalg.norm(normal, axis=1, keepdims=True)
    inside = np.ones(height.shape, bool)
    edge_distance = np.full(height.shape, np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        inside &= np.einsum("pfi,fi->pf", np.cross(end - start, foot - start), normal) >= 0
        t = np.clip(np.einsum("pfi,fi->pf", points[:, None] - start, end - start) / ((end - start) ** 2).sum(1), 0, 1)
        away = np.linalg.norm(points[:, None] - start - t[..., None] * (end - start), axis=2)
        edge_distance = np.minimum(edge_distance, away)
    return np.where(inside, np.abs(height), edge_distance)


@pytest.mark.parametrize("sampling", ["area", "scan"])
def test_every_point_lies_on_its_object(sampling):
    made = generate_scene(5, dataclasses.replace(COARSE, sampling=sampling, spacing=0.15, objects=(3, 3)))
    scene = made.scene
    assert scene.instances == len(scene.instance_ids) > 0
    for i, number in enumerate(scene.instance_ids, start=1):
        thing = made.objects[number - 1]
        mine = scene.points[scene.instance == i]
        assert distance_to_triangles(mine, thing.mesh.vertices[thing.mesh.faces]).min(axis=1).max() < 1e-9
        assert {scene.classes[c] for c in scene.semantic[scene.instance == i]} == {thing.category}
    assert {scene.classes[c] for c in scene.semantic[scene.instance == 0]} == {"floor", "wall"}
    assert np.abs(scene.points[scene.semantic == 1, 2]).max() < 1e-12


def test_the_pose_places_the_model():
    made = generate_scene(3, COARSE)
    for thing in made.objects:
        placed = thing.model.vertices @ thing.pose[:3, :3].T + thing.pose[:3, 3]
        np.testing.assert_allclose(placed, thing.mesh.vertices, atol=1e-12)
        np.testing.assert_allclose(thing.pose[:3, :3] @ thing.pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert thing.pose[2, 2] == 1
    surface = made.surface
    assert surface.owner.max() == len(made.objects)
    mine = surface.mesh.vertices[surface.mesh.faces[surface.owner == 2]]
    np.testing.assert_array_equal(mine, made.objects[1].mesh.vertices[made.objects[1].mesh.faces])


def test_the_same_seed_is_the_same_scene_and_sampling_moves_nothing():
    first, again, other = (generate_scene(seed, COARSE) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.scene.points, again.scene.points)
    assert first.objects[0].name != other.objects[0].name
    noisy = generate_scene(4, SceneSettings(sampling="scan", spacing=0.2, noise=0.01, sensors=2))
    for a, b in zip(first.objects, noisy.objects):
        assert (a.name, a.angle, a.position.tolist()) == (b.name, b.angle, b.position.tolist())


def test_one_point_for_each_square_of_the_spacing():
    mesh = Mesh(np.array([[0, 0, 0], [3, 0, 0], [3, 2, 0], [0, 2, 0.0]]), np.array([[0, 1, 2], [0, 2, 3]]))
    hits = sample_area(mesh, 0.01, np.random.default_rng(0))
    assert len(hits.points) == 60000
    counts, _, _ = np.histogram2d(*hits.points[:, :2].T, bins=(3, 2))
    assert np.abs(counts - 10000).max() < 500  # five standard deviations
    assert ((hits.points[:, 1] * 3 > hits.points[:, 0] * 2 + 1e-9) == (hits.face == 1)).all()


def test_noise():
    plain, noisy = (generate_scene(2, dataclasses.replace(COARSE, noise=noise)).scene for noise in (0.0, 0.02))
    assert (noisy.points - plain.points).std() == pytest.approx(0.02, rel=0.05)
    config = dataclasses.replace(COARSE, sampling="scan")
    made, rough = (generate_scene(2, dataclasses.replace(config, noise=noise)) for noise in (0.0, 0.02))
    ray = made.scene.points - made.sensors[0]
    along = ((rough.scene.points - made.scene.points) * ray).sum(1) / np.linalg.norm(ray, axis=1)
    assert along.std() == pytest.approx(0.02, rel=0.1)
    np.testing.assert_allclose(np.cross(rough.scene.points - made.scene.points, ray), 0, atol=1e-9)


# ---------------------------------------------------------------------------------------------------- scans


def first_hits(corners, directions):
    """The first hit of each ray from the origin, by solving for every triangle (Möller and Trumbore, 1997)."""
    a, b, c = np.moveaxis(corners, 1, 0)
    best = np.full(len(directions), np.inf)
    for i, d in enumerate(directions):
        matrix = np.stack([np.broadcast_to(d, a.shape), a - b, a - c], axis=2)
        solvable = np.abs(np.linalg.det(matrix)) > 1e-12
        t, u, v = np.linalg.solve(matrix[solvable], a[solvable][..., None])[..., 0].T
        hit = (t > 0) & (u >= 0) & (v >= 0) & (u + v <= 1)
        best[i] = t[hit].min(initial=np.inf)
    return best


@quick
@given(seeds, st.sampled_from([0.3, 1.0, 3.0]))
def test_a_scan_sees_what_brute_force_sees(seed, size):
    rng = np.random.default_rng(seed)
    middle = rng.uniform(-3, 3, (25, 1, 3))
    corners = middle + rng.uniform(-size, size, (25, 3, 3))  # large ones reach round the axis and the seam
    sensor = rng.uniform(-1, 1, 3)
    step = 0.25
    mesh = Mesh(corners.reshape(-1, 3) + sensor, np.arange(75).reshape(-1, 3))
    hits = scan(mesh, sensor, step)
    directions = _rings(step).directions
    expected = first_hits(corners, directions)
    seen = expected < np.inf
    assert len(hits.points) == seen.sum()
    np.testing.assert_allclose(hits.points - sensor, directions[seen] * expected[seen, None], atol=1e-9)


def test_a_scan_sees_what_casting_rays_at_the_surface_sees():
    made = generate_scene(6, dataclasses.replace(COARSE, sampling="scan", spacing=0.2))
    tree = mesh_tree(*made.surface.mesh)
    ray = made.scene.points - made.sensors[0]
    hits = cast(tree, made.sensors[0], ray)
    np.testing.assert_allclose(hits.distance, 1, atol=1e-9)
    seen = made.surface.owner[hits.face]
    numbers = np.concatenate([[0], made.scene.instance_ids])[made.scene.instance]
    assert (seen == numbers).mean() > 0.999  # parts of one object and its neighbour may coincide


@given(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9), st.floats(-0.9, 0.9))
def test_no_ray_escapes_a_closed_room(x, y, z):
    mesh = solids.ellipsoid((0, 0, 0), (2, 2, 2))
    hits = scan(mesh, np.array([x, y, z]), 0.1)
    assert len(hits.points) == _rings(0.1).start[-1]


def test_rays_are_evenly_spread():
    directions = _rings(0.05).directions
    assert np.abs(np.linalg.norm(directions, axis=1) - 1).max() < 1e-12
    assert len(directions) == pytest.approx(4 * np.pi / 0.05**2, rel=0.02)
    share = (np.arange(len(directions)) + 0.5) / len(directions)
    assert np.abs(share - (np.sort(directions[:, 2]) + 1) / 2).max() < 0.05 / 2  # Archimedes: height measures area


def test_a_scan_is_one_sided_and_says_which_sensor():
    config = dataclasses.replace(COARSE, sampling="scan", sensors=2, walls=0.0, objects=(1, 1), categories=("car",))
    made = generate_scene(0, config)
    assert made.sensors.shape == (2, 3)
    assert set(made.scene.attributes["sensor"]) == {0, 1}
    whole, part = made.objects[0].mesh, made.scene
    one = part.points[(part.attributes["sensor"] == 0) & (part.instance == 1)]
    away = whole.vertices.mean(0) - made.sensors[0]
    depth = (whole.vertices - made.sensors[0]) @ away / np.linalg.norm(away)
    seen = (one - made.sensors[0]) @ away / np.linalg.norm(away)
    assert seen.mean() < depth.mean()


def test_a_finer_scan_has_more_points():
    coarse, fine = (
        generate_scene(0, dataclasses.replace(COARSE, sampling="scan", spacing=s)).scene for s in (0.1, 0.05)
    )
    assert len(fine) == pytest.approx(4 * len(coarse), rel=0.05)


# ---------------------------------------------------------------------------------------------------- sources


def folder_of_boxes(root):
    for split in ("train", "test"):
        for category, size in {"brick": (1, 2, 3), "plate": (4, 0.5, 4)}.items():
            (root / category / split).mkdir(parents=True)
            box = solids.box((7, 7, 7), size)
            lines = [f"v {x} {y} {z}" for x, y, z in box.vertices] + ["v 1000 1000 1000"]  # one stray vertex
            lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in box.faces]
            (root / category / split / f"{category}.obj").write_text("\n".join(lines))
    return str(root)


@pytest.mark.parametrize(("up", "height"), [("x", 1), ("y", 2), ("z", 3)])
def test_meshes_of_a_folder_stand_up(tmp_path, up, height):
    config = SceneSettings(
        source=folder_of_boxes(tmp_path), categories=("brick",), up=up, floor=(20, 30), objects=(2, 4), spacing=0.5
    )
    made = generate_scene(0, config)
    for thing in made.objects:
        extent = np.ptp(thing.model.vertices, axis=0)
        assert extent[2] == pytest.approx(height)
        assert sorted(extent.round(9)) == [1, 2, 3]
        assert thing.name.startswith("brick/train")
        corners = thing.model.vertices[thing.model.faces]
        volume = np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
        assert volume == pytest.approx(6)  # turned, not mirrored
    assert made.scene.classes == {1: "floor", 2: "wall", 3: "brick", 4: "plate"}
    sized = generate_scene(0, dataclasses.replace(config, size=(0.5, 0.6)))
    for thing in sized.objects:
        assert 0.5 <= np.linalg.norm(np.ptp(thing.model.vertices, axis=0)) <= 0.6


def test_furniture_keeps_its_nominal_size_unless_told():
    config = dataclasses.replace(COARSE, categories=("cabinet", "sofa", "bed"), floor=(9, 9), objects=(6, 6))
    things = generate_scene(0, config).objects
    assert {thing.category for thing in things} == {"cabinet", "sofa", "bed"}
    for thing in things:
        shape = make_shape(thing.category, int(thing.name.split("/")[1]))
        assert np.linalg.norm(np.ptp(thing.model.vertices, axis=0)) == pytest.approx(shape.diagonal)
    for thing in generate_scene(0, dataclasses.replace(config, size=(0.5, 0.6))).objects:
        assert 0.5 <= np.linalg.norm(np.ptp(thing.model.vertices, axis=0)) <= 0.6


def test_splits_share_no_object(tmp_path):
    names = {}
    for split in ("train", "val", "test"):
        made = [generate_scene(seed, dataclasses.replace(COARSE, split=split)) for seed in range(2)]
        names[split] = {thing.name for one in made for thing in one.objects}
        assert {int(name.split("/")[1]) % 3 for name in names[split]} == {("train", "val", "test").index(split)}
    config = SceneSettings(source=folder_of_boxes(tmp_path), split="test", floor=(20, 30), spacing=0.5)
    assert {thing.name.split("/")[1] for thing in generate_scene(0, config).objects} == {"test"}
    with pytest.raises(ValueError, match="no meshes for the split 'val'"):
        generate_scene(0, dataclasses.replace(config, split="val"))


def test_objects_without_room_are_left_out_and_none_is_an_error(tmp_path):
    config = SceneSettings(source=folder_of_boxes(tmp_path), floor=(9, 9), objects=(40, 40), spacing=0.5, stacked=0.0)
    assert 0 < len(generate_scene(0, config).objects) < 40
    with pytest.raises(ValueError, match=r"none of 40 objects fits a floor of 1\.00 x 1\.00 m"):
        generate_scene(0, dataclasses.replace(config, floor=(1, 1)))


@quick
@given(seeds)
def test_objects_against_walls_touch_one_with_their_back(seed):
    config = dataclasses.replace(COARSE, against=1.0, gap=0.03, stacked=0.0, touching=0.5, objects=(6, 6), floor=(5, 7))
    made = generate_scene(seed, config)
    half = made.room.vertices[:, :2].max(0)
    for thing in made.objects:
        low, high = thing.mesh.vertices.min(0)[:2], thing.mesh.vertices.max(0)[:2]
        back = np.array([-np.sin(thing.angle), np.cos(thing.angle)]).round().astype(int)  # fronts are towards -y
        axis = int(np.abs(back).argmax())
        reached = high[axis] if back[axis] > 0 else -low[axis]
        assert reached == pytest.approx(half[axis] - 0.03, abs=1e-4)


def test_rooms_with_thick_walls_and_openings():
    config = dataclasses.replace(COARSE, objects=(0, 0), walls=2.4, wall_thickness=0.2, openings=(5, 5))
    made = generate_scene(3, config)
    plain = generate_scene(3, dataclasses.replace(COARSE, objects=(0, 0), walls=2.4))
    half = plain.room.vertices.max(0)
    assert np.array_equal(made.room.vertices[: len(plain.room.vertices)].max(0), half)  # the same floor and inner walls
    beyond = (made.room.vertices - half).max(0)
    assert (beyond[:2] >= 0.2).all() and (beyond[:2] <= 0.3 + 1e-9).all()  # outer faces and what stands out of them
    inner = np.abs(made.scene.points[:, :2]).max(1) > 0
    z = made.scene.points[:, 2]
    assert inner.all() and z.min() >= -1e-9 and z.max() <= 2.4 + 0.12
    assert set(np.unique(made.scene.semantic)) == {1, 2} and made.scene.instances == 0
    corners = np.unique(made.room.vertices.round(9), axis=0)
    assert len(corners) > len(np.unique(plain.room.vertices.round(9), axis=0)) + 4 + 5 * 32 - 1


def test_an_empty_room():
    made = generate_scene(0, dataclasses.replace(COARSE, objects=(0, 0), sampling="scan"))
    assert (made.objects, made.scene.instances) == ((), 0)
    assert len(made.scene) > 1000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spacing": 0}, "spacing"),
        ({"noise": -1}, "noise"),
        ({"objects": [5, 3]}, "objects"),
        ({"floor": [0, 1]}, "floor"),
        ({"size": [2, 1]}, "size"),
        ({"touching": 1.5}, "touching"),
        ({"against": -0.5}, "against"),
        ({"openings": [3, 1]}, "openings"),
        ({"wall_thickness": -0.1}, "wall_thickness -0.1"),
        ({"walls": float("inf")}, "walls must be finite, got inf"),
        ({"gap": float("nan")}, "gap must be finite, got nan"),
        ({"sampling": "lidar"}, "sampling"),
        ({"gapp": 1}, "nearest: 'gap'"),
    ],
)
def test_settings_that_make_no_sense(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(SceneSettings, values)


def test_mistakes_get_one_line(tmp_path):
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        generate_scene(-1, COARSE)
    with pytest.raises(TypeError, match="seed must be an integer"):
        generate_scene(0.5, COARSE)
    with pytest.raises(ValueError, match="nearest: 'chair'"):
        generate_scene(0, dataclasses.replace(COARSE, categories=("chairs",)))
    with pytest.raises(FileNotFoundError, match="no folder"):
        generate_scene(0, dataclasses.replace(COARSE, source=str(tmp_path / "nowhere")))
    (tmp_path / "broken.off").write_text("OFF")
    with pytest.raises(UnreadableFile, match=r"broken\.off"):
        generate_scene(0, dataclasses.replace(COARSE, source=str(tmp_path)))


def test_a_generated_scene_goes_to_a_file(tmp_path):
    scene = generate_scene(0, COARSE).scene
    write_scene(tmp_path / "a.ply", scene)
    again = read_scene(tmp_path / "a.ply")
    np.testing.assert_array_equal(again.points, scene.points)
    np.testing.assert_array_equal(again.instance, scene.instance)
    assert again.classes == scene.classes


def test_real_meshes():
    folder = SHARED / "generation" / "random_objects"
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} is absent")
    config = SceneSettings(source=str(folder), size=(0.3, 1.0), objects=(12, 12), spacing=0.05, gap=0.0)
    made = generate_scene(0, config)
    assert made.scene.instances == len(made.objects) > 5
