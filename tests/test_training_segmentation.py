"""A PolarMask3D learns from crops of scenes; a run cut short goes on as if it had not been; stars are the true ones."""

import json
import signal

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import pcgen.training.loop as loop
from pcgen.cli import main
from pcgen.config import from_dict, read, to_dict
from pcgen.data.scene_sets import load_scenes
from pcgen.data.scenes import write_scene
from pcgen.data.scenes.augmentation import AugmentationConfig
from pcgen.data.shapes import DataConfig, load
from pcgen.geometry.raycast import mesh_rays, mesh_tree
from pcgen.models.polar_targets import instance_stars
from pcgen.models.segmenter import load_segmenter
from pcgen.models.thinning import points_per_voxel
from pcgen.training import RunConfig, SegmentationRunConfig, find_checkpoint, load_model, read_history, stages, train
from pcgen.training.labelled_crops import labelled_crop, labelled_part
from pcgen.training.scoring import oracle_of, segmentation_scores

pytestmark = pytest.mark.usefixtures("one_thread")

SCENE = "{spacing: 0.1, objects: [2, 3], floor: [2.5, 3.0], walls: 0, categories: [car], size: [0.8, 1.2], stacked: 0}"
TINY = {
    "task": "polarmask3d",
    "data": {"crop": {"points": 600, "min_points": 10}, "augmentation": {"thin": 0.2, "jitter": 0.005, "mix": 0.3}},
    "model": {"backbone": {"voxel": 0.1, "widths": [8, 12]}, "decoding": {"least": 10}},
    "training": {"steps": 6, "batch": 3, "ema": 0.9, "device": "cpu", "validate_every": 1},
    "evaluation": {"crops": 2, "min_points": 10},
}
GENERATED = f"data.generated={{train: 3, val: 1, test: 1, scene: {SCENE}}}"


def config(*words):
    return read(SegmentationRunConfig, overrides=[GENERATED, *words], base=TINY)


def scenes_of(settings):
    return load_scenes(settings.data, settings.model.features, settings.model.up)


def weights(run):
    return {p.parent.name: p.read_bytes() for p in sorted(run.glob("checkpoints/*/model.safetensors"))}


@pytest.fixture(scope="module")
def yaml_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "rooms.yaml"
    text = json.dumps({**TINY, "data": {**TINY["data"], "generated": {"train": 3, "val": 1, "test": 1}}})
    path.write_text("# Rooms.\n" + text)
    return path


@pytest.fixture(scope="module")
def run(yaml_file):
    """A finished run; not to be written to."""
    folder = yaml_file.parent / "run"
    assert main(["train", str(yaml_file), GENERATED, "evaluation.baseline=true", "--out", str(folder), "--quiet"]) == 0
    return folder


# Learning.


def test_it_learns_to_find_objects(tmp_path):
    settings = config("training.steps=60", "training.lr=0.006", "training.ema=0", "training.validate_every=99")
    scenes = scenes_of(settings)
    task = loop.task_of(settings, scenes)
    before = task.validate(task.build_model().eval())
    train(settings, scenes, tmp_path, quiet=True)
    after = read_history(tmp_path)[-1]
    assert after["val/total"] < 0.7 * before["val/total"]
    assert before["val/ap25"] == 0 and after["val/ap25"] > 0.5


def test_the_run_of_a_task_takes_data_of_its_kind():
    with pytest.raises(TypeError, match="'polarmask3d' is trained on SceneSets, got Shapes"):
        loop.task_of(config(), load(DataConfig(shapes=2, mesh_points=10)))


# The run's folder.


def test_a_run_leaves_what_others_need(run, capsys):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["checkpoint"] == "checkpoints/ema" and metrics["thresholds tuned on"] == "val"
    rows = metrics["test"]
    for name in ("PolarMask3D", "DBSCAN without planes", "DBSCAN of the network's foreground"):
        assert rows[name]["min_points"] == 10 and rows[name]["counted"] >= 2 and rows[name]["background"] == "negative"
    assert rows["oracle"]["ap50"] == 1.0
    for name in ("curves.png", "galleries/epoch_00001.png", "galleries/test_000.png", "resume/state.pt"):
        assert (run / name).is_file()
    assert main(["info", str(run)]) == 0
    out = capsys.readouterr().out
    assert "task: polarmask3d" in out and "steps 6" in out


def test_tuned_thresholds_are_kept_with_the_weights(run):
    metrics = json.loads((run / "metrics.json").read_text())
    model, domain = load_segmenter(find_checkpoint(run))
    assert to_dict(model.config.decoding) == metrics["decoding"]
    densities = [points_per_voxel(torch.from_numpy(scene.scene.points), 0.1) for scene in scenes_of(config()).train]
    assert model.config.decoding.density == max(densities)
    assert domain.spacing[0] < 0.1 < domain.spacing[1]
    others = load_segmenter(run / "checkpoints" / "last").model
    assert others.config.decoding == config().model.decoding
    assert find_checkpoint(run).name == "ema"


def test_a_scan_is_segmented_by_a_run(run, tmp_path):
    scene = scenes_of(config()).test[0].scene
    write_scene(tmp_path / "scan.ply", scene)
    words = ["segment", tmp_path / "scan.ply", run, "-o", tmp_path / "out.ply", "--quiet"]
    assert main([str(word) for word in words]) == 0 and (tmp_path / "out.ply").is_file()


def test_a_pointflow_is_not_taken_from_it(run):
    with pytest.raises(ValueError, match="is a polarmask3d, not a PointFlow: pcgen segment"):
        load_model(run)


# Cut short.


def test_interrupted_and_resumed_is_uninterrupted(yaml_file, run, tmp_path, monkeypatch, capsys):
    out, honest, count = tmp_path / "run", loop._step, iter(range(1, 99))

    def watched(*arguments):
        honest(*arguments)
        if next(count) == 4:  # in the middle of the second epoch
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "_step", watched)
    assert main(["train", str(yaml_file), GENERATED, "--out", str(out), "--quiet"]) == 130
    assert f"go on with: pcgen train --resume --out {out}" in capsys.readouterr().err
    found = load_segmenter(find_checkpoint(out))  # what was learned so far can be used
    assert len(found.model.predict_instances(torch.rand(50, 3)).labels) == 50 and found.domain.spacing
    assert main(["train", "--resume", "--out", str(out), "--quiet"]) == 0
    assert weights(out) == weights(run)


def test_other_settings_do_not_resume(run, capsys):
    assert main(["train", "--resume", "--out", str(run), "data.crop.points=500", "model.scale=0.3"]) == 2
    message = capsys.readouterr().err
    assert "data.crop.points 500 (was 600)" in message and "model.scale 0.3 (was 0.4)" in message
    assert main(["train", "demo", "--resume", "--out", str(run)]) == 2
    assert "task pointflow (was polarmask3d)" in capsys.readouterr().err


def test_dry_run_prints_the_settings_and_writes_nothing(yaml_file, tmp_path, capsys):
    words = ["train", str(yaml_file), GENERATED, "training.seed=5", "--dry-run", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "task: polarmask3d" in out and "seed: 5" in out and not (tmp_path / "run").exists()
    assert "generated: 3 train, 1 val, 1 test" in err and "weights; " in err


# Crops.


def crop(settings, seed, **options):
    scenes = scenes_of(settings).train
    arguments = (settings.data, settings.model, loop.task_of(settings, scenes_of(settings)).rays)
    return labelled_crop(scenes, 0, *arguments, np.random.default_rng(seed), **options)


def test_parts_of_a_batch_are_the_batch():
    task = loop.task_of(config(), scenes_of(config()))
    (stage,) = stages(task.config, task.steps)
    (whole, *_), (left, *_), (right, *_), (fourth, *_) = (
        list(task.batches(stage, 0, 0, part)) for part in ((0, 1), (0, 2), (1, 2), (0, 4))
    )
    assert left.share + right.share == pytest.approx(1) and fourth.share == 0 and len(fourth.crops) == 1
    for ours, theirs in zip([*left.crops, *right.crops], whole.crops):
        assert_close(ours, theirs, rtol=0, atol=0)
    again = list(task.batches(stage, 0, 1, (0, 1)))
    assert len(again) == stage.steps - 1 and not torch.equal(again[0].crops[0].points[0], whole.crops[0].points[0])


def test_heights_are_above_the_floor_and_stars_those_of_the_crop():
    settings = config("data.augmentation={scale: [1, 1], mix: 0}")
    found, rays = crop(settings, 0), loop.task_of(settings, scenes_of(settings)).rays
    assert_close(found.features["height"], found.points[:, 2])
    assert float(found.points[:, 2].quantile(0.3)) == pytest.approx(0, abs=0.02)  # the floor
    assert_close(found.stars, instance_stars(rays, found.points, found.instance))


def test_objects_that_the_crop_cuts_have_a_class_and_no_star():
    settings = config("data.augmentation={thin: 0, mix: 0}", "data.crop.whole=1.0")
    whole = scenes_of(settings).train[0].scene
    found, seen = crop(settings, 3), 0
    there = np.bincount(np.maximum(whole.instance, 0))[1:]
    for k, valid in enumerate(found.stars.valid, start=1):
        count = int((found.instance == k).sum())
        assert count
        if valid.any():
            seen += 1
            assert count in there
    assert 0 < seen < len(found.stars.valid)


def test_mixed_crops_keep_their_objects_apart():
    settings = config("data.augmentation={mix: 1.0}")
    found = crop(settings, 1)
    assert len(found.points) <= 600 and int(found.instance.max()) == len(found.stars.centres)
    count = torch.bincount(found.instance.clamp_min(0), minlength=len(found.stars.centres) + 1)[1:]
    assert (count >= 10).all()
    means = torch.stack([found.points[found.instance == k + 1].mean(0) for k in range(len(count))])
    assert_close(means, found.stars.centres, atol=1e-4, rtol=1e-4)


def test_whole_stars_are_those_of_the_moved_meshes():
    """T5 in the frame before augmentation against T5 of meshes that are augmented themselves."""
    settings = config("data.generated.amodal=true", "data.augmentation={mix: 0, mirror: all, scale: [0.5, 2]}")
    scenes = scenes_of(settings)
    rays = loop.task_of(settings, scenes).rays
    found = crop(settings, 3)
    whole = scenes.train[0]
    # The same draws give where the crop went.
    from pcgen.data.scenes.augmentation import draw_augmentation
    from pcgen.data.scenes.crops import draw_crop, without_small

    rng = np.random.default_rng(3)
    rng.random()
    scene, middle = draw_crop(whole.scene, settings.data.crop, rng)
    linear = draw_augmentation(settings.data.augmentation, rng).linear
    origin = np.array([*middle[:2], whole.floor])
    ids = without_small(scene, 10).instance_ids
    assert len(ids) == len(found.stars.centres) > 0
    for k, name in enumerate(ids):
        mesh = whole.generated.objects[name - 1].mesh
        tree = mesh_tree((mesh.vertices - origin) @ linear.T, mesh.faces)
        expected = mesh_rays(rays, found.stars.centres[k][None], [tree])
        same = (found.stars.lengths[k] - expected.lengths[0]).abs() < 1e-3 * expected.lengths.max()
        assert same.float().mean() > 0.95  # rays that graze an edge in float32 may hit another triangle


def test_a_part_of_a_scan_is_in_its_own_coordinates():
    settings = config()
    whole = scenes_of(settings).train[0]
    part = labelled_part(whole, settings.model, settings.data.crop, 200, np.random.default_rng(0))
    assert part.points.dtype == torch.float64 and len(part.points) == 200
    assert {*map(tuple, part.points.tolist())} <= {*map(tuple, whole.scene.points.tolist())}
    assert_close(part.features["height"], part.points[:, 2] - whole.floor)


# Scores.


def test_the_truth_scores_one_by_every_measure():
    from pcgen.models.clustering import Clusters

    settings = config()
    part = labelled_part(scenes_of(settings).train[0], settings.model, settings.data.crop, 5000,
                         np.random.default_rng(0))  # fmt: skip
    count = int(part.instance.max())
    truth = Clusters(part.instance.clamp_min(0), torch.ones(count, dtype=torch.int64), torch.ones(count))
    scores = segmentation_scores([truth], [part], 1, 10)
    assert (scores.ap.ap, scores.pq.pq, scores.coverage.mcov, scores.ap.counted) == (1, 1, 1, count)
    assert scores.as_dict()["pq"] == 1 and "100.0" in scores.row("truth")
    assert oracle_of([part], loop.task_of(settings, scenes_of(settings)).rays, 10).ap.counted == count


# Settings.


def test_the_model_has_the_classes_of_the_data():
    settings = config("data.classes={chair: 1, table: 2, lamp: 0, car: 1}")
    assert settings.model.classes == 2 and from_dict(SegmentationRunConfig, to_dict(settings)) == settings
    assert settings.data.class_names == {1: "chair or car", 2: "table"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.prior_steps=5"], "a PolarMask3D has none"),
        (["model.classes=3", "data.classes={chair: 1}"], "model.classes must be 1"),
        (["data.crop.radus=2"], "'data.crop.radius'"),
        (["evaluation.crops=0"], "at least 1"),
        (["data.augmentation.scale=[2, 1]"], "in order"),
        (["task=pointflow"], "task must be 'polarmask3d'"),
    ],
)
def test_mistakes_in_settings_are_told(words, message):
    with pytest.raises(ValueError, match=message):
        config(*words)


def test_augmentation_can_be_left_out():
    assert AugmentationConfig().mix == 0 and RunConfig().task == "pointflow"


def test_an_unknown_task_is_told(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("task: polarmask")
    assert main(["train", str(tmp_path / "a.yaml")]) == 2
    assert "task must be one of pointflow, polarmask3d, got 'polarmask'" in capsys.readouterr().err
