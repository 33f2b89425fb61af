"""The overlap of stars against closed forms, exact cases, and counting."""

import dataclasses
import math

import pytest
import torch
from adversarial import cloud, rotation, seeds
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pcgen.geometry import overlap
from pcgen.geometry.filling import filling_of
from pcgen.geometry.overlap import Stars, ball_overlap, star_overlap
from pcgen.geometry.rays import circle, cube_sphere, fibonacci, icosphere, lat_lon
from pcgen.geometry.stars import inside, radius, volume
from pcgen.ops import native

RAYS = [circle(36), icosphere(12), icosphere(42), fibonacci(96), icosphere(162), lat_lon(5, 5), cube_sphere(4)]
ray_sets = st.sampled_from(RAYS)


def stars(seed, rays, count, spread=0.5, noise=0.3, dtype=torch.float64):
    centres = spread * cloud(seed, count, rays.dimension)
    lengths = (1 + noise * cloud(seed + 1, count, len(rays))).clamp_min(0.1)
    return centres.to(dtype), lengths.to(dtype)


def in_pairs(count):
    return torch.arange(count).view(-1, 2)


def ball(dimension, r):
    return {2: math.pi * r**2, 3: 4 / 3 * math.pi * r**3}[dimension]


# balls


def test_lens_of_two_balls():
    """V = π (r + s − d)² (d² + 2 d (r + s) − 3 (r − s)²) / 12d, and the circles' by Weisstein's lens."""
    r, s, d = (torch.tensor(x, dtype=torch.float64) for x in (1.3, 0.8, 1.1))
    volume3 = math.pi * (r + s - d) ** 2 * (d**2 + 2 * d * (r + s) - 3 * (r - s) ** 2) / (12 * d)
    torch.testing.assert_close(ball_overlap(r, s, d, 3), volume3, rtol=1e-14, atol=0)
    first = r**2 * torch.acos((d**2 + r**2 - s**2) / (2 * d * r)) + s**2 * torch.acos(
        (d**2 + s**2 - r**2) / (2 * d * s)
    )
    kite = ((-d + r + s) * (d + r - s) * (d - r + s) * (d + r + s)).sqrt() / 2
    torch.testing.assert_close(ball_overlap(r, s, d, 2), first - kite, rtol=1e-14, atol=0)


@given(seeds, st.sampled_from([2, 3]))
def test_balls_within_touching_and_apart(seed, dimension):
    r, s = torch.rand(2, 50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    small = torch.minimum(r, s)
    for share in (0.0, 0.5, 1.0):
        within = ball_overlap(r, s, share * (r - s).abs(), dimension)
        torch.testing.assert_close(within, ball(dimension, small), rtol=1e-9, atol=0)
    for factor in (1.0, 1.5):
        apart = ball_overlap(r, s, factor * (r + s), dimension)
        torch.testing.assert_close(apart, torch.zeros(50).double(), rtol=0, atol=1e-12)
    distances = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None] * (r + s)
    shared = ball_overlap(r, s, distances, dimension)
    assert (shared.diff(dim=0) <= 1e-12).all() and torch.equal(shared, ball_overlap(s, r, distances, dimension))


def test_balls_of_no_size():
    zero, one = torch.zeros(1), torch.ones(1)
    for dimension in (2, 3):
        assert ball_overlap(zero, zero, zero, dimension) == ball_overlap(zero, one, one / 2, dimension) == 0


# exact cases


@given(seeds, ray_sets, st.sampled_from([torch.float32, torch.float64]), st.sampled_from([1e-12, 1.0, 1e6]))
def test_a_star_shares_all_with_itself(seed, rays, dtype, scale):
    centres, lengths = stars(seed, rays, 20, dtype=dtype)
    for points in (1, 512, 4096):
        same = star_overlap(rays, scale * centres, scale * lengths, torch.arange(20)[:, None].expand(20, 2), points)
        assert (same.iou == 1).all() and (same.minimum == 1).all()


@given(seeds, ray_sets)
def test_stars_apart_share_nothing(seed, rays):
    centres, lengths = stars(seed, rays, 20)
    reach = lengths.amax(1)
    centres[:, 0] = 2 * reach.cumsum(0) - reach  # their balls touch
    centres[:, 1:] = 0
    shared = star_overlap(rays, centres, lengths, torch.combinations(torch.arange(20)))
    assert (shared.intersection == 0).all() and (shared.iou == 0).all()


@given(seeds, ray_sets, st.floats(0.2, 1.0))
def test_a_scaled_star_is_within(seed, rays, share):
    centres, lengths = stars(seed, rays, 10)
    centres = torch.cat([centres, centres])
    found = star_overlap(rays, centres, torch.cat([lengths, share * lengths]), torch.arange(20).view(2, 10).T)
    assert (found.minimum == 1).all()
    torch.testing.assert_close(found.iou, torch.full_like(found.iou, share**rays.dimension), rtol=1e-12, atol=0)


@given(seeds, ray_sets)
def test_the_order_of_a_pair_does_not_matter(seed, rays):
    centres, lengths = stars(seed, rays, 20)
    lengths[10:] = lengths[:10]  # of equal volume
    pairs = torch.combinations(torch.arange(20))
    one, two = star_overlap(rays, centres, lengths, pairs), star_overlap(rays, centres, lengths, pairs.flip(1))
    assert torch.equal(one.intersection, two.intersection) and torch.equal(one.iou, two.iou)
    assert (one.intersection <= one.volumes.amin(1)).all() and (one.intersection >= 0).all()


@pytest.mark.parametrize("rays", RAYS, ids=lambda rays: rays.name)
def test_volumes_are_those_of_the_interpolated_body(rays):
    """A ball's exactly; others between the flat facets' and that of the longest ray."""
    centres, lengths = stars(0, rays, 30)
    pairs = torch.arange(30)[:, None].expand(30, 2)
    balls = star_overlap(rays, centres, torch.full_like(lengths, 0.7), pairs).volumes
    torch.testing.assert_close(balls, torch.full_like(balls, ball(rays.dimension, 0.7)), rtol=1e-6, atol=0)
    found = star_overlap(rays, centres, lengths, pairs).volumes[:, 0]
    u = torch.nn.functional.normalize(cloud(1, 1, 20_000, rays.dimension), dim=-1)
    counted = radius(rays, lengths, u).pow(rays.dimension).mean(1) * ball(rays.dimension, 1.0)
    torch.testing.assert_close(found, counted, rtol=0.03, atol=0)
    assert (found > volume(rays, lengths)).all()


def test_empty_stars_share_nothing():
    rays = icosphere(12)
    lengths = torch.stack([torch.zeros(12), torch.zeros(12), torch.ones(12)])
    found = star_overlap(rays, torch.zeros(3, 3), lengths, torch.tensor([[0, 0], [0, 1], [0, 2], [2, 2]]))
    assert found.iou.tolist() == found.minimum.tolist() == [0, 0, 0, 1]
    assert star_overlap(
        rays, torch.zeros(0, 3), torch.zeros(0, 12), torch.zeros(0, 2, dtype=torch.int64)
    ).iou.shape == (0,)


# quadrature


@pytest.mark.parametrize("rays", RAYS, ids=lambda rays: rays.name)
def test_spheres_share_their_lens(rays):
    """Stars of equal lengths are balls, whatever the rays; more points come closer."""
    generator = torch.Generator().manual_seed(0)
    radius = 0.5 + torch.rand(200, 1, generator=generator, dtype=torch.float64)
    centres, _ = stars(1, rays, 200)
    lengths, pairs = radius.expand(200, len(rays)), in_pairs(200)
    r, s = radius[pairs][..., 0].T
    exact = ball_overlap(r, s, (centres[pairs[:, 0]] - centres[pairs[:, 1]]).norm(dim=1), rays.dimension)
    errors = []
    for points in (128, 1024, 8192):
        found = star_overlap(rays, centres, lengths, pairs, points)
        errors.append(((found.intersection - exact).abs() / found.volumes.amin(1)).square().mean().sqrt())
    assert errors[0] < 0.02 and errors[1] < 0.004 and errors[2] < 0.0012


@pytest.mark.parametrize("shift", [(0.5, 0.0, 0.0), (0.4, 0.3, 0.2), (0.9, 0.9, 0.9), (1.5, 0.1, 0.0)])
def test_boxes_share_their_box(shift):
    """Cubes from −1 to 1 as stars of many rays: the finer the rays, the closer to (2 − |dx|) (2 − |dy|) (2 − |dz|)."""
    shift = torch.tensor(shift, dtype=torch.float64)
    exact = (2 - shift.abs()).prod() / (16 - (2 - shift.abs()).prod())
    for rays, tolerance in ((fibonacci(96), 0.06), (fibonacci(2000), 0.015)):
        lengths = (1 / rays.directions.abs().amax(1)).expand(2, -1)
        centres = torch.stack([torch.zeros(3).double(), shift])
        found = star_overlap(rays, centres, lengths, in_pairs(2), 1 << 15)
        assert abs(found.iou[0] / exact - 1) < tolerance


@pytest.mark.parametrize("rays", RAYS, ids=lambda rays: rays.name)
def test_uneven_stars_agree_with_counting(rays):
    """IoU within 5 % of what :func:`inside` counts among random points."""
    centres, lengths = stars(5, rays, 24, spread=0.25)
    found = star_overlap(rays, centres, lengths, in_pairs(24)).iou
    generator = torch.Generator().manual_seed(0)
    for k, pair in enumerate(in_pairs(24)):
        reach = (lengths[pair].amax(1, keepdim=True) + centres[pair].abs()).amax(0)
        points = reach * (2 * torch.rand(50_000, rays.dimension, generator=generator, dtype=torch.float64) - 1)
        a, b = inside(rays, centres[pair], lengths[pair], points, "interpolated")
        counted = (a & b).sum() / (a | b).sum()
        noise = ((1 - counted) / (counted * (a | b).sum())).sqrt()
        assert abs(found[k] / counted - 1) < 0.05 + 2 * noise


@given(seeds)
def test_moving_and_scaling_both_changes_little(seed):
    rays = icosphere(42)
    centres, lengths = stars(seed, rays, 20)
    pairs = torch.combinations(torch.arange(20))
    base = star_overlap(rays, centres, lengths, pairs).iou
    far = star_overlap(rays, centres + 1e5, lengths, pairs).iou
    large = star_overlap(rays, 1e5 * centres, 1e5 * lengths, pairs).iou
    turned = rays.rotations()
    g = 1 + seed % (len(turned.matrices) - 1)
    rotated = star_overlap(rays, centres @ turned.matrices[g].T, _carried(lengths, turned.permutations[g]), pairs).iou
    for other, tolerance in ((far, 0.01), (large, 1e-4), (rotated, 0.03)):
        assert (other - base).abs().max() < tolerance


def _carried(lengths, permutation):
    """Lengths after a rotation that takes ray i to ray permutation[i]."""
    return torch.empty_like(lengths).index_copy_(1, permutation, lengths)


def test_rotated_balls():
    """A rotation that permutes nothing leaves balls alone."""
    rays, turn = fibonacci(96), rotation(1)
    centres, lengths = stars(0, rays, 20, noise=0.0)
    one, two = (star_overlap(rays, c, lengths, in_pairs(20)).iou for c in (centres, centres @ turn.T))
    torch.testing.assert_close(one, two, rtol=0.02, atol=2e-3)


# what is wrong


@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (ValueError, r"\(S, 3\) and \(S, 12\), got \(3, 3\) and \(2, 12\)", {"centres": torch.zeros(3, 3)}),
        (ValueError, r"12\), got \(2, 11\)", {"lengths": torch.ones(2, 11)}),
        (ValueError, "negative, got -1", {"lengths": -torch.ones(2, 12)}),
        (ValueError, "finite", {"lengths": torch.full((2, 12), torch.nan)}),
        (ValueError, "finite", {"centres": torch.full((2, 3), torch.inf)}),
        (ValueError, "stars 0 to 1, got 0 to 2", {"pairs": torch.tensor([[0, 2]])}),
        (ValueError, r"\(P, 2\), got \(2,\)", {"pairs": torch.tensor([0, 1])}),
        (TypeError, "torch.float32", {"pairs": torch.zeros(1, 2)}),
        (TypeError, "list", {"pairs": [[0, 1]]}),
        (TypeError, "torch.int64", {"lengths": torch.ones(2, 12, dtype=torch.int64)}),
        (ValueError, "points must be an integer, at least 1, got 0", {"points": 0}),
    ],
)
def test_overlap_says_what_is_wrong(error, match, change):
    given = {"centres": torch.zeros(2, 3), "lengths": torch.ones(2, 12), "pairs": torch.tensor([[0, 1]]), **change}
    with pytest.raises(error, match=match) as caught:
        star_overlap(icosphere(12), **given)
    assert "\n" not in str(caught.value)


@given(seed=seeds, v=st.sampled_from([circle(36), fibonacci(96), icosphere(42)]))
def test_the_compiled_quadrature_is_the_definition(seed, v):
    if not native.available():
        pytest.skip("no compiled kernels here")
    generator = torch.Generator().manual_seed(seed)
    lengths = (0.5 * torch.randn(12, len(v), generator=generator)).exp()
    lengths[0], lengths[1] = 0, 1
    some = Stars.of(v, torch.randn(12, v.dimension, generator=generator), lengths)
    filling = filling_of(v, 700, lengths.device)  # no multiple of the kernel's chunks
    assert_close(overlap._compiled_moments(some.lengths, filling), overlap._moments(some.lengths, filling))
    i, j = torch.cartesian_prod(torch.arange(12), torch.arange(1, 12)).T  # none is seen from an empty one
    # A point within rounding of a surface may fall on either side.
    apart = overlap._compiled_shares(some, i, j, filling) - overlap._shares(some, i, j, filling)
    assert apart.abs().max() < 20 / 700 and (apart.abs() > 1e-5).sum() <= 2
    far = some.centres.clone()
    far[0] = 1e300  # overflows float32: nothing to share, no cell outside of the table
    lost = dataclasses.replace(some, centres=far)
    assert overlap._compiled_shares(lost, torch.tensor([1]), torch.tensor([0]), filling).isfinite().all()
