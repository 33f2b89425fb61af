"""Ray targets of labelled points: exact answers, brute force, and what the decoded stars hold."""

import itertools
import math

import numpy as np
import pytest
import torch
from adversarial import KINDS, cloud, seeds
from hypothesis import given
from hypothesis import strategies as st

from pcgen.geometry import pairs as pairs_module
from pcgen.geometry.prefixes import choices, prefixes
from pcgen.geometry.rays import circle, fibonacci, icosphere, lat_lon
from pcgen.geometry.stars import inside
from pcgen.geometry.targets import cap, centres_of, furthest, hull, optimal, quantile

RAYS = [circle(7), icosphere(12), lat_lon(3, 4)]
ray_sets = st.sampled_from(RAYS)
kinds = st.sampled_from(sorted(KINDS))
ALL = [furthest, quantile, cap, hull, optimal]


def scene(seed, dimension, n=60, instances=3, kind="random", dtype=torch.float64):
    """Points around a few centres, labelled −1 … instances, and these centres."""
    points = cloud(seed, n, dimension, kind=kind, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    instance = torch.randint(-1, instances + 1, (n,), generator=generator)
    return centres_of(points, instance, instances), points, instance


def cells(rays, centres, points):
    """Distances (K, N) and rays (K, N) of all points from all centres, in float64."""
    x = points.double() - centres.double()[:, None]
    return x.norm(dim=-1), rays.nearest(x)


def iou(rays, centres, lengths, points, instance, k):
    known = instance >= 0
    held = inside(rays, centres[k : k + 1], lengths[k : k + 1], points[known])[0]
    own = instance[known] == k + 1
    return int((held & own).sum()), int((held | own).sum())


# centres


@given(seeds, st.integers(2, 3), kinds)
def test_centres_are_means_and_middles(seed, dimension, kind):
    _, points, instance = scene(seed, dimension, kind=kind)
    mass, box = (centres_of(points, instance, 4, kind) for kind in ("mass", "box"))
    for k in range(4):
        own = points[instance == k + 1]
        expected = (own.mean(0), (own.amin(0) + own.amax(0)) / 2) if len(own) else (torch.zeros(dimension),) * 2
        torch.testing.assert_close(mass[k], expected[0].double(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(box[k], expected[1].double(), rtol=1e-12, atol=1e-14)


def test_centres_of_nothing():
    empty = torch.empty(0, 3), torch.empty(0, dtype=torch.int64)
    assert centres_of(*empty).shape == (0, 3) and centres_of(*empty, count=2).tolist() == [[0, 0, 0]] * 2
    with pytest.raises(ValueError, match=r"labels up to count = 1, got 2"):
        centres_of(torch.zeros(1, 3), torch.tensor([2]), 1)


# per cell


@given(seeds, ray_sets, kinds, st.sampled_from([torch.float32, torch.float64]))
def test_furthest_is_the_largest_distance_of_each_cell(seed, rays, kind, dtype):
    centres, points, instance = scene(seed, rays.dimension, kind=kind, dtype=dtype)
    found = furthest(rays, centres, points, instance)
    radius, ray = cells(rays, centres, points)
    assert found.lengths.dtype == dtype
    for k, i in itertools.product(range(len(centres)), range(len(rays))):
        own = radius[k][(instance == k + 1) & (ray[k] == i) & (radius[k] > 0)]
        assert bool(found.valid[k, i]) == bool(len(own))
        assert found.lengths[k, i] == (own.max().to(dtype) if len(own) else 0)


@given(seeds, ray_sets, st.sampled_from([0.0, 0.25, 0.5, 0.95, 1.0]))
def test_quantile_is_that_of_numpy(seed, rays, q):
    centres, points, instance = scene(seed, rays.dimension, n=150)
    found = quantile(rays, centres, points, instance, q)
    radius, ray = cells(rays, centres, points)
    for k, i in itertools.product(range(len(centres)), range(len(rays))):
        own = radius[k][(instance == k + 1) & (ray[k] == i)]
        assert bool(found.valid[k, i]) == bool(len(own))
        if len(own):
            np.testing.assert_allclose(found.lengths[k, i].item(), np.quantile(own.numpy(), q), rtol=1e-13)


@given(seeds, ray_sets, st.sampled_from([None, 0.2, 1.0, math.pi]))
def test_cap_is_the_largest_distance_within_an_angle(seed, rays, angle):
    centres, points, instance = scene(seed, rays.dimension)
    found = cap(rays, centres, points, instance, angle)
    if angle is None:
        probe = torch.nn.functional.normalize(cloud(seed, 20_000, rays.dimension), dim=1)
        angle = (probe @ rays.directions.T).amax(1).arccos().max() * 0.999
        assert (found.lengths >= cap(rays, centres, points, instance, float(angle)).lengths).all()
        assert (found.lengths >= furthest(rays, centres, points, instance).lengths).all() or rays.sectors
        return
    x = points - centres[:, None]
    between = torch.nn.functional.cosine_similarity(x[:, :, None], rays.directions, dim=-1).clamp(-1, 1).arccos()
    near = (between <= angle) & (instance == torch.arange(1, 4)[:, None])[..., None]
    expected = torch.where(near, x.norm(dim=-1, keepdim=True), 0.0).amax(1)
    torch.testing.assert_close(found.lengths, expected, rtol=1e-14, atol=0)
    assert torch.equal(found.valid, expected > 0)


def test_caps_of_the_covering_angle_leave_no_direction_out():
    rays = icosphere(42)
    points = cloud(0, 500, 3)
    found = cap(rays, torch.zeros(500, 3).double(), points, torch.arange(1, 501))
    assert found.valid.any(1).all()
    assert (cap(rays, torch.zeros(500, 3).double(), points, torch.arange(1, 501), 0.1).valid.any(1)).float().mean() < 1


@given(seeds, ray_sets)
def test_furthest_stars_hold_their_instance(seed, rays):
    """Alone, an instance is decoded without loss: T1 and A1 are inverse."""
    for dtype in (torch.float32, torch.float64):
        centres, points, instance = scene(seed, rays.dimension, dtype=dtype)
        held = inside(rays, centres, furthest(rays, centres, points, instance).lengths, points)
        assert held[(instance - 1).clamp_min(0), torch.arange(len(points))][instance > 0].all()


def test_a_star_comes_back():
    """Points all along the rays of a star, encoded, give the star."""
    rays = fibonacci(96)
    lengths = 0.5 + torch.rand(4, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centres = cloud(1, 4, 3)
    steps = torch.linspace(0, 1, 11, dtype=torch.float64)
    points = centres[:, None, None] + steps[:, None, None] * (lengths[..., None] * rays.directions)[:, None]
    instance = torch.arange(1, 5)[:, None, None].expand(4, 11, 96).reshape(-1)
    found = furthest(rays, centres, points.reshape(-1, 3), instance)
    torch.testing.assert_close(found.lengths, lengths, rtol=1e-13, atol=0)
    alone = instance == 1
    for function in (quantile, optimal):
        q = {"q": 1.0} if function is quantile else {}
        again = function(rays, centres[:1], points.reshape(-1, 3)[alone], instance[alone], **q)
        torch.testing.assert_close(again.lengths, lengths[:1], rtol=1e-13, atol=0)


# hulls


def test_hull_of_a_cube():
    rays = icosphere(162)
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    within = torch.cat([corners, cloud(0, 50, 3).clamp(-1, 1)])
    found = hull(rays, torch.zeros(1, 3, dtype=torch.float64), within, torch.ones(58, dtype=torch.int64))
    torch.testing.assert_close(found.lengths[0], 1 / rays.directions.abs().amax(1), rtol=1e-13, atol=0)
    assert found.valid.all()


@given(seeds, st.sampled_from([circle(9), icosphere(12)]))
def test_hull_holds_all_points_between_scaled_hulls(seed, rays):
    points = cloud(seed, 40, rays.dimension)
    one, centre = torch.ones(40, dtype=torch.int64), points.mean(0, keepdim=True)
    found = hull(rays, centre, points, one)
    assert found.valid.all()
    ends = centre + found.lengths[0][:, None] * rays.directions
    for share, expected in ((0.999, True), (1.001, False)):  # in the hull iff more points do not change it
        for end in centre + share * (ends - centre):
            more = hull(rays, centre, torch.cat([points, end[None]]), torch.ones(41, dtype=torch.int64))
            assert torch.allclose(more.lengths, found.lengths, rtol=1e-9) == expected


def test_hull_needs_its_centre_inside():
    square = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    centres = torch.tensor([[0.9, 0.0], [1.0, 0.0], [1.1, 0.0]])
    found = hull(circle(8), centres, square, torch.ones(4, dtype=torch.int64), ids=torch.tensor([1, 1, 1]))
    assert found.valid.tolist() == [[True] * 8, [False] * 8, [False] * 8]
    assert (found.lengths[1:] == 0).all()


@pytest.mark.parametrize("kind", ["coincident", "collinear", "coplanar"])
def test_flat_points_have_no_hull(kind):
    points = cloud(0, 30, 3, kind=kind)
    one, centre = torch.ones(30, dtype=torch.int64), cloud(1, 1, 3)
    assert torch.equal(
        hull(icosphere(12), centre, points, one).lengths, furthest(icosphere(12), centre, points, one)[0]
    )


# the best star


def best_by_brute_force(rays, centre, points, instance, k):
    """The largest IoU over all combinations of prefixes."""
    radius, ray = cells(rays, centre, points)
    radius, ray, own = radius[0], ray[0], instance == k
    lengths = [[0.0, *sorted(set(radius[(ray == i) & own].tolist()))] for i in range(len(rays))]
    best = (0, 1)
    for combination in itertools.product(*lengths):
        held = (radius <= torch.tensor(combination, dtype=torch.float64)[ray]) & (instance >= 0)
        shared, either = int((held & own).sum()), int((held | own).sum())
        if shared * best[1] > best[0] * either:
            best = shared, either
    return best


@given(seeds, st.sampled_from([circle(3), circle(4)]), st.booleans(), st.integers(1, 11))
def test_optimal_is_the_best_of_all_prefixes(seed, rays, lattice, n):
    generator = torch.Generator().manual_seed(seed)
    points = cloud(seed, n, 2)
    points = points.round() if lattice else points  # many at one distance, some at the centre
    instance = torch.randint(-1, 2, (n,), generator=generator)
    centre = torch.zeros(1, 2, dtype=torch.float64)
    found = optimal(rays, centre, points, instance)
    shared, either = iou(rays, centre, found.lengths, points, instance, 0)
    best = best_by_brute_force(rays, centre, points, instance, 1)
    assert shared * best[1] == best[0] * max(either, 1)
    assert torch.equal(found.valid, found.lengths > 0)


@given(seeds, ray_sets, kinds)
def test_optimal_in_one_scene_is_optimal_alone(seed, rays, kind):
    """All instances at once, or one after the other, whatever the blocks."""
    centres, points, instance = scene(seed, rays.dimension, n=200, kind=kind)
    together = optimal(rays, centres, points, instance)
    before, pairs_module.LIMIT = pairs_module.LIMIT, 10
    try:
        assert torch.equal(optimal(rays, centres, points, instance).lengths, together.lengths)
    finally:
        pairs_module.LIMIT = before
    for k in range(3):
        alone = torch.where(instance < 0, -1, (instance == k + 1).long())
        assert torch.equal(optimal(rays, centres[k : k + 1], points, alone).lengths[0], together.lengths[k])


@given(seeds, ray_sets)
def test_optimal_is_no_worse_than_the_others(seed, rays):
    centres, points, instance = scene(seed, rays.dimension, n=300)
    best = optimal(rays, centres, points, instance).lengths
    for other in (furthest(rays, centres, points, instance), quantile(rays, centres, points, instance, 0.8)):
        for k in range(3):
            (a, b), (c, d) = (iou(rays, centres, lengths, points, instance, k) for lengths in (best, other.lengths))
            assert a * d >= c * b


@given(seeds, st.integers(1, 400))
def test_dinkelbach_climbs_to_a_fixed_point(seed, n):
    """θ never falls, ends where no prefix gains, and is there in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    star, ray = torch.randint(0, 3, (n,), generator=generator), torch.randint(0, 5, (n,), generator=generator)
    radius = torch.randint(0, 20, (n,), generator=generator).double()
    own = torch.rand(n, generator=generator) < 0.5
    size = torch.bincount(star[own], minlength=3) + 2
    options = prefixes(5, star, ray, radius, own, size)
    steps = list(choices(options))
    for one, two in itertools.pairwise(steps):
        assert (two.shared * one.either >= one.shared * two.either).all()
    last = steps[-1]
    gain = last.either[options.cell // 5] * options.inside - last.shared[options.cell // 5] * options.outside
    base = last.either * options.shared - last.shared * (options.either - size)
    best = torch.zeros(15, dtype=torch.int64).scatter_reduce(0, options.cell, gain, "amax").view(3, 5).sum(1) + base
    assert torch.equal(best, last.shared * size)  # max Σ inside − θ (size + Σ outside) = 0, times either
    assert len(steps) <= 12


def test_optimal_leaves_unannotated_points_out():
    points = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    for label, expected in ((-1, 3.0), (0, 3.0), (1, 3.0)):
        found = optimal(circle(4), torch.zeros(1, 2), points, torch.tensor([1, label, 1]))
        assert found.lengths[0, 0] == expected
    crowd = torch.cat([points, torch.full((5, 2), 0.0) + torch.tensor([2.5, 0.0])])
    for label, expected in ((-1, 3.0), (0, 2.0)):
        labels = torch.tensor([1, 1, 1] + [label] * 5)
        assert optimal(circle(4), torch.zeros(1, 2), crowd, labels).lengths[0, 0] == expected


# everything


@pytest.mark.parametrize("function", ALL)
def test_several_centres_of_one_instance(function):
    rays = icosphere(12)
    centres, points, instance = scene(3, 3, n=200)
    more = torch.cat([centres, centres[:1] + 0.1])
    found = function(rays, more, points, instance, ids=torch.tensor([1, 2, 3, 1]))
    for old, new in zip(function(rays, centres, points, instance), found):
        assert torch.equal(old, new[:3])
    only_one = torch.where(instance < 0, -1, (instance == 1).long())
    assert torch.equal(function(rays, more[3:], points, only_one).lengths[0], found.lengths[3])


@pytest.mark.parametrize("function", ALL)
def test_targets_of_little(function):
    rays = icosphere(12)
    none = torch.empty(0, 3), torch.empty(0, dtype=torch.int64)
    assert function(rays, torch.empty(0, 3), *none).lengths.shape == (0, 12)
    for points, instance in (none, (torch.ones(2, 3), torch.tensor([0, -1])), (torch.zeros(1, 3), torch.tensor([1]))):
        found = function(rays, torch.zeros(1, 3), points, instance)
        assert not found.valid.any() and (found.lengths == 0).all()
    one = function(rays, torch.zeros(1, 3), 2 * rays.directions[4:5], torch.tensor([1], dtype=torch.uint8).int())
    assert one.valid[0, 4] and one.lengths[0, 4] == 2


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (ValueError, "finite", {"points": torch.full((4, 3), torch.nan)}),
        (ValueError, "finite", {"centres": torch.full((2, 3), torch.inf)}),
        (ValueError, r"instance \(N,\)", {"instance": torch.zeros(5, dtype=torch.int64)}),
        (ValueError, "labels up to 2", {"instance": torch.tensor([0, 1, 2, 3])}),
        (ValueError, "got -2", {"instance": torch.tensor([0, 1, 2, -2])}),
        (ValueError, r"\(4, 2\)", {"points": torch.zeros(4, 2)}),
        (TypeError, "torch.float32", {"instance": torch.zeros(4)}),
        (TypeError, "torch.int64", {"points": torch.zeros(4, 3, dtype=torch.int64)}),
        (TypeError, "list", {"centres": [[0.0, 0.0, 0.0]]}),
        (ValueError, "from 1, got 0", {"ids": torch.tensor([0, 1])}),
        (ValueError, r"ids must be \(2,\)", {"ids": torch.tensor([1])}),
        (TypeError, "ids", {"ids": torch.tensor([1.0, 2.0])}),
    ],
)
def test_targets_say_what_is_wrong(function, error, match, change):
    given = {
        "centres": torch.zeros(2, 3),
        "points": torch.ones(4, 3),
        "instance": torch.tensor([0, 1, 2, -1]),
        **change,
    }
    with pytest.raises(error, match=match) as caught:
        function(icosphere(12), **given)
    assert "\n" not in str(caught.value)


def test_parameters_say_what_is_wrong():
    given = circle(4), torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([1])
    for q in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="q must lie in"):
            quantile(*given, q=q)
    for angle in (0.0, 4.0, math.nan):
        with pytest.raises(ValueError, match="angle must lie in"):
            cap(*given, angle=angle)
    with pytest.raises(ValueError, match="'mass', 'box'"):
        centres_of(*given[2:], kind="median")
