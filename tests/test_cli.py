"""The commands end to end, in process, on tiny models; bad input; runs that are cut short."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pcgen.cli import main
from pcgen.cli.configs import shipped_configs
from pcgen.cli.info import OPTIONAL
from pcgen.config import read, read_yaml
from pcgen.data import read_cloud, read_clouds, write_clouds
from pcgen.flows import SolverConfig
from pcgen.ops import chamfer, servers
from pcgen.training import load_model, read_history, run_config_class

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*outside the JSD grid:UserWarning"),
    pytest.mark.usefixtures("one_thread"),  # before `run`: results are the same to the bit on one thread
]

PACKAGE = Path(__file__).parents[1] / "pcgen"

TINY = [
    *("data.shapes=10", "data.mesh_points=300", "data.points=32", "training.batch=4", "training.ema=0.9"),
    *("model.latent=4", "model.encoder.widths=[8, 16]", "model.encoder.head=[8]"),
    *("model.point_flow.dims=[8]", "model.latent_flow.dims=[8]"),
    "training.validate_every=1",
    *("evaluation.shapes=3", "evaluation.points=20", "evaluation.gallery_points=60"),
]
# Two epochs of three steps, then two of the prior alone.
STEPS = ["training.steps=6", "training.prior_steps=6", "training.prior_batch=null"]


@pytest.fixture
def pcgen(capsys):
    """A function that runs a command and returns (status, stdout, stderr)."""

    def command(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return command


@pytest.fixture
def refused(pcgen):
    """A function that runs a command, which must end with one line and status 2, and returns the line."""

    def command(*words):
        status, _, err = pcgen(*words)
        assert status == 2, err
        lines = [line for line in err.splitlines() if not line.startswith("pcgen: warning")]
        assert len(lines) == 1 and lines[0].startswith("pcgen: error: "), err
        return lines[0].removeprefix("pcgen: error: ")

    return command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run; not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "demo", *TINY, *STEPS, "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """Three clouds of 50 points in an npz."""
    path = tmp_path_factory.mktemp("clouds") / "clouds.npz"
    write_clouds(path, np.random.default_rng(0).normal(size=(3, 50, 3)) * 0.15, names=("a", "b", "c"))
    return path


def weights(run):
    """The bytes of every checkpoint of a run."""
    return {p.parent.name: p.read_bytes() for p in sorted(run.glob("checkpoints/*/model.safetensors"))}


def scores(run):
    return json.loads((run / "metrics.json").read_text())


# Help.


def test_overview_and_help(pcgen):
    status, out, _ = pcgen()
    assert status == 0 and "pcgen train --data FOLDER" in out
    commands = ("train", "sample", "reconstruct", "interpolate", "encode", "likelihood", "evaluate", "data", "info")
    for command in (*commands, "data import", "data show", "data synthetic"):
        status, out, _ = pcgen(*command.split(), "--help")
        assert status == 0 and "examples:\n  pcgen " + command in out
    assert pcgen("--version")[1].startswith("pcgen ")


def test_help_imports_nothing_heavy():
    bare = f"p = sys.modules['pcgen'] = types.ModuleType('pcgen'); p.__path__ = [{str(PACKAGE)!r}]"
    code = f"import sys, types; {bare}; import pcgen.cli; pcgen.cli.build_parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "pcgen.cli.train" in loaded, done.stderr
    assert not loaded & {"torch", "scipy", "pydantic", "matplotlib", "trimesh", "accelerate", "tqdm"}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["'train'"]),
        (["data", "shwo", "x"], ["'show'"]),
        (["train", "dmeo"], ["no configuration 'dmeo'", "'demo'"]),
        (["train", str(PACKAGE)], ["is a folder", f"--data {PACKAGE}"]),
        (["train", "nosuch.yaml"], ["no configuration file nosuch.yaml"]),
        (["train", "demo", "laptop"], ["one configuration at a time"]),
        (["train", "demo", "training.stps=3"], ["training.stps", "'training.steps'"]),
        (["train", "demo", "trainin.steps=3"], ["unknown setting 'trainin'", "'training'"]),
        (["train", "demo", "training.steps=many"], ["training.steps", "'many'"]),
        (["train", "demo", "data.categories=chair"], ["must be a list", "data.categories=[chair]"]),
        (["train", "demo", "data.up=w"], ["data.up", "'y'", "'w'"]),
        (["train", "demo", "training.batch=1"], ["batch", "1"]),
        (["train", "demo", "--quite"], ["--quite"]),
        (["train", "demo", "--resume", "--overwrite"], ["give one of them"]),
        (["train", "--resume"], ["--out DIR"]),
        (["train", "--resume", "--out", "nowhere"], ["nothing to resume: nowhere"]),
        (["sample", "x", "--points", "0"], ["--points", "at least 1", "'0'"]),
        (["sample", "x", "--temperature", "nan"], ["--temperature", "'nan'"]),
        (["sample", "x", "-o", "x.txt"], [".npz or .npy or .ply", "'x.txt'"]),
        (["sample", "x", "--gallery", "x.jpg"], ["--gallery", ".png"]),
        (["sample", "x", "--solver", "eulr"], ["'euler'", "'eulr'"]),
        (["sample", "x", "--solver", "euler", "--atol", "1e-3"], ["euler takes --steps"]),
        (["sample", "x", "--solver", "dopri5", "--steps", "3"], ["fixed-step"]),
        (["sample", "nowhere"], ["nowhere does not exist"]),
        (["interpolate", "x", "a", "b", "--space", "latnet"], ["'latent'"]),
        (["interpolate", "x", "a", "b", "--steps", "1"], ["at least 2"]),
        (["evaluate", "nowhere.npz", "nowhere.npz"], ["nowhere.npz"]),
        (["evaluate", "nowhere", "nowhere"], ["no file or folder nowhere"]),
        (["evaluate", "a", "b", "--protocol", "exct"], ["'exact'"]),
        (["data", "import", "nowhere", "out"], ["nowhere"]),
        (["data", "synthetic", "chiar", "out"], ["'chair'"]),
        (["info", "nowhere"], ["nowhere does not exist"]),
    ],
)
def test_mistakes_are_one_line(refused, monkeypatch, tmp_path, words, parts):
    monkeypatch.chdir(tmp_path)
    message = refused(*words)
    assert all(part in message for part in parts), message
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(pcgen, monkeypatch):
    monkeypatch.setenv("PCGEN_DEBUG", "1")
    assert "Traceback" in pcgen("train", "dmeo")[2]


def test_a_closed_pipe_is_no_error(monkeypatch):
    with open(os.open(os.devnull, os.O_WRONLY), "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr("builtins.print", lambda *_, **__: (_ for _ in ()).throw(BrokenPipeError()))
        assert main(["info"]) == 0


# Training.


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_shipped_configurations_are_legal(name):
    path = shipped_configs()[name]
    kind = run_config_class(read_yaml(path))
    config = read(kind, path)
    assert path.read_text().startswith("# ")
    assert config != kind()


def test_dry_run_prints_the_settings_alone(pcgen, tmp_path):
    out_dir = tmp_path / "run"
    status, out, err = pcgen(
        "train", "demo", *TINY, "training.steps=7", "--dry-run", "--out", out_dir, "data.points=31"
    )
    settings = yaml.safe_load(out)
    assert status == 0 and settings["training"]["steps"] == 7 and settings["data"]["points"] == 31
    assert "10 train, 1 val, 1 test" in err and "weights; 9 steps" in err
    assert not out_dir.exists()


def test_a_run_is_named_after_its_data(pcgen, clouds):
    assert "folder: runs/clouds\n" in pcgen("train", "--data", clouds, "evaluation.points=50", "--dry-run")[2]


def test_settings_stand_anywhere(pcgen, tmp_path):
    words = ["train", "training.steps=7", "--out", tmp_path / "run", "demo", *TINY, "--dry-run", "data.points=31"]
    status, out, _ = pcgen(*words)
    assert status == 0 and yaml.safe_load(out)["data"]["points"] == 31


def test_a_run_holds_everything(run):
    made = {path.name for path in run.iterdir()}
    pictures = {"gallery.png", "interpolation.png", "curves.png"}
    assert made >= {"config.yaml", "checkpoints", "resume", "history.jsonl", "metrics.json", "samples.npz", *pictures}
    assert {p.name for p in (run / "galleries").iterdir()} == {f"epoch_{i:05d}.png" for i in range(1, 5)}
    assert set(weights(run)) == {"best", "ema", "last"}
    assert read_history(run)[-1]["step"] == 12
    assert np.stack(read_clouds(run / "samples.npz").points).shape == (3, 60, 3)


def test_metrics_say_how_they_were_got(run):
    found = scores(run)
    fractions = {k: v for k, v in found["generation"]["scores"].items() if k.startswith(("one_nna", "cov", "jsd"))}
    assert {"one_nna_cd", "one_nna_emd", "cov_cd", "cov_emd", "jsd"} <= fractions.keys()
    assert all(0 <= value <= 1 for value in fractions.values())
    assert found["generation"]["protocol"] == "exact" and "training_set" in found["generation"]
    assert found["references"] == {"splits": "val and test", "shapes": 2, "placed": "as they are"}
    assert found["training"]["steps"] == 12 and found["seed"] == 0 and found["data"]["skipped"] == 0
    assert {"cpu", "threads"} <= found["hardware"].keys() and {"pcgen", "torch"} <= found["versions"].keys()
    assert found["config"] == read_yaml(run / "config.yaml")


def test_evaluating_again_changes_nothing(pcgen, run, tmp_path):
    again = shutil.copytree(run, tmp_path / "again")
    (again / "metrics.json").unlink()
    status, out, _ = pcgen("train", "--resume", "--out", again)
    assert status == 0 and scores(again) == scores(run) and weights(again) == weights(run)
    assert "1-NNA-CD" in out and f"next: pcgen sample {again}" in out


def test_resume_keeps_what_a_run_never_said(pcgen, run, tmp_path):
    """A run of an older version lacks later settings; this version's defaults for new runs are not its own."""
    older = shutil.copytree(run, tmp_path / "older")
    settings = yaml.safe_load((older / "config.yaml").read_text())
    assert settings["model"].pop("latent_sampler")["method"] == "rk4"
    (older / "config.yaml").write_text(yaml.safe_dump(settings))
    assert pcgen("train", "--resume", "--out", older, "training.prior_steps=8", "--quiet") == (0, "", "")
    assert load_model(older / "checkpoints" / "last").config.latent_sampler is None


def test_resume_goes_on_for_longer(pcgen, run, tmp_path):
    longer = shutil.copytree(run, tmp_path / "longer")
    status, _, err = pcgen("train", "--resume", "--out", longer, "training.steps=12", "--quiet")
    assert status == 2 and "its prior's stage began after epoch 2, and training.steps" in err
    words = ["training.prior_steps=12", "evaluation.shapes=2"]
    assert pcgen("train", "--resume", "--out", longer, *words, "--quiet") == (0, "", "")
    assert scores(longer)["training"]["steps"] == 18 and scores(longer)["references"]["splits"] == "val and test"


def test_data_may_move_but_not_change(pcgen, refused, tmp_path):
    here, there = tmp_path / "here.npz", tmp_path / "there.npz"
    points = np.random.default_rng(0).normal(size=(12, 40, 3)).astype(np.float32)
    np.savez(here, points=points)
    out = tmp_path / "run"
    assert pcgen("train", "demo", *TINY, *STEPS, "data.categories=[]", "--data", here, "--out", out, "--quiet")[0] == 0
    here.rename(there)
    assert pcgen("train", "--resume", "--out", out, "--data", there, "--quiet")[0] == 0
    np.savez(there, points=2 * points)
    assert "other data than the run was trained on" in refused(
        "train", "--resume", "--out", out, "--data", there, "--quiet"
    )


def test_another_run_is_not_touched(refused, pcgen, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    message = refused("train", "demo", *TINY, "--out", other)
    assert "--resume" in message and "--overwrite" in message
    message = refused("train", "demo", *TINY, *STEPS, "--out", other, "--resume", "data.points=16", "model.latent=5")
    assert "data.points 16 (was 32)" in message and "model.latent 5 (was 4)" in message
    assert weights(other) == weights(run)
    (other / "mine.txt").write_text("keep me")
    assert pcgen("train", "demo", *TINY, *STEPS, "training.seed=1", "--out", other, "--overwrite", "--quiet")[0] == 0
    assert (other / "mine.txt").read_text() == "keep me"
    assert weights(other)["last"] != weights(run)["last"]


def test_an_autoencoder_is_trained_and_reconstructs(pcgen, refused, tmp_path, clouds):
    out = tmp_path / "ae"
    settings = [
        "model.encoder.variational=false",
        "model.latent_flow=null",
        "training.steps=3",
        "training.prior_steps=0",
    ]
    tiny = [setting for setting in TINY if "latent_flow" not in setting]
    assert pcgen("train", "demo", *tiny, *settings, "--out", out)[0] == 0
    assert scores(out)["generation"] is None and scores(out)["reconstruction"]["pairs"] == 2
    assert "autoencoder" in refused("sample", out, "-o", tmp_path / "x.npz")
    assert pcgen("likelihood", out, clouds)[0] == 0


def test_likelihood_and_shapes_of_their_own_size(pcgen, tmp_path):
    """The paper's objective, on clouds that are standardised one by one."""
    folder = tmp_path / "sizes"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        np.save(folder / f"{i}.npy", rng.normal(size=(40, 3)) * 10.0**i + 10.0**i)
    flow = "{norm: moving, train_time: true, dims: [8], solver: {method: rk4, steps: 2}}"
    words = [f"model.point_flow={flow}", f"model.latent_flow={flow}", "model.objective.name=likelihood"]
    words += ["data.normalise=shape", "training.steps=2", "training.prior_steps=0"]
    out = tmp_path / "run"
    assert pcgen("train", "demo", *TINY, *words, "--data", folder, "--out", out, "data.categories=[]")[0] == 0
    assert {"val/points", "val/prior", "val/entropy"} <= read_history(out)[-1].keys()
    back = tmp_path / "back.npz"
    assert pcgen("reconstruct", out, folder, "-o", back, "--points", 100)[0] == 0
    for i, cloud in enumerate(read_clouds(back).points):  # each comes back where it was and as large
        assert np.allclose(cloud.mean(0), 10.0**i, atol=10.0**i) and 0.2 < cloud.std() / 10.0**i < 5


# What a model is asked for.


def test_sample_is_the_librarys(pcgen, run, tmp_path):
    few, many = tmp_path / "few.npz", tmp_path / "many.npy"
    options = ["--seed", 3, "--temperature", 0.5, "--point-truncation", 2]
    assert pcgen("sample", run, "-n", 2, "--points", 10, *options, "-o", few)[0] == 0
    assert pcgen("sample", run, "-n", 40, "--points", 30, *options, "-o", many)[0] == 0
    expected = load_model(run).sample(40, 30, 3, temperature=0.5, point_truncation=2).points.numpy()
    assert np.array_equal(np.load(many), expected)
    assert np.allclose(read_clouds(few).points, expected[:2, :10], atol=1e-3)
    assert few.with_suffix(".png").exists() and many.with_suffix(".png").exists()


def test_sample_by_another_solver_into_ply(pcgen, run, tmp_path):
    picture = tmp_path / "deep" / "picture.png"
    words = ["--solver", "euler", "--steps", 1, "--points", 10, "-o", tmp_path / "new" / "s.ply", "--gallery", picture]
    assert pcgen("sample", run / "checkpoints" / "last", "-n", 2, *words)[0] == 0
    written = np.stack([read_cloud(tmp_path / "new" / "s" / f"000{i}.ply") for i in range(2)])
    expected = load_model(run / "checkpoints" / "last").sample(2, 10, 0, solver=SolverConfig("euler", steps=1)).points
    assert np.allclose(written, expected, atol=1e-6)
    assert picture.exists()


def test_options_of_the_solver_change_the_models_own(pcgen, run, tmp_path):
    model, out = load_model(run), tmp_path / "s.npy"
    own = model.config.sampler
    words = ["sample", run, "-n", 2, "--points", 10, "-o", out]
    assert own.method == "ab2" and own.steps != 3
    assert pcgen(*words, "--steps", 3)[0] == 0
    expected = model.sample(2, 10, 0, solver=dataclasses.replace(own, steps=3)).points.numpy()
    assert np.array_equal(np.load(out), expected)
    assert not np.array_equal(expected, model.sample(2, 10, 0).points.numpy())
    assert pcgen(*words, "--precision", "bfloat16")[0] == 0
    expected = model.sample(2, 10, 0, solver=dataclasses.replace(own, precision="bfloat16")).points.numpy()
    assert np.array_equal(np.load(out), expected)
    status, _, err = pcgen(*words, "--rtol", "1e-3")
    assert status == 2 and "ab2 takes --steps" in err


def test_reconstruct(pcgen, run, clouds, tmp_path):
    out = tmp_path / "back.npz"
    status, text, _ = pcgen("reconstruct", run, clouds, "--points", 70, "-o", out)
    found = read_clouds(out)
    assert status == 0 and found.names == ("a", "b", "c") and found.points[0].shape == (70, 3)
    rows = [line.split() for line in text.splitlines()[1:4]]
    assert [row[1] for row in rows] == ["a", "b", "c"]
    cloud = read_clouds(clouds).points[0].astype(np.float64)
    cd = chamfer(torch.tensor(found.points[0]).double(), torch.tensor(cloud)).value
    assert float(rows[0][0]) == pytest.approx(float(cd), rel=1e-3)


def test_interpolate_ends_at_its_ends(pcgen, refused, run, clouds, tmp_path):
    out = tmp_path / "walk.npy"
    words = ["interpolate", run, f"{clouds}:0", f"{clouds}:2", "--input-points", 50, "--points", 20, "-o", out]
    back = tmp_path / "back.npy"
    assert pcgen("reconstruct", run, clouds, "--input-points", 50, "--points", 20, "-o", back)[0] == 0
    for space in ("latent", "prior"):
        assert pcgen(*words, "--steps", 5, "--space", space)[0] == 0
        walk = np.load(out)
        assert walk.shape == (5, 20, 3) and np.allclose(walk[0], np.load(back)[0], atol=1e-3)
    assert "say which one" in refused("interpolate", run, clouds, f"{clouds}:0", "-o", out)
    assert "numbers 0 to 2" in refused("interpolate", run, f"{clouds}:3", f"{clouds}:0", "-o", out)


def test_encode(pcgen, run, clouds, tmp_path):
    out = tmp_path / "codes.npz"
    assert pcgen("encode", run, clouds, "--input-points", 50, "-o", out)[0] == 0
    model = load_model(run)
    with torch.no_grad():
        expected = model.encode(model.standardise(np.stack(read_clouds(clouds).points)))
    with np.load(out, allow_pickle=False) as found:
        assert found["name"].tolist() == ["a", "b", "c"]
        assert np.allclose(found["mean"], expected.mean, atol=1e-5)
        assert np.allclose(found["logvar"], expected.logvar, atol=1e-5)


@pytest.mark.filterwarnings("always::UserWarning")
def test_likelihood_ranks_the_outlier_first(pcgen, run, tmp_path):
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(3, 30, 3)) * np.array([0.15, 1.5, 0.15])[:, None, None]
    write_clouds(tmp_path / "c.npz", shapes, names=("fine", "outlier", "fine too"))
    status, text, _ = pcgen("likelihood", run, tmp_path / "c.npz", "-o", tmp_path / "r.csv")
    assert status == 0 and text.splitlines()[1].endswith("outlier")
    assert pcgen("likelihood", run, tmp_path / "c.npz", "-o", tmp_path / "r.json")[0] == 0
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert rows[0]["shape"] == "outlier"
    expected = load_model(run).log_likelihood(read_clouds(tmp_path / "c.npz").points[1][None], 0)
    assert float(rows[0]["bound_per_point"]) == pytest.approx(float(expected.bound) / 30, abs=1e-4)
    assert json.loads((tmp_path / "r.json").read_text())[0]["log_p_per_point"] == pytest.approx(
        float(expected.points.mean()), abs=1e-4
    )


@pytest.mark.filterwarnings("ignore:.* clouds of training are among")  # one file serves twice
def test_evaluate(pcgen, refused, run, clouds, tmp_path):
    out = tmp_path / "scores.json"
    words = ["evaluate", run / "samples.npz", clouds, "--points", 20, "--training", clouds, "--json", out]
    status, text, _ = pcgen(*words, "--protocol", "pvd", "--emd", "none")
    found = json.loads(out.read_text())
    assert status == 0 and "deviation" in text and found["protocol"] == "pvd" and found["points"] == 20
    assert found["training_set"]["scores"]["mmd_cd"] == 0 and "mmd_emd" not in found["scores"]
    assert "60 and 50" in refused("evaluate", run / "samples.npz", clouds)


def test_the_originals_weights(pcgen, refused, reference, run, tmp_path):
    path = reference("pointflow_small.pt")
    np.save(tmp_path / "mean.npy", np.full((1, 1, 3), 5.0))
    np.save(tmp_path / "scale.npy", np.full((1, 1, 1), 0.5))
    words = ["--mean", tmp_path / "mean.npy", "--scale", tmp_path / "scale.npy"]
    for name, options in (("plain", []), ("moved", words)):
        assert pcgen("sample", path, "-n", 2, "--points", 9, *options, "-o", tmp_path / f"{name}.npy")[0] == 0
    plain, moved = np.load(tmp_path / "plain.npy"), np.load(tmp_path / "moved.npy")
    assert np.allclose(moved, 5 + 0.5 * plain, atol=1e-5)
    assert "the original's weights" in pcgen("info", path)[1]
    assert "--mean" in refused("sample", run, *words, "-o", tmp_path / "x.npz")
    assert "squash" in refused("sample", path, "--layer", "ignore", "-o", tmp_path / "x.npz")


def test_info(pcgen, run):
    out = pcgen("info")[1]
    assert "pointflow/demo" in out and "torch" in out and "threads" in out
    lines = [line.split() for line in out.splitlines()]
    for server in servers():  # which kernel serves which operation, and why
        assert [server.operation, *server.cpu.split(), *server.cuda.split()] in lines
    out = pcgen("info", run)[1]
    assert "epoch 4" in out and "weights: " in out and "latent: 4" in out


def test_info_names_what_every_extra_brings():
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = {line.split('"')[1].partition(">")[0].partition("[")[0] for line in section.splitlines() if line}
    assert {"open3d", "laspy"} <= extras and extras - {"pytest"} <= OPTIONAL.keys()


# Data.


def test_data_round_trip(pcgen, refused, tmp_path):
    made, imported, picture = tmp_path / "made", tmp_path / "imported", tmp_path / "p.png"
    assert pcgen("data", "synthetic", "lamp", made, "-n", 12, "--points", 200)[0] == 0
    assert "not an empty folder" in refused("data", "synthetic", "lamp", made)
    assert len(list(made.glob("lamp/train/*.npy"))) == 12
    (made / "lamp" / "train" / "bad.npy").write_bytes(b"nothing")
    status, out, _ = pcgen("data", "import", made, imported, "--points", 100)
    assert status == 0 and "skipped 1 file" in out and "bad.npy" in out
    status, out, _ = pcgen("data", "show", imported, "--gallery", picture)
    assert status == 0 and ["lamp", "12", "1", "1"] in [line.split() for line in out.splitlines()] and picture.exists()
    assert "bad.npy" in refused("data", "show", made, "--strict")
    assert "not an empty folder" in refused("data", "import", made, imported)


# Bad input.


def test_missing_and_empty_folders(refused, run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "got 'nowhere'" in refused("train", "demo", "--data", "nowhere", "--out", tmp_path / "run")
    assert "no shapes in" in refused(
        "train", "demo", "--data", tmp_path / "empty", "--out", tmp_path / "run", "--quiet"
    )
    assert "no usable shape" in refused("encode", run, tmp_path / "empty", "-o", tmp_path / "x.npz")


def test_bad_files_inside_a_good_folder(pcgen, refused, run, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        np.save(folder / f"good{i}.npy", rng.normal(size=(40, 3)))
    np.save(folder / "nan.npy", np.full((40, 3), np.nan))
    np.save(folder / "flat.npy", np.zeros((40, 3)))
    np.save(folder / "shape.npy", np.zeros((40, 2)))
    np.save(folder / "pickled.npy", np.array([{"a": 1}]), allow_pickle=True)
    (folder / "short.npy").write_bytes((folder / "good0.npy").read_bytes()[:200])
    (folder / "empty.obj").write_text("")
    bad = ("nan.npy", "flat.npy", "shape.npy", "pickled.npy", "short.npy", "empty.obj")
    words = [
        "train",
        "demo",
        *TINY,
        "training.steps=2",
        "training.prior_steps=0",
        "--data",
        folder,
        "data.categories=[]",
    ]
    status, _, err = pcgen(*words, "--out", tmp_path / "run")
    assert status == 0 and "skipped 6 files" in err and all(name in err for name in bad)
    assert scores(tmp_path / "run")["data"]["skipped"] == 6
    assert any(name in refused(*words, "--out", tmp_path / "strict", "--strict") for name in bad)
    assert not (tmp_path / "strict").exists()
    status, _, err = pcgen("encode", run, folder, "-o", tmp_path / "codes.npz")
    assert status == 0 and "skipped 6 files" in err
    assert any(name in refused("encode", run, folder, "--strict", "-o", tmp_path / "c.npz") for name in bad)


def test_names_of_all_kinds(pcgen, run, tmp_path, monkeypatch):
    folder = tmp_path / "päth with späce 😀"
    folder.mkdir()
    for i in range(4):
        np.save(folder / f"ö {i}.npy", np.random.default_rng(i).normal(size=(40, 3)))
    (folder / "gone.npy").symlink_to("nowhere.npy")
    out = tmp_path / "😀"
    words = ["train", "demo", *TINY, "training.steps=1", "training.prior_steps=0", "data.categories=[]"]
    assert pcgen(*words, "--data", folder, "--out", out, "--quiet")[0] == 0
    assert pcgen("train", "--resume", "--out", out, "--quiet")[0] == 0
    status, _, err = pcgen("encode", run, folder, "-o", out / "codes.npz")
    assert status == 0 and "skipped 1 file" in err and "gone.npy: no such file" in err
    with io.TextIOWrapper(io.BytesIO(), "ascii") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(["data", "show", str(folder)]) == 0


def test_what_differs_in_size_is_told_at_once(refused, tmp_path):
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).normal(size=(10 + i, 3)))
    words = ["train", "demo", *TINY, "--data", tmp_path, "data.categories=[]", "--out", tmp_path / "run"]
    assert "set evaluation.points=10 or less" in refused(*words, "evaluation.shapes=8")


def test_too_few_points_are_told_before_the_training(refused, tmp_path):
    write_clouds(tmp_path / "c.npz", np.random.default_rng(0).normal(size=(8, 15, 3)))
    words = ["train", "demo", *TINY, "--data", tmp_path / "c.npz", "data.categories=[]", "--out", tmp_path / "run"]
    message = refused(*words)
    assert "15 points" in message and "evaluation.points=20" in message and not (tmp_path / "run").exists()


@pytest.mark.parametrize("shape", [(4, 10, 2), (10,), (2, 3, 4, 3)])
def test_arrays_of_the_wrong_shape(refused, run, tmp_path, shape):
    np.save(tmp_path / "a.npy", np.ones(shape))
    assert str(shape) in refused("reconstruct", run, tmp_path / "a.npy", "-o", tmp_path / "x.npz")
    assert str(shape) in refused("train", "demo", "--data", tmp_path / "a.npy", "--out", tmp_path / "run", "--quiet")


def test_a_truncated_checkpoint(refused, run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "broken")
    for name in ("ema", "best", "last"):
        path = broken / "checkpoints" / name / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
    assert "truncated" in refused("sample", broken, "-o", tmp_path / "x.npz")
    state = broken / "resume" / "state.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    assert "truncated" in refused("train", "--resume", "--out", broken, "--quiet")


class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["PCGEN_TEST_TARGET"],)


def test_code_in_a_file_is_not_run(refused, run, monkeypatch, tmp_path):
    monkeypatch.setenv("PCGEN_TEST_TARGET", str(tmp_path / "target"))
    torch.save({"model": Malicious()}, tmp_path / "evil.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    broken = shutil.copytree(run, tmp_path / "broken")
    shutil.copy(tmp_path / "evil.pt", broken / "resume" / "state.pt")
    for name in ("evil.pt", "old.pt"):
        assert name in refused("sample", tmp_path / name, "-o", tmp_path / "x.npz")
        assert name in refused("encode", run, tmp_path / name, "-o", tmp_path / "x.npz")
    refused("train", "--resume", "--out", broken, "--quiet")
    assert not (tmp_path / "target").exists()


def test_places_that_cannot_be_written(refused, run, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert "not a folder" in refused("sample", run, "-o", file / "x.npz")
    assert "not a folder" in refused("train", "demo", *TINY, "--out", file / "run")
    assert "not a folder" in refused("data", "synthetic", "chair", file / "x")


def test_outputs_are_checked_before_the_work(refused, run, clouds, monkeypatch, tmp_path):
    monkeypatch.setattr("pcgen.models.PointFlow.sample", None)  # what would be called
    monkeypatch.setattr("pcgen.models.PointFlow.decode", None)
    monkeypatch.chdir(tmp_path)
    for name in ("s", "samples.npz", "latents.npz"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("")
    assert "not an empty folder" in refused("sample", run, "-o", "s.ply")
    assert "not an empty folder" in refused("reconstruct", run, clouds, "-o", "s.ply")
    assert "not an empty folder" in refused("interpolate", run, f"{clouds}:0", f"{clouds}:1", "-o", "s.ply")
    assert "is a folder" in refused("sample", run)  # the default name too
    assert "is a folder" in refused("encode", run, clouds)


def test_more_points_than_memory_holds(refused, run, tmp_path):
    assert "allocate memory" in refused("sample", run, "--points", 10**15, "-o", tmp_path / "s.npz")
    assert not list(tmp_path.iterdir())


def test_our_checkpoints_take_no_options_of_an_original(run):
    with pytest.raises(ValueError, match=r"only an original \.pt needs nonlinearity: .*tiny"):
        load_model(run, nonlinearity="relu")


# Runs that are cut short.


def test_a_full_disk_leaves_the_checkpoint_whole(refused, run, tmp_path):
    full = shutil.copytree(run, tmp_path / "full")
    shutil.rmtree(full / "tensorboard", ignore_errors=True)
    before, state = weights(full), (full / "resume" / "state.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    smallest = min(len(content) for content in before.values())
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (smallest - 1, limits[1]))
        message = refused("train", "--resume", "--out", full, "training.prior_steps=12", "training.ema=0.9", "--quiet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the previous one is whole" in message
    assert weights(full) == before and (full / "resume" / "state.pt").read_bytes() == state
    assert not list(full.rglob("*.new"))
    assert load_model(full).sample(1, 5, 0).points.isfinite().all()


@pytest.fixture
def watch_steps(monkeypatch):
    """A context in which ``act`` is called after each optimiser step with their number; it yields the numbers."""
    import pcgen.training.loop as loop

    @contextlib.contextmanager
    def watch(act=lambda number: None):
        step, numbers = loop._step, []

        def watched(*arguments):
            step(*arguments)
            numbers.append(len(numbers) + 1)
            act(numbers[-1])

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_step", watched)
            yield numbers

    return watch


@pytest.mark.parametrize("step", [1, 3, 8, 12])
def test_interrupted_and_resumed_is_uninterrupted(pcgen, watch_steps, run, tmp_path, step):
    out = tmp_path / "a run"  # what is told can be pasted
    with watch_steps(lambda number: number == step and signal.raise_signal(signal.SIGINT)):
        status, _, err = pcgen("train", "demo", *TINY, *STEPS, "--out", out, "--quiet")
    assert status == 130 and err.strip().endswith(f"go on with: pcgen train --resume --out '{out}'")
    where = f"step {step} of 12" if step < 12 else "the last of 12 steps"
    assert len(err.splitlines()) == 1 and where in err and not (out / "metrics.json").exists()
    with watch_steps() as steps:
        assert pcgen("train", "--resume", "--out", out, "--quiet")[0] == 0
    assert len(steps) == 12 - step and weights(out) == weights(run)


KILLED = """
import os, signal, sys
import pcgen.training.loop as loop
from pcgen.cli import main

step, count = loop._step, 0

def killed(*arguments):
    global count
    if count == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    step(*arguments)

loop._step = killed
main(sys.argv[1:])
"""


def test_killed_and_resumed_is_uninterrupted(pcgen, watch_steps, run, tmp_path):
    """SIGKILL in the middle of the second epoch, after a checkpoint at the end of the first."""
    out = tmp_path / "run"
    words = ["train", "demo", *TINY, *STEPS, "--out", str(out), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, *words], env=environment, cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGKILL
    assert (out / "resume" / "state.pt").exists() and not (out / "metrics.json").exists()
    with watch_steps() as steps:
        assert pcgen(*words, "--resume")[0] == 0
    assert len(steps) == 12 - 3 and weights(out) == weights(run)


@pytest.fixture
def heard():
    """Ctrl-C as a shell's foreground jobs hear it; those in the background start deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupted_while_reading(pcgen, monkeypatch, tmp_path, heard):
    monkeypatch.setattr("pcgen.data.shapes.make_shapes", lambda *_: signal.raise_signal(signal.SIGINT))
    status, _, err = pcgen("train", "demo", "--out", tmp_path / "run")
    assert (status, err) == (130, "pcgen: interrupted\n") and not (tmp_path / "run").exists()


def test_killed_before_the_first_checkpoint_starts_again(pcgen, run, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(run / "config.yaml", out)
    assert pcgen("train", "--resume", "--out", out, "--quiet")[0] == 0
    assert weights(out) == weights(run)


def test_nan_is_named_and_the_last_checkpoint_stays(refused, monkeypatch, run, tmp_path):
    import pcgen.models.pointflow as module

    out = tmp_path / "run"
    honest, count = module.pointflow_loss, iter(range(10**6))

    def broken(*arguments):
        loss = honest(*arguments)
        if torch.is_grad_enabled() and next(count) >= 4:
            return loss._replace(terms={**loss.terms, "kl": torch.tensor(float("nan"))})
        return loss

    monkeypatch.setattr(module, "pointflow_loss", broken)
    message = refused("train", "demo", *TINY, *STEPS, "--out", out, "--quiet")
    assert "the 'kl' term of the loss became nan at epoch 1, step 1" in message and "last is from before" in message
    assert load_model(out).sample(1, 5, 0).points.isfinite().all()
    monkeypatch.undo()
    assert main(["train", "--resume", "--out", str(out), "--quiet"]) == 0
    assert weights(out) == weights(run)


# What a user would lose or overlook.


def test_inputs_are_not_written_over(pcgen, run, tmp_path):
    cloud, both = tmp_path / "a.npy", tmp_path / "b.npz"
    np.save(cloud, np.random.default_rng(0).normal(size=(60, 3)) * 0.15)
    write_clouds(both, np.random.default_rng(0).normal(size=(2, 60, 3)) * 0.15)
    before = [path.read_bytes() for path in (cloud, both)]
    for words in (
        ["reconstruct", run, cloud, "-o", cloud],
        ["reconstruct", run, both, "-o", both],
        ["encode", run, both, "-o", tmp_path / "." / "b.npz"],
        ["interpolate", run, f"{both}:0", cloud, "-o", both],
        ["interpolate", run, cloud, f"{both}:1", "-o", cloud],
    ):
        status, _, err = pcgen(*words)
        assert status == 2 and "is an input, which would be lost" in err and len(err.splitlines()) == 1
    assert [path.read_bytes() for path in (cloud, both)] == before


@pytest.mark.filterwarnings("always::UserWarning")
def test_another_unit_is_noticed(pcgen, run, tmp_path):
    cloud = np.random.default_rng(0).normal(size=(60, 3)) * 0.15
    for name, points in (("metres", cloud), ("millimetres", 1000 * cloud), ("far", cloud + 50)):
        np.save(tmp_path / f"{name}.npy", points)
        status, _, err = pcgen("reconstruct", run, tmp_path / f"{name}.npy", "--points", 20, "-o", tmp_path / "o.npz")
        assert status == 0 and ("in another unit?" in err) is (name != "metres")
    status, _, err = pcgen("encode", run, tmp_path, "-o", tmp_path / "codes.npz")
    assert status == 0 and "far stands" in err and "and 1 more are of another size or place: in another unit?" in err
    sets = [tmp_path / f"{name}.npz" for name in ("one", "other")]
    for scale, path in zip((1, 1000), sets):
        write_clouds(path, scale * np.random.default_rng(scale).normal(size=(4, 60, 3)))
    for options, warned in (([], True), (["--normalise", "box"], False)):
        status, _, err = pcgen("evaluate", *sets, "--points", 60, "--emd", "none", *options)
        assert status == 0 and ("times as large as references: in another unit?" in err) is warned


@pytest.mark.filterwarnings("always::UserWarning")
def test_shapes_of_several_units_are_noticed_before_they_train(pcgen, tmp_path):
    for i in range(12):
        np.save(tmp_path / f"{i}.npy", 1000.0 ** (i % 2) * np.random.default_rng(i).normal(size=(60, 3)))
    for normalise, warned in (("set", True), ("shape", False)):
        status, _, err = pcgen("data", "show", tmp_path, "--normalise", normalise)
        assert status == 0 and ("data.normalise=shape standardises each by itself" in err) is warned


@pytest.mark.filterwarnings("always::UserWarning")
def test_likelihood_ranks_what_no_solver_can_follow(pcgen, tmp_path):
    words = ["model.objective.name=likelihood", "model.sampler=null", "model.latent_sampler=null"]
    words += ["model.point_flow.norm=moving", "model.point_flow.solver={method: dopri5}"]
    run = tmp_path / "run"
    assert main(["train", "demo", *TINY, *STEPS, *words, "--out", str(run), "--quiet"]) == 0
    folder = tmp_path / "clouds"
    folder.mkdir()
    for name, points in clouds_with_an_outlier().items():
        np.save(folder / f"{name}.npy", points)
    status, out, err = pcgen("likelihood", run, folder, "-o", tmp_path / "ranking.json")
    assert status == 0 and "outlier is beyond what the model can follow, and ranked first" in err
    first, *others = json.loads((tmp_path / "ranking.json").read_text())
    assert first["shape"] == "outlier" and first["log_p_per_point"] is None and len(others) == 2
    assert "-inf" in out.splitlines()[1]
    status, _, err = pcgen("likelihood", run, folder / "outlier.npy")
    assert status == 2 and "none of 1 shapes is anywhere near what the model learnt from" in err


def clouds_with_an_outlier():
    near, other, far = np.random.default_rng(0).normal(size=(3, 40, 3))
    return {"a": near * 0.15, "b": other * 0.15, "outlier": far * 1e30}


def test_the_setting_of_a_part_is_found_by_its_last_name(pcgen):
    status, _, err = pcgen("train", "demo", "steps=3", "--dry-run")
    assert status == 2 and "unknown setting 'steps' (nearest: 'training.steps')" in err


def test_a_category_without_published_numbers(pcgen, tmp_path):
    write_clouds(tmp_path / "a.npz", np.random.default_rng(0).normal(size=(4, 60, 3)))
    status, _, err = pcgen("evaluate", tmp_path / "a.npz", tmp_path / "a.npz", "--category", "aeroplane")
    assert status == 2 and "no published numbers of category 'aeroplane' (nearest: 'airplane'" in err


@pytest.mark.filterwarnings("always::UserWarning")
def test_clouds_in_order_are_noticed(pcgen, tmp_path):
    """Of those that are cut to their first points."""
    clouds = np.random.default_rng(0).normal(size=(4, 600, 3))
    np.savez(tmp_path / "shuffled.npz", points=clouds)
    np.savez(tmp_path / "sorted.npz", points=np.stack([x[x[:, 1].argsort()] for x in clouds]))
    for points, warned in ((100, True), (600, False)):
        words = ["--points", points, "--emd", "none", "--protocol", "exact"]
        status, _, err = pcgen("evaluate", tmp_path / "sorted.npz", tmp_path / "shuffled.npz", *words)
        assert status == 0 and ("samples: the first 100 points, which are measured, fill" in err) is warned
        assert "references: the first" not in err
