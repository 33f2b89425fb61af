"""Scenes from files and back: every layout that people have, nothing lost on the way, one line for what is broken."""

import builtins
import dataclasses
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcgen.data import UnreadableFile
from pcgen.data.ply import load_ply, save_ply
from pcgen.data.scenes import Source, find_scenes, make_scene, read_scene, write_scene

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "segmentation"
ENCODINGS = ("ascii", "binary_little_endian", "binary_big_endian")
UTM = np.array([432100.0, 5412000.0, 80.0])
few = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
rng = np.random.default_rng(0)


def scan(points=20, place=0.0, dtype=np.float64):
    """A scene with every kind of column."""
    xyz = (rng.uniform(0, 5, (points, 3)) + place).astype(dtype)
    return make_scene(
        xyz,
        features={"colour": rng.integers(0, 256, (points, 3)) / 255, "intensity": rng.random(points)},
        semantic=rng.integers(-1, 3, points),
        instance=np.where(np.arange(points) < 4, [[-1], [0], [7], [300]][0], rng.choice([-1, 0, 7, 300], points)),
        classes={1: "office chair", 2: "table"},
        attributes={"time": rng.uniform(0, 1e9, points), "flag": rng.integers(0, 255, points).astype(np.uint8)},
    )


def same_scene(a, b):
    np.testing.assert_array_equal(a.coordinates, b.coordinates)
    for name in ("semantic", "instance", "instance_ids"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.features.keys() == b.features.keys()
    for name in a.features:
        np.testing.assert_allclose(a.features[name], b.features[name], atol=1e-6)
    for name in a.attributes:
        np.testing.assert_array_equal(a.attributes[name], b.attributes[name])
    assert a.classes == b.classes


@pytest.mark.parametrize("place", [0.0, UTM], ids=["here", "utm"])
@pytest.mark.parametrize("form", [*ENCODINGS, ".npz", ".npy"])
def test_a_scene_comes_back(tmp_path, form, place):
    scene = scan(place=place)
    path = tmp_path / f"scene{form if form.startswith('.') else '.ply'}"
    if form in ENCODINGS:
        scene = dataclasses.replace(scene, source=dataclasses.replace(scene.source, encoding=form))
    write_scene(path, scene)
    again = read_scene(path, classes=scene.classes if form == ".npy" else None)
    same_scene(scene, again)
    write_scene(tmp_path / f"again{path.suffix}", again)
    assert path.read_bytes() == (tmp_path / f"again{path.suffix}").read_bytes()


@few
@given(st.permutations(["x", "y", "z", "Instance", "scalar_Label", "red", "green", "blue", "nx", "quality"]), st.data())
def test_ply_in_any_order_of_properties(tmp_path, names, data):
    encoding = data.draw(st.sampled_from(ENCODINGS))
    columns = {
        **{axis: rng.uniform(0, 1, 5) + 1e6 for axis in "xyz"},
        "Instance": np.array([3, 0, 3, 9, 65535], np.uint16),
        "scalar_Label": np.array([1, 2, -1, np.nan, 2], np.float32),
        **{c: np.array([0, 51, 255, 102, 0], np.uint8) for c in ("red", "green", "blue")},
        "nx": np.zeros(5, np.float32),
        "quality": np.arange(5, dtype=np.int16),
    }
    save_ply(tmp_path / "a.ply", {name: columns[name] for name in names}, encoding=encoding)
    scene = read_scene(tmp_path / "a.ply")
    np.testing.assert_array_equal(scene.coordinates, np.stack([columns[axis] for axis in "xyz"], axis=1))
    assert scene.instance.tolist() == [1, 0, 1, 2, 3]
    assert scene.instance_ids.tolist() == [3, 9, 65535]
    assert scene.semantic.tolist() == [1, 2, -1, -1, 2]
    np.testing.assert_allclose(scene.features["colour"][:, 1], [0, 0.2, 1, 0.4, 0], atol=1e-7)
    assert set(scene.attributes) == {"red", "green", "blue", "nx", "quality"}
    assert "normals" not in scene.features  # nx alone is none
    write_scene(tmp_path / "b.ply", scene)
    first, second = (load_ply(tmp_path / f"{name}.ply") for name in "ab")
    assert second.encoding == encoding
    for name in ("x", "y", "z", "Instance", "quality", "red"):
        np.testing.assert_array_equal(first.elements["vertex"][name], second.elements["vertex"][name])
        assert first.elements["vertex"][name].dtype.kind == second.elements["vertex"][name].dtype.kind


def test_ascii_digits_beyond_float32_are_kept(tmp_path):
    header = "ply\nformat ascii 1.0\nelement vertex 2\n" + "".join(f"property float {c}\n" for c in "xyz")
    Path(tmp_path, "utm.ply").write_text(
        header + "end_header\n432100.123 5412000.456 80.5\n432101.123 5412000.456 81\n"
    )
    scene = read_scene(tmp_path / "utm.ply")
    assert scene.coordinates.tolist() == [[432100.123, 5412000.456, 80.5], [432101.123, 5412000.456, 81]]
    assert scene.offset.tolist() == [432100, 5412000, 80]


def test_a_mesh_keeps_its_faces_comments_and_crs(tmp_path):
    vertex = dict(zip("xyz", np.eye(4, 3).T))
    comments = ["made by hand", "crs EPSG:25832", "class 1 chair"]
    save_ply(tmp_path / "a.ply", vertex, np.array([[0, 1, 2], [0, 2, 3]]), comments=comments)
    scene = read_scene(tmp_path / "a.ply")
    assert (scene.source.crs, scene.classes, scene.source.comments) == ("EPSG:25832", {1: "chair"}, ("made by hand",))
    write_scene(tmp_path / "b.ply", scene.with_labels(instance=[1, 1, 0, 0], score=np.array([0.5, 0.5, 0, 0])))
    again = load_ply(tmp_path / "b.ply")
    assert again.elements["face"]["vertex_indices"].tolist() == [[0, 1, 2], [0, 2, 3]]
    assert set(again.comments) == set(comments)
    assert list(again.elements["vertex"]) == ["x", "y", "z", "score", "instance"]
    write_scene(tmp_path / "c.ply", scene.take([0, 1]))
    assert "face" not in load_ply(tmp_path / "c.ply").elements


def test_predictions_that_do_not_fit_the_files_type_get_a_wider_one(tmp_path):
    save_ply(tmp_path / "a.ply", {**dict(zip("xyz", np.eye(3))), "instance": np.array([1, 2, 0], np.uint8)})
    write_scene(tmp_path / "b.ply", read_scene(tmp_path / "a.ply").with_labels(instance=[-1, 0, 500]))
    column = load_ply(tmp_path / "b.ply").elements["vertex"]["instance"]
    assert column.tolist() == [-1, 0, 500]


def test_classes_beside_the_file(tmp_path):
    Path(tmp_path, "classes.json").write_text('{"1": "wall", "2": "chair"}')
    save_ply(
        tmp_path / "a.ply", {**dict(zip("xyz", np.eye(3))), "class": np.array([1, 1, 2]), "instance": np.arange(3)}
    )
    scene = read_scene(tmp_path / "a.ply")
    assert scene.classes == {1: "wall", 2: "chair"}
    assert scene.instance.tolist() == [0, 0, 1]  # walls are stuff
    assert read_scene(tmp_path / "a.ply", stuff=()).instance.tolist() == [0, 1, 2]


def test_npz_with_other_arrays(tmp_path):
    extra = {"part": np.array(["a", "b"]), "treeID": np.array([0, 2, 5]), "name": np.array(["p", "q", "r"])}
    np.savez(tmp_path / "a.npz", cloud=np.eye(3, dtype=np.float32), **extra)
    scene = read_scene(tmp_path / "a.npz")
    assert scene.instance_ids.tolist() == [2, 5]
    write_scene(tmp_path / "b.npz", scene)
    with np.load(tmp_path / "b.npz") as again:
        assert set(again.files) == {"points", "part", "treeID", "name"}
        assert again["points"].dtype == np.float32
        assert again["treeID"].tolist() == [0, 2, 5]
    with pytest.warns(UserWarning, match="no numbers are not written: name"):
        write_scene(tmp_path / "b.ply", scene)


def test_labels_by_other_names(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.eye(3), mine=[1, 2, 2], instance=[9, 9, 9])
    assert read_scene(tmp_path / "a.npz", instance="mine").instances == 2
    with pytest.raises(UnreadableFile, match=r"no column 'mime' .*nearest: 'mine'"):
        read_scene(tmp_path / "a.npz", instance="mime")


@pytest.mark.parametrize("position", ["pos", "vertices", "coords", "whatever"])
@pytest.mark.parametrize(
    ("semantic", "instance"), [("sem_label", "ins_label"), ("semantic_labels", "instance_labels"), ("labels", "inst")]
)
def test_npz_by_the_names_that_others_use(tmp_path, position, semantic, instance):
    arrays = {position: np.eye(3), "color": np.ones((3, 3)), semantic: [1, 2, 2], instance: [4, 5, 6]}
    np.savez(tmp_path / "a.npz", **arrays)
    scene = read_scene(tmp_path / "a.npz")
    assert scene.points.tolist() == np.eye(3).tolist() and list(scene.features) == ["colour"]
    assert scene.semantic.tolist() == [1, 2, 2] and scene.instance_ids.tolist() == [4, 5, 6]


def test_npz_columns_of_the_wrong_length(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.eye(3), normal=np.array([0, 0, 1]), instances=4, label=np.array(["a"] * 3))
    assert read_scene(tmp_path / "a.npz").semantic is None  # a plane's normal, a number, names: none is a column
    np.savez(tmp_path / "a.npz", points=np.eye(3), instance=[1, 2])
    with pytest.raises(UnreadableFile, match=r"a.npz: 3 points need as many rows of instance, got \(2,\)"):
        read_scene(tmp_path / "a.npz")


def test_integers_that_ply_has_no_type_for(tmp_path):
    ids = np.array([0, 2**40, 2**40 + 1])
    write_scene(tmp_path / "a.ply", make_scene(np.eye(3), instance=ids, attributes={"time": ids}))
    again = read_scene(tmp_path / "a.ply")
    assert again.instance_ids.tolist() == ids[1:].tolist() and again.attributes["time"].tolist() == ids.tolist()
    with pytest.raises(ValueError, match="must fit 53 bits"):
        write_scene(tmp_path / "b.ply", make_scene(np.eye(3), attributes={"time": ids << 20}))
    text = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
    (tmp_path / "c.ply").write_text(text + "property int64 instance\nend_header\n1 2 3 4\n")
    assert read_scene(tmp_path / "c.ply").instance_ids.tolist() == [4]


def test_npy_forms(tmp_path):
    np.save(tmp_path / "a.npy", rng.random((4, 6)))
    scene = read_scene(tmp_path / "a.npy")
    assert list(scene.attributes) == ["column_3", "column_4", "column_5"]
    assert not scene.features  # colours or normals: nobody can tell
    np.save(tmp_path / "b.npy", rng.random((4, 3)).astype(np.float32))
    write_scene(tmp_path / "c.npy", read_scene(tmp_path / "b.npy"))
    assert (tmp_path / "b.npy").read_bytes() == (tmp_path / "c.npy").read_bytes()


# ---------------------------------------------------------------------------------------------------- folders


def test_pointcept(tmp_path):
    arrays = {
        "coord": rng.random((4, 3)).astype(np.float32),
        "color": np.full((4, 3), 255, np.uint8),
        "normal": rng.random((4, 3)).astype(np.float32),
        "segment": np.array([[0], [2], [-1], [2]]),
        "instance": np.array([-1, 0, -1, 5]),
    }
    (tmp_path / "scene").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "scene" / f"{name}.npy", array)
    scene = read_scene(tmp_path / "scene")
    assert scene.semantic.tolist() == [1, 3, -1, 3]  # their 0 is a class, ours the background
    assert scene.instance.tolist() == [0, 1, -1, 2]  # a class without an instance is background
    assert scene.features["colour"].tolist() == [[1, 1, 1]] * 4
    write_scene(tmp_path / "again", scene)
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.load(tmp_path / "again" / f"{name}.npy"), array.squeeze())
    with pytest.raises(ValueError, match="not an empty folder"):
        write_scene(tmp_path / "again", scene)
    assert not list(tmp_path.glob(".*"))
    np.save(tmp_path / "scene" / "pose.npy", np.eye(4)[:3])
    assert list(read_scene(tmp_path / "scene").source.extras) == ["pose"]
    np.save(tmp_path / "scene" / "color.npy", np.zeros((3, 3)))
    with pytest.raises(UnreadableFile, match=r"scene: 4 points need as many rows of color, got \(3, 3\)"):
        read_scene(tmp_path / "scene")


def test_a_ply_as_a_pointcept_folder(tmp_path):
    scene = scan()
    write_scene(tmp_path / "a.ply", scene)
    write_scene(tmp_path / "a", read_scene(tmp_path / "a.ply"))
    files = {file.stem for file in (tmp_path / "a").iterdir()}
    assert files == {"coord", "color", "strength", "segment", "instance", "time", "flag"}
    again = read_scene(tmp_path / "a")
    np.testing.assert_allclose(again.features["colour"], scene.features["colour"], atol=1e-6)
    np.testing.assert_array_equal(again.instance > 0, scene.instance > 0)


def scannet(folder, labels=True):
    folder = folder / "scene0000_00"
    folder.mkdir()
    scan = folder / "scene0000_00"
    xyz = dict(zip("xyz", rng.random((3, 6)).astype(np.float32)))
    colour = {c: np.arange(6, dtype=np.uint8) for c in ("red", "green", "blue", "alpha")}
    save_ply(f"{scan}_vh_clean_2.ply", {**xyz, **colour}, np.array([[0, 1, 2]]))
    if labels:
        segments = {"segIndices": [10, 10, 20, 30, 40, 50]}
        groups = [
            {"objectId": 0, "segments": [10], "label": "wall"},
            {"objectId": 1, "segments": [20, 30], "label": "armchair"},
            {"objectId": 2, "segments": [40, 999], "label": "gadget"},
        ]
        Path(f"{scan}_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segments))
        Path(f"{scan}.aggregation.json").write_text(json.dumps({"segGroups": groups}))
    return folder


def test_scannet(tmp_path):
    folder = scannet(tmp_path)
    scene = read_scene(folder)
    assert scene.classes == {1: "armchair", 2: "gadget", 3: "wall"}
    assert scene.semantic.tolist() == [3, 3, 1, 1, 2, -1]
    assert scene.instance.tolist() == [0, 0, 1, 1, 2, -1]
    assert scene.instance_ids.tolist() == [2, 3]
    assert read_scene(folder, stuff=()).instances == 3
    rows = ["id\traw_category\tnyu40id\tnyu40class", "1\twall\t1\twall", "2\tarmchair\t5\tchair"]
    Path(tmp_path, "scannetv2-labels.combined.tsv").write_text("\n".join(rows))
    scene = read_scene(folder / "scene0000_00_vh_clean_2.ply")
    assert scene.semantic.tolist() == [1, 1, 5, 5, -1, -1]
    assert scene.classes == {1: "wall", 5: "chair"}
    (folder / "scene0000_00.aggregation.json").write_text('{"segGroups": [{"segments": [10]}]}')
    with pytest.raises(UnreadableFile, match=r"aggregation\.json: truncated or not a valid"):
        read_scene(folder)
    (folder / "scene0000_00_vh_clean_2.0.010000.segs.json").write_text('{"segIndices": [1]}')
    with pytest.raises(UnreadableFile, match="6 vertices need as many segIndices, it has 1"):
        read_scene(folder)


def test_scannet_without_labels(tmp_path):
    scene = read_scene(scannet(tmp_path, labels=False))
    assert scene.semantic is scene.instance is None
    assert scene.source.extras["faces"].tolist() == [[0, 1, 2]]
    with pytest.raises(UnreadableFile, match="no instance labels"):
        read_scene(tmp_path / "scene0000_00", labelled=True)


def test_several_scannet_scans_in_one_folder(tmp_path):
    folder = scannet(tmp_path)
    for file in list(folder.iterdir()):
        (folder / file.name.replace("scene0000", "scene0001")).write_bytes(file.read_bytes())
    (folder / "scene0000_00_vh_clean_2.labels.ply").write_bytes(b"the labels as another mesh")
    first, second = find_scenes(folder)
    assert (first.name, second.name) == ("scene0000_00_vh_clean_2.ply", "scene0001_00_vh_clean_2.ply")
    assert read_scene(second).semantic.tolist() == [3, 3, 1, 1, 2, -1]
    with pytest.raises(UnreadableFile, match="not the folder of a scene"):
        read_scene(folder)


def test_scannet_aggregations_of_the_finer_mesh_are_not_taken(tmp_path):
    folder = scannet(tmp_path)
    (folder / "scene0000_00.aggregation.json").rename(folder / "scene0000_00_vh_clean.aggregation.json")
    assert read_scene(folder).instance is None


def test_s3dis(tmp_path):
    room = tmp_path / "Area_5" / "hallway_6"
    (room / "Annotations").mkdir(parents=True)
    objects = {
        "ceiling_1": b"0 0 3 185\x10187 182\n".replace(b"\x10", b" ") + b"1 0 3 1 2 3\n",
        "chair_1": b"0 0 0 255\x100 0\n",  # the control character of the published Area_5
        "stairs_1": b"5.5 0 0.25 0 0 255\r\n",
    }
    for name, text in objects.items():
        (room / "Annotations" / f"{name}.txt").write_bytes(text)
    (room / "hallway_6.txt").write_text("all points once more, in another order")
    scene = read_scene(room)
    assert [scene.classes[c] for c in scene.semantic] == ["ceiling", "ceiling", "chair", "clutter"]
    assert scene.instance.tolist() == [0, 0, 1, 2]
    assert scene.features["colour"][2].tolist() == [1, 0, 0]
    assert scene.points[3].tolist() == [5.5, 0, 0.25]
    assert find_scenes(tmp_path) == [room]
    (room / "Annotations" / "chair_2.txt").write_text("0 0 zero 1 2 3\n")
    with pytest.raises(UnreadableFile, match=r"chair_2\.txt"):
        read_scene(room)


# ---------------------------------------------------------------------------------------------------- LAS


def las_file(path, points=10, point_format=3, version="1.2"):
    laspy = pytest.importorskip("laspy", reason="laspy is not installed")
    header = laspy.LasHeader(point_format=point_format, version=version)
    header.scales, header.offsets = [0.001, 0.001, 0.01], [430000, 5400000, 0]
    header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr('PROJCS["a projection"]'))
    header.add_extra_dims([laspy.ExtraBytesParams("treeID", np.int32), laspy.ExtraBytesParams("height", np.float32)])
    las = laspy.LasData(header, laspy.ScaleAwarePointRecord.zeros(points, header=header))
    for axis, base in zip("XYZ", (2100123, 12000456, 8050)):
        las[axis] = base + rng.integers(0, 50000, points)
    las.intensity, las.classification = rng.integers(0, 65535, points), rng.integers(2, 7, points)
    las["treeID"], las["height"] = rng.integers(0, 4, points), rng.random(points)
    las.return_number, las.gps_time = rng.integers(1, 5, points), rng.random(points) * 1e9
    las.write(path)
    return laspy.read(path)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las_keeps_everything(tmp_path, suffix):
    las = las_file(tmp_path / f"a{suffix}")
    scene = read_scene(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(scene.coordinates, np.stack([las.x, las.y, las.z], axis=1))
    np.testing.assert_array_equal(scene.semantic, las.classification)
    np.testing.assert_array_equal(scene.instance > 0, las["treeID"] > 0)
    assert scene.classes[2] == "ground"
    assert scene.source.crs == 'PROJCS["a projection"]'
    write_scene(tmp_path / f"b{suffix}", scene)
    again = pytest.importorskip("laspy").read(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(again.points.array, las.points.array)
    assert (again.header.scales == las.header.scales).all()
    assert (again.header.offsets == las.header.offsets).all()
    assert read_scene(tmp_path / f"b{suffix}").source.crs == scene.source.crs


def test_las_takes_predictions_and_colours(tmp_path):
    las_file(tmp_path / "a.las", point_format=6, version="1.4")
    scene = read_scene(tmp_path / "a.las")
    new = scene.take(np.arange(7)).with_labels(
        semantic=[-1, 0, 1, 2, 3, 4, 5],
        instance=np.arange(7),
        score=np.linspace(0, 1, 7),
        **{c: np.full(7, 255, np.uint8) for c in ("red", "green", "blue")},
    )
    write_scene(tmp_path / "b.laz", new)
    again = read_scene(tmp_path / "b.laz")
    np.testing.assert_array_equal(again.coordinates, new.coordinates)
    assert again.semantic.tolist() == [-1, 0, 1, 2, 3, 4, 5]  # -1 has no place in "classification"
    assert again.instance.tolist() == list(range(7))
    assert again.features["colour"].min() == 1
    np.testing.assert_array_equal(again.attributes["score"], np.linspace(0, 1, 7))


def test_las_dimensions_that_are_too_narrow(tmp_path):
    las_file(tmp_path / "a.las")  # 10 points
    scene = read_scene(tmp_path / "a.las").with_labels(instance=np.arange(10), return_number=np.full(10, 9))
    scene = scene.with_labels(**{"a name of more than thirty-two bytes": np.arange(10)})
    write_scene(tmp_path / "b.las", scene.take(np.repeat(np.arange(10), 9)))
    las = pytest.importorskip("laspy").read(tmp_path / "b.las")
    assert set(las["given_return_number"]) == {9} and set(las.return_number) == {0}
    assert set(las["a name of more than thirty-two b"]) == set(range(10))
    las.add_extra_dim(pytest.importorskip("laspy").ExtraBytesParams("instance", np.uint8))
    las.remove_extra_dim("treeID")
    las.write(tmp_path / "c.las")
    many = read_scene(tmp_path / "c.las").with_labels(instance=np.arange(90) * 100)
    write_scene(tmp_path / "d.las", many)
    assert read_scene(tmp_path / "d.las").instance_ids.tolist() == list(range(100, 9000, 100))


def test_las_vectors_come_back(tmp_path):
    laspy = pytest.importorskip("laspy", reason="laspy is not installed")
    las = las_file(tmp_path / "a.las")
    las.add_extra_dim(laspy.ExtraBytesParams("direction", "3f4"))
    las["direction"] = rng.random((10, 3))
    las.write(tmp_path / "a.las")
    write_scene(tmp_path / "b.las", read_scene(tmp_path / "a.las"))
    np.testing.assert_array_equal(laspy.read(tmp_path / "b.las").points.array, las.points.array)


def test_other_scenes_as_las(tmp_path):
    pytest.importorskip("laspy", reason="laspy is not installed")
    scene = scan(place=UTM)
    write_scene(tmp_path / "a.laz", scene)
    again = read_scene(tmp_path / "a.laz")
    assert np.abs(again.coordinates - scene.coordinates).max() < 1e-6 * np.ptp(scene.points)
    np.testing.assert_array_equal(again.instance, scene.instance)
    np.testing.assert_array_equal(again.semantic, scene.semantic)
    np.testing.assert_allclose(again.features["colour"], scene.features["colour"], atol=1e-5)
    np.testing.assert_array_equal(again.attributes["time"], scene.attributes["time"])


def test_without_laspy_the_answer_is_how_to_get_it(tmp_path, monkeypatch):
    original = builtins.__import__

    def no_laspy(name, *args):
        if name == "laspy":
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", no_laspy)
    Path(tmp_path, "a.laz").write_bytes(b"LASF")
    for call in (lambda: read_scene(tmp_path / "a.laz"), lambda: write_scene(tmp_path / "b.las", scan())):
        with pytest.raises(UnreadableFile, match=r"need laspy: pip install 'laspy\[lazrs\]'"):
            call()


# ---------------------------------------------------------------------------------------------------- what is broken


def broken_files(folder):
    header = "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\n{}end_header\n"
    pickled = np.array([{"a": 1}], dtype=object)
    yield "empty.ply", b"", "empty file"
    yield "text.ply", b"hello\n", "not a PLY"
    yield "line.ply", b"hello", "not a PLY"
    yield "none.ply", header.format(0, "property float z\n").encode(), "no points"
    yield "flat.ply", (header.format(1, "") + "1 2\n").encode(), "no columns x, y, z"
    yield "nan.ply", (header.format(1, "property float z\n") + "nan 2 3\n").encode(), "none of 1 is finite"
    yield "short.ply", (header.format(3, "property float z\n") + "1 2 3\n").encode(), "cut short"
    yield "words.ply", (header.format(1, "property float z\n") + "1 two 3\n").encode(), "truncated or not a valid"
    yield "garbage.npz", bytes(range(256)), "truncated or not a valid .npz file .no archive"
    yield "garbage.npy", bytes(range(256)), "truncated or not a valid"
    yield "line.npy", np.lib.format.magic(1, 0) + struct.pack("<H", 0), "truncated or not a valid"
    yield "notes.txt", b"hello", "not a scan"
    np.savez(folder / "pickled.npz", points=pickled)
    yield "pickled.npz", (folder / "pickled.npz").read_bytes(), "truncated or not a valid"
    np.savez(folder / "images.npz", images=np.zeros((2, 8, 8)))
    yield "images.npz", (folder / "images.npz").read_bytes(), "no array 'points'"
    np.savez(folder / "labels.npz", points=np.eye(3), instance=[1.5, 0, 0])
    yield "labels.npz", (folder / "labels.npz").read_bytes(), "whole numbers, got 1.5"
    np.save(folder / "vector.npy", np.zeros(3))
    yield "vector.npy", (folder / "vector.npy").read_bytes(), r"expected points \(N, 3\)"


def test_each_broken_file_gets_one_line(tmp_path):
    for name, content, message in broken_files(tmp_path):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableFile, match=message) as error:
            read_scene(tmp_path / name)
        assert "\n" not in str(error.value)
        assert name in str(error.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([".ply", ".npz", ".npy"]), st.sampled_from(ENCODINGS), st.data())
def test_damaged_files_are_unreadable_or_read(tmp_path, suffix, encoding, data):
    scene = make_scene(np.eye(3), instance=[0, 3, 3])
    write_scene(tmp_path / f"a{suffix}", dataclasses.replace(scene, source=Source(encoding=encoding)))
    content = (tmp_path / f"a{suffix}").read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.binary(max_size=2))
    (tmp_path / f"b{suffix}").write_bytes(content[:at] + damage + content[at + data.draw(st.integers(1, 99)) :])
    try:
        assert len(read_scene(tmp_path / f"b{suffix}")) > 0
    except UnreadableFile as error:
        assert "\n" not in str(error)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_scene(tmp_path / "nowhere.ply")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_scenes(tmp_path / "nowhere")
    with pytest.raises(UnreadableFile, match=r"not the folder of a scene: expected coord\.npy"):
        read_scene(tmp_path)
    with pytest.raises(ValueError, match="no scenes in"):
        find_scenes(tmp_path)
    with pytest.raises(ValueError, match="a scene is written as"):
        write_scene(tmp_path / "a.xyz", scan())


def test_a_scene_without_instances_is_refused_for_training(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.eye(3), semantic=[0, 1, 2])
    assert read_scene(tmp_path / "a.npz").instance is None
    with pytest.raises(UnreadableFile, match="no instance labels, which are needed here; it has the columns semantic"):
        read_scene(tmp_path / "a.npz", labelled=True)


def test_a_failed_write_leaves_nothing(tmp_path):
    scene = make_scene(np.eye(3), attributes={"huge": np.array([2**63, 0, 0], np.uint64)})
    with pytest.raises(ValueError, match="huge"):
        write_scene(tmp_path / "a.ply", scene)
    assert not list(tmp_path.iterdir())


def test_an_empty_scene_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"a\.las has none"):
        write_scene(tmp_path / "a.las", scan().take([]))


def test_names_beyond_ascii_and_with_spaces(tmp_path):
    scene = make_scene(
        np.eye(3), semantic=[0, 1, 2], classes={1: "fenêtre\nà vantaux", 2: "椅子"}, attributes={"my score": np.ones(3)}
    )
    write_scene(tmp_path / "a.ply", scene)
    again = read_scene(tmp_path / "a.ply")
    assert again.classes == {1: "fenêtre à vantaux", 2: "椅子"}
    assert list(again.attributes) == ["my_score"]


def test_foreign_names_of_labels_become_a_las_classification(tmp_path):
    pytest.importorskip("laspy", reason="laspy is not installed")
    np.savez(tmp_path / "a.npz", points=rng.random((4, 3)), label=[0, 2, 2, 5])
    write_scene(tmp_path / "a.las", read_scene(tmp_path / "a.npz"))
    assert read_scene(tmp_path / "a.las").source.names == {"semantic": "classification"}


def test_a_las_file_cut_short(tmp_path):
    las_file(tmp_path / "a.las")
    content = (tmp_path / "a.las").read_bytes()
    for cut in (1, 42, 84):  # a point takes 42 bytes
        (tmp_path / "a.las").write_bytes(content[:-cut])
        with pytest.raises(UnreadableFile, match=r"truncated or not a valid|cut short"):
            read_scene(tmp_path / "a.las")


@pytest.mark.parametrize(
    ("name", "points", "instances"),
    [("indoor/house.ply", 400772, 67), ("conifer.npz", 37657, 205), ("spines/001.npz", None, None)],
)
def test_real_scenes(name, points, instances):
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"no reference data: {path} is absent")
    scene = read_scene(path, labelled=True)
    assert points in (None, len(scene))
    assert instances in (None, scene.instances)
    assert not scene.offset.any()
    assert scene.dropped == 0
