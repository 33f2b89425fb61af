"""Thinning of scans that are denser than those of the training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pcgen.models.backbone import BackboneConfig
from pcgen.models.instances import DecodingConfig, look, predict_instances
from pcgen.models.polarmask3d import PolarMask3D, PolarMask3DConfig
from pcgen.models.thinning import _cut, points_per_voxel, thinned
from pcgen.ops import nearest, voxel_groups


def cloud(seed, voxels=20, most=30):
    """Points of voxels of edge ½ that hold 1 … ``most`` each, in no order."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(1000, voxels, replace=False)
    corner = np.stack([cells // 100, cells // 10 % 10, cells % 10], 1).repeat(rng.integers(1, most + 1, voxels), 0)
    return torch.from_numpy(rng.permutation(0.5 * (corner + rng.uniform(0.01, 0.99, corner.shape))))


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 50), min_size=1, max_size=30), share=st.floats(0, 0.999))
def test_counts_are_cut_where_their_mean_is_the_density(counts, share):
    counts = torch.tensor(counts)
    density = 1 + share * (float(counts.double().mean()) - 1)
    if density >= counts.double().mean():
        return
    whole, rest = _cut(counts, density)
    assert whole >= 1 and 0 <= rest < 1 + 1e-9
    assert_close(counts.double().clamp(max=whole + rest).mean(), torch.tensor(density).double())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), density=st.floats(1, 40))
def test_the_fullest_voxels_are_thinned_to_the_density(seed, density):
    x = cloud(seed)
    before, found = voxel_groups(x, 0.5), thinned(x, 0.5, density)
    if found is None:
        assert points_per_voxel(x, 0.5) <= density
        return
    after = voxel_groups(x[found.kept], 0.5)
    assert torch.equal(after.cells, before.cells)  # none is lost
    whole, _ = _cut(before.counts, density)
    assert (after.counts >= before.counts.clamp(max=whole)).all()
    assert (after.counts <= before.counts.clamp(max=whole + 1)).all()
    assert torch.equal(found.kept, found.kept.unique())
    assert_close((x - x[found.kept][found.nearest]).norm(dim=1), nearest(x, x[found.kept]).distance.sqrt())
    assert torch.equal(found.nearest[found.kept], torch.arange(len(found.kept)))
    again = thinned(x, 0.5, density)
    assert torch.equal(found.kept, again.kept)


def test_a_large_scan_has_the_density_in_the_mean():
    x = cloud(0, voxels=900)
    found = thinned(x, 0.5, 3.3)
    assert abs(points_per_voxel(x[found.kept], 0.5) - 3.3) < 0.1
    steps = (x - x[found.kept][found.nearest]).norm(dim=1)
    assert steps.max() < 0.5 * 3**0.5


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = PolarMask3DConfig(
            features=("intensity",),
            scale=2.0,
            backbone=BackboneConfig(voxel=0.5, widths=(8, 12)),
            decoding=DecodingConfig(foreground=0.0, score=0.0, least=3),
        )
        return PolarMask3D(config).eval()


def test_objects_of_a_thinned_scan_are_objects_of_all_points(model):
    x = cloud(1)
    features, thin = {"intensity": torch.rand(len(x))}, replace(model.config.decoding, density=2.0)
    found, fewer = predict_instances(model, x, features, thin), thinned(x.float(), 0.5, 2.0)
    shown = predict_instances(model, x[fewer.kept], {"intensity": features["intensity"][fewer.kept]})
    assert len(found) > 1 and torch.equal(found.labels, shown.labels[fewer.nearest])
    assert torch.equal(found.scores, shown.scores) and torch.equal(found.centres, shown.centres)
    for k in range(len(found)):
        own = x[found.labels == k + 1]
        assert found.points[k] == len(own)
        assert_close(found.extents[k], own.amax(0) - own.amin(0))


def test_a_scan_that_is_no_denser_is_left_as_it_is(model):
    x = cloud(2)
    features, enough = {"intensity": torch.rand(len(x))}, replace(model.config.decoding, density=31.0)
    assert look(model, x, features, enough).nearest is None
    with_it, without = predict_instances(model, x, features, enough), predict_instances(model, x, features)
    assert torch.equal(with_it.labels, without.labels) and torch.equal(with_it.scores, without.scores)


def test_features_of_another_length_are_refused_all_the_same(model):
    x, thin = cloud(1), replace(model.config.decoding, density=2.0)
    kept = len(thinned(x.float(), 0.5, 2.0).kept)
    for rows in (len(x) + 1, kept):
        with pytest.raises(ValueError, match="intensity"):
            predict_instances(model, x, {"intensity": torch.rand(rows)}, thin)
    for i in range(0, len(x), 40):  # nor is one that is no number taken for any point
        broken = torch.rand(len(x)).index_fill_(0, torch.tensor(i), torch.nan)
        with pytest.raises(ValueError, match="intensity must be finite, got 1 values"):
            predict_instances(model, x, {"intensity": broken}, thin)


@pytest.mark.parametrize("density", [0.0, 0.99, -1.0, float("nan"), float("inf")])
def test_wrong_densities(density):
    with pytest.raises(ValueError, match="density must be at least 1, since"):
        DecodingConfig(density=density)
