"""Suppression: the greedy rule written out, matrix NMS written out, and stars of known overlap."""

import math

import numpy as np
import pytest
import torch
from adversarial import cloud, seeds
from hypothesis import given
from hypothesis import strategies as st

from pcgen.geometry import suppression
from pcgen.geometry.overlap import ball_overlap
from pcgen.geometry.rays import circle, fibonacci, icosphere, lat_lon
from pcgen.geometry.stars import inside
from pcgen.geometry.suppression import mask_nms, matrix_nms, star_nms
from pcgen.geometry.touching import touching

RAYS = [circle(12), icosphere(12), icosphere(42), fibonacci(96), lat_lon(5, 5)]
measures = st.sampled_from(["iou", "minimum"])


def greedy(scores, suppresses):
    """The rule, one detection after the other; ``suppresses[i][j]``: i, if it is kept, removes j."""
    order = sorted(range(len(scores)), key=lambda k: (-scores[k], k))
    kept = []
    for j in order:
        if not any(suppresses[i][j] for i in kept):
            kept.append(j)
    return kept


def random_masks(seed, count, size):
    """Intervals, so that some overlap much, and their scores, some equal."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(0, size + 1, (count, 2), generator=generator).sort(1).values
    point = torch.arange(size)
    masks = (point >= ends[:, :1]) & (point < ends[:, 1:])
    return masks, torch.randint(0, 6, (count,), generator=generator).double() / 6


def mask_shares(masks, measure):
    rows = masks.double()
    shared, sizes = rows @ rows.T, rows.sum(1)
    whole = sizes[:, None] + sizes - shared if measure == "iou" else torch.minimum(sizes[:, None], sizes)
    return shared, whole


# masks


@given(seeds, st.integers(0, 40), st.integers(1, 30), measures, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_mask_nms_is_the_greedy_rule(seed, count, size, measure, threshold):
    masks, scores = random_masks(seed, count, size)
    shared, whole = mask_shares(masks, measure)
    expected = greedy(scores.tolist(), (shared > threshold * whole).tolist())
    assert mask_nms(masks, scores, threshold, measure).tolist() == expected
    indices = [mask.nonzero()[:, 0].flip(0).repeat(2) for mask in masks]  # in any order, and twice
    assert mask_nms(indices, scores, threshold, measure).tolist() == expected


def test_an_overlap_of_exactly_the_threshold_is_kept():
    masks, scores = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool(), torch.tensor([0.9, 0.8])
    assert mask_nms(masks, scores, 2 / 3).tolist() == [0, 1]
    assert mask_nms(masks, scores, 0.66).tolist() == [0]
    assert mask_nms(masks, scores, 0.99, "minimum").tolist() == [0]
    assert mask_nms(masks, scores, 1.0, "minimum").tolist() == [0, 1]


def test_masks_of_large_clouds_are_compared_where_they_meet():
    """2,000 masks of a cloud of 1e12 points: (P, N) would not fit anywhere."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(0, 10**6, (2000, 1), generator=generator) * 10**3
    masks = list(start // 4 + torch.arange(200))
    scores = torch.rand(2000, generator=generator)
    kept = mask_nms(masks, scores, 0.3)
    first = start[kept, 0] // 4
    gap = (first.sort().values.diff()).clamp_max(200)
    assert ((200 - gap) / (200 + gap) <= 0.3).all() and 1000 < len(kept) <= 2000


# matrix NMS


@given(seeds, st.integers(0, 25), st.integers(1, 30), st.sampled_from([0.0, 0.5, 2.0]))
def test_matrix_nms_is_its_formula(seed, count, size, sigma):
    masks, scores = random_masks(seed, count, size)
    shared, whole = mask_shares(masks, "iou")
    iou = shared / whole.clamp_min(1)
    order = sorted(range(count), key=lambda k: (-scores[k], k))
    largest = [max([float(iou[i, j]) for i in order[:rank]], default=0.0) for rank, j in enumerate(order)]
    expected = scores.clone()
    for rank, j in enumerate(order):
        decays = [math.exp(-sigma * (float(iou[i, j]) ** 2 - largest[r] ** 2)) for r, i in enumerate(order[:rank])]
        expected[j] *= min(decays, default=1.0)
    torch.testing.assert_close(matrix_nms(masks, scores, sigma), expected, rtol=1e-12, atol=0)


@given(seeds)
def test_matrix_nms_lowers_and_spares_the_best(seed):
    masks, scores = random_masks(seed, 20, 30)
    lowered = matrix_nms(masks, scores)
    assert (lowered <= scores).all() and lowered[scores.argmax()] == scores.max()


# stars


def scene(seed, rays, groups, copies, jitter, dtype=torch.float32):
    """Stars about some places, several copies of each, with scores, some equal."""
    centres = 2 * cloud(seed, groups, 1, rays.dimension) + jitter * cloud(seed + 1, groups, copies, rays.dimension)
    base = (1 + 0.25 * cloud(seed + 2, groups, 1, len(rays))).clamp_min(0.2)
    size = (0.5 * cloud(seed + 3, groups, 1, 1)).exp()
    lengths = size * base * (1 + jitter * cloud(seed + 4, groups, copies, len(rays))).clamp_min(0.1)
    scores = (10 * torch.rand(groups * copies, generator=torch.Generator().manual_seed(seed))).round() / 10
    return centres.reshape(-1, rays.dimension).to(dtype), lengths.reshape(-1, len(rays)).to(dtype), scores


def every_pair(rays, centres, lengths, scores, threshold, measure):
    """The greedy rule on all pairs, with the decisions of the pairs taken one by one."""
    order = scores.sort(descending=True, stable=True).indices
    contest = suppression._Contest(suppression.Stars.of(rays, centres[order], lengths[order]), threshold, measure)
    i, j = np.triu_indices(len(order), 1)
    table = np.zeros((len(order), len(order)), dtype=bool)
    table[i, j] = contest._suppresses(j, i)
    return order[greedy((-torch.arange(len(order))).tolist(), table.tolist())].tolist()


@given(seeds, st.sampled_from(RAYS), measures, st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.sampled_from([0.02, 0.15]))
def test_star_nms_is_the_greedy_rule_on_all_pairs(seed, rays, measure, threshold, jitter):
    stars = scene(seed, rays, 8, 6, jitter)
    assert star_nms(rays, *stars, threshold, measure).tolist() == every_pair(rays, *stars, threshold, measure)


def test_blocks_change_nothing(monkeypatch):
    rays = icosphere(42)
    stars = scene(1, rays, 20, 8, 0.1)
    whole = star_nms(rays, *stars)
    for first, pairs in ((5, 1), (64, 1 << 22)):
        monkeypatch.setattr(suppression, "FIRST_BLOCK", first)
        monkeypatch.setattr(suppression, "PAIRS", pairs)
        assert torch.equal(star_nms(rays, *stars), whole)


@given(seeds, st.sampled_from(RAYS), st.floats(0.2, 0.9))
def test_balls_below_and_above_their_overlap(seed, rays, target):
    """Balls are suppressed at 0.95 × their true overlap and kept at 1.05 ×."""
    r, s = 0.5 + torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    target = min(target, 0.9 * float(torch.minimum(r, s) / torch.maximum(r, s)) ** rays.dimension)

    def iou(d):
        shared = ball_overlap(r, s, torch.tensor(d, dtype=torch.float64), rays.dimension)
        unit = ball_overlap(*torch.ones(2).double(), torch.zeros(()), rays.dimension)
        return float(shared / (unit * (r**rays.dimension + s**rays.dimension) - shared))

    low, high = 0.0, float(r + s)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if iou(middle) > target else (low, middle)
    direction = torch.nn.functional.normalize(cloud(seed, rays.dimension), dim=0)
    centres = torch.stack([torch.zeros_like(direction), low * direction])
    lengths = torch.stack([r, s])[:, None].expand(2, len(rays))
    scores = torch.tensor([0.4, 0.6])
    assert star_nms(rays, centres, lengths, scores, 0.95 * target).tolist() == [1]
    assert star_nms(rays, centres, lengths, scores, 1.05 * target).tolist() == [1, 0]


@pytest.mark.parametrize("rays", [circle(36), icosphere(42), fibonacci(96)], ids=lambda rays: rays.name)
def test_uneven_stars_below_and_above_their_overlap(rays):
    generator = torch.Generator().manual_seed(0)
    centres, lengths, _ = scene(2, rays, 12, 2, 0.15, torch.float64)
    for k in range(12):
        pair = slice(2 * k, 2 * k + 2)
        c, d = centres[pair], lengths[pair]
        lower, upper = (c - d.amax(1, keepdim=True)).amin(0), (c + d.amax(1, keepdim=True)).amax(0)
        points = lower + (upper - lower) * torch.rand(60_000, rays.dimension, generator=generator, dtype=torch.float64)
        a, b = inside(rays, c, d, points, "interpolated")
        true = float((a & b).sum() / (a | b).sum())
        assert len(star_nms(rays, c, d, torch.tensor([0.6, 0.4]), 0.95 * true)) == 1
        assert len(star_nms(rays, c, d, torch.tensor([0.6, 0.4]), min(1.0, 1.05 * true))) == 2


def test_copies_and_empty_stars():
    rays = icosphere(42)
    centres, lengths, scores = torch.zeros(5, 3), torch.ones(5, 42), torch.tensor([0.5, 0.5, 0.9, 0.5, 0.5])
    assert star_nms(rays, centres, lengths, scores).tolist() == [2]
    assert star_nms(rays, centres, lengths, scores, 0.999).tolist() == [2]
    assert star_nms(rays, centres, lengths, scores, 1.0).tolist() == [2, 0, 1, 3, 4]  # none overlaps by more than all
    lengths[3:] = 0
    assert star_nms(rays, centres, lengths, scores).tolist() == [2, 3, 4]
    assert star_nms(rays, torch.zeros(0, 3), torch.zeros(0, 42), torch.zeros(0)).tolist() == []
    assert star_nms(rays, centres[:1], lengths[:1], scores[:1]).tolist() == [0]


def test_far_from_the_origin_and_of_all_sizes():
    rays = fibonacci(96)
    centres, lengths, scores = scene(0, rays, 60, 10, 0.05, torch.float64)
    centres = (centres * 2**20).round() / 2**20  # so that nothing below is rounded
    kept = star_nms(rays, centres, lengths, scores)
    assert 10 < len(kept) < 300
    for shift, scale in ((2.0**20, 1.0), (0.0, 2.0**-30), (0.0, 2.0**30)):
        assert torch.equal(star_nms(rays, shift + scale * centres, scale * lengths, scores), kept)
    sizes = 10.0 ** torch.arange(-6, 6, dtype=torch.float64)
    nested = sizes[:, None].expand(12, 96)
    assert len(star_nms(rays, torch.zeros(12, 3).double(), nested, torch.rand(12))) == 12
    assert len(star_nms(rays, torch.zeros(12, 3).double(), nested, torch.rand(12), overlap="minimum")) <= 2


@given(seeds, st.integers(1, 60), st.integers(1, 200))
def test_touching_finds_the_balls_that_meet(seed, count, limit):
    centres = cloud(seed, count, 3).numpy()
    radius = cloud(seed + 1, count).exp().numpy() * 0.3
    radius[::5] = 0
    balls = np.arange(count // 2, count)
    ball, other, taken = touching(centres, radius, balls, np.arange(count), limit)
    distance = np.linalg.norm(centres[:, None] - centres, axis=-1)
    meet = (
        (distance < radius[:, None] + radius) & (radius[:, None] > 0) & (radius > 0) & np.tri(count, k=-1, dtype=bool)
    )
    expected = {(i, j) for i, j in zip(*meet.nonzero()) if i in balls[:taken]}
    assert 1 <= taken <= len(balls) and set(zip(ball, other)) == expected and len(ball) == len(expected)


# what is wrong


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, r"threshold must lie in \[0, 1\], got 1.5", lambda m, s: mask_nms(m, s, 1.5)),
        (ValueError, "threshold", lambda m, s: mask_nms(m, s, math.nan)),
        (ValueError, "'iou', 'minimum'", lambda m, s: mask_nms(m, s, 0.5, "dice")),
        (ValueError, r"scores must be \(2,\).* got \(1,\)", lambda m, s: mask_nms(m, s[:1])),
        (ValueError, "finite", lambda m, s: mask_nms(m, s * math.nan)),
        (TypeError, "torch.float32", lambda m, s: mask_nms(m.float(), s)),
        (TypeError, "one of torch.bool", lambda m, s: mask_nms(list(m), s)),
        (TypeError, "one of list", lambda m, s: mask_nms(m.tolist(), s)),
        (ValueError, "from 0, got -1", lambda m, s: mask_nms([torch.tensor([-1]), torch.tensor([0])], s)),
        (ValueError, "sigma", lambda m, s: matrix_nms(m, s, -1.0)),
        (TypeError, "scores", lambda m, s: matrix_nms(m, [0.5, 0.5])),
        (ValueError, "negative", lambda m, s: star_nms(icosphere(12), torch.zeros(2, 3), -torch.ones(2, 12), s)),
        (ValueError, r"\(2, 2\)", lambda m, s: star_nms(icosphere(12), torch.zeros(2, 2), torch.ones(2, 12), s)),
        (ValueError, "threshold", lambda m, s: star_nms(icosphere(12), torch.zeros(2, 3), torch.ones(2, 12), s, -0.1)),
    ],
)
def test_suppression_says_what_is_wrong(error, match, call):
    with pytest.raises(error, match=match) as caught:
        call(torch.ones(2, 4).bool(), torch.tensor([0.5, 0.6]))
    assert "\n" not in str(caught.value)


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="scores"):
        star_nms(fibonacci(96), torch.zeros(1, 3), torch.ones(1, 96), torch.tensor([torch.nan]))
    star_nms(fibonacci(96), torch.zeros(1, 3), torch.ones(1, 96), torch.ones(1))
    assert torch.get_num_threads() == before
