"""Several processes against one: the same gradients, statistics and samples; a stop for all; a resume by fewer.

The processes are those of launched.py, in float64: what is compared is the arithmetic, not its rounding.
"""

import os
import subprocess
import sys
from pathlib import Path

import launched
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pcgen.data import DataConfig, Normalisation, ShapeSplit, batches
from pcgen.flows.norm import BatchNorm, batch_moments, one_batch
from pcgen.training import Team

TESTS = Path(__file__).parent
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the processes of launched.py left."""
    folder = tmp_path_factory.mktemp("launched")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
    words = [sys.executable, TESTS / "launched.py", folder]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A function from a run's name to what one process finds in it."""
    kept = {}

    def of(name):
        if name not in kept:
            kept[name] = launched.record(name, tmp_path_factory.mktemp("alone") / name)
        return kept[name]

    return of


def assert_same(many, one, most=1e-8):
    """Step by step, to ``most`` of the largest gradient, or of the largest statistic or weight."""
    assert len(many) == len(one)
    for ours, theirs in zip(many, one):
        assert ours.keys() == theirs.keys()
        for gradients in (True, False):
            names = [name for name in ours if name.startswith("gradient") == gradients]
            scale = max((float(theirs[name].abs().max()) for name in names), default=1.0)
            far = {name: float((ours[name] - theirs[name]).abs().max()) / scale for name in names}
            assert max(far.values(), default=0.0) < most, max(far, key=far.get)


# Whole runs.


@pytest.mark.parametrize("name", launched.RUNS)
def test_gradients_and_statistics_are_those_of_one_process(found, alone, name):
    """Also where batches do not divide, and where there are fewer shapes than processes."""
    ranks = [torch.load(found / f"{name}{rank}.pt", weights_only=True) for rank in range(launched.SIZES[name])]
    for ours in ranks:
        assert_same(ours, alone(name))
    for a, b in zip(ranks[0], ranks[-1]):
        assert all(torch.equal(a[key], b[key]) for key in a)  # or weights would drift apart


def test_crops_are_shared_out(found, alone):
    """A PolarMask3D's, whose heads no crop of a process may reach: to the rounding of float32."""
    ranks = [torch.load(found / f"objects{rank}.pt", weights_only=True) for rank in range(2)]
    for ours in ranks:
        assert_same(ours, alone("objects"), 1e-5)
    for a, b in zip(*ranks):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_only_the_first_process_writes(found):
    made = {path.name for path in (found / "matching").iterdir()}
    assert made >= {"config.yaml", "checkpoints", "resume", "history.jsonl"}
    assert len((found / "matching" / "history.jsonl").read_text().splitlines()) >= 2


def test_a_stop_reaches_all_and_one_process_goes_on(found, alone, tmp_path):
    heard = {(found / f"stopped{rank}.txt").read_text() for rank in (0, 1)}
    assert heard == {"stopped at step 2 of 9"}
    rest = launched.record("matching", found / "stopped", resume=True)
    assert len(rest) == 8
    assert_same(rest, alone("matching")[2:])


def test_what_is_no_number_in_one_process_ends_all(found):
    told = {(found / f"diverged{rank}.txt").read_text() for rank in (0, 1)}
    assert len(told) == 1 and "term of the loss became nan at epoch 0, step 1" in told.pop()


def test_sampling_writes_the_same_file(found):
    assert (found / "1.npy").read_bytes() == (found / "2.npy").read_bytes()


# The parts.


def test_batches_are_dealt_out_whole():
    clouds = tuple(torch.randn(9, 3, generator=torch.Generator().manual_seed(i)).numpy() for i in range(10))
    split, unit = ShapeSplit(tuple("abcdefghij"), ("x",) * 10, clouds), Normalisation([0.0] * 3, [1.0] * 3)
    config = DataConfig(points=5, rotate=True)
    whole = list(batches(split, unit, config, 4, 0, 0))
    for processes in (1, 2, 3, 5):
        parts = [list(batches(split, unit, config, 4, 0, 0, part=(i, processes))) for i in range(processes)]
        for batch, *dealt in zip(whole, *parts):
            real = [part for part in dealt if part.share]
            assert sum(part.share for part in dealt) == pytest.approx(1)
            assert torch.equal(torch.cat([part.points for part in real]), batch.points)
            assert torch.equal(torch.cat([part.index for part in real]), batch.index)
            for part in dealt:  # a stand-in is the first shape
                assert part.share or (torch.equal(part.points, batch.points[:1]) and part.rows == range(1))
            assert max(len(part.points) for part in real) - min(len(part.points) for part in real) <= 1


class OneProcess:
    """Collectives of a world of one."""

    @staticmethod
    def get_world_size():
        return 1

    @staticmethod
    def all_gather(found, own):
        found[0].copy_(own)

    @staticmethod
    def all_reduce(values):
        pass


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_batch_norm_is_pytorchs(monkeypatch, offset):
    monkeypatch.setattr(torch, "distributed", OneProcess)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset
    ours, theirs = BatchNorm(5).double(), nn.BatchNorm1d(5).double()
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.arange(1.0, 6))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    with one_batch():
        y = ours(a)
        y.square().sum().backward(retain_graph=True)
        assert torch.autograd.gradcheck(lambda v: BatchNorm(5).double()(v), a)
    z = theirs(b)
    z.square().sum().backward()
    assert_close(y, z)
    assert_close(a.grad, b.grad)
    assert_close(ours.weight.grad, theirs.weight.grad)
    assert_close(ours.bias.grad, theirs.bias.grad)
    assert_close(ours.state_dict(), theirs.state_dict())
    assert_close(ours.eval()(x), theirs.eval()(x))


def test_rows_that_stand_in_count_for_nothing(monkeypatch):
    monkeypatch.setattr(torch, "distributed", OneProcess)
    with one_batch(0.0):
        assert batch_moments(torch.ones(3, 2)).count == 0


def test_one_process_needs_no_other():
    team = Team("cpu")
    assert team.first and team.size == 1 and not team.stopping
    values = torch.tensor([1.0, 2.0])
    assert team.mean(values, 1.0) is values
