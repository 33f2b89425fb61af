"""Which scans train, validate and test; what their labels mean; what is wrong with them is one line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pcgen.data.scene_sets as scene_sets
from pcgen.data.scene_sets import GeneratedConfig, SceneDataConfig, load_scenes
from pcgen.data.scenes.crops import CropConfig
from pcgen.data.splits import hash_splits
from pcgen.data.synthetic.scenes import SceneSettings

SMALL = SceneSettings(objects=(2, 3), floor=(2.0, 2.5), walls=0, spacing=0.1)


def save(path, count=60, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    points = np.random.default_rng(0).uniform(0, 2, (count, 3))
    given = {"points": points, "instance": np.arange(count) // 20, **arrays}
    np.savez(path, **{name: values for name, values in given.items() if values is not None})


def names(scenes):
    return [name.rsplit("/", 1)[-1] for name in scenes.names]


def test_folders_are_splits(tmp_path):
    for split, name in (("train", "a"), ("train", "b"), ("val", "c"), ("test", "d")):
        save(tmp_path / split / f"{name}.npz")
    sets = load_scenes(SceneDataConfig(source=str(tmp_path)))
    assert [names(part) for part in sets[:3]] == [["a.npz", "b.npz"], ["c.npz"], ["d.npz"]] and not sets.notes


def test_what_is_tested_on_is_not_trained_on(tmp_path):
    for name in "abcde":
        save(tmp_path / f"{name}.npz")
    sets = load_scenes(SceneDataConfig(source=str(tmp_path), train=("*.npz",), test=("b.npz",), val=("c.npz",)))
    assert [names(part) for part in sets[:3]] == [["a.npz", "d.npz", "e.npz"], ["c.npz"], ["b.npz"]]


def test_some_are_held_out_where_none_are_named(tmp_path):
    for k in range(12):
        save(tmp_path / f"{k}.npz")
    config = SceneDataConfig(source=str(tmp_path), val_share=0.2, test_share=0.2)
    parts = [set(names(part)) for part in load_scenes(config)[:3]]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == 12
    assert [set(names(part)) for part in load_scenes(config)[:3]] == parts


def test_a_single_scan_validates_itself_and_says_so(tmp_path):
    save(tmp_path / "a.npz")
    sets = load_scenes(SceneDataConfig(source=str(tmp_path / "a.npz")))
    assert sets.val is sets.train and len(sets.test) == 0
    assert "scenes of the training" in sets.notes[0] and "without scores" in sets.notes[1]


@given(st.lists(st.text("abcdefghij", min_size=1), min_size=1, max_size=4, unique=True))
def test_whatever_its_name_something_is_trained_on(names):
    split = hash_splits(names, val_share=0.5, test_share=0.4)
    assert "train" in split.values() and set(split) == set(names)


def test_a_folder_of_one_scan_is_trained_on(tmp_path):
    save(tmp_path / "full.npz")  # whose hash is of those to test on
    sets = load_scenes(SceneDataConfig(source=str(tmp_path), val_share=0.3, test_share=0.3))
    assert names(sets.train) == ["full.npz"] and sets.val is sets.train


def test_an_epoch_visits_a_scan_until_all_its_points_are_seen(tmp_path):
    save(tmp_path / "a.npz", 60)
    save(tmp_path / "b.npz", 100)
    sets = load_scenes(SceneDataConfig(source=str(tmp_path), train=(".",), crop=CropConfig(points=30)))
    assert sets.visits == (2, 4)
    twice = SceneDataConfig(source=str(tmp_path), train=(".",), crop=CropConfig(points=30), repeat=2)
    assert load_scenes(twice).visits == (4, 8)


def test_generated_scenes_stand_beside_scans_and_share_no_object(tmp_path):
    save(tmp_path / "a.npz")
    config = SceneDataConfig(
        source=str(tmp_path), generated=GeneratedConfig(train=3, val=2, test=2, amodal=True, scene=SMALL)
    )
    sets = load_scenes(config)
    assert [len(part) for part in sets[:3]] == [4, 2, 2]
    objects = [{thing.name for i in range(k, k + 2) for thing in part[i].generated.objects} for k, part in
               ((1, sets.train), (0, sets.val), (0, sets.test))]  # fmt: skip
    assert all(objects) and not objects[0] & objects[1] and not (objects[0] | objects[1]) & objects[2]
    assert sets.train[0].generated is None


def test_scenes_are_the_same_again_after_they_were_let_go(monkeypatch):
    config = SceneDataConfig(generated=GeneratedConfig(train=3, val=1, test=0, scene=SMALL))
    train = load_scenes(config).train
    before = [train[i].scene.points for i in range(3)]
    monkeypatch.setattr(scene_sets, "HELD", 1)
    assert train[0] is train[0]
    for i in (0, 2, 1):
        assert np.array_equal(train[i].scene.points, before[i])


def test_classes_are_merged_and_some_are_background(tmp_path):
    semantic = np.repeat([0, 4, 7, 9], 15)
    save(tmp_path / "a.npz", semantic=semantic, instance=np.repeat([0, 1, 2, 3], 15))
    classes = {"4": 1, "7": 1, 9: 0}
    config = SceneDataConfig(source=str(tmp_path), train=(".",), classes=classes)
    scene = load_scenes(config).train[0].scene
    assert np.array_equal(scene.semantic, np.repeat([0, 1, 1, 0], 15))
    assert np.array_equal(scene.instance, np.repeat([0, 1, 2, 0], 15))
    assert config.class_names == {1: "4 or 7"}


def test_zero_can_say_that_nobody_annotated(tmp_path):
    save(tmp_path / "a.npz")
    plain, flagged = (
        load_scenes(SceneDataConfig(source=str(tmp_path), train=(".",), zero_unannotated=flag)).train[0].scene
        for flag in (False, True)
    )
    assert (plain.instance == 0).sum() == (flagged.instance == -1).sum() == 20


def test_unusable_scans_are_skipped_or_refused(tmp_path):
    save(tmp_path / "good.npz")
    save(tmp_path / "unlabelled.npz", instance=None)
    save(tmp_path / "empty_labels.npz", instance=np.zeros(60, int))
    (tmp_path / "junk.ply").write_text("this is no cloud")
    sets = load_scenes(SceneDataConfig(source=str(tmp_path), train=(".",)))
    reasons = {skip.path.name: skip.reason for skip in sets.skipped}
    assert len(sets.train) == 1 and set(reasons) == {"junk.ply", "unlabelled.npz", "empty_labels.npz"}
    assert "no instance labels" in reasons["unlabelled.npz"] and "no object" in reasons["empty_labels.npz"]
    with pytest.raises(ValueError, match=r"\.(npz|ply): "):
        load_scenes(SceneDataConfig(source=str(tmp_path), train=(".",), strict=True))


def test_a_scan_in_millimetres_is_warned_about_and_scaled(tmp_path):
    points = np.random.default_rng(0).uniform(0, 8000, (60, 3))
    save(tmp_path / "a.npz", points=points)
    with pytest.warns(UserWarning, match="looks like millimetres"):
        load_scenes(SceneDataConfig(source=str(tmp_path), train=(".",)))
    scene = load_scenes(SceneDataConfig(source=str(tmp_path), train=(".",), scale=0.001)).train[0].scene
    assert np.allclose(scene.points, points / 1000)


@pytest.mark.parametrize(
    ("arrays", "settings", "features", "words"),
    [
        ({}, {"source": "nowhere"}, (), "no nowhere"),
        ({}, {"train": ("b*.npz",)}, (), "no scan, folder or match 'b*.npz'"),
        ({}, {"test": ("c.npz",)}, (), "match 'c.npz'"),
        ({}, {}, ("colour",), "has no colour, which model.features asks for"),
        ({}, {"classes": {"chair": 1}}, (), "has no classes"),
        ({"semantic": np.repeat([3, 5], 30)}, {"classes": {"3": 1}}, (), "class '5', which data.classes leaves out"),
        ({"instance": None}, {}, (), "no labelled scenes to train on: none of 1 scans is usable"),
        (
            {"instance": None},
            {"generated": GeneratedConfig()},
            (),
            "scenes in .*: none of 1 scans is usable",
        ),
        ({}, {"instance": "tree"}, (), "none of 1 scans is usable.*no column 'tree'"),
        ({}, {"source": None}, (), "no scenes to train on"),
        ({}, {"generated": GeneratedConfig()}, ("colour",), "generated scenes have no colour"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arrays, settings, features, words):
    save(tmp_path / "a.npz", **arrays)
    config = SceneDataConfig(**{"source": str(tmp_path), "train": (".",), **settings})
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_scenes(config, features)
    assert "\n" not in str(error.value)
    error.match(words.replace("*.npz", r"\*\.npz") if "b*" in words else words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": {"a": 2}}, "without gaps"),
        ({"classes": {"a": 1, "b": 3}}, "without gaps"),
        ({"val_share": 0.7, "test_share": 0.4}, "leave scenes to train on"),
        ({"scale": 0.0}, "metres"),
        ({"repeat": 0}, "repeat must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        SceneDataConfig(**settings)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(ValueError, match="no scenes in"):
        load_scenes(SceneDataConfig(source=str(tmp_path)))
