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


@pytest.fixture
def pc15k(tmp_path, pcgen):
    """Two categories of whole clouds: chair has all splits, table only test."""
    for seed, folder in enumerate(("chair/train", "chair/val", "chair/test", "table/test")):
        (tmp_path / "shapes" / folder).mkdir(parents=True)
        for i, cloud in enumerate(clouds(seed, 3, 15000)):
            np.save(tmp_path / "shapes" / folder / f"{i}.npy", cloud)
    np.save("s.npy", clouds(9, 3, 64))
    return ("--emd", "none", "--interval", 0, "--points", 64, "--json", "o.json")


def test_what_was_read_is_said(pcgen, pc15k):
    _, _, err = pcgen("evaluate", "s.npy", "shapes/chair", *pc15k)
    said = {"samples": "3 clouds, 64 points, from s.npy"}
    said["references"] = f"3 clouds, points 10000:10064, from {Path('shapes/chair/val')}"
    assert written()["read"] == said and written()["names"] == {"samples": "s.npy", "references": "chair/val"}
    for role, what in said.items():
        assert f"{role}: {what}\n" in err


@pytest.mark.filterwarnings("default:.*in place of val")
def test_another_split_is_a_departure(pcgen, pc15k):
    _, text, err = pcgen("evaluate", "s.npy", "shapes/chair/test", *pc15k)
    assert "warning: shapes/chair/test: references of the test split in place of val" in err
    assert "deviation: references of the test split in place of val" in text
    np.save("bare.npy", clouds(2, 3, 15000)[:, 10000:10064])
    assert written()["scores"] == scores(pcgen, "s.npy", "bare.npy", *pc15k)


def test_whole_shapes_as_samples_are_cut_as_references_are(pcgen, pc15k):
    found = scores(pcgen, "shapes/chair/train", "shapes/chair", *pc15k)
    np.save("bare.npy", clouds(0, 3, 15000)[:, 10000:10064])
    assert found == scores(pcgen, "bare.npy", "shapes/chair", *pc15k)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("s.npy", "shapes"), "shapes holds the categories chair, table: name one, as in shapes/chair"),
        (("s.npy", "shapes/table"), "shapes/table has no val split, only test: say which are the references, as in"),
        (("shapes/chair", "r.npy"), "shapes/chair has the splits train, val, test: say which are the samples, as in"),
    ],
)
def test_what_is_not_clear_is_asked(pcgen, pc15k, words, message):
    status, out, err = pcgen("evaluate", *words, *pc15k)
    assert status == 2 and out == "" and message in err and err.count("\n") == 1


@pytest.mark.filterwarnings("default:.*taken as they are")
def test_small_clouds_of_a_split_are_named(pcgen, tmp_path):
    (tmp_path / "chair" / "val").mkdir(parents=True)
    for i, cloud in enumerate(clouds(1, 5)):
        np.save(f"chair/val/{i}.npy", cloud)
    _, _, err = pcgen("evaluate", "s.npy", "chair", "--emd", "none")
    assert "warning: chair: clouds of 24 points, PC15k has 15,000: taken as they are" in err


@pytest.mark.filterwarnings("ignore:references. the first 6 points:UserWarning")
def test_points_of_scans_are_drawn_by_the_seed(pcgen):
    corner = np.arange(24.0)[None, :, None] * np.ones((5, 1, 3)) + clouds(0, 5)  # scanned from one end to the other
    write_clouds("scans.ply", corner)
    np.save("r.npy", corner + clouds(1, 5))
    found = [scores(pcgen, "scans", "r.npy", "--points", 6, "--seed", seed)["mmd_cd"] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert written()["read"]["samples"] == "5 clouds, 6 of 24 points, drawn by seed 1, from scans"
    assert written()["read"]["references"] == "5 clouds, 6 of 24 points, the first ones, from r.npy"


def test_names_tell_sets_apart(pcgen, tmp_path):
    for folder, name in (("a", "s"), ("b", "r")):
        (tmp_path / folder).mkdir()
        (tmp_path / f"{name}.npy").rename(tmp_path / folder / "samples.npy")
    scores(pcgen, "a/samples.npy", "b/samples.npy")
    assert written()["names"] == {"samples": "a/samples.npy", "references": "b/samples.npy"}


def test_of_several_processes_the_first_tells_a_mistake(pcgen, monkeypatch):
    assert pcgen("evaluate", "nowhere", "r.npy")[2] == "pcgen: error: no file or folder nowhere\n"
    monkeypatch.setenv("RANK", "1")

    def ended(seconds):  # by torchrun, as the first process has failed
        raise SystemExit(143)

    monkeypatch.setattr("time.sleep", ended)
    assert pcgen("evaluate", "nowhere", "r.npy") == (143, "", "")
    assert pcgen("evaluate", "--protocoll", "pvd") == (2, "", "")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # nobody came: the mistake is its own
    assert pcgen("evaluate", "nowhere", "r.npy")[2] == "pcgen: error: no file or folder nowhere\n"


def test_everything_is_written(pcgen, tmp_path):
    np.save("t.npy", clouds(2, 8))
    words = ("evaluate", "s.npy", "r.npy", "--training", "t.npy", "--json", "o.json", "--report", "r.html")
    status, text, _ = pcgen(*words, "--interval", 0.8)
    found = written()
    assert status == 0 and "from, to: 80% intervals" in text and "closer with chance" in text
    assert found["interval"] == 0.8 and found["intervals"].keys() == found["scores"].keys()
    assert found["memorisation"]["close"] <= 1 and found["choices"]["orientation"].startswith("reference left")
    assert found["names"] == {"samples": "s.npy", "references": "r.npy"}
    assert found["read"]["training"] == "8 clouds, 24 points, from t.npy"
    assert "<h1>s.npy against r.npy</h1>" in (tmp_path / "r.html").read_text()
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
        (("s.npy", "few.npy"), "few.npy must hold at least 2 clouds, got 1"),
        (("s.npy", "small.npy"), "got 24 and 9 (points=9 takes the first 9 of each)"),
        (("nan.npy", "r.npy"), "nan.npy: cloud 2 of 5 (and 0 more) has coordinates that are NaN"),
        (("s.npy", "three.npy", "--protocol", "lion"), "lion compares as many samples as references, got 5 and 3"),
        (("pickled.pt", "r.npy"), "pickled.pt: holds Python objects, which are not loaded: expected one tensor"),
        (
            ("dict.pt", "r.npy"),
            "dict.pt: expected one tensor, got a dict with 'points', 'names': save the clouds alone",
        ),
        (("garbage.pt", "r.npy"), "garbage.pt: truncated or not a valid .pt file"),
        (("s.pth", "r.npy"), "s.pth: not a cloud file: expected one of .npy .npz .pt"),
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
    torch.save({"points": torch.zeros(2, 3, 3), "names": ["a", "b"]}, "dict.pt")
    Path("garbage.pt").write_bytes(b"garbage")
    torch.save(torch.zeros(2, 3, 3), "s.pth")
    status, out, err = pcgen("evaluate", *words)
    assert status == 2 and out == "" and message in err and err.count("\n") == 1
