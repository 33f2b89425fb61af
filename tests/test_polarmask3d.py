"""PolarMask3D: its targets and losses against definitions, decoding of a known answer, and that it learns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pcgen.config import read, to_yaml
from pcgen.geometry.rays import icosphere, rays
from pcgen.models.backbone import BackboneConfig
from pcgen.models.instances import REMNANT, DecodingConfig, _owners, _Pairs, predict_instances
from pcgen.models.point_features import feature_columns, feature_width, height_above_floor
from pcgen.models.polar_loss import PolarLossConfig, dice_loss, focal_loss
from pcgen.models.polar_targets import (
    InstanceStars,
    LabelledCloud,
    collate,
    instance_stars,
    lengths_from,
    positives,
    rank_within,
    sample_near,
    voxel_labels,
)
from pcgen.models.polarmask3d import PolarMask3D, PolarMask3DConfig, StarPrediction, VoxelPrediction
from pcgen.models.refinement import log_ratio
from pcgen.models.revoting import Revoting
from pcgen.models.thinning import points_per_voxel
from pcgen.models.tuning import average_precision, tune_decoding
from pcgen.models.turning import averaged, turned, turns


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def sphere(count, radius=1.0, centre=(0.0, 0.0, 0.0), seed=0):
    x = normal(count, 3, seed=seed)
    return radius * x / x.norm(dim=1, keepdim=True) + torch.tensor(centre, dtype=torch.float64)


# Targets.


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 8))
def test_voxel_labels_are_the_commonest_pair(seed, count, voxels):
    draw = seeded(seed)
    first, second = (torch.randint(-1, 3, (count,), generator=draw) for _ in range(2))
    voxel = torch.randint(0, voxels, (count,), generator=draw)
    voxel = torch.unique(voxel, return_inverse=True)[1]
    for v, found in enumerate(zip(*voxel_labels([first, second], voxel, int(voxel.max()) + 1))):
        pairs = sorted(zip(first[voxel == v].tolist(), second[voxel == v].tolist()))
        most = max(pairs.count(pair) for pair in pairs)
        assert tuple(map(int, found)) == next(pair for pair in pairs if pairs.count(pair) == most)


@given(st.integers(0, 10**6), st.integers(0, 40))
def test_ranks_count_lower_keys_of_the_group(seed, count):
    draw = seeded(seed)
    group, key = (torch.randint(-3, 3, (count,), generator=draw) for _ in range(2))
    before = torch.arange(count)[:, None] > torch.arange(count)
    lower = (key[:, None] > key) | ((key[:, None] == key) & before)
    assert torch.equal(rank_within(group, key), ((group[:, None] == group) & lower).sum(1))


@given(st.integers(0, 10**6), st.integers(0, 80), st.integers(1, 6), st.integers(1, 12))
def test_positives_are_near_or_nearest_and_not_too_many(seed, count, nearest, most):
    apart = torch.rand(count, generator=seeded(seed), dtype=torch.float64)
    instance = torch.randint(0, 4, (count,), generator=seeded(seed + 1))
    chosen = positives(apart, instance, 0.2, nearest, most, seeded())
    assert len(chosen.unique()) == len(chosen)
    eligible = (apart <= 0.2) | (rank_within(instance, apart) < nearest)
    assert eligible[chosen].all()
    for k in range(4):
        assert (instance[chosen] == k).sum() == min(most, int((eligible & (instance == k)).sum()))


def test_lengths_from_beside_the_centre_of_a_sphere():
    v, radius, shift = icosphere(162), 2.0, torch.tensor([[0.03, -0.02, 0.05]], dtype=torch.float64)
    along = v.directions @ shift[0]
    exact = -along + (radius**2 - shift.square().sum() + along**2).sqrt()
    lengths = torch.full((1, 162), radius, dtype=torch.float64)
    assert_close(lengths_from(v, lengths, shift)[0], exact, atol=float(shift.square().sum() / radius), rtol=0)
    assert torch.equal(lengths_from(v, lengths, 0 * shift), lengths)
    assert (lengths_from(v, lengths, 99 * shift) > 0).all()


def test_samples_are_near_allowed_and_distinct():
    x, centres, reach = normal(200, 3), normal(5, 3, seed=1), torch.tensor([0.1, 0.5, 1.0, 2.0, 9.0]).double()
    allowed = torch.rand(5, 200, generator=seeded(2)) < 0.7
    found = sample_near(x, allowed, centres, reach, 40, seeded())
    wanted = (torch.cdist(centres, x) <= reach[:, None]) & allowed
    assert torch.equal(found.counts.sum(1), wanted.sum(1).clamp(max=40))
    for near, rows, counts in zip(wanted, found.rows, found.counts):
        assert near[rows[counts]].all() and len(rows[counts].unique()) == counts.sum()


def test_stars_of_labelled_spheres():
    v, points = icosphere(42), torch.cat([sphere(2000, 0.5), sphere(2000, 1.0, (5.0, 0.0, 0.0), seed=1)])
    instance = torch.tensor([1, 2]).repeat_interleave(2000)
    stars = instance_stars(v, points, instance)
    assert_close(stars.centres, torch.tensor([[0.0, 0, 0], [5, 0, 0]]).double(), atol=0.05, rtol=0)
    assert stars.valid.all()
    assert_close(stars.radii(), torch.tensor([0.5, 1.0]).double(), atol=0.05, rtol=0)
    nothing = instance_stars(v, points, torch.zeros_like(instance))
    assert nothing.centres.shape == (0, 3) and nothing.lengths.shape == (0, 42) and nothing.radii().shape == (0,)


def test_collate_renumbers_instances():
    v, points = icosphere(12), normal(6, 3)
    a = LabelledCloud(
        points, torch.tensor([1, 1, 2, 2, 0, -1]), features={"height": points[:, 2], "intensity": points[:, 0]}
    )
    b = LabelledCloud(points[:3], torch.tensor([0, 1, 1]), torch.tensor([0, 2, 2]), {"height": points[:3, 2]})
    batch = collate([a, b], v)
    assert batch.offsets.tolist() == [0, 6, 9]
    assert batch.instance.tolist() == [1, 1, 2, 2, 0, -1, 0, 3, 3]
    assert batch.semantic.tolist() == [1, 1, 1, 1, 0, -1, 0, 2, 2]
    assert list(batch.features) == ["height"] and len(batch.stars.centres) == 3
    assert_close(batch.stars.centres[2], points[1:3].mean(0))


@pytest.mark.parametrize(
    ("clouds", "message"),
    [
        ([], "a batch needs at least 1 cloud, got 0"),
        ([LabelledCloud(normal(0, 3), torch.zeros(0).long())], "a cloud needs at least 1 point and instances from -1"),
        ([LabelledCloud(normal(2, 3), torch.tensor([0, -2]))], "instances from -1, got 2 points and -2"),
        ([LabelledCloud(normal(3, 3), torch.zeros(2, dtype=torch.int64))], "instance must have a row for each of 3"),
        (
            [LabelledCloud(normal(3, 3), torch.ones(3).long(), torch.ones(4).long())],
            "semantic must have a row for each",
        ),
        (
            [
                LabelledCloud(
                    normal(3, 3),
                    torch.full((3,), 2),
                    stars=InstanceStars(normal(1, 3), normal(1, 12), normal(1, 12) > 0),
                )
            ],
            "instance must be at most 1, the number of stars, got 2",
        ),
    ],
)
def test_what_cannot_be_collated(clouds, message):
    with pytest.raises(ValueError, match=message) as error:
        collate(clouds, icosphere(12))
    assert "\n" not in str(error.value)


# Parts of the loss.


@given(st.integers(0, 10**6))
def test_focal_loss_is_its_formula(seed):
    x, y = 5 * normal(20, seed=seed), (normal(20, seed=seed + 1) > 0).double()
    p = torch.where(y > 0, x.sigmoid(), 1 - x.sigmoid())
    wanted = -torch.where(y > 0, 0.25, 0.75) * (1 - p) ** 2 * p.log()
    assert_close(focal_loss(x, y, 2.0, 0.25), wanted)
    assert focal_loss(torch.tensor([-1e4, 1e4]), torch.tensor([1.0, 0.0]), 2.0, 0.25).isfinite().all()


def test_dice_of_right_wrong_and_nothing():
    y, mask = torch.tensor([[1.0, 1, 0, 0]] * 3).double(), torch.tensor([[True, True, True, False]] * 3)
    logits = torch.tensor([[99.0, 99, -99, 99], [-99, -99, 99, 0], [99, -99, -99, 0]]).double()
    assert_close(dice_loss(logits, y, mask), torch.tensor([0, 1 - 1 / 4, 1 - 3 / 4]).double())
    assert_close(dice_loss(-99 + 0 * logits, 0 * y, mask), torch.zeros(3).double())


def test_log_ratio_of_spheres_and_its_gradient():
    v = icosphere(42)
    log_lengths = torch.tensor([0.5, 3.0]).double().log()[:, None].expand(2, 42)
    x, star = 2 * normal(50, 3), torch.arange(50) % 2
    wanted = torch.tensor([0.5, 3.0]).double()[star].log() - x.norm(dim=1).log()
    assert_close(log_ratio(v, log_lengths, star, x), wanted)
    assert float(log_ratio(v, log_lengths, star[:1], 0 * x[:1])) > 100
    uneven = (0.3 * normal(2, 42, seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda d, x: log_ratio(v, d, star[:8], x), (uneven, x[:8].clone().requires_grad_()))


def test_log_ratio_is_linear_interpolation_between_rays():
    v, log_lengths = icosphere(42), 0.5 * normal(1, 42)
    for k, face in enumerate(v.faces[:5]):
        share = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
        x = (share[:, None] * v.directions[face]).sum(0)[None] * (1 + k)
        wanted = (share * log_lengths[0, face].exp()).sum().log() - x.norm().log()
        assert_close(log_ratio(v, log_lengths, torch.tensor([0]), x)[0], wanted)


# Features.


def test_feature_columns():
    points, offsets = normal(5, 3), torch.tensor([0, 2, 5])
    given = {"colour": torch.rand(5, 3, generator=seeded()), "intensity": torch.arange(5.0), "normals": normal(5, 3)}
    columns = feature_columns(("normals", "colour", "height", "intensity"), points, offsets, given)
    assert (
        columns.shape == (5, feature_width(("normals", "colour", "height", "intensity")))
        and columns.dtype == points.dtype
    )
    assert_close(columns[:, :3], given["normals"])
    assert_close(columns[:, 3:6], 2 * given["colour"].double() - 1)
    assert_close(columns[:, 6], height_above_floor(points, offsets))
    assert_close(columns[:, 7], given["intensity"].double().asinh())
    assert feature_columns((), points, offsets, given).shape == (5, 0)
    assert_close(feature_columns(("height",), points, offsets, {"height": points[:, 0]})[:, 0], points[:, 0])


def test_floor_is_of_each_cloud_and_deaf_to_a_stray_point():
    points = torch.cat([torch.rand(1000, 3, generator=seeded()), torch.rand(500, 3, generator=seeded(1)) + 50])
    points[0, 1] = -1e3
    height = height_above_floor(points, torch.tensor([0, 1000, 1500]), "y")
    assert (height[1:] > -0.05).all() and (height < 1.05).all()


def test_a_missing_feature_is_warned_of_and_a_wrong_one_refused():
    points, offsets = normal(4, 3), torch.tensor([0, 4])
    with pytest.warns(UserWarning, match="made for colour, which these points lack"):
        assert not feature_columns(("colour",), points, offsets, {}).any()
    with pytest.raises(ValueError, match=r"normals must be \(4, 3\), a row for each point, got \(3, 3\)"):
        feature_columns(("normals",), points, offsets, {"normals": normal(3, 3)})
    with pytest.raises(ValueError, match="intensity must be finite, got 1 values that are not"):
        feature_columns(("intensity",), points, offsets, {"intensity": torch.tensor([0.0, 1, float("nan"), 2])})


# The model.


def toy(seed, objects=6, spacing=0.06, side=3.0):
    """Spheres and boxes on a floor: points and instances, in metres."""
    draw = seeded(seed)
    rand = lambda *shape: torch.rand(*shape, generator=draw)  # noqa: E731
    floor = torch.cat([rand(int((side / spacing) ** 2), 2) * side, torch.zeros(int((side / spacing) ** 2), 1)], 1)
    parts, placed = [floor], []
    while len(parts) <= objects:
        radius = 0.15 + 0.2 * float(rand(1))
        at = radius + rand(2) * (side - 2 * radius)
        if any(float((at - other).norm()) < radius + r + 0.05 for other, r in placed):
            continue
        placed.append((at, radius))
        count = int(12 * (radius / spacing) ** 2)
        x = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=1)
        if len(parts) % 2:  # a box: its points by area
            x = rand(count, 3) * 2 - 1
            x[torch.arange(count), torch.randint(0, 3, (count,), generator=draw)] = rand(count).round() * 2 - 1
            x = x * 0.7
            radius *= 1.0
        parts.append(x * radius + torch.tensor([*at, radius if not len(parts) % 2 else 0.7 * radius]))
    labels = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))
    return torch.cat(parts) + 0.004 * torch.randn(len(labels), 3, generator=draw), labels


def small(**settings):
    backbone = BackboneConfig(voxel=0.1, widths=(8, 12))
    settings = {"rays": "icosphere-12", "scale": 0.25, "backbone": backbone, **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PolarMask3D(PolarMask3DConfig(**settings))


@pytest.mark.parametrize(
    ("residual", "revote", "quality"),
    [(True, False, "iou"), (False, False, "polarmask"), (True, True, "quantile"), (False, True, "antipodal")],
)
def test_every_weight_learns_from_every_term(residual, revote, quality):
    model = small(residual=residual, revote=revote, loss=PolarLossConfig(quality_target=quality)).double()
    if residual:
        torch.nn.init.normal_(model.refinement.last.weight, generator=seeded())
    points, instance = toy(0)
    loss = model.loss(collate([LabelledCloud(points.double(), instance)] * 2, model.rays), seeded())
    assert_close(loss.total, sum(loss.terms.values()))
    assert set(loss.terms) == {"classification", "offset", "rays", "validity", "quality", "assembly"}
    assert all(term > 0 and not term.requires_grad for term in loss.terms.values())
    loss.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_the_loss_is_a_function_of_the_generator():
    model, (points, instance) = small(), toy(0)
    batch = collate([LabelledCloud(points, instance)], model.rays)
    a, b, c = (model.loss(batch, seeded(seed)).total for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_unannotated_points_cost_nothing():
    model, (points, instance) = small(), toy(0)
    nobody = collate([LabelledCloud(points, torch.full_like(instance, -1))], model.rays)
    loss = model.loss(nobody, seeded())
    assert loss.total == 0
    loss.total.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    # Background far from everything: no annotation there, no term there.
    far = torch.cat([points, points[instance == 0] + torch.tensor([100.0, 0, 0])])
    more = torch.where(instance[instance == 0] == 0, -1, 0)
    unknown = collate([LabelledCloud(far, torch.cat([instance, more]), features={"height": far[:, 2]})], model.rays)
    known = collate([LabelledCloud(points, instance, features={"height": points[:, 2]})], model.rays)
    for name, term in model.loss(known, seeded(3)).terms.items():
        if name != "assembly":  # draws from as many numbers as there are voxels
            assert_close(model.loss(unknown, seeded(3)).terms[name], term, msg=name)


def test_an_object_without_valid_rays_teaches_its_class_alone():
    model, (points, instance) = small(), toy(0)
    batch = collate([LabelledCloud(points, instance)], model.rays)
    cut = batch._replace(stars=batch.stars._replace(valid=torch.zeros_like(batch.stars.valid)))
    terms = model.loss(cut, seeded()).terms
    assert terms.pop("classification") == model.loss(batch, seeded()).terms["classification"] > 0
    assert not any(terms.values())


@pytest.mark.parametrize(
    "instance",
    [[0] * 9, [1] * 9, [-1] * 9, [1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 0, 0, 0, 0, 0, 0, 0, 1], [2] * 9],
    ids=["background", "one instance", "unannotated", "single points", "one point", "an instance without points"],
)
@pytest.mark.parametrize("spread", [0.0, 1e-3, 10.0])
def test_odd_scenes_have_a_finite_loss(instance, spread):
    for lengths in ("polar_iou", "smooth_l1"):
        model = small(loss=PolarLossConfig(lengths=lengths))
        batch = collate([LabelledCloud(spread * normal(9, 3).float(), torch.tensor(instance))], model.rays)
        loss = model.loss(batch, seeded())
        loss.total.backward()
        assert loss.total.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_class_that_the_model_does_not_have_is_refused():
    model, (points, instance) = small(classes=2), toy(0)
    batch = collate([LabelledCloud(points, instance, instance.clamp(max=3))], model.rays)
    with pytest.raises(ValueError, match="semantic must be a class up to 2, got 3"):
        model.loss(batch)


@pytest.mark.parametrize("revote", [True, False])
def test_one_point_is_a_scene(revote):
    model = small(revote=revote)
    assert model.loss(collate([LabelledCloud(torch.zeros(1, 3), torch.ones(1).long())], model.rays)).total.isfinite()
    assert len(model.predict_instances(torch.zeros(1, 3)).labels) == 1


@pytest.mark.parametrize("revote", [True, False])
def test_clouds_of_a_batch_do_not_see_each_other(perturb, revote):
    model = perturb(small(revote=revote), size=0.05)
    clouds = [toy(seed)[0].double() for seed in (0, 1)]
    offsets = torch.tensor([0, len(clouds[0]), len(clouds[0]) + len(clouds[1])])
    together, apart = model(torch.cat(clouds), offsets), [model(x) for x in clouds]
    for name in ("logits", "offset", "quality", "positions"):
        assert_close(getattr(together, name), torch.cat([getattr(seen, name) for seen in apart]))


def test_those_who_vote_for_the_same_place_hear_of_each_other():
    """However far apart they are; what others say is heard through the place, or by nobody."""
    revoting = Revoting(8, scale=1.0).double()
    features, positions = normal(4, 8), torch.tensor([[0.0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 91, 0]]).double()
    votes = torch.tensor([[45.1, 0, 0.1], [45.2, 0, 0.1], [0, 0, 50], [0, 0, 90]]).double()
    other = torch.cat([features[:1] + 1, features[1:]])
    weight, bounds = torch.ones(4).double(), torch.tensor([0, 4])
    a, b = (revoting(x, positions, votes, weight, bounds) for x in (features, other))
    assert torch.equal((a != b).any(1), torch.tensor([True, True, False, False]))
    silent = torch.tensor([0.0, 1, 1, 1]).double()
    a, b = (revoting(x, positions, votes, silent, bounds) for x in (features, other))
    assert torch.equal((a != b).any(1), torch.tensor([True, False, False, False]))
    alone = revoting(features, positions, votes, weight, torch.tensor([0, 1, 4]))  # in another cloud
    assert_close(alone[:1], revoting(features[:1], positions[:1], votes[:1], weight[:1], torch.tensor([0, 1])))


def test_both_votes_learn_where_the_centre_is():
    model, (points, instance) = small(revote=True, loss=PolarLossConfig(offset=1.0)), toy(0)
    batch, x = collate([LabelledCloud(points, instance)], model.rays), points
    seen = model(x)
    assert seen.first is not None and not torch.equal(seen.first, seen.offset)
    with torch.no_grad():  # the second says what the first does: their mean is either's
        model.again[-1].weight.zero_()
        same = model.loss(batch, seeded()).terms["offset"]
        model.again[-1].bias[1] += 100.0  # the second is far off
        far = model.loss(batch, seeded()).terms["offset"]
    assert_close(far - same, torch.tensor(50.0), rtol=0.1, atol=0.0)


# Decoding.


class Oracle(torch.nn.Module):
    """Says the truth of labelled balls, in the place of a trained network."""

    refinement = None
    membership = PolarMask3D.membership

    def __init__(self, points, instance, radii, centres, scores, decoding):
        super().__init__()
        self.config = PolarMask3DConfig(decoding=decoding, residual=False, classes=2)
        self.rays = icosphere(42)
        self.anchor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))  # says the type and the device
        ball, known = (instance - 1).clamp_min(0), instance > 0
        likely = torch.where(known, 5.0, -5.0).double()
        self.said = {
            "features": radii.log()[ball, None].expand(-1, 42),
            "logits": torch.stack([likely - 1, likely], 1),  # the second class
            "offset": torch.where(known[:, None], centres[ball] - points, 0.0),
            "quality": scores[ball].logit(),
        }

    def forward(self, points, features=None):
        rows = torch.arange(len(points))
        return VoxelPrediction(rows, points, torch.zeros_like(rows), **self.said)

    def stars(self, features):
        return StarPrediction(features, torch.ones_like(features))


def balls(radii, centres, scores=None, count=400, **decoding):
    """Solid balls above a floor: an oracle, the points and their labels."""
    # Not on the edge of a cell of votes, where rounding would make several candidates of one.
    radii, centres = torch.tensor(radii, dtype=torch.float64), torch.tensor(centres, dtype=torch.float64) + 0.05
    scores = torch.full_like(radii, 0.9) if scores is None else torch.tensor(scores, dtype=torch.float64)
    depth = torch.rand(len(radii), count, 1, generator=seeded(), dtype=torch.float64) ** (1 / 3)
    inside = torch.stack([sphere(count, seed=k) for k in range(len(radii))]) * depth * radii[:, None, None]
    floor = torch.rand(500, 3, generator=seeded(1), dtype=torch.float64) * torch.tensor([8.0, 8.0, 0.01])
    points = torch.cat([(centres[:, None] + inside).reshape(-1, 3), floor - torch.tensor([4.0, 4.0, 3.0])])
    instance = torch.cat(
        [torch.arange(1, len(radii) + 1).repeat_interleave(count), torch.zeros(500, dtype=torch.int64)]
    )
    return Oracle(points, instance, radii, centres, scores, DecodingConfig(**decoding)), points, instance


def test_the_truth_is_decoded_exactly():
    radii, centres, scores = [0.5, 0.3, 1.0], [[0.0, 0, 0], [1.0, 0, 0], [-2.0, 1, 0]], [0.7, 0.9, 0.8]
    model, points, instance = balls(radii, centres, scores)
    found = predict_instances(model, points)
    order = [1, 2, 0]  # by score
    assert torch.equal(found.labels, torch.tensor([0, 3, 1, 2])[instance])
    assert_close(found.centres, torch.tensor(centres).double()[order] + 0.05)
    assert_close(found.lengths, torch.tensor(radii).double()[order][:, None].expand(3, 42))
    assert found.points.tolist() == [400] * 3 and found.classes.tolist() == [2] * 3 and found.valid.all()
    for k, (radius, extent) in enumerate(zip(torch.tensor(radii)[order], found.extents)):
        own = points[found.labels == k + 1]
        assert_close(extent, own.amax(0) - own.amin(0))
        assert 0.8 < found.volumes[k] / (4 / 3 * math.pi * radius**3) < 1  # a polyhedron within the ball
    assert torch.equal(found.masks().nonzero()[:, 1].sort().values, (found.labels > 0).nonzero()[:, 0])
    # probability · quality · mean membership σ(10 log (ρ / r)); in a ball that is ∫ 3u² / (1 + u¹⁰) = 0.85
    ratio = found.scores / torch.tensor(scores).double()[order] * (1 + math.exp(-5))
    assert ((ratio > 0.83) & (ratio < 0.87)).all()


def test_coordinates_of_maps():
    radii, centres = [0.5, 0.3], [[0.0, 0, 0], [1.0, 0, 0]]
    model, points, _ = balls(radii, centres)
    origin = torch.tensor([432100.0, 5412000.0, 80.0], dtype=torch.float64)
    near, far = predict_instances(model, points), predict_instances(model, (points + origin).numpy())
    assert torch.equal(near.labels, far.labels)
    assert_close(far.centres, near.centres + origin, atol=1e-8, rtol=0)
    assert_close(far.extents, near.extents, atol=1e-8, rtol=0)


def test_a_point_belongs_where_score_times_membership_is_largest():
    model, points, instance = balls([0.5, 0.5], [[0.0, 0, 0], [0.7, 0, 0]], [0.9, 0.5], overlap=1.0)
    found = predict_instances(model, points)
    apart = torch.cdist(points, found.centres)
    member = (10 * (0.5 / apart).log()).sigmoid()
    weight = torch.where(member >= 0.5, member * torch.tensor([0.9, 0.5]).double(), 0.0)
    weight[instance == 0] = 0
    wanted = torch.where(weight.amax(1) > 0, 1 + weight.argmax(1), 0)
    assert torch.equal(found.labels, wanted) and len(found) == 2


def test_suppression_and_thresholds():
    twins = [0.5, 0.5], [[0.0, 0, 0], [0.6, 0, 0]], [0.9, 0.5]
    for decoding, count in (
        ({"overlap": 0.05}, 1),
        ({"overlap": 0.9}, 2),
        ({"overlap": 0.9, "score": 0.6}, 1),
        ({"foreground": 1.0}, 0),
    ):
        model, points, _ = balls(*twins, **decoding)
        assert len(predict_instances(model, points)) == count, decoding


def test_small_instances_give_their_points_to_the_next_best():
    # The small ball lies within the large one and has the better score, but too few points.
    model, points, instance = balls([1.0, 0.3], [[0.0, 0, 0], [0.1, 0, 0]], [0.5, 0.9], count=40, least=1, overlap=1.0)
    assert len(predict_instances(model, points)) == 2
    small = int((predict_instances(model, points).labels == 1).sum())
    model.config = replace(model.config, decoding=DecodingConfig(least=small + 1, overlap=1.0))
    found = predict_instances(model, points)
    assert len(found) == 1 and torch.equal(found.labels, (instance > 0).long())


def test_what_a_better_star_leaves_of_another_is_no_object():
    model, points, _ = balls([0.5, 0.5], [[0.0, 0, 0], [0.15, 0, 0]], [0.9, 0.5], overlap=0.9)
    assert len(predict_instances(model, points)) == 1


def owners_by_starting_anew(pairs, points, stars, least):
    """The rule as it is told: all points find their best star again after every star that is given up."""
    weight = pairs.weight.clone()
    needed = (REMNANT * torch.bincount(pairs.star, minlength=stars)).clamp_min(least)
    while True:
        owner = torch.full((points,), -1)
        for i in reversed(weight.argsort(descending=True, stable=True).tolist()):
            if weight[i] > 0:
                owner[pairs.point[i]] = i
        held = torch.bincount(pairs.star[owner[owner >= 0]], minlength=stars) / needed
        small = (held > 0) & (held < 1)
        if not small.any():
            return owner
        weight[(small & (held == held[small].min()))[pairs.star]] = 0


@given(st.data())
def test_owners_are_those_of_giving_up_one_star_after_the_other(data):
    points, stars = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 8))
    claims = data.draw(st.sets(st.tuples(st.integers(0, stars - 1), st.integers(0, points - 1)), max_size=60))
    star, point = (torch.tensor([claim[k] for claim in sorted(claims)], dtype=torch.int64) for k in (0, 1))
    levels = data.draw(st.lists(st.integers(0, 4), min_size=len(claims), max_size=len(claims)))  # with ties and zeros
    pairs = _Pairs(star, point, torch.tensor(levels, dtype=torch.float32) / 4)
    least = data.draw(st.integers(1, 5))
    found = _owners(pairs, points, stars, least)
    assert torch.equal(found, owners_by_starting_anew(pairs, points, stars, least))


def divided(**decoding):
    """Two balls apart; every other point of the first votes half a metre off."""
    model, points, instance = balls([0.5, 0.5], [[0.0, 0, 0], [3.0, 0, 0]], **decoding)
    model.config = replace(model.config, backbone=BackboneConfig(voxel=0.2))
    off = ((instance == 1) & (torch.arange(len(points)) % 2 == 0)).nonzero()[:, 0]
    model.said["offset"][off] += 0.3
    model.said["quality"][off] = -9.0
    return model, points, instance


def test_an_object_whose_points_vote_elsewhere_scores_less():
    model, points, instance = divided()
    even = predict_instances(balls([0.5, 0.5], [[0.0, 0, 0], [3.0, 0, 0]])[0], points).scores
    assert_close(even[0], even[1], rtol=0.02, atol=0)
    found = predict_instances(model, points)
    assert_close(found.scores, torch.stack([even[0], even[1] / 2]), rtol=0.02, atol=0)
    assert torch.equal(found.labels, torch.tensor([0, 2, 1])[instance])


def test_where_votes_disagree_distance_decides():
    for agreement, clustered in ((0.0, False), (0.4, False), (0.6, True)):
        model, points, instance = divided(agreement=agreement)
        found = predict_instances(model, points)
        order = torch.tensor([0, 1 + int(found.labels[0] == 2), 2 - int(found.labels[0] == 2)])
        assert torch.equal(found.labels, order[instance]), agreement
        first = int(found.labels[0]) - 1
        own = points[instance == 1]
        centre = own.mean(0) if clustered else torch.full((3,), 0.05, dtype=torch.float64)
        assert_close(found.centres[first], centre)
        assert found.points[first] == 400 and found.classes[first] == 2
        assert_close(found.extents[first], own.amax(0) - own.amin(0))
        if clustered:  # the probability of its class × the half that votes for it
            assert_close(float(found.scores[first]), 0.5 / (1 + math.exp(-5)), rtol=0.05, atol=0)
            assert_close(found.lengths[first], torch.full((42,), 0.5).double(), rtol=0.3, atol=0)


def test_points_that_no_star_holds_are_clustered_too():
    model, points, instance = balls([0.5, 0.5], [[0.0, 0, 0], [3.0, 0, 0]], agreement=0.5)
    model.config = replace(model.config, backbone=BackboneConfig(voxel=0.2))
    model.said["quality"][instance == 2] = -99.0  # no candidates
    assert torch.equal(predict_instances(model, points).labels > 0, instance > 0)
    alone = replace(model.config.decoding, agreement=0.0)
    assert torch.equal(predict_instances(model, points, decoding=alone).labels > 0, instance == 1)


def test_nothing_is_found_in_nothing():
    model, points, _ = balls([0.5], [[0.0, 0, 0]], foreground=1.0)
    found = predict_instances(model, points)
    assert len(found) == 0 and not found.labels.any() and found.masks().shape == (0, len(points))
    shapes = [found.classes.shape, found.centres.shape, found.lengths.shape, found.extents.shape, found.points.shape]
    assert shapes == [(0,), (0, 3), (0, 42), (0, 3), (0,)]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((0, 3)), r"points must be \(N, 3\) with at least one point, got \(0, 3\)"),
        (np.zeros((4, 2)), r"points must be \(N, 3\) with at least one point, got \(4, 2\)"),
        (np.array([[0.0, 0, np.nan]]), "points must be finite, got 1 values that are not"),
        (np.array([[0.0, 0, 0], [1e9, 0, 0]]), "too far from the origin for voxels of size 0.1"),
    ],
)
def test_points_that_cannot_be_segmented(points, message):
    with pytest.raises(ValueError, match=message) as error:
        small().predict_instances(points)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: PolarMask3DConfig(classes=0), "classes and scale must be positive, got 0 and 0.4"),
        (lambda: PolarMask3DConfig(rays="circle-36"), "rays must be directions in space, got 'circle-36'"),
        (lambda: PolarMask3DConfig(rays="ico"), "rays must be"),
        (lambda: PolarMask3DConfig(features=("height", "height")), "features must be among colour, height, intensity"),
        (lambda: PolarMask3DConfig(features=("color",)), "each once, got .'color',."),
        (lambda: PolarMask3DConfig(turns="some"), "turns must be one of 'none', 'upright', 'all', got 'some'"),
        (lambda: PolarLossConfig(alpha=1.5), "alpha must lie in 0 … 1"),
        (lambda: DecodingConfig(turns=0), "turns at least 1"),
        (lambda: PolarMask3DConfig(up="w"), "up must be one of"),
        (lambda: PolarLossConfig(rays=-1.0), "weights of the loss must not be negative, got -1.0"),
        (lambda: PolarLossConfig(most=0), "must be at least 1"),
        (lambda: PolarLossConfig(sharpness=0.0), "must be positive"),
        (lambda: DecodingConfig(overlap=1.5), "must lie in 0 … 1"),
        (lambda: DecodingConfig(cell=0.0), "cell must be positive"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        settings()
    assert "\n" not in str(error.value)


def test_tuning_takes_the_thresholds_that_find_most():
    model, points, instance = balls([0.5, 0.3], [[0.0, 0, 0], [1.0, 0, 0]], foreground=1.0)
    rooms = [LabelledCloud(points, torch.where(instance == 0, -1, instance), torch.where(instance == 0, -1, 2))]
    grid = {"least": (1000, 30), "foreground": (1.0, 0.999, 0.5, 0.4)}
    assert tune_decoding(model, rooms, grid) == replace(model.config.decoding, foreground=0.5)
    found = predict_instances(model, points, decoding=tune_decoding(model, rooms, grid))
    assert average_precision([found], rooms, classes=2).ap == 1
    wrong = LabelledCloud(points, rooms[0].instance, torch.ones_like(instance))
    assert average_precision([found], [wrong], classes=2).ap == 0
    for bad, clouds in ((grid, []), ({"leest": (1,)}, rooms), ({"turns": (1, 2)}, rooms)):
        with pytest.raises(ValueError, match="tuning needs at least 1 cloud and names of thresholds, got"):
            tune_decoding(model, clouds, bad)


# Turning by the rays' own rotations.


@pytest.mark.parametrize("name", ["icosphere-42", "cube-sphere-2", "fibonacci-20"])
def test_a_turned_batch_has_the_stars_of_turned_points(name):
    v, points = rays(name), normal(400, 3)
    instance = torch.tensor([0, 1, 2, -1]).repeat(100)
    features = {"normals": points / points.norm(dim=1, keepdim=True), "height": points[:, 2]}
    batch = collate([LabelledCloud(points, instance, features=features)], v)
    allowed = turns(v, "all")
    for matrix, permutation in list(zip(*allowed))[:: max(1, len(allowed.matrices) // 7)]:
        found = turned(batch, matrix, permutation)
        wanted = collate([LabelledCloud(points @ matrix.T, instance)], v)
        assert_close(found.points, wanted.points)
        for a, b in zip(found.stars, wanted.stars):
            assert_close(a, b)
        assert_close(found.features["normals"], batch.features["normals"] @ matrix.T)
        assert torch.equal(found.features["height"], batch.features["height"])


def test_upright_turns_keep_heights():
    for up in "xyz":
        allowed = turns(icosphere(42), "upright", up)
        assert_close(normal(5, 3) @ allowed.matrices[1].T[:, "xyz".index(up)], normal(5, 3)[:, "xyz".index(up)])
    assert torch.equal(turns(icosphere(42), "none").permutations, torch.arange(42)[None])


def test_averaging_over_turns_turns_with_the_cloud(perturb):
    """Half a turn about z maps the voxels onto themselves, so that the average over both is exact."""
    model = perturb(small(rays="icosphere-42"), size=0.05)
    x = toy(3)[0].double() - 1.5
    matrix, permutation = (part[1] for part in turns(model.rays, "upright"))
    with torch.no_grad():
        a, b = averaged(model, x, {}, 2), averaged(model, x @ matrix.T, {}, 2)
        rows, others = a.seen.voxel[:50], b.seen.voxel[:50]
        assert_close(b.seen.logits[others], a.seen.logits[rows])
        assert_close(b.seen.votes()[others], a.seen.votes()[rows] @ matrix.T)
        assert_close(b.stars(model, others).log_lengths[:, permutation], a.stars(model, rows).log_lengths)
        once = averaged(model, x, {}, 1)
        assert (once.seen.logits - a.seen.logits).abs().max() > 1e-3
        assert_close(once.stars(model, rows).log_lengths, model.stars(once.seen.features[rows]).log_lengths)


def test_settings_survive_yaml(tmp_path):
    settings = PolarMask3DConfig(3, features=("normals", "colour"), decoding=DecodingConfig(least=7), turns="all")
    (tmp_path / "a.yaml").write_text(to_yaml(settings))
    assert read(PolarMask3DConfig, tmp_path / "a.yaml") == settings
    with pytest.raises(ValueError, match=r"unknown setting 'loss.ray' \(nearest: 'loss.rays'\)"):
        read(PolarMask3DConfig, None, ["loss.ray=1"])


# Together.


def test_it_learns_to_find_objects_of_a_scene_it_has_not_seen():
    """Sixty steps on four rooms of spheres and boxes; seconds, so it is no good yet, but no chance either."""
    model = small(rays="icosphere-42", backbone=BackboneConfig(voxel=0.1, widths=(24, 32, 48)))
    rooms = [LabelledCloud(*toy(seed)) for seed in range(6)]
    rooms = [room._replace(stars=instance_stars(model.rays, *room[:2])) for room in rooms]
    optimiser, draw = torch.optim.Adam(model.parameters(), lr=0.01), seeded()
    losses = []
    for step in range(60):
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * min(1, (step + 1) / 10, 2 * (1 - step / 60))
        loss = model.loss(collate([rooms[step % 6]], model.rays), draw)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        losses.append(float(loss.total.detach()))
    assert sum(losses[-6:]) < 0.6 * sum(losses[:6])
    points, instance = toy(100)
    found = model.predict_instances(points)
    precision = average_precision([found], [LabelledCloud(points, instance)], min_points=30)
    assert precision.ap50 > 0.6 and precision.counted == 6
    again = model.predict_instances(points.numpy())
    assert torch.equal(again.labels, found.labels) and torch.equal(again.scores, found.scores)
    # Nine times as dense it finds as much, and no more, once it is told what it has learnt from.
    dense, instance = toy(100, spacing=0.02)
    known = replace(model.config.decoding, density=max(points_per_voxel(room.points, 0.1) for room in rooms))
    found = model.predict_instances(dense, decoding=known)
    precision = average_precision([found], [LabelledCloud(dense, instance)], min_points=270)
    assert precision.ap50 > 0.6 and precision.counted == 6


def test_a_sphere_has_one_radius():
    model = PolarMask3D(PolarMask3DConfig(sphere=True, backbone=BackboneConfig(widths=(8, 16))))
    lengths = model.stars(torch.randn(5, 8, generator=torch.Generator().manual_seed(0))).log_lengths
    assert torch.equal(lengths, lengths[:, :1].expand(5, 42)) and len(lengths[:, 0].unique()) == 5
