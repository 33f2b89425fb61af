"""From a scan to labels: checkpoints, tiles and their seams, and the command."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from pcgen.cli import main
from pcgen.config import to_yaml
from pcgen.data.ply import read_ply, save_ply
from pcgen.data.scenes import make_scene, read_scene, scale_guess, write_scene
from pcgen.geometry import icosphere, volume
from pcgen.models.backbone import BackboneConfig
from pcgen.models.instances import DecodingConfig, Instances
from pcgen.models.polarmask3d import PolarMask3D, PolarMask3DConfig
from pcgen.models.segmenter import Domain, domain_of, load_segmenter, save_segmenter
from pcgen.models.tiling import segment_scan, tile_size
from pcgen.ops import segment_reduce
from pcgen.training import RunConfig
from pcgen.training.checkpoint import save_checkpoint

RAYS = icosphere(12)


class Perfect:
    """Says what the points' intensity says; their mean is the centre, as far as it is shown."""

    config = SimpleNamespace(up="z", scale=0.2)

    def __init__(self, jitter=0.0):
        self.jitter, self.shown = jitter, []

    def predict_instances(self, points, features, decoding=None):
        self.shown.append(len(points))
        ids, labels, count = features["intensity"].long().unique(return_inverse=True, return_counts=True)
        ids, count, labels = ids[ids > 0], count[ids > 0], labels + int(ids[0] > 0)
        mean = segment_reduce(points, labels - 1, len(ids), "mean").value + self.jitter * (-1) ** len(self.shown)
        size = torch.ones(len(ids), 3, dtype=torch.float64)
        lengths = torch.ones(len(ids), len(RAYS))
        scores = 1 / (1 + ids.float())
        return Instances(
            labels, 1 + ids % 3, scores, mean, lengths, lengths > 0, size, volume(RAYS, lengths), count, RAYS
        )


def objects(count=40, extent=20.0, radius=0.4, seed=0, bar=None):
    """Balls of points here and there, and a floor; ``bar`` is the half length of one object along x in the middle."""
    rng = np.random.default_rng(seed)
    grid = rng.permutation(int(extent / (2.5 * radius)) ** 2)[:count]
    side = int(extent / (2.5 * radius))
    centres = np.stack([grid // side, grid % side, np.zeros(count)], 1) * 2.5 * radius + radius
    x = rng.normal(size=(count, 60, 3))
    x *= radius * rng.uniform(0.2, 1, (count, 60, 1)) / np.linalg.norm(x, axis=2, keepdims=True)
    parts = [(centres[:, None] + x).reshape(-1, 3), rng.uniform(0, extent, (3000, 3)) * [1, 1, 0] - [0, 0, 1]]
    labels = [np.repeat(np.arange(1, count + 1), 60), np.zeros(3000, int)]
    if bar:
        parts.append(rng.uniform(-1, 1, (4000, 3)) * [bar, 0.1, 0.1] + [extent / 2, extent / 2, 2])
        labels.append(np.full(4000, count + 1))
    points, labels = np.concatenate(parts), np.concatenate(labels)
    order = rng.permutation(len(points))
    return make_scene(points[order], features={"intensity": labels[order]}, instance=labels[order])


def same_partition(a, b):
    pairs = np.unique(np.stack([a, b]), axis=1)
    return len(pairs[0]) == len(np.unique(a)) == len(np.unique(b)) and ((pairs[0] == 0) == (pairs[1] == 0)).all()


@given(
    tile=st.floats(1.5, 25), overlap=st.floats(0.8, 3), jitter=st.sampled_from([0.0, 1e-6, 0.3]), seed=st.integers(0, 9)
)
def test_objects_on_seams_come_back_once_and_whole(tile, overlap, jitter, seed):
    scene = objects(seed=seed)
    found = segment_scan(Perfect(jitter), scene, tile, overlap)
    assert same_partition(found.labels.numpy(), scene.instance)
    assert len(found) == scene.instances and (found.points == 60).all()
    assert (found.scores.diff() <= 0).all()
    truth = scene.instance[np.unique(found.labels.numpy(), return_index=True)[1][1:]]
    assert (found.classes.numpy() == 1 + truth % 3).all()  # columns belong to the labels
    for k in (0, len(found) - 1):
        own = scene.points[found.labels.numpy() == k + 1]
        np.testing.assert_array_equal(found.extents[k].numpy(), np.ptp(own, axis=0))
        assert np.abs(found.centres[k].numpy() - own.mean(0)).max() <= jitter + 1e-9


def test_another_axis_is_up():
    scene = objects()
    sideways = replace(scene, points=scene.points[:, [0, 2, 1]])
    predictor = Perfect()
    predictor.config = SimpleNamespace(up="y", scale=0.2)
    a, b = segment_scan(Perfect(), scene, 5.0, 1.0), segment_scan(predictor, sideways, 5.0, 1.0)
    assert len(predictor.shown) > 9 and (a.labels == b.labels).all()


@pytest.mark.parametrize("tile", [2.0, 3.3, 7.0, 100.0])
def test_an_object_larger_than_tiles_is_joined(tile):
    scene = objects(bar=8.0)
    found = segment_scan(Perfect(), scene, tile, 0.8)
    assert same_partition(found.labels.numpy(), scene.instance)


def test_order_of_points_is_no_matter():
    scene = objects()
    order = np.random.default_rng(5).permutation(len(scene))
    mixed = scene.take(order)
    for predictor in (Perfect, trained):
        options = {"decoding": DecodingConfig(foreground=0.0, score=0.0, least=5)} if predictor is trained else {}
        a = segment_scan(predictor(), scene, 7.0, 1.0, **options)
        b = segment_scan(predictor(), mixed, 7.0, 1.0, **options)
        assert len(a) > 3
        assert (a.labels[torch.from_numpy(order)] == b.labels).all()
        for name in ("scores", "centres", "lengths", "extents", "volumes", "points", "classes", "valid"):
            assert (getattr(a, name) == getattr(b, name)).all(), name


def trained(seed=0, **config):
    """A network of a few weights."""
    torch.manual_seed(seed)
    config = {"scale": 0.4, "features": (), "backbone": BackboneConfig(voxel=0.1, widths=(8, 16), blocks=1), **config}
    model = PolarMask3D(PolarMask3DConfig(rays="icosphere-12", **config)).eval()
    with torch.no_grad():
        model.star[-1].weight.mul_(5)
        model.dense[-1].bias.add_(2.0)
    return model


def test_one_tile_is_the_prediction_itself():
    scene, decoding = objects(), DecodingConfig(foreground=0.0, score=0.0, least=5)
    model = trained()
    order = np.lexsort(scene.points.T[::-1])
    whole = model.predict_instances(scene.points[order], decoding=decoding)
    told = []
    found = segment_scan(model, scene, decoding=decoding, progress=lambda *done: told.append(done))
    assert told == [(len(scene), len(scene))] and len(found) == len(whole) > 3
    assert (found.labels[torch.from_numpy(order)] == whole.labels).all()
    for name in ("scores", "centres", "lengths", "extents", "volumes", "points"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name


@pytest.mark.parametrize("mirrored", [False, True])
def test_whole_objects_go_before_pieces(mirrored):
    """What a tile sees only the end of and takes for three is given up where the other tile saw it whole."""

    class Hasty(Perfect):
        def predict_instances(self, points, features, decoding=None):
            partial = points[:, 0].max() < 15 if mirrored else points[:, 0].min() > 5
            return super().predict_instances(
                points, {"intensity": torch.where(partial, 1 + (points[:, 1] * 3).long(), 1)}
            )

    def segmented(end):
        points = np.random.default_rng(0).random((2000, 3))
        points[:, 0] = 8.6 + (end - 8.6) * points[:, 0] ** 4  # most of them on the left
        points = np.concatenate([points, [[0, 0, 0], [20, 0, 0]]])
        x = points * [-1, 1, 1] + [20, 0, 0] if mirrored else points
        return points[:-2, 0], segment_scan(Hasty(), make_scene(x), 10.0, 1.0).labels[:-2].numpy()

    x, labels = segmented(10.4)
    assert (labels == labels[0]).all() and labels[0] > 0
    x, labels = segmented(11.3)  # the end that only the hasty tile saw: less than half of what it claimed
    assert (labels[x <= 11] == labels[x <= 11][0]).all() and (labels[x > 11] == 0).all()


@pytest.mark.parametrize(("shared", "points"), [(1000, 1000), (501, 1000), (500, 500), (200, 200)])
def test_tiles_agree_above_an_iou_of_one_half(shared, points):
    """An object of 1000 points beyond the seam, of which the tile that owns them finds ``shared``."""

    class Two(Perfect):
        def predict_instances(self, points, features, decoding=None):
            left = points[:, 0].min() < 5
            return super().predict_instances(points, {"intensity": features["intensity"][:, 0 if left else 1]})

    x = np.random.default_rng(0).uniform([10, 0, 0], [11, 1, 1], (1000, 3))
    labels = np.ones((1002, 2))
    labels[shared:, 1] = labels[1000:] = 0
    scene = make_scene(np.concatenate([x, [[0, 0, 0], [19.9, 0, 0]]]), features={"intensity": labels})
    assert segment_scan(Two(), scene, 10.0, 1.0).points.tolist() == [points]


def test_memory_is_that_of_a_tile():
    scene, predictor = objects(count=200, extent=60.0), Perfect()
    size = tile_size(scene.points, 0.5, most=1500)
    segment_scan(predictor, scene, size, 0.5)
    assert len(predictor.shown) > 4 and max(predictor.shown) < 2 * 1500
    assert sum(predictor.shown) < 2 * len(scene)


@given(st.integers(1, 400), st.integers(1, 500), st.floats(0, 3), st.integers(0, 5))
def test_tile_size_bounds_what_a_tile_holds(count, most, overlap, seed):
    points = np.random.default_rng(seed).uniform(0, 50, (count, 3))
    size = tile_size(points, overlap, most=most)
    assert size >= 2 * overlap and size > 0
    if count <= most:
        assert size > np.ptp(points[:, :2], axis=0).max()


@given(st.integers(0, 9), st.sampled_from([1e4, 1e7, 1e12]), st.integers(1, 3))
def test_strays_do_not_make_tiles_that_hold_everything(seed, far, strays):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 50, (2000, 3))
    alone = tile_size(points, 0.5, most=500)
    points[rng.permutation(2000)[:strays]] = far
    assert 0.25 * alone <= tile_size(points, 0.5, most=500) <= 2 * alone


def test_a_point_at_the_origin_beside_coordinates_of_a_map():
    scene = objects()
    points = np.concatenate([np.add(scene.points, [500_000, 5_400_000, 300]), np.zeros((1, 3))])
    found = segment_scan(trained(), make_scene(points))
    assert len(found.labels) == len(points) and found.labels[-1] == 0


def test_missing_features_are_named_once():
    scene = make_scene(objects().points)
    with pytest.warns(UserWarning, match="colour") as caught:
        segment_scan(trained(features=("colour",)), scene, 5.0, 0.5)
    assert len(caught) == 1


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.zeros((5, 3)), np.array([[0, 0, 0], [1e6, 0, 0]])])
def test_degenerate_scans(points):
    found = segment_scan(trained(), make_scene(points))
    assert len(found.labels) == len(points)


def test_what_no_scan_or_tile_is():
    scene = objects()
    with pytest.raises(ValueError, match="at least one point"):
        segment_scan(Perfect(), scene.take([]))
    for sizes in ({"tile": 0.0}, {"tile": -1.0}, {"tile": np.nan}, {"overlap": -1.0}, {"overlap": np.nan}):
        with pytest.raises(ValueError, match=r"size must be positive|overlap"):
            segment_scan(Perfect(), scene, **sizes)


def test_select():
    found = segment_scan(Perfect(), objects(), 100.0, 1.0)
    some = found.take(torch.tensor([5, 2]))
    assert (some.labels == (found.labels == 6).long() + 2 * (found.labels == 3)).all()
    assert some.scores.tolist() == found.scores[[5, 2]].tolist() and len(some) == 2
    assert len(found.take(found.scores > 2)) == 0
    assert (found.take(found.scores > 0).labels == found.labels).all()


# Checkpoints


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_checkpoint_rebuilds_the_model(tmp_path, dtype):
    decoding = DecodingConfig(foreground=0.0, score=0.0, least=3)
    model, domain = trained(decoding=decoding, classes=2).to(dtype), Domain({2: "lamp"}, (1.0, 50.0), (0.001, 0.1))
    for _ in range(2):  # the second time over the first
        save_segmenter(tmp_path / "a", model, domain)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    back = load_segmenter(tmp_path / "a")
    assert back.domain == domain and back.model.config == model.config
    x = objects(3, 3.0).points
    assert torch.equal(back.model.predict_instances(x).lengths, model.predict_instances(x).lengths)
    (tmp_path / "a").rename(tmp_path / "a.old")  # stopped between two renames
    assert load_segmenter(tmp_path / "a").domain == domain


def test_foreign_and_damaged_checkpoints(tmp_path, small_model):
    folder = tmp_path / "a"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_segmenter(folder)
    save_segmenter(folder, trained())
    for name, content, expected in [
        ("model.safetensors", b"", "damaged"),
        ("model.safetensors", (folder / "model.safetensors").read_bytes()[:-100], "damaged"),
        ("config.yaml", b"model: {scale: 0.4, latent: 3}", "no checkpoint of a PolarMask3D.*latent"),
        ("config.yaml", b"data: 3", "must be a mapping"),
        ("info.json", b"{", "JSON"),
        ("info.json", b"[]", "mapping"),
        ("info.json", b'{"extent": [5, -1]}', "extent"),
    ]:
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=expected) as error:
            load_segmenter(folder)
        assert "\n" not in str(error.value)
        (folder / name).write_bytes(good)
    for name in ("config.yaml", "info.json"):
        good = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            load_segmenter(folder)
        (folder / name).write_bytes(good)
    load_segmenter(folder)


def test_checkpoints_do_not_replace_other_folders(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no checkpoint"):
        save_segmenter(tmp_path, trained())
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="1 … 1, got 2"):
        save_segmenter(tmp_path / "a", trained(), Domain({2: "lamp"}))


def test_domain():
    rng = np.random.default_rng(0)
    rooms = [rng.uniform(0, 5, (2000, 3)) for _ in range(2)]
    domain = domain_of(rooms, {1: "chair"})
    assert domain.classes == {1: "chair"}
    for unit, factor in (("metres", 1), ("millimetres", 1e-3), ("inches", 0.0254)):
        assert scale_guess(rooms[0] / factor, **domain.ranges()).unit == unit
    assert domain_of([]) == domain_of([np.zeros((3, 3))]) == Domain()


# The command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run whose network finds something, anywhere."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    model = trained(classes=2, scale=0.15, decoding=DecodingConfig(foreground=0.0, score=0.0, least=5))
    save_segmenter(folder, model, Domain({1: "chair", 2: "lamp"}, (1.0, 100.0), (0.005, 1.0)))
    return folder


@pytest.mark.parametrize(("up", "turn"), [("y", 2), ("x", 1)])
def test_command_on_a_scan_with_another_axis_up(tmp_path, checkpoint, up, turn):
    """The same scan turned gives the same objects, turned: in the table, and in the stars."""
    scene = objects(6, 5.0)
    for name, points in (("z", scene.points), (up, np.roll(scene.points, turn, 1))):
        save_ply(tmp_path / f"{name}.ply", dict(zip("xyz", points.T)))
        words = [
            tmp_path / f"{name}.ply",
            checkpoint,
            "-o",
            tmp_path / f"{name}_out.ply",
            "--csv",
            "--stars",
            "--quiet",
        ]
        assert main(["segment", *map(str, words), "--up", name]) == 0
    one, other = (read_scene(tmp_path / f"{name}_out.ply") for name in ("z", up))
    assert one.instances and np.array_equal(one.instance, other.instance)
    tables = []
    for name in ("z", up):
        with open(tmp_path / f"{name}_out.csv") as stream:
            rows = [[float(row[key]) for key in row if key not in ("class", "name")] for row in csv.DictReader(stream)]
        tables.append(np.array(rows))
    axes = np.roll(np.arange(3), turn)
    moved = tables[0].copy()
    for first in (2, 5):  # place and extent
        moved[:, first : first + 3] = tables[0][:, first + axes]
    np.testing.assert_allclose(tables[1], moved, rtol=1e-6, atol=1e-9)
    stars = [read_ply(tmp_path / f"{name}_out.stars.ply")["vertex"] for name in ("z", up)]
    corners = [np.stack([each[axis] for axis in "xyz"], 1) for each in stars]
    np.testing.assert_allclose(corners[1], np.roll(corners[0], turn, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("suffix", [".ply", ".npz", ".las"])
def test_command(tmp_path, checkpoint, capsys, suffix):
    if suffix == ".las":
        pytest.importorskip("laspy")
    offset = np.array([432100.0, 5412000.0, 80.0])
    points = np.round(objects(12, 6.0).points, 3) + offset
    columns = {name: np.full(len(points), 7, np.uint8) for name in ("red", "green", "blue")}
    columns["time"] = np.arange(len(points), dtype=np.float32)
    if suffix == ".ply":
        points[17] = np.nan
        comments = ["crs EPSG:25832"]
        save_ply(tmp_path / "in.ply", {**dict(zip("xyz", points.T)), **columns}, comments=comments)
    else:
        write_scene(tmp_path / f"in{suffix}", make_scene(points, attributes=columns))
    out, stars = tmp_path / f"out{suffix}", tmp_path / "stars.ply"
    command = ["segment", str(tmp_path / f"in{suffix}"), str(checkpoint), "-o", str(out), "--csv", "--picture"]
    assert main([*command, "--stars", str(stars), "--quiet"]) == 0
    said = capsys.readouterr()
    assert "objects" in said.out and ("1 of" in said.out) == (suffix == ".ply")
    back, given = read_scene(out), read_scene(tmp_path / f"in{suffix}")
    np.testing.assert_array_equal(back.coordinates, given.coordinates)
    assert back.source.crs == given.source.crs and back.instances > 3
    np.testing.assert_array_equal(back.attributes["time"], given.attributes["time"])
    np.testing.assert_array_equal(back.attributes["given_red"], given.attributes["red"])
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [int(row["instance"]) for row in rows] == back.instance_ids.tolist()
    for row in rows:
        own = back.instance == int(row["instance"])
        assert int(row["points"]) == own.sum() and row["name"] == ["chair", "lamp"][int(row["class"]) - 1]
        assert (back.semantic[own] == int(row["class"])).all()
        np.testing.assert_allclose(back.attributes["score"][own], float(row["score"]), rtol=1e-5)
        np.testing.assert_allclose(
            np.ptp(back.coordinates[own], axis=0), [float(row[f"extent_{a}"]) for a in "xyz"], atol=1e-6
        )
        assert (np.abs([float(row[a]) for a in "xyz"] - offset) < 20).all()
    mesh = read_ply(stars)
    assert len(mesh["vertex"]["x"]) == 12 * len(rows) and len(mesh["face"]["vertex_indices"]) == 20 * len(rows)
    first = np.stack([mesh["vertex"][a][:12] for a in "xyz"], 1)
    body = trimesh.Trimesh(first - offset, mesh["face"]["vertex_indices"][:20], process=False)
    assert body.volume == pytest.approx(float(rows[0]["volume"]), rel=1e-5)
    assert (tmp_path / "out.png").stat().st_size > 1000


@pytest.mark.filterwarnings("default")
def test_scale(tmp_path, checkpoint, capsys):
    scene = objects(12, 6.0)
    write_scene(tmp_path / "m.npz", scene)
    write_scene(tmp_path / "mm.npz", replace(scene, points=scene.points * 1000))

    def command(name, *options):
        out = tmp_path / "out.npz"
        assert main(["segment", str(tmp_path / name), str(checkpoint), "-o", str(out), "--csv", *options]) == 0
        table = np.genfromtxt(out.with_suffix(".csv"), delimiter=",", names=True, dtype=None, encoding=None)
        return capsys.readouterr(), table

    said, metres = command("m.npz")
    assert "warning" not in said.err
    said, _ = command("mm.npz", "--score", "0.9")
    assert "millimetres" in said.err and "0.001" in said.err
    for scale in ("0.001", "auto"):
        said, found = command("mm.npz", "--scale", scale)
        assert "warning" not in said.err and len(found) == len(metres)
        np.testing.assert_allclose(found["x"], metres["x"] * 1e3, rtol=1e-4, atol=1)
        np.testing.assert_allclose(found["volume"], metres["volume"] * 1e9, rtol=1e-3)
        np.testing.assert_array_equal(found["points"], metres["points"])


def test_score_and_evaluation(tmp_path, checkpoint, capsys, monkeypatch):
    # The votes of weights that nobody trained agree nowhere, which would make all scores zero.
    monkeypatch.setattr("pcgen.models.instances.agreement", lambda scan, found: torch.ones(len(found)))
    scene = objects(12, 6.0)
    scene = scene.with_labels(semantic=(scene.instance > 0).astype(int))
    write_scene(tmp_path / "in.ply", scene)
    command = ["segment", str(tmp_path / "in.ply"), str(checkpoint), "-o", str(tmp_path / "out.ply"), "--evaluate"]
    assert main(command) == 0
    assert "scannet AP" in capsys.readouterr().out
    back = read_scene(tmp_path / "out.ply")
    np.testing.assert_array_equal(back.attributes["given_instance"], scene.instance)
    middle = float(np.median(np.unique(back.attributes["score"])))
    assert main([*command, "--score", str(middle)]) == 0
    fewer = read_scene(tmp_path / "out.ply")
    assert 0 < fewer.instances < back.instances and fewer.attributes["score"][fewer.instance > 0].min() >= middle
    assert main([*command, "--score", "1", "--csv", "--picture", "--stars"]) == 0
    assert read_scene(tmp_path / "out.ply").instances == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1
    assert len(read_ply(tmp_path / "out.stars.ply")["vertex"]["x"]) == 0


@pytest.mark.filterwarnings("default")
def test_evaluation_of_other_classes_says_so(tmp_path, checkpoint, capsys):
    scene = objects(12, 6.0)
    write_scene(tmp_path / "in.ply", scene.with_labels(semantic=np.where(scene.instance > 0, 7, 0)))
    command = ["segment", str(tmp_path / "in.ply"), str(checkpoint), "-o", str(tmp_path / "out.ply"), "--evaluate"]
    assert main(command) == 0
    assert "no instance is of a class of the model, 1 … 2: the scan has 7" in capsys.readouterr().err


def test_a_checkpoint_is_where_one_stands(tmp_path, checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint)
    assert load_segmenter(".").domain.classes == {1: "chair", 2: "lamp"}
    write_scene(tmp_path / "in.ply", objects(2, 3.0))
    assert main(["segment", str(tmp_path / "in.ply"), ".", "-o", str(tmp_path / "out.ply"), "--quiet"]) == 0


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"no scan",
        b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\nend_header\n",
    ],
)
def test_bad_scans(tmp_path, checkpoint, capsys, content):
    if content is not None:
        (tmp_path / "in.ply").write_bytes(content)
    assert main(["segment", str(tmp_path / "in.ply"), str(checkpoint), "-o", str(tmp_path / "out.ply"), "--csv"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert {p.name for p in tmp_path.iterdir()} <= {"in.ply"}


def test_bad_commands(tmp_path, checkpoint, capsys, small_model):
    write_scene(tmp_path / "in.ply", make_scene(np.eye(3)))
    before = sorted(tmp_path.iterdir())
    scan, out = str(tmp_path / "in.ply"), str(tmp_path / "out.ply")
    for words in (
        [scan, str(tmp_path / "none"), "-o", out],
        [scan, str(tmp_path), "-o", out],
        [scan, str(checkpoint)],
        [scan, str(checkpoint), "-o", str(tmp_path / "out.txt")],
        [scan, str(checkpoint), "-o", out, "--stars", out],
        [scan, str(checkpoint), "-o", str(tmp_path / "." / "in.ply")],
        [scan, str(checkpoint), "-o", out, "--stars", scan],
        [scan, str(checkpoint), "-o", out, "--evaluate"],
        [scan, str(checkpoint), "-o", out, "--scale", "0"],
        [scan, str(checkpoint), "-o", out, "--scale", "metre"],
        [scan, str(checkpoint), "-o", out, "--tile", "-1"],
    ):
        assert main(["segment", *words]) == 2, words
        assert len(capsys.readouterr().err.splitlines()) == 1, words
    assert sorted(tmp_path.iterdir()) == before


def test_a_generator_is_no_segmenter(tmp_path, capsys, small_model):
    save_checkpoint(tmp_path / "a", small_model().state_dict(), to_yaml(RunConfig()), {})
    write_scene(tmp_path / "in.ply", make_scene(np.eye(3)))
    assert main(["segment", str(tmp_path / "in.ply"), str(tmp_path / "a"), "-o", str(tmp_path / "out.ply")]) == 2
    assert "no checkpoint of a PolarMask3D: it is a PointFlow, which generates shapes" in capsys.readouterr().err
    assert not (tmp_path / "out.ply").exists()


def test_info_is_readable(checkpoint):
    info = json.loads((checkpoint / "info.json").read_text())
    assert info["classes"] == {"1": "chair", "2": "lamp"} and info["features"] == [] and "pcgen" in info
