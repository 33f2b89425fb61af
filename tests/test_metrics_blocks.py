"""Distance matrices in blocks: kept, resumed after a kill, the same from any number of processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pcgen import metrics, ops
from pcgen.metrics import blocks
from pcgen.metrics.blocks import Side, distance_matrix
from pcgen.ops import kernels, native

ROOT = Path(__file__).parent.parent
KINDS = ("cd", "exact", "pointflow", "pvd")

SETS = """
import sys, os, json, signal, torch
from pcgen import metrics
from pcgen.metrics import blocks
torch.set_num_threads(1)
blocks._BLOCK |= dict.fromkeys(blocks._BLOCK, 4)
X, Y = (torch.rand(n, 16, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (10, 9))
"""
KILLED = """
def progress(stage, done, total):
    progress.blocks += 1
    if progress.blocks == 20:
        os.kill(os.getpid(), signal.SIGKILL)
progress.blocks = 0
metrics.evaluate(X, Y, cache=sys.argv[1], progress=progress)
"""
SHARED = """
computed = []
blocks._compute, compute = lambda *given: computed.append(0) or compute(*given), blocks._compute
scores = metrics.evaluate(X, Y)
found = {"scores": scores.scores(), "intervals": scores.intervals, "computed": len(computed)}
with open(sys.argv[1] + os.environ.get("RANK", "alone"), "w") as file:
    json.dump(found, file)
"""


def clouds(seed, count, points=16):
    return torch.rand(count, points, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", dict.fromkeys(KINDS, 4))


@pytest.fixture
def computed(monkeypatch):
    """The sizes of the blocks that were computed, one after the other."""
    sizes, compute = [], blocks._compute
    monkeypatch.setattr(blocks, "_compute", lambda *given: sizes.append([len(x) for x in given[2:]]) or compute(*given))
    return sizes


@pytest.mark.parametrize("distance", KINDS)
def test_blocks_are_the_matrix(small_blocks, computed, distance):
    left, right = Side.of(clouds(0, 9)), Side.of(clouds(1, 6))
    whole = ops.chamfer_matrix if distance == "cd" else lambda x, y: ops.emd_matrix(x, y, distance).value
    for X, Y in ((left, right), (left, left)):
        found = distance_matrix(distance, X, Y)
        assert torch.equal(found.value, whole(X.clouds, Y.clouds))
        assert (found.moved is None) == (distance in ("cd", "exact"))
    triangle = 6 if distance in ("cd", "exact") else 9
    assert len(computed) == 6 + triangle  # of 3 x 2 and 3 x 3 blocks


def test_a_second_run_computes_nothing(small_blocks, computed, tmp_path):
    left, right = Side.of(clouds(0, 9)), Side.of(clouds(1, 6))
    seen = []
    first = distance_matrix("cd", left, right, cache=tmp_path, progress=lambda *call: seen.append(call))
    assert len(computed) == 6 == len(list(tmp_path.glob("*/*.npy"))) and seen[-1] == (54, 54)
    again = distance_matrix("cd", left, right, cache=tmp_path)
    assert len(computed) == 6 and torch.equal(again.value, first.value)
    note = json.loads(next(tmp_path.glob("*/about.json")).read_text())
    assert (note["left"], note["distance"]) == (left.sha256, "cd")


@pytest.mark.parametrize("change", ["order", "content", "distance", "points", "shape"])
def test_other_content_is_another_matrix(small_blocks, computed, tmp_path, change):
    left, right = Side.of(clouds(0, 4)), Side.of(clouds(1, 4))
    distance_matrix("cd", left, right, cache=tmp_path)
    moved = left.clouds.clone()
    moved[0, 0, 0] += 1e-15
    X, Y, distance = {
        "order": (right, left, "cd"),
        "content": (Side.of(moved), right, "cd"),
        "distance": (left, right, "exact"),
        "shape": (Side.of(left.clouds.reshape(2, 32, 3)), Side.of(right.clouds.reshape(2, 32, 3)), "cd"),
        "points": (Side.of(left.clouds[:, :8]), Side.of(right.clouds[:, :8]), "cd"),
    }[change]
    distance_matrix(distance, X, Y, cache=tmp_path)
    assert len(computed) == 2


def test_other_kernels_compute_anew(small_blocks, computed, tmp_path, monkeypatch):
    sides = Side.of(clouds(0, 4)), Side.of(clouds(1, 4))
    distance_matrix("cd", *sides, cache=tmp_path)
    monkeypatch.setattr(blocks, "fingerprint", lambda: "of another library")
    distance_matrix("cd", *sides, cache=tmp_path)
    assert len(computed) == 2 == len(list(tmp_path.glob("*/about.json")))


def test_the_fingerprint_is_that_of_sources_and_library(monkeypatch, tmp_path):
    here = kernels.fingerprint.__wrapped__()
    assert here == kernels.fingerprint() and len(here) == 16
    monkeypatch.setattr(kernels.native, "library", lambda: native.Library(None, "none"))
    without = kernels.fingerprint.__wrapped__()
    (tmp_path / "kernels.py").write_text("x = 1")
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "kernels.py"))
    other = kernels.fingerprint.__wrapped__()
    (tmp_path / "kernels.py").write_text("x = 2")
    assert len({without, other, kernels.fingerprint.__wrapped__()}) == 3


def test_a_block_is_on_the_disk_before_it_has_its_name(small_blocks, tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda stream: calls.append("fsync") or sync(stream))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("replace") or replace(*paths))
    distance_matrix("cd", Side.of(clouds(0, 4)), Side.of(clouds(1, 4)), cache=tmp_path)
    assert calls == ["fsync", "replace"] * 2  # the note and one block


def test_the_training_row_shares_the_references(small_blocks, computed):
    S, R, T = clouds(0, 4), clouds(1, 4), clouds(2, 4)
    metrics.evaluate(S, R, training=T, emd="none", interval=0)
    assert len(computed) == 5  # rr, rs, ss, rt, tt


def run(code, *arguments, launcher=()):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, *launcher, code, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.filterwarnings("ignore:.*outside the JSD grid's ball")
def test_killed_half_way_it_does_no_block_twice(small_blocks, computed, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(SETS + KILLED)
    done = run(script, tmp_path / "cache")
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/*.npy")}
    assert len(kept) == 20
    X, Y = clouds(10, 10), clouds(9, 9)
    resumed = metrics.evaluate(X, Y, cache=tmp_path / "cache")
    everything = 2 * (6 + 9 + 6)  # CD and EMD of 9 x 9, 9 x 10 and 10 x 10 clouds
    assert len(computed) == everything - 20
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert not list((tmp_path / "cache").rglob(".*"))
    without = metrics.evaluate(X, Y)
    assert resumed.scores() == without.scores() and resumed.intervals == without.intervals


def test_two_processes_give_the_numbers_of_one(tmp_path):
    script = tmp_path / "shared.py"
    script.write_text(SETS + SHARED)
    alone = run(script, tmp_path / "rank_")
    assert alone.returncode == 0, alone.stderr
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    both = run(script, tmp_path / "rank_", launcher=launcher)
    assert both.returncode == 0, both.stderr
    one, first, second = (json.loads((tmp_path / f"rank_{rank}").read_text()) for rank in ("alone", "0", "1"))
    for found in (first, second):
        assert found["scores"] == one["scores"] and found["intervals"] == one["intervals"]
    assert first["computed"] + second["computed"] == one["computed"] == 42
    assert abs(first["computed"] - second["computed"]) <= 6  # one block a matrix


def test_one_process_needs_no_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert distance_matrix("cd", Side.of(clouds(0, 2)), Side.of(clouds(1, 2))).value.shape == (2, 2)
