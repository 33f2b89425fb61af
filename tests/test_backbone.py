"""Sparse voxel convolutions against dense ones, and laws of the backbone."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv3d, conv_transpose3d
from torch.testing import assert_close

from pcgen.models.backbone import Backbone, BackboneConfig
from pcgen.models.sparse import Pairs, convolve, neighbour_pairs, surroundings, voxel_pyramid
from pcgen.ops import segment_reduce


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some_cells(seed, count, low, high, clouds=1):
    """Distinct cells, ordered by cloud, then by cell."""
    rows = torch.randint(low, high, (count, 3), generator=torch.Generator().manual_seed(seed))
    cloud = torch.randint(0, clouds, (count, 1), generator=torch.Generator().manual_seed(seed + 1))
    rows = torch.cat([cloud, rows], 1).unique(dim=0)
    return rows[:, 1:].contiguous(), rows[:, 0].contiguous()


def as_sets(pairs):
    """One set of (source, target) for each kernel position."""
    both = torch.stack([pairs.source, pairs.target], 1).split(list(pairs.sizes))
    return [set(map(tuple, part.tolist())) for part in both]


@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([2, 4, 10**6, 2**51]), st.integers(1, 3))
def test_neighbours_are_those_of_brute_force(seed, count, span, clouds):
    cells, cloud = some_cells(seed, count, -span, span, clouds)
    steps = list(itertools.product((-1, 0, 1), repeat=3))
    found = as_sets(neighbour_pairs(cells, cloud))
    assert len(found) == 27
    for step, pairs in zip(steps, found):
        wanted = (cells[:, None] + torch.tensor(step) == cells[None]).all(-1) & (cloud[:, None] == cloud)
        assert pairs == {(s, t) for t, s in wanted.nonzero().tolist()}


def test_no_target_occurs_twice_in_a_position():
    pairs = neighbour_pairs(*some_cells(0, 300, 0, 8))
    for target in pairs.target.split(list(pairs.sizes)):
        assert len(target.unique()) == len(target)


def dense(cells, features, size):
    """Features (V, C) as a grid (1, C, size, size, size), 0 where no voxel is."""
    grid = features.new_zeros(size, size, size, features.shape[1])
    grid[tuple(cells.T)] = features
    return grid.permute(3, 0, 1, 2)[None]


def at(grid, cells):
    return grid[0].permute(1, 2, 3, 0)[tuple(cells.T)]


@pytest.mark.parametrize("count", [1, 60, 5000])
def test_convolution_is_that_of_the_dense_grid_at_the_voxels(count):
    cells, cloud = some_cells(1, count, 0, 8)
    x, weight = normal(len(cells), 3), normal(27, 3, 5, seed=1)
    kernel = weight.reshape(3, 3, 3, 3, 5).permute(4, 3, 0, 1, 2)
    wanted = conv3d(dense(cells, x, 8), kernel, padding=1)
    assert_close(convolve(x, weight, neighbour_pairs(cells, cloud)), at(wanted, cells))


def points_in(cells):
    return cells.double() + 0.5


@pytest.mark.parametrize("count", [1, 60, 5000])
def test_pooling_and_its_way_back_are_strided_convolutions(count):
    cells, _ = some_cells(2, count, 0, 8)
    _, (fine, coarse) = voxel_pyramid(points_in(cells), 1.0, 2)
    assert torch.equal(fine.cells, cells) and torch.equal(coarse.cells, (cells // 2).unique(dim=0))
    x, weight = normal(len(cells), 3), normal(8, 3, 5, seed=1)
    kernel = weight.reshape(2, 2, 2, 3, 5).permute(4, 3, 0, 1, 2)
    pooled = convolve(x, weight, fine.parents)
    assert_close(pooled, at(conv3d(dense(cells, x, 8), kernel, stride=2), coarse.cells))
    back = convolve(pooled, weight.transpose(1, 2), fine.parents.reversed())
    assert_close(back, at(conv_transpose3d(dense(coarse.cells, pooled, 4), kernel, stride=2), cells))


def test_convolution_gradients():
    cells, cloud = some_cells(3, 25, 0, 4)
    pairs = neighbour_pairs(cells, cloud)
    x, weight = normal(len(cells), 2).requires_grad_(), normal(27, 2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: convolve(x, w, pairs), (x, weight))
    _, (fine, _) = voxel_pyramid(points_in(cells), 1.0, 2)
    weight = normal(8, 2, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: convolve(x, w, fine.parents), (x, weight))


def test_convolution_of_no_pairs_is_zero():
    empty = torch.zeros(0, dtype=torch.int64)
    assert_close(convolve(normal(3, 2), normal(1, 2, 4), Pairs(empty, empty, (0,), 3, 5)), normal(5, 4) * 0)


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 4))
def test_pyramid_halves_cells(seed, count, depth):
    x = 3 * normal(count, 3, seed=seed)
    voxel, levels = voxel_pyramid(x, 0.5, depth)
    assert torch.equal(levels[0].cells[voxel], (x / 0.5).floor().long())
    for fine, coarse in itertools.pairwise(levels):
        order = fine.parents.source.argsort()
        assert torch.equal(fine.parents.source[order], torch.arange(len(fine.cells)))
        assert torch.equal(coarse.cells[fine.parents.target[order]], fine.cells.div(2, rounding_mode="floor"))
    assert levels[-1].parents is None


def test_a_stray_point_far_away_is_no_problem():
    x = torch.tensor([[0.01, 0.01, 0.01], [0.06, 0.01, 0.01], [3.4e5, -3.4e5, 3.4e5]], dtype=torch.float64)
    _, levels = voxel_pyramid(x, 0.05, 5)
    assert levels[0].neighbours.sizes[13] == 3 and sum(levels[0].neighbours.sizes) == 5


@pytest.fixture
def backbone(perturb):
    return perturb(Backbone(3, BackboneConfig(voxel=0.2, widths=(4, 6, 8))), size=0.1)


def run(backbone, x, offsets=None):
    voxel, levels = voxel_pyramid(x, backbone.voxel, backbone.depth, offsets)
    within = segment_reduce(x - x.floor(), voxel, len(levels[0].cells), "mean").value
    return backbone(levels, within)[voxel]


def test_backbone_of_a_batch_is_that_of_each_cloud(backbone):
    clouds = [normal(n, 3, seed=n) for n in (50, 1, 200)]
    offsets = torch.tensor([0, 50, 51, 251])
    together = run(backbone, torch.cat(clouds), offsets)
    assert_close(together, torch.cat([run(backbone, x) for x in clouds]))


def test_backbone_moves_with_the_cloud_and_its_points(backbone):
    x = normal(200, 3)
    wanted = run(backbone, x)
    assert wanted.std() > 0.1
    assert_close(run(backbone, x + torch.tensor([4.0, -8.0, 12.0])), wanted)  # whole cells of every level
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert_close(run(backbone, x[order]), wanted[order])


def test_backbone_sees_its_surroundings_and_no_more(backbone):
    x = torch.cat([normal(100, 3), normal(100, 3) + 1000])
    moved = x.clone()
    moved[100:] += 0.37
    assert_close(run(backbone, moved)[:100], run(backbone, x)[:100])
    moved[0] += 0.37
    assert (run(backbone, moved)[1:100] - run(backbone, x)[1:100]).abs().max() > 1e-6


def test_every_weight_learns(backbone):
    backbone.zero_grad()
    (run(backbone, normal(300, 3)) * normal(300, 4, seed=1)).sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"voxel": 0.0}, "voxel must be a positive length, got 0.0"),
        ({"voxel": float("nan")}, "voxel must be a positive length, got nan"),
        ({"widths": ()}, "widths and blocks must be positive"),
        ({"widths": (8, 0)}, "widths and blocks must be positive"),
        ({"blocks": 0}, "widths and blocks must be positive"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        BackboneConfig(**settings)


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_surroundings_are_means_of_points(seed, count):
    x = 2 * normal(count, 3, seed=seed)
    voxel, levels = voxel_pyramid(x, 0.5, 3)
    counts = torch.bincount(voxel).double()
    means = segment_reduce(x / 0.5, voxel, len(counts), "mean").value
    found = surroundings(levels, means, counts)[voxel].reshape(count, 3, 3)
    for depth in range(3):
        cells = (x / 0.5 / 2**depth).floor()
        for n in range(count):
            near = ((cells - cells[n]).abs() <= 1).all(1)
            assert_close(found[n, depth], ((x[near] / 0.5).mean(0) - means[voxel[n]]) / 2**depth)
