"""Data sets: what is found where, how it is split and standardised, and batches that can be replayed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pcgen.config import from_dict, read
from pcgen.data import (
    DataConfig,
    Normalisation,
    ShapeSplit,
    UnreadableFile,
    batches,
    fit,
    import_folder,
    load,
    normalisation_of,
    steps_per_epoch,
)
from pcgen.data.splits import SYNSETS, hash_splits

SHARED = Path(__file__).parents[1].parent / "shared"
PACKS = SHARED / "data" / "generation"
needs_packs = pytest.mark.skipif(not PACKS.is_dir(), reason="the shared data packs are not here")
few = settings(max_examples=20, deadline=None)
TETRAHEDRON = "OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"


def cloud(seed, points=20):
    return np.random.default_rng(seed).normal(size=(points, 3)).astype(np.float32)


def save(path, seed=0, points=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, cloud(seed, points))


def split_of(sizes, seed=0):
    clouds = tuple(cloud((seed, i), n) for i, n in enumerate(sizes))
    return ShapeSplit(tuple(f"s{i}" for i in range(len(sizes))), ("x",) * len(sizes), clouds)


# --- normalisation

sets = st.lists(
    arrays(np.float32, st.tuples(st.integers(2, 9), st.just(3)), elements=st.floats(-1000, 1000, width=32)),
    min_size=1,
    max_size=4,
).filter(lambda clouds: np.ptp(np.concatenate(clouds), axis=0).min() > 1e-3)


@few
@given(sets)
def test_set_statistics_are_numpy_s(clouds):
    everything = np.concatenate(clouds).astype(np.float64)
    of_set, of_axes = fit(clouds, "set"), fit(clouds, "set-axis")
    np.testing.assert_allclose(of_set.mean, everything.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(of_set.scale, [everything.reshape(-1).std()] * 3, rtol=1e-12)
    np.testing.assert_allclose(of_axes.scale, everything.std(axis=0), rtol=1e-10)


@few
@given(sets, st.sampled_from(["set", "set-axis"]))
def test_apply_and_invert(clouds, kind):
    normalisation = fit(clouds, kind)
    points = clouds[0].astype(np.float64)
    standard = normalisation.apply(points)
    np.testing.assert_allclose(normalisation.invert(standard), points, rtol=1e-12, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(normalisation.invert, torch.tensor(standard[0]))
    assert torch.logdet(jacobian).item() == pytest.approx(normalisation.log_det, abs=1e-9)
    tensor = normalisation.apply(torch.from_numpy(points))
    assert torch.equal(tensor, torch.from_numpy(standard))
    assert normalisation.apply(clouds[0]).dtype == np.float32


def test_large_offset_does_not_cancel():
    """A sum of squares would lose every digit here."""
    points = np.random.default_rng(0).normal(size=(1000, 3)) + 1e7
    assert fit([points], "set-axis").scale == pytest.approx(points.std(axis=0), rel=1e-6)


def test_scale_of_the_set_is_about_the_grand_mean():
    """Points 0, 0, 12 on the three axes: each axis is constant, their coordinates are not."""
    points = np.tile(np.array([0.0, 0, 12]), (5, 1))
    assert fit([points]).scale.tolist() == [np.sqrt(32)] * 3
    with pytest.raises(ValueError, match="no spread along x, y, z"):
        fit([points], "set-axis")


def test_shape_statistics():
    clouds = [cloud(i) * (i + 1) + i for i in range(3)]
    own = [fit([c]) for c in clouds]
    stored = fit(clouds, "shape")
    np.testing.assert_allclose(stored.mean, np.mean([n.mean for n in own], axis=0))
    np.testing.assert_allclose(stored.scale, np.mean([n.scale for n in own], axis=0))
    assert normalisation_of(clouds[1], "shape", stored).scale.tolist() == own[1].scale.tolist()


def test_normalisation_refuses():
    for mean, scale in ((np.zeros(2), np.ones(3)), (np.zeros(3), np.zeros(3)), (np.full(3, np.nan), np.ones(3))):
        with pytest.raises(ValueError, match="must be"):
            Normalisation(mean, scale)
    with pytest.raises(ValueError, match="at least one cloud"):
        fit([])
    with pytest.raises(ValueError, match="'box'"):
        fit([cloud(0)], "box")


# --- splits and sources


@few
@given(st.sets(st.text(min_size=1, max_size=6), min_size=3, max_size=60))
def test_hash_splits_always_train_and_validate(names):
    splits = hash_splits(names, 0.1, 0.1)
    counts = {split: list(splits.values()).count(split) for split in ("train", "val", "test")}
    assert set(splits) == names and counts["train"] >= 2 and counts["val"] >= 1


def test_a_new_file_moves_no_other():
    names = [f"shape {i}" for i in range(1000)]
    before, after = hash_splits(names[:900], 0.1, 0.2), hash_splits(names, 0.1, 0.2)
    assert all(after[name] == split for name, split in before.items())
    shares = [list(after.values()).count(split) / 1000 for split in ("val", "test")]
    assert shares == pytest.approx([0.1, 0.2], abs=0.03)
    assert hash_splits(reversed(names), 0.1, 0.2) == after


def test_pc15k_layout_and_synset_names(tmp_path):
    for i, synset in enumerate(("02691156", "03001627")):
        for split, count in (("train", 3), ("val", 1), ("test", 2)):
            for k in range(count):
                save(tmp_path / synset / split / f"{k}.npy", seed=(i, k), points=15000)
    everything = load(DataConfig(source=str(tmp_path)))
    assert [len(everything.train), len(everything.val), len(everything.test)] == [6, 2, 4]
    assert set(everything.train.categories) == {"airplane", "chair"}
    for wanted in ("chair", "03001627"):
        chairs = load(DataConfig(source=str(tmp_path), categories=(wanted,)))
        assert chairs.train.names == tuple(f"03001627/train/{k}" for k in range(3))
    alone = load(DataConfig(source=str(tmp_path / "03001627")))
    assert set(alone.train.categories) == {"chair"} and len(alone.test) == 2
    assert np.array_equal(alone.val.clouds[0], chairs.val.clouds[0])
    assert np.array_equal(alone.val.reference(0), np.load(tmp_path / "03001627/val/0.npy")[10000:15000])
    assert np.array_equal(alone.val.input(0), np.load(tmp_path / "03001627/val/0.npy")[:10000])
    with pytest.raises(ValueError, match=r"no category 'chairs'.*nearest: 'chair'"):
        load(DataConfig(source=str(tmp_path), categories=("chairs",)))


def test_a_category_may_be_called_train(tmp_path):
    for category in ("train", "bus"):
        for split in ("train", "test"):
            for k in range(2):
                save(tmp_path / category / split / f"{k}.npy", seed=k)
    data = load(DataConfig(source=str(tmp_path), categories=("train",)))
    assert data.train.names == ("train/train/0", "train/train/1")
    assert data.val.names == data.test.names == ("train/test/0", "train/test/1")  # as in ModelNet


def test_lists_of_splits(tmp_path):
    for k in range(6):
        save(tmp_path / "sub" / f"{k}.npy", seed=k)
    (tmp_path / "train.txt").write_text("0\n1.npy\n\nsub/2\n")
    (tmp_path / "val.txt").write_text("sub/3.npy\n")
    (tmp_path / "test.txt").write_text("4\nmissing\n")
    data = load(DataConfig(source=str(tmp_path)))
    assert data.train.names == ("sub/0", "sub/1", "sub/2") and data.val.names == ("sub/3",)
    assert sorted(s.reason for s in data.skipped) == [
        "in none of the lists of splits",
        "lists 'missing', which is no shape here",
    ]
    (tmp_path / "val.txt").write_text("0\n")
    with pytest.raises(ValueError, match=r"lists '0', which train\.txt lists too"):
        load(DataConfig(source=str(tmp_path)))


def test_lists_of_splits_from_other_editors(tmp_path):
    for k in range(4):
        save(tmp_path / f"{k}.npy", seed=k)
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf0\r\n1\r\n\xfc\r\n")  # a byte order mark; Latin-1
    (tmp_path / "val.txt").write_text("2\n3\n")
    data = load(DataConfig(source=str(tmp_path)))
    assert data.train.names == ("0", "1") and len(data.skipped) == 1


def test_meshes_and_clouds_together(tmp_path):
    for k in range(5):
        (tmp_path / f"mesh {k}.off").write_text(TETRAHEDRON)
    save(tmp_path / "deep" / "er" / "cloud.npy", points=500)
    for noise in ("README.md", "train.csv", "picture.png", ".hidden.npy", "notes.txt"):
        (tmp_path / noise).write_text("not a shape")
    calls = []
    config = DataConfig(source=str(tmp_path), mesh_points=300)
    data = load(config, lambda done, total: calls.append((done, total)))
    assert calls == [(i, 6) for i in range(1, 7)] and not data.skipped
    clouds = dict(zip(data.train.names + data.val.names, data.train.clouds + data.val.clouds))
    assert len(clouds["mesh 0"]) == 300
    assert not np.array_equal(clouds["mesh 0"], clouds["mesh 1"])
    for k in range(1, 4):  # what remains is sampled as before
        (tmp_path / f"mesh {k}.off").unlink()
    fewer = load(config)
    again = dict(zip(fewer.train.names + fewer.val.names, fewer.train.clouds + fewer.val.clouds))
    assert np.array_equal(again["mesh 0"], clouds["mesh 0"])
    other = load(dataclasses.replace(config, seed=1))
    seeded = dict(zip(other.train.names + other.val.names, other.train.clouds + other.val.clouds))
    assert not np.array_equal(seeded["mesh 0"], clouds["mesh 0"])


@pytest.mark.parametrize(
    ("points", "how", "kept"),
    [
        *((14_999, "folder", False), (15_000, "folder", False), (20_000, "folder", False)),
        *((15_000, "layout", True), (14_999, "layout", False), (100, "file", False), (15_000, "file", False)),
    ],
)
def test_the_first_points_of_a_scan_are_all_over_it(tmp_path, points, how, kept):
    """A scanner goes line by line; what trains and what measures must see the whole shape, in any file but PC15k's."""
    lines = np.column_stack([np.linspace(0, 1, points), np.zeros((points, 2))]).astype(np.float32)
    for name, split in zip("abcd", ("train", "train", "val", "test")) if how != "file" else ():
        folder = tmp_path / "data" / split if how == "layout" else tmp_path / "data"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", lines)
    if how == "file":
        np.savez(tmp_path / "data", points=np.stack([lines] * 4), name=np.array(list("abcd")))
    config = DataConfig(source=str(tmp_path / ("data.npz" if how == "file" else "data")))
    split, again = load(config).train, load(config).train
    assert np.array_equal(split.clouds[0], lines) is kept
    assert np.array_equal(np.sort(split.clouds[0][:, 0]), lines[:, 0])
    assert all(np.array_equal(a, b) for a, b in zip(split.clouds, again.clouds))
    assert np.array_equal(split.clouds[0], split.clouds[1]) is kept  # each by its name
    some = split.reference_set(min(points, 2048))[0, :, 0]
    assert kept or abs(some.mean() - 0.5) < 0.03


def test_bad_files_are_skipped_or_raise(tmp_path):
    for k in range(6):
        save(tmp_path / "train" / f"{k}.npy", seed=k)
    save(tmp_path / "val" / "0.npy")
    bad = tmp_path / "train" / "bad.npy"
    bad.write_bytes((tmp_path / "val" / "0.npy").read_bytes()[:-1])
    (tmp_path / "train" / "gone.npy").symlink_to(tmp_path / "nowhere")
    save(tmp_path / "stray.npy")
    data = load(DataConfig(source=str(tmp_path)))
    assert len(data.train) == 6 and [s.path.name for s in data.skipped] == ["stray.npy", "bad.npy", "gone.npy"]
    with pytest.raises(UnreadableFile, match=r"bad\.npy"):
        load(DataConfig(source=str(tmp_path), strict=True))


def test_a_source_without_validation_gives_some_of_its_training(tmp_path):
    for k in range(10):
        save(tmp_path / "train" / f"{k}.npy", seed=k)
    data = load(DataConfig(source=str(tmp_path)))
    assert len(data.val) >= 1 and not set(data.val.names) & set(data.train.names)


def test_sources_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match="'synthetic' or an existing folder or file, got 'synthethic'"):
        load(DataConfig(source="synthethic"))
    with pytest.raises(ValueError, match="no shapes in"):
        load(DataConfig(source=str(tmp_path)))
    (tmp_path / "a.npy").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"none of the 1 shapes in .* is usable, the first: .*a\.npy"):
        load(DataConfig(source=str(tmp_path)))
    save(tmp_path / "a.npy")
    save(tmp_path / "b.npy")
    with pytest.raises(ValueError, match="at least 2 and 1 are needed"):
        load(DataConfig(source=str(tmp_path)))
    with pytest.raises(ValueError, match=r"expected clouds \(S,N,3\), got \(20, 3\)"):
        load(DataConfig(source=str(tmp_path / "a.npy")))
    with pytest.raises(ValueError, match="nearest: 'chair'"):
        load(DataConfig(categories=("chiar",)))


def test_arrays_as_a_source(tmp_path):
    points = np.stack([cloud(i) for i in range(6)])
    labels = {"name": np.array(list("abcdef")), "split": np.array(["train", "val", "train", "train", "test", "val"])}
    np.savez(tmp_path / "a.npz", points=points, category=np.array(["u", "v"] * 3), **labels)
    data = load(DataConfig(source=str(tmp_path / "a.npz")))
    assert (data.train.names, data.val.names, data.test.names) == (("a", "c", "d"), ("b", "f"), ("e",))
    found, given = data.val.clouds[1], points[5]
    assert sorted(map(tuple, found)) == sorted(map(tuple, given)) and not np.array_equal(found, given)  # shuffled
    with pytest.raises(ValueError, match="no category 'w'"):
        load(DataConfig(source=str(tmp_path / "a.npz"), categories=("w",)))
    np.savez(tmp_path / "a.npz", points=points, split=np.array(["train"] * 5 + ["dev"]))
    with pytest.raises(UnreadableFile, match="'dev'"):
        load(DataConfig(source=str(tmp_path / "a.npz")))
    np.save(tmp_path / "a.npy", points)
    plain = load(DataConfig(source=str(tmp_path / "a.npy")))
    assert sorted({*plain.train.names, *plain.val.names, *plain.test.names}) == [f"{i:04d}" for i in range(6)]


def test_synthetic_splits_are_disjoint():
    config = DataConfig(shapes=10, mesh_points=50, categories=("chair", "table"))
    data = load(config)
    assert [len(s) for s in (data.train, data.val, data.test)] == [10, 1, 1]
    assert set(data.train.categories) == {"chair", "table"}
    clouds = [c.tobytes() for s in (data.train, data.val, data.test) for c in s.clouds]
    assert len(set(clouds)) == 12
    more = load(dataclasses.replace(config, shapes=12))
    assert [c.tobytes() for c in more.train.clouds[:10]] == clouds[:10]


def test_table_of_synsets():
    assert len(SYNSETS) == len(set(SYNSETS.values())) == 55
    assert all(len(synset) == 8 and synset.isdigit() for synset in SYNSETS)


def test_reference_set():
    split = split_of([20, 15000, 16000])
    assert split.reference_set(20).shape == (3, 20, 3)
    assert np.array_equal(split.reference_set(20)[1], split.clouds[1][10000:10020])
    assert len(split.input(2)) == 10000 and len(split.reference(2)) == 5000
    assert split.input(0) is split.reference(0)
    with pytest.raises(ValueError, match="shape 's0' has 20 reference points, 21 were asked for"):
        split.reference_set(21)


def test_config_from_text():
    config = read(DataConfig, overrides=["categories=[chair, car]", "rotate=true"])
    assert config.categories == ("chair", "car") and config.rotate
    for bad, match in (
        ({"up": "w"}, "up must be"),
        ({"points": 0}, "points must be"),
        ({"val_share": 1.0}, "leave shapes"),
    ):
        with pytest.raises(ValueError, match=match):
            from_dict(DataConfig, bad)


# --- batches

UNIT = Normalisation(np.zeros(3), np.ones(3))


def epoch_of(split, config, batch=4, seed=0, epoch=0, start=0, normalisation=UNIT):
    return list(batches(split, normalisation, config, batch, seed, epoch, start))


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x.points, y.points) and torch.equal(x.index, y.index) for x, y in zip(a, b)
    )


@few
@given(shapes=st.integers(1, 30), batch=st.integers(2, 9), seed=st.integers(0, 2**40), epoch=st.integers(0, 99))
def test_an_epoch_visits_every_shape_once_and_can_be_resumed(shapes, batch, seed, epoch):
    split = split_of([5 + i for i in range(shapes)])
    config = DataConfig(points=7, rotate=True)
    whole = epoch_of(split, config, batch, seed, epoch)
    assert sorted(torch.cat([b.index for b in whole]).tolist()) == list(range(shapes))
    assert all(len(b.index) >= min(2, shapes) for b in whole) and all(len(b.index) <= batch + 1 for b in whole)
    assert len(whole) == steps_per_epoch(shapes, batch)
    for start in (0, len(whole) - 1, len(whole)):
        assert same(epoch_of(split, config, batch, seed, epoch, start), whole[start:])


def test_epochs_seeds_and_steps_differ():
    split, config = split_of([50] * 8), DataConfig(points=16)
    base = epoch_of(split, config)
    assert same(base, epoch_of(split, config))
    for other in (epoch_of(split, config, seed=1), epoch_of(split, config, epoch=1)):
        assert not torch.equal(torch.cat([b.index for b in base]), torch.cat([b.index for b in other]))
    one = split_of([50])
    twins = ShapeSplit(("a",) * 4, ("x",) * 4, one.clouds * 4)
    first, second = epoch_of(twins, config, batch=2)
    later = epoch_of(twins, config, batch=2, epoch=1)
    assert len(torch.cat([b.points for b in (first, second, *later)]).unique(dim=0)) == 8


def test_points_are_input_points_standardised():
    split, config = split_of([15000, 30, 30]), DataConfig(points=400)
    normalisation = fit(split.clouds)
    (batch,) = epoch_of(split, config, normalisation=normalisation)
    assert batch.points.dtype == torch.float32 and batch.index.dtype == torch.int64
    for points, i in zip(batch.points.numpy(), batch.index):
        allowed = {row.tobytes() for row in normalisation.apply(split.input(i))}
        assert {row.tobytes() for row in points} <= allowed
    small = batch.points[batch.index.tolist().index(1)]
    assert len(small.unique(dim=0)) == 30  # with replacement: 400 draws of 30


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_rotation_is_rigid_and_keeps_the_height(up):
    split = split_of([40, 40, 40])
    normalisation = Normalisation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0]))
    still, turned = (
        epoch_of(split, DataConfig(points=9, up=up, rotate=r), normalisation=normalisation)[0].points.double()
        for r in (False, True)
    )
    still, turned = (normalisation.invert(points) for points in (still, turned))
    axis = "xyz".index(up)
    torch.testing.assert_close(turned[..., axis], still[..., axis], atol=1e-5, rtol=0)
    torch.testing.assert_close(turned.norm(dim=-1), still.norm(dim=-1), atol=1e-5, rtol=0)  # about the origin
    across = [i for i in range(3) if i != axis]
    a, b = (torch.complex(*points[..., across].unbind(-1)) for points in (still, turned))
    angles = (b / a).angle()
    assert (angles - angles[:, :1]).abs().max() < 1e-4  # one angle for all points of a shape
    assert len(angles[:, 0].round(decimals=2).unique()) == 3
    determinant = torch.linalg.det(torch.linalg.lstsq(still[0], turned[0]).solution)
    assert determinant.item() == pytest.approx(1, abs=1e-4)  # no reflection


def test_shape_kind_standardises_each_by_itself():
    clouds = tuple(cloud(i, 3000) * (i + 1) + 10 * i for i in range(4))
    split = ShapeSplit(tuple("abcd"), ("x",) * 4, clouds)
    for rotate in (False, True):
        config = DataConfig(points=3000, normalise="shape", rotate=rotate)
        (batch,) = epoch_of(split, config, normalisation=fit(clouds, "shape"))
        assert batch.points.mean(dim=1).abs().max() < 0.15
        assert (batch.points.flatten(1).std(dim=1) - 1).abs().max() < 0.1


def test_batches_refuse():
    split = split_of([10] * 4)
    with pytest.raises(ValueError, match="at least 2 shapes"):
        batches(split, UNIT, DataConfig(), 1, 0, 0)
    with pytest.raises(ValueError, match="between 0 and the 2 steps"):
        batches(split, UNIT, DataConfig(), 2, 0, 0, start=3)


# --- importing


def test_import_makes_the_layout(tmp_path):
    source, out = tmp_path / "mine", tmp_path / "out"
    for category in ("cup", "bowl"):
        for k in range(4):
            (source / category).mkdir(parents=True, exist_ok=True)
            (source / category / f"{k}.off").write_text(TETRAHEDRON)
    save(source / "cup" / "sparse.npy", points=10)
    save(source / "cup" / "dense.npy", points=400)
    (source / "cup" / "broken.obj").write_text("v 0 0 0\n")
    report = import_folder(source, out, points=200)
    assert sum(report.counts.values()) == 9
    assert {category for category, _ in report.counts} == {"cup", "bowl"}
    assert [(s.path.name, s.reason) for s in report.skipped][1] == ("sparse.npy", "10 points, 200 are needed")
    files = sorted(out.rglob("*.npy"))
    assert len(files) == 9 and all(np.load(f).shape == (200, 3) and np.load(f).dtype == np.float32 for f in files)
    dense = np.load(next(out.rglob("dense.npy")))
    assert {row.tobytes() for row in dense} <= {row.tobytes() for row in cloud(0, 400)}
    assert len(np.unique(dense, axis=0)) == 200
    data = load(DataConfig(source=str(out)))
    counts = {split: sum(n for (_, s), n in report.counts.items() if s == split) for split in ("train", "val")}
    assert len(data.train) == counts["train"] and len(data.val) == counts["val"]
    with pytest.raises(ValueError, match="not an empty folder"):
        import_folder(source, out)
    with pytest.raises(UnreadableFile, match=r"broken\.obj"):
        import_folder(source, tmp_path / "strict", points=200, strict=True)
    assert not (tmp_path / "strict").exists()


def test_an_import_that_is_cut_short_leaves_nothing(tmp_path):
    for k in range(4):
        save(tmp_path / "mine" / f"{k}.npy", points=30)

    def interrupt(done, total):
        if done == 3:
            assert list((tmp_path / "out").rglob("*.npy"))
            raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        import_folder(tmp_path / "mine", tmp_path / "out", points=30, progress=interrupt)
    assert not list((tmp_path / "out").iterdir())
    assert sum(import_folder(tmp_path / "mine", tmp_path / "out", points=30).counts.values()) == 4


def test_import_of_shapenet_s_own_folders(tmp_path):
    """One folder a model: these are no categories."""
    for k in range(5):
        folder = tmp_path / "02691156" / f"id{k}" / "models"
        folder.mkdir(parents=True)
        (folder / "model.off").write_text(TETRAHEDRON)
    import_folder(tmp_path / "02691156", tmp_path / "a", points=50)
    import_folder(tmp_path, tmp_path / "b", points=50)
    for out in ("a", "b"):
        names = sorted(f.name for f in (tmp_path / out / "airplane").rglob("*.npy"))
        assert names == [f"id{k}_models_model.npy" for k in range(5)]


def test_import_keeps_given_splits(tmp_path):
    for split, k in (("train", 0), ("train", 1), ("val", 0), ("test", 0)):
        save(tmp_path / "mine" / split / f"{k}.npy", points=30)
    report = import_folder(tmp_path / "mine", tmp_path / "out", points=30)
    assert report.counts == {("mine", "train"): 2, ("mine", "val"): 1, ("mine", "test"): 1}
    assert np.array_equal(np.load(tmp_path / "out/mine/val/0.npy"), cloud(0, 30))


def test_nothing_to_import(tmp_path):
    (tmp_path / "a.obj").write_text("x")
    with pytest.raises(ValueError, match=r"nothing in .* can be imported, the first: .*a\.obj"):
        import_folder(tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        import_folder(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the real packs


@needs_packs
def test_bodies():
    data = load(DataConfig(source=str(PACKS / "bodies.PC15k")))
    assert [len(s) for s in (data.train, data.val, data.test)] == [280, 60, 60]
    assert set(data.train.categories) == {"body"} and not data.skipped
    everything = np.stack(data.train.clouds).astype(np.float64)
    np.testing.assert_allclose(data.normalisation.mean, everything.mean(axis=(0, 1)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(data.normalisation.scale, everything.std(), rtol=1e-12)
    raw = np.load(PACKS / "bodies.PC15k" / f"{data.val.names[3]}.npy").astype(np.float32)
    assert np.array_equal(data.val.reference_set(2048)[3], raw[10000:12048])


@needs_packs
def test_bricks():
    data = load(DataConfig(source=str(PACKS / "bricks.npz")))
    assert [len(s) for s in (data.train, data.val, data.test)] == [848, 107, 107]
    with np.load(PACKS / "bricks.npz") as pack:
        val = pack["split"] == "val"
        assert data.val.names == tuple(pack["name"][val])
        for found, given in zip(data.val.reference_set(2048), pack["points"][val].astype(np.float32), strict=True):
            assert np.array_equal(found[np.lexsort(found.T)], given[np.lexsort(given.T)])  # shuffled


@needs_packs
def test_listed_meshes(tmp_path):
    """The first objects of the pack, with its own lists: those not here are reported."""
    for k in range(40):
        (tmp_path / f"{k:04d}.obj").symlink_to(PACKS / "random_objects" / f"{k:04d}.obj")
    listed = {s: (PACKS / "random_objects" / f"{s}.txt").read_text() for s in ("train", "val", "test")}
    for split, text in listed.items():
        (tmp_path / f"{split}.txt").write_text(text)
    data = load(DataConfig(source=str(tmp_path), mesh_points=100))
    for split in ("train", "val", "test"):
        assert getattr(data, split).names == tuple(n for n in sorted(listed[split].split()) if int(n) < 40)
    assert len(data.skipped) == 999 - 40
