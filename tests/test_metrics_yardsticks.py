"""Reconstruction with its oracle, memorisation, the linear probe."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from pcgen import metrics, ops


def clouds(seed, count, points=24):
    return torch.rand(count, points, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def family(rng, kind, count, points=40):
    """Clouds of three kinds: balls, plates and rods of random size."""
    shape = {"ball": (1, 1, 1), "plate": (1, 1, 0.1), "rod": (1, 0.1, 0.1)}[kind]
    return rng.normal(size=(count, points, 3)) * shape * rng.uniform(0.8, 1.2, (count, 1, 1))


def test_reconstruction_intervals_are_students():
    X, Y = clouds(0, 6), clouds(1, 6)
    found = metrics.reconstruction(X, Y, threshold=0.2)
    each = [metrics.reconstruction(x[None], y[None], threshold=0.2) for x, y in zip(X, Y)]
    assert each[0].intervals == {}
    for name in ("cd", "emd", "f_score"):
        values = [getattr(scores, name) for scores in each]
        reach = 2.015048 * np.std(values, ddof=1) / np.sqrt(6)  # Student's t, 5 degrees of freedom
        assert getattr(found, name) == pytest.approx(np.mean(values))
        assert found.intervals[name] == pytest.approx((np.mean(values) - reach, np.mean(values) + reach))
    assert json.loads(json.dumps(found._asdict()))["emd_variant"] == "exact"
    assert metrics.reconstruction(X, Y, interval=0).intervals == {}


def test_annealed_reconstruction_has_the_reference_on_the_left():
    X, Y = clouds(0, 2, 12), clouds(1, 2, 12)
    found = metrics.reconstruction(X, Y, "pvd").emd
    assert found == pytest.approx(np.mean([ops.emd(y, x, "pvd").value.item() for x, y in zip(X, Y)]))


def test_the_oracle_is_another_draw():
    whole = torch.rand(3, 15000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = metrics.oracle(whole, points=32, threshold=0.1)
    same = metrics.reconstruction(whole[:, :32], whole[:, 10000:10032], threshold=0.1)
    assert found == same and found.emd > 0
    with pytest.raises(ValueError, match=r"whole\[0\] must hold at least 12048 points, got 12000"):
        metrics.oracle(whole[:, :12000])
    with pytest.raises(ValueError, match="points must be at most 5000"):
        metrics.oracle(whole, points=5001)


def test_a_copy_is_found_and_a_fresh_draw_is_not():
    T, held_out, fresh = clouds(0, 40), clouds(1, 30), clouds(2, 30)
    copied = metrics.memorisation(T[5:35] + 0.01, T, held_out)
    assert copied.nearest.tolist() == list(range(5, 35))
    assert copied.close == copied.closer == 1 and copied.p_value < 1e-6
    assert copied.median_samples < copied.median_held_out
    honest = metrics.memorisation(fresh, T, held_out)
    assert 0.3 < honest.closer < 0.7 and honest.p_value > 0.01
    assert "closer with chance" in str(honest)


def test_memorisation_is_its_definition(tmp_path):
    S, T, H = clouds(0, 7), clouds(1, 9), clouds(2, 8)
    found = metrics.memorisation(S, T, H, "exact", cache=tmp_path)
    distance = lambda x: [ops.emd(t, x).value.item() for t in T]  # noqa: E731
    near, far = (np.array([distance(x) for x in side]) for side in (S, H))
    np.testing.assert_allclose(found.samples, near.min(1))
    assert found.nearest.tolist() == near.argmin(1).tolist()
    assert found.close == np.mean(near.min(1) < np.quantile(far.min(1), 0.05))
    assert found.closer == pytest.approx(np.mean(near.min(1)[:, None] < far.min(1)))
    assert found.p_value == mannwhitneyu(near.min(1), far.min(1), alternative="less").pvalue
    again = metrics.memorisation(S, T, H, "exact", cache=tmp_path)
    assert np.array_equal(again.samples, found.samples)
    with pytest.raises(ValueError, match=r"distance must be one of .* got 'emd'"):
        metrics.memorisation(S, T, H, "emd")
    with pytest.raises(ValueError, match=r"got \{.samples.: 24, .training.: 5, .held_out.: 24\}"):
        metrics.memorisation(S, T[:, :5], H)


def test_a_linear_probe_sees_what_is_linear():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 150)
    X = rng.normal(size=(150, 5))
    X[:, :2] += 6 * np.array([(1, 0), (0, 1), (-1, -1)])[labels]
    names = np.array(["a", "b", "c"])[labels]
    found = metrics.linear_probe(X[:90], names[:90], X[90:], names[90:])
    assert found.accuracy == 1 and found.validation == 1 and found.majority < 0.6
    assert found.interval.low == pytest.approx(0.05 ** (1 / 60)) and found.interval.high == 1
    # Neither place nor unit of a feature matters, and nothing is random.
    again = metrics.linear_probe(1e3 * X[:90] - 7, names[:90], 1e3 * X[90:] - 7, names[90:])
    assert again == found == metrics.linear_probe(X[:90], names[:90], X[90:], names[90:])
    noise = metrics.linear_probe(rng.normal(size=(90, 5)), names[:90], rng.normal(size=(60, 5)), names[90:])
    assert noise.accuracy < 0.55


def test_raw_moments_are_moments():
    X = np.random.default_rng(0).normal(size=(2, 30, 3))
    found = metrics.raw_moments(X)
    assert found.shape == (2, 19)
    centred = X[1] - X[1].mean(0)
    np.testing.assert_allclose(found[1, :3], X[1].mean(0))
    np.testing.assert_allclose(found[1, 3:9], (centred.T @ centred / 30)[np.triu_indices(3)])
    np.testing.assert_allclose(found[1, [9, 18]], (centred[:, [0, 2]] ** 3).mean(0))
    third = np.einsum("ni,nj,nk->ijk", centred, centred, centred) / 30
    np.testing.assert_allclose(found[1, 13], third[0, 1, 2])


def test_raw_moments_tell_kinds_apart():
    rng, kinds = np.random.default_rng(0), ("ball", "plate", "rod")
    train, test = (np.concatenate([family(rng, kind, count) for kind in kinds]) for count in (20, 10))
    labels, truth = np.repeat(kinds, 20), np.repeat(kinds, 10)
    found = metrics.linear_probe(metrics.raw_moments(train), labels, metrics.raw_moments(test), truth)
    assert found.accuracy > 0.9 and found.majority == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("train", "labels", "test", "message"),
    [
        (np.zeros((4, 2)), np.zeros(4), np.zeros((2, 3)), "must have the 2 columns of train_features, got 3"),
        (np.zeros((4, 2)), np.zeros(4), np.zeros((2, 2)), "at least two classes, got only"),
        (np.zeros((4, 2)), np.zeros(3), np.zeros((2, 2)), r"train_labels \(S,\), got \(4, 2\) and \(3,\)"),
        (np.full((4, 2), np.nan), np.arange(4), np.zeros((2, 2)), r"train_features \(4, 2\) must be finite"),
    ],
)
def test_probe_mistakes_are_named(train, labels, test, message):
    with pytest.raises(ValueError, match=message):
        metrics.linear_probe(train, labels, test, np.zeros(len(test)))
