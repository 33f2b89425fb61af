"""Intervals: the coverage they promise, by experiment, and what they rest on."""

import numpy as np
import pytest
import torch

from pcgen import metrics
from pcgen.metrics import intervals

pytestmark = pytest.mark.filterwarnings("ignore:.*outside the JSD grid's ball")


def ellipsoids(rng, count, spread=0.3, points=64):
    """Random ellipsoids, a law that anybody can draw from."""
    axes = 0.2 * np.exp(rng.normal(size=(count, 1, 3)) * spread)
    sphere = rng.normal(size=(count, points, 3))
    sphere /= np.linalg.norm(sphere, axis=-1, keepdims=True)
    return sphere * axes + 0.03 * rng.normal(size=(count, 1, 3))


def chamfer_matrix(X, Y):
    squares = torch.cdist(X[:, None], Y[None]).square()
    return squares.amin(-1).mean(-1) + squares.amin(-2).mean(-1)


def test_intervals_contain_the_expected_scores(monkeypatch):
    # 200 pairs of sets of a generator that differs from the references; docs/metrics.md has it for other numbers.
    monkeypatch.setattr(intervals, "SPLITS", 30)
    monkeypatch.setattr("pcgen.ops.chamfer_matrix", chamfer_matrix)  # fast whichever kernels there are
    rng, runs = np.random.default_rng(0), []
    for _ in range(200):
        X, Y = ellipsoids(rng, 30, 0.2, points=32), ellipsoids(rng, 30, points=32)
        runs.append(metrics.evaluate(X, Y, emd="none", frame="as-is"))
    for name in ("mmd_cd", "cov_cd", "one_nna_cd", "jsd"):
        values = np.array([run.scores()[name] for run in runs])
        low, high = np.array([run.intervals[name] for run in runs]).T
        inside = ((low <= values.mean()) & (values.mean() <= high)).mean()
        assert 0.85 <= inside <= 0.95, (name, inside)
        # No interval buys its coverage by width: 1.7 standard deviations to each side are right for a normal score.
        assert 1.5 < (high - low).mean() / 2 / values.std() < 2.1, name


def test_halves_know_the_deviation_of_a_mean():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), 3 * rng.normal(size=80)
    sd = intervals.halves_sd(lambda i, j: np.array([x[i].mean(), x[i].mean() - y[j].mean()]), 50, 80, seed=0)
    expected = np.sqrt([x.var(ddof=1) / 50, x.var(ddof=1) / 50 + y.var(ddof=1) / 80])
    assert sd == pytest.approx(expected, rel=0.25)  # 100 splits: a relative error of 7 %
    assert np.isnan(intervals.halves_sd(lambda i, j: np.zeros(2), 3, 80, seed=0)).all()


def test_no_part_holds_a_cloud_twice():
    seen = []

    def scores(i, j):
        seen.append((i, j))
        return np.zeros(1)

    intervals.halves_sd(scores, 9, 6, seed=0)
    for (i, j), (k, m) in zip(seen[::2], seen[1::2]):
        assert (len(i), len(j), len(k), len(m)) == (4, 3, 4, 3)
        assert len({*i, *k}) == 8 and len({*j, *m}) == 6


def test_intervals_are_drawn_by_seed_and_can_be_left_out():
    rng = np.random.default_rng(0)
    X, Y = ellipsoids(rng, 12), ellipsoids(rng, 10)
    one, again, other = (metrics.evaluate(X, Y, emd="none", seed=seed) for seed in (0, 0, 1))
    assert one.intervals == again.intervals != other.intervals
    assert one.intervals["jsd"] == other.intervals["jsd"]  # nothing is drawn for it
    assert one.intervals.keys() == one.scores().keys()
    for name, (low, high) in one.intervals.items():
        assert 0 <= low <= one.scores()[name] <= high and (high <= 1 or name.startswith("mmd"))
    wide = metrics.evaluate(X, Y, emd="none", interval=0.99).intervals["mmd_cd"]
    assert wide.low < one.intervals["mmd_cd"].low < one.intervals["mmd_cd"].high < wide.high
    without = metrics.evaluate(X, Y, emd="none", interval=0)
    assert without.intervals == {} and "from" not in without.table() and "from, to: 90% intervals" in one.table()
    assert metrics.evaluate(X[:3], Y, emd="none").intervals.keys() == {"jsd"}  # nothing to be halved


def test_a_mean_over_sets_is_students():
    values = [0.2, 0.3, 0.25, 0.31]
    low, high = intervals.mean_interval(values, 0.95)
    assert (low + high) / 2 == pytest.approx(np.mean(values))
    assert (high - low) / 2 == pytest.approx(3.182446 * np.std(values, ddof=1) / 2)


def test_the_divergence_has_the_jackknife_of_its_definition():
    rng = np.random.default_rng(0)
    X, Y = (torch.from_numpy(ellipsoids(rng, n)) for n in (7, 5))
    counts = [metrics.occupancy.cell_counts(side) for side in (Y, X)]
    variance = 0.0
    for own, keep in ((X, lambda part: (part, Y)), (Y, lambda part: (X, part))):
        left_out = [metrics.jsd(*keep(torch.cat([own[:i], own[i + 1 :]]))) for i in range(len(own))]
        variance += (len(own) - 1) * np.var(left_out)
    assert intervals.jackknife_jsd_sd(*counts) == pytest.approx(np.sqrt(variance))
