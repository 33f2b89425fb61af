"""Files to clouds and back: exact contents, uniform sampling, and one error for whatever is broken."""

import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from pcgen.data import (
    Mesh,
    UnreadableFile,
    read_cloud,
    read_clouds,
    read_mesh,
    read_shape,
    sample_surface,
    write_clouds,
)
from pcgen.data.ply import read_ply, triangulate, write_ply

SHARED = Path(__file__).parents[1].parent / "shared"
CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def obj_text(vertices, polygons):
    lines = ["v {} {} {}".format(*v) for v in vertices]
    return "\n".join([*lines, *("f " + " ".join(str(i + 1) for i in p) for p in polygons)]) + "\n"


def off_text(vertices, polygons, magic="OFF\n"):
    lines = [f"{magic}{len(vertices)} {len(polygons)} 0", *("{} {} {}".format(*v) for v in vertices)]
    return "\n".join([*lines, *(" ".join(map(str, [len(p), *p])) for p in polygons)]) + "\n"


def ply_bytes(vertices, polygons, form):
    """A PLY with a property before, between and behind those that matter."""
    order = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}[form]
    header = (
        f"ply\nformat {form} 1.0\ncomment made by hand\nelement vertex {len(vertices)}\nproperty uchar red\n"
        "property double x\nproperty float y\nproperty float z\n"
        f"element face {len(polygons)}\nproperty list uchar int vertex_indices\nproperty short flag\nend_header\n"
    )
    rows = [("Bdff", [7, *v]) for v in vertices] + [(f"B{len(p)}ih", [len(p), *p, -1]) for p in polygons]
    if form == "ascii":
        return (header + "".join(" ".join(map(str, values)) + "\n" for _, values in rows)).encode()
    return header.encode() + b"".join(struct.pack(order + types_, *values) for types_, values in rows)


def cube_files(folder):
    """The unit cube in every mesh format, as quads where the format has them."""
    import trimesh

    box = trimesh.Trimesh(CUBE, triangulate(QUADS), process=False)
    contents = {
        "cube.obj": obj_text(CUBE, QUADS),
        "cube.off": off_text(CUBE, QUADS),
        "glued.off": off_text(CUBE, QUADS, magic="OFF"),
        **{
            f"{form}.ply": ply_bytes(CUBE, QUADS, form)
            for form in ("ascii", "binary_little_endian", "binary_big_endian")
        },
        "binary.stl": box.export(file_type="stl"),
        "text.stl": box.export(file_type="stl_ascii"),
        "cube.glb": box.export(file_type="glb"),
    }
    for name, content in contents.items():
        Path(folder, name).write_bytes(content.encode() if isinstance(content, str) else content)
    return [Path(folder, name) for name in contents]


def area(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


# --- meshes


def test_cube_in_every_format(tmp_path):
    for path in cube_files(tmp_path):
        mesh = read_mesh(path)
        assert mesh.vertices.dtype == np.float64 and mesh.faces.dtype == np.int64, path
        assert mesh.faces.shape == (12, 3), path
        assert area(mesh) == pytest.approx(6, rel=1e-12), path
        a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
        assert abs(np.einsum("ij,ij->", a, np.cross(b, c)) / 6) == pytest.approx(1, rel=1e-12), path


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_of_mixed_polygons_keeps_every_column(tmp_path, form):
    path = tmp_path / "mixed.ply"
    polygons = [[0, 1, 3], [0, 4, 5, 1], [0, 1, 3, 7, 6]]
    path.write_bytes(ply_bytes(CUBE, polygons, form))
    columns = read_ply(path)
    assert [list(map(int, p)) for p in columns["face"]["vertex_indices"]] == polygons
    assert np.array_equal(columns["face"]["flag"], [-1, -1, -1])
    assert np.array_equal(columns["vertex"]["red"], [7] * 8)
    assert np.array_equal(read_mesh(path).vertices, CUBE)
    assert len(read_mesh(path).faces) == 1 + 2 + 3


@pytest.mark.parametrize("form", ["{:.6f}", "{:g}", "{:.9g}", "{:.8e}"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6, 1e9])
def test_a_float_in_text_stays_a_float(tmp_path, form, scale):
    x = (np.random.default_rng(0).normal(size=500) * scale).astype(np.float32)
    text = "".join(form.format(float(value)) + "\n" for value in x)
    header = "ply\nformat ascii 1.0\nelement vertex 500\nproperty float x\nend_header\n"
    Path(tmp_path, "a.ply").write_text(header + text)
    read = read_ply(tmp_path / "a.ply")["vertex"]["x"]
    assert read.dtype == np.float32
    assert np.array_equal(read, np.array([form.format(float(value)) for value in x], np.float32))


@pytest.mark.parametrize(
    ("declared", "text", "dtype"),
    [
        ("float", "432100.123", np.float64),
        ("float", "0.123456789", np.float64),
        ("float", "1e300", np.float64),
        ("float", "nan", np.float32),
        ("float", "-inf", np.float32),
        ("double", "0.1", np.float64),
        ("int", "-7", np.int32),
        ("int", "0.5", np.float64),
        ("int", "nan", np.float64),
        ("uchar", "256", np.float64),
    ],
)
def test_text_that_says_more_than_its_type_is_kept(tmp_path, declared, text, dtype):
    header = f"ply\nformat ascii 1.0\nelement vertex 1\nproperty {declared} a\nend_header\n"
    Path(tmp_path, "a.ply").write_text(f"{header}{text}\n")
    (read,) = read_ply(tmp_path / "a.ply")["vertex"]["a"]
    assert read.dtype == dtype and str(float(read)) == str(float(text))


def test_pentagon_fan_has_the_pentagon_s_area():
    angle = np.arange(5) * 2 * np.pi / 5
    corners = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    assert area(Mesh(corners, triangulate([range(5)]))) == pytest.approx(2.5 * np.sin(2 * np.pi / 5), rel=1e-12)
    assert triangulate([[0, 1]]).shape == (0, 3)


def test_scene_parts_are_placed_by_their_transforms(tmp_path):
    import trimesh

    scene, box = trimesh.Scene(), trimesh.creation.box()
    scene.add_geometry(box)
    scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([5, 0, 0]))
    scene.export(tmp_path / "two.glb")
    mesh = read_mesh(tmp_path / "two.glb")
    assert mesh.vertices.min(0).tolist() == [-0.5, -0.5, -0.5] and mesh.vertices.max(0).tolist() == [5.5, 0.5, 0.5]
    assert area(mesh) == pytest.approx(12)


def test_obj_with_several_objects_and_materials_is_one_mesh(tmp_path):
    text = "mtllib none.mtl\no a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl r\nf 1/1 2/1 3/1\n"
    (tmp_path / "a.obj").write_text(text + "o b\nusemtl q\nv 0 0 5\nv 1 0 5\nv 0 1 5\nf -3 -2 -1\n")
    mesh = read_mesh(tmp_path / "a.obj")
    assert area(mesh) == pytest.approx(1) and mesh.vertices[:, 2].max() == 5


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.obj", "", "empty file"),
        ("a.obj", "# nothing\n", "no triangles"),
        ("a.obj", obj_text(CUBE, []), "no triangles$"),
        ("a.obj", obj_text(np.vstack([[[np.nan] * 3], CUBE[1:]]), QUADS), "NaN or infinite"),
        ("a.obj", "v 0 0 x\nv 0 1 0\nv 1 0 0\nf 1 2 3\n", "not a valid .obj"),
        ("a.obj", "v 0 0 0\nv 0 1 0\nv 1 0 0\nf 1 2 9\n", "not a valid .obj"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n0 1 0\n1 0 0\n3 0 1 9\n", "beyond the 3"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n0 1 0\n0 2 0\n3 0 1 2\n", "no finite positive area"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1e200 0 0\n0 1e200 0\n3 0 1 2\n", "no finite positive area"),
        ("a.off", "OFF\n300 1 0\n0 0 0\n", "cut short"),
        ("a.off", "solid\n", "not an OFF"),
        ("a.ply", "solid\n", "not a PLY"),
        (
            "a.ply",
            "ply\nformat binary_little_endian 1.0\nelement vertex 4000000000\nproperty float x\nend_header\n",
            "cut",
        ),
        ("a.fbx", "whatever", "not a mesh file"),
    ],
)
def test_unreadable_meshes_say_why(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(UnreadableFile, match=reason) as caught:
        read_mesh(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


def test_nan_vertex_that_no_face_uses_is_harmless(tmp_path):
    vertices = np.vstack([CUBE, [[np.nan] * 3]])
    (tmp_path / "a.off").write_text(off_text(vertices, QUADS))
    assert np.isfinite(sample_surface(read_mesh(tmp_path / "a.off"), 100, np.random.default_rng(0))).all()


def test_every_cut_of_a_mesh_is_a_mesh_or_unreadable(tmp_path):
    """A cut text file can be a smaller valid one; what declares its length must not be accepted cut."""
    for path in cube_files(tmp_path):
        data = path.read_bytes()
        whole = area(read_mesh(path))
        cut = tmp_path / f"cut{path.suffix}"
        accepted = set()
        for stop in sorted({*range(0, len(data), 5), *range(len(data) - 20, len(data))}):
            cut.write_bytes(data[:stop])
            try:
                mesh = read_mesh(cut)
            except UnreadableFile:
                continue
            accepted.add(len(data) - stop)
            assert 0 < area(mesh) <= whole + 1e-9
        if path.suffix != ".obj":  # at most the newline at the end, or digits of the last number
            assert max(accepted, default=0) <= 2, path


# --- sampling


def test_sampling_is_uniform_by_area():
    """A flat L of three unequal triangles: the points fall on the cells of a grid as the areas of the cells."""
    corners = np.array([[0, 0, 0], [4, 0, 0], [4, 2, 0], [0, 2, 0], [0, 6, 0], [2, 2, 0]], float)
    mesh = Mesh(corners, np.array([[0, 1, 2], [0, 2, 3], [3, 5, 4]]))
    points = sample_surface(mesh, 40000, np.random.default_rng(1))
    assert points.dtype == np.float32 and not points[:, 2].any()
    low = points[points[:, 1] < 2]
    counts = np.histogram2d(low[:, 0], low[:, 1], bins=(8, 4), range=((0, 4), (0, 2)))[0].ravel()
    upper = points[points[:, 1] >= 2]  # a triangle with corners (0,2) (2,2) (0,6), area 4 of 12
    x, y = upper[:, 0] / 2, (upper[:, 1] - 2) / 4
    quarters = [np.sum(x > 0.5), np.sum(y > 0.5), np.sum((x < 0.5) & (y < 0.5) & (x + y > 0.5)), np.sum(x + y < 0.5)]
    observed = np.array([*counts, *quarters])
    expected = 40000 * np.array([8 / 12 / 32] * 32 + [1 / 12] * 4)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("faces", [np.zeros((0, 3), int), np.array([[0, 0, 1]]), np.array([[0, 1, 2]])])
def test_no_area_no_samples(faces):
    vertices = np.array([[0, 0, 0], [1, 0, 0], [np.nan, 0, 0]])
    with pytest.raises(ValueError, match="finite positive area"):
        sample_surface(Mesh(vertices, faces), 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sample_surface(Mesh(CUBE, triangulate(QUADS)), 0, np.random.default_rng(0))


def test_sampling_is_a_function_of_the_stream():
    mesh = Mesh(CUBE, triangulate(QUADS))
    a, b, c = (sample_surface(mesh, 50, np.random.default_rng(s)) for s in (3, 3, 4))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


# --- clouds

finite32 = st.floats(-1e6, 1e6, width=32)
sets = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 9), st.just(3)), elements=finite32)


def spread_out(points):
    """Make sure that no cloud is a single point."""
    points = points.copy()
    points[:, 0, 0] = points[:, 1, 0] + 1024
    return points


@few
@given(points=sets, suffix=st.sampled_from([".npz", ".npy", ".ply"]))
def test_what_is_written_is_read(tmp_path_factory, points, suffix):
    points = spread_out(points)
    path = tmp_path_factory.mktemp("set") / f"clouds{suffix}"
    write_clouds(path, points)
    back = read_clouds(path if suffix != ".ply" or len(points) == 1 else path.with_suffix(""))
    assert len(back.points) == len(points) == len(set(back.names))
    for cloud, expected in zip(back.points, points):
        assert cloud.dtype == np.float32
        if suffix == ".ply":  # scans are shuffled
            cloud, expected = (c[np.lexsort(c.T)] for c in (cloud, expected))
        assert np.array_equal(cloud, expected)
    assert not [p for p in path.parent.rglob("*") if p.suffix == ".tmp"]


def test_names_survive(tmp_path):
    write_clouds(tmp_path / "a.npz", np.stack([np.eye(3), 2 * np.eye(3)]), names=["é", "b"])
    assert read_clouds(tmp_path / "a.npz").names == ("é", "b")
    write_clouds(tmp_path / "a.npy", np.stack([np.eye(3), 2 * np.eye(3)]))
    assert read_clouds(tmp_path / "a.npy").names == ("0000", "0001")


def test_a_folder_is_one_set(tmp_path):
    write_ply(tmp_path / "b.ply", CUBE)
    np.save(tmp_path / "a.npy", np.stack([CUBE, 2 * CUBE]))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.off").write_text(off_text(CUBE, QUADS))
    (tmp_path / "notes.txt").write_text("not a shape")
    (tmp_path / "._b.ply").write_text("a resource fork")
    clouds = read_clouds(tmp_path, mesh_points=77)
    assert clouds.names == ("a/0000", "a/0001", "b", "deep/c")
    assert [len(c) for c in clouds.points] == [8, 8, 8, 77]
    assert np.array_equal(read_clouds(tmp_path, mesh_points=77).points[3], clouds.points[3])
    (tmp_path / "z.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UnreadableFile, match=r"z\.npy"):
        read_clouds(tmp_path)


def test_links_are_followed_but_not_in_circles(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    np.save(folder / "sub" / "a.npy", np.eye(3))
    np.save(elsewhere / "b.npy", np.eye(3))
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "there").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    assert read_clouds(folder).names == ("sub/a", "there/b")


def test_shapes_that_float32_would_spoil(tmp_path):
    """Map coordinates: near 5,000,000 the numbers of float32 are half a unit apart."""
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    np.save(tmp_path / "far.npy", cloud + 5e6)
    np.save(tmp_path / "large.npy", 1e6 * cloud + 5e6)
    np.save(tmp_path / "whole.npy", (10 * cloud).astype(np.int64) + 10**9)
    (tmp_path / "far.obj").write_text("v 5000000 0 0\nv 5000001.3 0 0\nv 5000000 1.3 0\nf 1 2 3\n")
    for name in ("far.npy", "whole.npy", "far.obj"):
        with pytest.raises(UnreadableFile, match="too far from the origin for float32"):
            read_shape(tmp_path / name, 10, np.random.default_rng(0))
    assert read_cloud(tmp_path / "large.npy").shape == (50, 3)


def test_garbage_is_not_taken_for_a_pickle(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"garbage, and long enough")
    with pytest.raises(UnreadableFile) as caught:
        read_cloud(tmp_path / "a.npy")
    assert "pickle" not in caught.value.reason


def test_keys_of_an_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, samples=CUBE[None], other=np.ones((2, 5, 3)))
    assert np.array_equal(read_clouds(path).points[0], CUBE)
    np.savez(path, anything=CUBE[None].astype(np.float16), labels=np.zeros((1, 8), int))
    assert np.array_equal(read_clouds(path).points[0], CUBE)
    np.savez(path, a=CUBE[None], b=CUBE[None])
    with pytest.raises(UnreadableFile, match="it holds a, b"):
        read_clouds(path)
    np.savez(path, points=np.stack([CUBE, CUBE]), name=np.array(["one"]))
    with pytest.raises(UnreadableFile, match="2 clouds need as many entries in 'name', got 1"):
        read_clouds(path)


def test_tensors_are_read_and_pickles_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(torch.tensor(CUBE[None], dtype=torch.bfloat16, requires_grad=True), path)
    assert np.array_equal(read_clouds(path).points[0], CUBE)
    torch.save({"points": torch.zeros(3)}, path)
    with pytest.raises(UnreadableFile, match="expected one tensor, got a dict"):
        read_clouds(path)
    torch.save(Mesh(CUBE, CUBE), path)
    with pytest.raises(UnreadableFile):
        read_clouds(path)
    np.save(tmp_path / "a.npy", np.array([CUBE, None], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableFile, match="allow_pickle=False"):
        read_clouds(tmp_path / "a.npy")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.int16])
def test_every_precision_becomes_float32(tmp_path, dtype):
    np.save(tmp_path / "a.npy", CUBE.astype(dtype))
    cloud = read_cloud(tmp_path / "a.npy")
    assert cloud.dtype == np.float32 and cloud.dtype.isnative and np.array_equal(cloud, CUBE)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_a_mesh_without_faces_is_a_cloud(tmp_path, form):
    """As programs write a cloud that they hold as a mesh: a list of faces is declared, and is empty."""
    path = tmp_path / "a.ply"
    path.write_bytes(ply_bytes(CUBE, [], form))
    assert np.array_equal(read_cloud(path), CUBE)
    assert np.array_equal(np.sort(read_shape(path, 9, np.random.default_rng(0)), 0), np.sort(CUBE, 0))


@pytest.mark.parametrize("element", ["vertex 2\nproperty float x\nproperty float y", "face 0"])
def test_a_ply_without_coordinates_says_which(tmp_path, element):
    path = tmp_path / "a.ply"
    path.write_text(f"ply\nformat ascii 1.0\nelement {element}\nend_header\n1 2\n3 4\n")
    with pytest.raises(UnreadableFile, match=r"its vertices have no .*z"):
        read_cloud(path)


@pytest.mark.parametrize("separator", [" ", ",", "\t", ";"])
@pytest.mark.parametrize("titles", ["x{0}y{0}z\n", "//X{0}Y{0}Z\n", "\ufeff", "# made by hand\n\n"])
def test_text_clouds_under_titles(tmp_path, separator, titles):
    path = tmp_path / "a.xyz"
    text = titles.format(separator) + "\n".join(separator.join(map(str, point)) for point in CUBE)
    path.write_text(text, encoding="utf-8")
    assert np.array_equal(read_cloud(path), CUBE)


@pytest.mark.parametrize("text", ["nan nan nan\n1 2 3\n4 5 6\n", "x y z\n", "x y z\n1 2\n"])
def test_titles_excuse_nothing(tmp_path, text):
    path = tmp_path / "a.xyz"
    path.write_text(text)
    with pytest.raises(UnreadableFile):
        read_cloud(path)


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_text_clouds(tmp_path, separator):
    np.savetxt(tmp_path / "a.xyz", np.hstack([CUBE, CUBE]), delimiter=separator)
    assert np.array_equal(read_cloud(tmp_path / "a.xyz"), CUBE)


def test_pcd_goes_through_open3d(tmp_path, monkeypatch):
    path = tmp_path / "a.pcd"
    path.write_text("# .PCD v0.7")
    monkeypatch.setitem(sys.modules, "open3d", None)  # as if not installed
    with pytest.raises(UnreadableFile, match=r"needs Open3D \(pip install open3d\)"):
        read_cloud(path)
    io = types.SimpleNamespace(read_point_cloud=lambda path: types.SimpleNamespace(points=CUBE))
    monkeypatch.setitem(sys.modules, "open3d", types.SimpleNamespace(io=io))
    assert np.array_equal(read_cloud(path), CUBE)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((5, 3)), "all points are equal"),
        (np.zeros((0, 3)), "no points"),
        (np.full((5, 3), np.nan), "NaN, infinite"),
        (np.array([[0, 0, 1e39], [0, 0, 0]]), "beyond float32"),
        (np.zeros((5, 4)), r"expected points \(N,3\) or \(S,N,3\), got \(5, 4\)"),
        (np.ones((2, 5, 3)), "."),
        (np.array(["a"]), "expected numbers"),
    ],
)
def test_unreadable_clouds_say_why(tmp_path, array, reason):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UnreadableFile, match=reason):
        read_cloud(tmp_path / "a.npy")


def test_a_set_names_its_bad_cloud(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([CUBE, 0 * CUBE, CUBE]))
    with pytest.raises(UnreadableFile, match=r"cloud 1 of 3"):
        read_clouds(tmp_path / "a.npy")


def test_missing_files_are_not_found(tmp_path):
    for read in (read_cloud, read_mesh, read_clouds):
        with pytest.raises(FileNotFoundError, match="no file"):
            read(tmp_path / "none.ply")
    with pytest.raises(UnreadableFile, match="no shapes in this folder"):
        read_clouds(tmp_path)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a.ply", "set.npz"])
def test_every_cut_of_a_cloud_is_unreadable(tmp_path, name):
    path = tmp_path / name
    if name == "a.pt":
        torch.save(torch.tensor(CUBE), path)
    else:
        write_clouds(path, CUBE[None].astype(np.float32).repeat(2 if name == "set.npz" else 1, axis=0))
    data = path.read_bytes()
    for stop in range(len(data)):
        path.write_bytes(data[:stop])
        with pytest.raises(UnreadableFile):
            read_clouds(path)


@few
@given(
    data=st.binary(max_size=200),
    name=st.sampled_from(["a.npy", "a.npz", "a.pt", "a.ply", "a.off", "a.obj", "a.stl", "a.xyz"]),
)
def test_garbage_is_unreadable(tmp_path, data, name):
    head = {
        "a.npy": b"\x93NUMPY\x01\x00",
        "a.npz": b"PK\x03\x04",
        "a.ply": b"ply\nformat ascii 1.0\n",
        "a.off": b"OFF\n",
    }
    for content in (data, head.get(name, b"") + data):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableFile):
            read_shape(tmp_path / name, 10, np.random.default_rng(0))


def test_scans_are_shuffled_and_arrays_are_not(tmp_path):
    line = np.linspace(0, 1, 3000, dtype=np.float32)[:, None].repeat(3, axis=1)
    np.save(tmp_path / "a.npy", line)
    write_ply(tmp_path / "a.ply", line)
    assert np.array_equal(read_shape(tmp_path / "a.npy", 1, np.random.default_rng(0)), line)
    np.savetxt(tmp_path / "a.xyz", line)
    for name in ("a.ply", "a.xyz"):
        scan = read_shape(tmp_path / name, 1, np.random.default_rng(0))
        assert np.array_equal(np.sort(scan, axis=0), line)
        assert scan[:1000].max() > 0.9
    assert np.array_equal(read_cloud(tmp_path / "a.ply"), line)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    write_clouds(path, CUBE[None])
    before = path.read_bytes()

    def full(stream, **arrays_):
        stream.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        write_clouds(path, 2 * CUBE[None])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_writer_refuses(tmp_path):
    for points, match in ((CUBE, r"\(S,N,3\), got \(8, 3\)"), (np.full((1, 2, 3), np.nan), "finite")):
        with pytest.raises(ValueError, match=match):
            write_clouds(tmp_path / "a.npy", points)
    with pytest.raises(ValueError, match=r"\.npz, \.npy or \.ply, got 'a.las'"):
        write_clouds(tmp_path / "a.las", CUBE[None])
    with pytest.raises(ValueError, match=r"1 clouds need as many entries of .name., got 2"):
        write_clouds(tmp_path / "a.npz", CUBE[None], names=["a", "b"])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").touch()
    with pytest.raises(ValueError, match="not an empty folder"):
        write_clouds(tmp_path / "set.ply", np.stack([CUBE, CUBE]))
    assert [p.name for p in tmp_path.rglob("*")] == ["set", "mine"]


@pytest.mark.skipif(not (SHARED / "data" / "meshes").is_dir(), reason="the shared mesh pack is not here")
@pytest.mark.parametrize(("name", "triangles"), [("spot", 23062), ("fish", 21568), ("koala", 7116), ("penguin", 6720)])
def test_real_meshes(name, triangles):
    mesh = read_mesh(SHARED / "data" / "meshes" / f"{name}.obj")
    assert mesh.faces.shape == (triangles, 3)
    points = sample_surface(mesh, 5000, np.random.default_rng(0))
    assert (points >= mesh.vertices.min(0) - 1e-6).all() and (points <= mesh.vertices.max(0) + 1e-6).all()
