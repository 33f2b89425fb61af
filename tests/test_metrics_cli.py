"""``pcgen evaluate``: every kind of input, what it writes, what it refuses in one line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pcgen.cli import main
from pcgen.data import write_clouds

pytestmark = pytest.mark.filterwarnings("ignore:.*outside the JSD grid's ball")


def clouds(seed, count, points=24):
    return np.random.default_rng(seed).normal(size=(count, points, 3)).astype(np.float32) * 0.1


@pytest.fixture
def pcgen(capsys, tmp_path, monkeypatch):
    """Runs a command in an empty folder: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    np.save("s.npy", clouds(0, 5))
    np.save("r.npy", clouds(1, 5))

    def run(*words):
        status = main([str(word) for word in words])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def written():
    return json.loads(Path("o.json").read_text())


def scores(pcgen, samples, references="r.npy", *options):
    status, _, err = pcgen("evaluate", samples, references, "--emd", "none", "--json", "o.json", *options)
    assert status == 0, err
    return written()["scores"]


def test_every_kind_of_file_gives_the_same(pcgen, tmp_path):
    expected = scores(pcgen, "s.npy")
    S = clouds(0, 5)
    np.savez("s.npz", points=S)
    torch.save(torch.from_numpy(S), "s.pt")
    (tmp_path / "folder").mkdir()
    for i, cloud in enumerate(S):
        np.save(f"folder/{i}.npy", cloud)
    for name in ("s.npz", "s.pt", "folder"):
        assert scores(pcgen, name) == expected
    write_clouds("ply.ply", S)  # a scan's points are shuffled, which no score sees
    assert scores(pcgen, "ply") == pytest.approx(expected)


def test_h5(pcgen, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    Path("s.h5").write_bytes(b"x")
    status, _, err = pcgen("evaluate", "s.h5", "r.npy")
    assert status == 2 and "s.h5: reading HDF5 needs h5py (pip install h5py)" in err
    monkeypatch.undo()


def test_h5_is_read(pcgen, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    expected = scores(pcgen, "s.npy")
    with h5py.File("s.h5", "w") as file:
        file["group/points"] = clouds(0, 5)
        file["labels"] = np.arange(5)
    assert scores(pcgen, "s.h5") == expected
    with h5py.File("none.h5", "w") as file:
        file["labels"] = np.arange(5)
    assert "got labels" in pcgen("evaluate", "none.h5", "r.npy")[2]


def test_pc15k_folders_give_the_protocols_points(pcgen, tmp_path):
    whole = {split: clouds(seed, 3, 15000) for seed, split in enumerate(("train", "val", "test"))}
    for split, set_ in whole.items():
        (tmp_path / "chair" / split).mkdir(parents=True)
        for i, cloud in enumerate(set_):
            np.save(f"chair/{split}/{i}.npy", cloud)
    np.save("s.npy", clouds(9, 3, 64))
    for protocol, split, first in (("pvd", "val", 10000), ("lion", "val", 0), ("dpm", "test", 10000)):
        np.save("bare.npy", whole[split][:, first : first + 64])
        options = ("--protocol", protocol, "--points", 64, "--interval", 0)
        for folder in ("chair", f"chair/{split}"):
            assert scores(pcgen, "s.npy", folder, *options) == scores(pcgen, "s.npy", "bare.npy", *options)
    np.save("train.npy", whole["train"][:, 10000:10064])
    options = ("--points", 64, "--interval", 0, "--training")
    scores(pcgen, "s.npy", "chair", *options, "chair")
    by_folder = written()["training_set"]["scores"]
    scores(pcgen, "s.npy", "chair", *options, "train.npy")
    assert written()["training_set"]["scores"] == by_folder


def test_everything_is_written(pcgen, tmp_path):
    np.save("t.npy", clouds(2, 8))
    words = ("evaluate", "s.npy", "r.npy", "--training", "t.npy", "--json", "o.json", "--report", "r.html")
    status, text, _ = pcgen(*words, "--interval", 0.8)
    found = written()
    assert status == 0 and "from, to: 80% intervals" in text and "closer with chance" in text
    assert found["interval"] == 0.8 and found["intervals"].keys() == found["scores"].keys()
    assert found["memorisation"]["close"] <= 1 and found["choices"]["orientation"].startswith("reference left")
    assert "<h1>samples against references</h1>" in (tmp_path / "r.html").read_text()
    kept = sorted((tmp_path / "o.blocks").glob("*/*.npy"))
    assert len(kept) == 2 * 5 + 2  # CD and EMD of rr, rs, ss, rt, tt; all training shapes against both sets
    times = [path.stat().st_mtime_ns for path in kept]
    assert pcgen(*words, "--interval", 0.8)[1] == text
    assert [path.stat().st_mtime_ns for path in kept] == times and written() == found
    pcgen(*words, "--cache", "elsewhere")
    assert len(list((tmp_path / "elsewhere").glob("*/*.npy"))) == len(kept)
    pcgen("evaluate", "s.npy", "r.npy", "--json", "other.json", "--cache", "none")
    assert not (tmp_path / "other.blocks").exists()


def test_choices_are_deviations(pcgen):
    _, text, _ = pcgen("evaluate", "s.npy", "r.npy", "--protocol", "dpm", "--normalise", "none", "--frame", "unit")
    assert "deviation: frame 'unit' in place of 'as-is'" in text
    assert "deviation: normalisation of the samples 'none' in place of 'box'" in text
    assert "deviation: 24 points a cloud in place of 2048" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("s.npy", "r.npy", "--protocol", "pointflwo"), "the nearest is 'pointflow'"),
        (("s.npy", "r.npy", "--interval", "90"), "a level below 1, such as 0.9, got '90'"),
        (("s.npy", "r.npy", "--points", "25"), "at least points=25 points, got 24"),
        (("s.npy", "few.npy"), "references must hold at least 2 clouds, got 1"),
        (("s.npy", "small.npy"), "got 24 and 9 (points=9 takes the first 9 of each)"),
        (("nan.npy", "r.npy"), "nan.npy: cloud 2 of 5 (and 0 more) has coordinates that are NaN"),
        (("s.npy", "three.npy", "--protocol", "lion"), "lion compares as many samples as references, got 5 and 3"),
        (("pickled.pt", "r.npy"), "pickled.pt: "),
        (("s.npy", "r.npy", "--training", "three.npy"), "training must hold at least 5 clouds, got 3"),
        (("s.npy", "r.npy", "--report", "x.pdf"), "ending in .html, got 'x.pdf'"),
    ],
)
def test_mistakes_take_one_line(pcgen, words, message):
    bad = clouds(0, 5)
    bad[2, 3] = np.nan
    arrays = {"few": clouds(1, 1), "small": clouds(1, 5, 9), "nan": bad, "three": clouds(1, 3)}
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    torch.save({"points": object}, "pickled.pt")
    status, out, err = pcgen("evaluate", *words)
    assert status == 2 and out == "" and message in err and err.count("\n") == 1
