"""The clustering baseline: DBSCAN against its definition, planes that are known, and the choice of settings."""

import numpy as np
import pytest
import torch
from adversarial import KINDS, cloud, seeds
from hypothesis import given
from hypothesis import strategies as st

from pcgen.models import dbscan
from pcgen.models.clustering import ClusteringConfig, Labelled, cluster, cluster_instances, fit_plane, tune


def literal_dbscan(x, radius, min_points):
    """Labels by all distances; border points go to the nearest core point, the first of several."""
    squares = (x[:, None] - x[None]).square().sum(-1)
    close = squares <= radius**2
    core = close.sum(1) >= min_points
    labels, found = torch.zeros(len(x), dtype=torch.int64), 0
    for first in range(len(x)):
        if not core[first] or labels[first]:
            continue
        found, front = found + 1, [first]
        labels[first] = found
        while front:
            new = close[front].any(0) & core & (labels == 0)
            labels[new], front = found, new.nonzero()[:, 0].tolist()
    if bool(core.any()):
        for i in (~core).nonzero()[:, 0].tolist():
            nearest = torch.where(core, squares[i], torch.inf).argmin()
            labels[i] = labels[nearest] if squares[i, nearest] <= radius**2 else 0
    return labels


def same_groups(a, b):
    """Whether two labellings are one up to the numbers, 0 being none in both."""
    pairs = torch.stack([a, b], 1).unique(dim=0)
    return len(pairs) == len(a.unique()) == len(b.unique()) and bool(((pairs == 0).sum(1) != 1).all())


@given(
    seeds, st.integers(1, 150), st.integers(2, 3), st.sampled_from(sorted(KINDS)), st.integers(1, 6), st.floats(0.02, 3)
)
def test_cluster_is_dbscan(seed, n, d, kind, min_points, share):
    x = cloud(seed, n, d, kind=kind)
    spread = (x - x.mean(0)).norm(dim=1).median().item() or 1.0
    radius = share * spread
    found, expected = cluster(x, radius, min_points), literal_dbscan(x, radius, min_points)
    assert same_groups(found, expected)
    first = [int((found == k).nonzero()[0]) for k in range(1, int(found.max()) + 1)]
    assert first == sorted(first)


@given(seeds, st.integers(2, 120), st.sampled_from([1e-6, 1.0, 1e6]))
def test_cluster_has_no_order_and_no_unit(seed, n, unit):
    x = cloud(seed, n, 3)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    left, right = cluster(x, 0.7, 4), cluster(unit * x[order] + 7 * unit, 0.7 * unit, 4)
    assert same_groups(left[order], right)


def test_a_chain_and_its_radius():
    x = torch.arange(50.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    assert cluster(x, 1.0).tolist() == [1] * 50  # a distance equal to the radius is within it
    assert cluster(x, 0.999).tolist() == list(range(1, 51))
    assert cluster(x, 1.0, 3).tolist() == [1] * 50  # the ends are border points
    assert cluster(x, 1.0, 4).tolist() == [0] * 50
    assert cluster(x.numpy().astype(np.float32), 1.0).tolist() == [1] * 50


def test_far_apart_and_coincident_points():
    x = torch.zeros(20_000, 3)  # two hundred million pairs
    x[-1] = 1e7
    assert cluster(x, 0.01, 3).tolist() == [1] * 19_999 + [0]
    assert cluster(x[:1], 1.0).tolist() == [1] and cluster(x[:1], 1.0, 2).tolist() == [0]
    assert cluster(np.zeros((0, 3)), 1.0).tolist() == []


def test_cells_touch_by_their_nearest_points(monkeypatch):
    # Two dense balls whose nearest points are one radius apart, and a hair more, whatever stands first in a cell.
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(400, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True) / rng.random((400, 1)) ** (1 / 3)
    ball[0] = [1.0, 0, 0]
    mirror = ball * [-1.0, 1.0, 1.0]
    monkeypatch.setattr(dbscan, "BLOCK", 64)
    for gap, count in [(0.5, 1), (0.5 + 1e-6, 2)]:
        x = np.concatenate([ball, mirror + np.array([2 + gap, 0, 0])])
        assert int(cluster(rng.permutation(x), 0.5).max()) == count


def test_blocks_do_not_show(monkeypatch):
    # Clumps of which some touch, so that pairs of cells are left over when those of their first points are done.
    for seed in range(5):
        middle = 2.0 * torch.rand(100, 1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        x = (middle + 0.05 * cloud(seed, 100, 6, 3)).reshape(-1, 3)
        monkeypatch.setattr(dbscan, "BLOCK", 4)
        assert same_groups(cluster(x, 0.25, 3), literal_dbscan(x, 0.25, 3))


@pytest.mark.parametrize(
    "points, radius, least, words",
    [
        (np.zeros((4, 4)), 1.0, 1, r"\(4, 4\)"),
        (np.zeros(3), 1.0, 1, r"\(3,\)"),
        (np.full((2, 3), np.nan), 1.0, 1, "6 NaN"),
        (np.zeros((2, 3)), 0.0, 1, "radius"),
        (np.zeros((2, 3)), float("nan"), 1, "radius"),
        (np.zeros((2, 3)), 1.0, 0, "min_points"),
    ],
)
def test_cluster_mistakes(points, radius, least, words):
    with pytest.raises(ValueError, match=words):
        cluster(points, radius, least)


# Planes


@given(seeds, st.floats(-1e3, 1e3))
def test_a_plane_is_found_again(seed, offset):
    g = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64)).Q
    flat = torch.rand(300, 3, generator=g, dtype=torch.float64) * torch.tensor([8.0, 8.0, 0.02])
    rest = torch.rand(200, 3, generator=g, dtype=torch.float64) * torch.tensor([8.0, 8.0, 8.0]) + torch.tensor(
        [0, 0, 0.1]
    )
    x = torch.cat([flat, rest]) @ axes.T + offset * axes[:, 2]
    plane = fit_plane(x, 0.03, seed=seed)
    assert abs(float(plane.normal @ axes[:, 2])) > 1 - 1e-4 and float(plane.normal.norm()) == pytest.approx(1)
    assert bool(plane.near[:300].all()) and int(plane.near[300:].sum()) < 10
    assert torch.equal(plane.near, ((x @ plane.normal) - plane.offset).abs() <= 0.03)
    assert torch.equal(plane.near, fit_plane(x, 0.03, seed=seed).near)


def test_degenerate_planes():
    line = torch.arange(5.0)[:, None] * torch.ones(3)
    assert fit_plane(line, 0.1).near.all() and fit_plane(torch.zeros(3, 3), 0.1).near.all()
    assert fit_plane(torch.rand(9, 3), 1e-300).near.shape == (9,)
    for points, thickness in [(torch.zeros(2, 3), 0.1), (torch.zeros(5, 2), 0.1), (torch.zeros(5, 3), 0.0)]:
        with pytest.raises(ValueError, match="thickness"):
            fit_plane(points, thickness)


# Objects


def room(seed=0, objects=4):
    """A floor, and dense boxes that stand on it: points and instance."""
    rng = np.random.default_rng(seed)
    floor = np.concatenate([rng.random((4000, 2)) * 10, rng.normal(scale=0.005, size=(4000, 1))], 1)
    boxes = [rng.random((300 + 50 * k, 3)) * 0.8 + [2 * k + 0.5, 5 * rng.random(), 0.0] for k in range(objects)]
    return np.concatenate([floor, *boxes]), np.repeat(np.arange(objects + 1), [4000, *map(len, boxes)])


def test_objects_on_a_floor():
    points, instance = room()
    one = cluster_instances(points, ClusteringConfig(radius=0.3))
    assert one.labels.bincount().argmax() == 1  # floor and boxes hang together
    found = cluster_instances(points, ClusteringConfig(radius=0.3, planes=1))
    assert len(found.scores) == 4 and found.classes.tolist() == [1] * 4
    assert (found.scores.diff() <= 0).all() and (found.labels.bincount()[1:].diff() <= 0).all()
    for k in range(1, 5):
        labels = found.labels[instance == k]
        assert (labels == labels.mode().values).double().mean() > 0.9


def test_classes_and_probabilities():
    points, instance = room()
    kinds = np.where(instance == 0, 0, 1 + instance % 2)
    chance = np.where(instance == 3, 0.9, 0.5)
    found = cluster_instances(points, ClusteringConfig(radius=0.3, core=1), kinds, chance)
    assert (found.labels[instance == 0] == 0).all() and len(found.scores) == 4
    best = found.labels == 1
    assert (best.numpy() == (instance == 3)).all()
    size = (instance == 3).sum()
    assert found.scores[0].item() == pytest.approx(0.9 * size / (size + 30)) and found.classes[0] == 2
    # Touching points of two classes are two objects.
    touching = cluster_instances(np.zeros((80, 3)), ClusteringConfig(), np.repeat([1, 4], 40))
    assert touching.labels.tolist() == [1] * 40 + [2] * 40 and touching.classes.tolist() == [1, 4]


def test_small_clusters_and_no_points():
    x = np.concatenate([np.zeros((29, 3)), np.ones((30, 3))])
    assert cluster_instances(x, ClusteringConfig()).labels.tolist() == [0] * 29 + [1] * 30
    line = np.arange(40.0)[:, None] * [0.1, 0, 0]
    for core, count in [(3, 40), (4, 0)]:
        found = cluster_instances(line, ClusteringConfig(radius=0.15, core=core))
        assert int((found.labels > 0).sum()) == count
    for points in (np.zeros((0, 3)), np.zeros((2, 3))):
        for planes in (0, 2):
            found = cluster_instances(points, ClusteringConfig(planes=planes))
            assert found.labels.tolist() == [0] * len(points) and len(found.scores) == len(found.classes) == 0


def test_tune_takes_the_best_radius():
    scenes = [Labelled(*room(0)), Labelled(*(array[::-1].copy() for array in room(1)))]
    candidates = [ClusteringConfig(radius=r, planes=p) for p in (0, 1) for r in (0.02, 0.3, 3.0)]
    tuned = tune(scenes, candidates)
    alone = [cluster_instances(scene.points, tuned.config) for scene in scenes]
    assert all(len(found.scores) == 4 for found in alone)
    assert tuned.config == candidates[4] and tuned.ap50 == 1.0
    assert [config for config, _ in tuned.trials] == candidates
    assert tune(scenes, candidates[:1] * 2).config is candidates[0]
    with pytest.raises(ValueError, match="5000 points, got 8 smaller"):
        tune(scenes, candidates, min_points=5000)
    for arguments in ([], candidates), (scenes, []):
        with pytest.raises(ValueError, match="scenes and candidates"):
            tune(*arguments)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ClusteringConfig(radius=0.0), ValueError, "radius"),
        (lambda: ClusteringConfig(thickness=-1.0), ValueError, "thickness"),
        (lambda: ClusteringConfig(core=0), ValueError, "core"),
        (lambda: ClusteringConfig(planes=-1), ValueError, "planes"),
        (lambda: cluster_instances(np.zeros((3, 3)), None, [1, 2]), ValueError, r"\(3,\)"),
        (lambda: cluster_instances(np.zeros((3, 3)), None, [1.0] * 3), TypeError, "integers"),
        (lambda: cluster_instances(np.zeros((3, 3)), None, None, [1.0]), ValueError, "probability"),
    ],
)
def test_mistakes_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
