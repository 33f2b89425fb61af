"""Classes, pictures and parts as conditions of the prior: what is drawn follows them, and what does not fit is told."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imsave
from scipy.stats import chisquare
from torch.testing import assert_close

from pcgen.cli import main
from pcgen.cli.conditions import conditions_of
from pcgen.cli.models import AtHand
from pcgen.config import read_yaml
from pcgen.data import DataConfig, ShapeSplit, load, read_clouds
from pcgen.flows import FlowConfig, SolverConfig, Trace
from pcgen.geometry.views import framed, views
from pcgen.models import ConditionConfig, EncoderConfig, ObjectiveConfig, PointFlow, PointFlowConfig
from pcgen.models.draws import ShapeTrace, drawn
from pcgen.models.noise import choices
from pcgen.training import load_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*outside the JSD grid:UserWarning"),
    pytest.mark.usefixtures("one_thread"),
]

CLASSES = ("lying", "standing")
KINDS = ("class", "depth", "silhouette", "cloud")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def conditional(kind="class", width=8, solver=None, latent=4, **options):
    """A small conditional model by flow matching."""
    flow = {"norm": "frozen", "train_time": False, "solver": solver or SolverConfig("rk4", steps=4)}
    condition = ConditionConfig(kind, width, classes=CLASSES if kind == "class" else (), resolution=8, **options)
    return PointFlowConfig(
        latent=latent,
        encoder=EncoderConfig((16, 32), (16,)),
        point_flow=FlowConfig((32, 32), **flow),
        latent_flow=FlowConfig((32, 32), **flow),
        objective=ObjectiveConfig("flow_matching"),
        condition=condition,
    )


def clouds(shapes, points, generator):
    """Ellipsoids along x or y, in turns, each of a size of its own; with their classes."""
    label = torch.arange(shapes) % 2
    axes = torch.full((shapes, 1, 3), 0.3)
    axes[label == 0, 0, 0] = axes[label == 1, 0, 1] = 1.2
    size = 0.8 + 0.4 * torch.rand(shapes, 1, 1, generator=generator)
    return size * axes * torch.randn(shapes, points, 3, generator=generator), label


@pytest.fixture(scope="module", params=["class", "depth", "cloud"])  # silhouettes are depths of one
def trained(request):
    """A model of the two kinds of ellipsoids, trained for a second or two."""
    generator = seeded()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PointFlow(conditional(request.param, solver=SolverConfig("midpoint", steps=6), points=16))
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(220):
        x, label = clouds(16, 32, generator)
        shown = model.condition.of_shapes(x, [CLASSES[i] for i in label], generator)
        optimizer.zero_grad()
        model.loss(x, generator, condition=shown).total.backward()
        optimizer.step()
    return model.eval()


def share_standing(points):
    """Of clouds (S, N, 3) that are longer along y than along x."""
    spread = points.std(1)
    return float((spread[:, 1] > spread[:, 0]).float().mean())


def shown_to(model, name):
    """A condition that a user could give for this class."""
    kind = model.config.condition.kind
    if kind == "class":
        return name
    axes = torch.tensor([1.2, 0.3, 0.3] if name == "lying" else [0.3, 1.2, 0.3])
    cloud = axes * torch.randn(200, 3, generator=seeded(9))
    return cloud[cloud[:, 2] > 0] if kind == "cloud" else views(cloud[None], torch.zeros(1), 8, kind)[0]


def test_samples_follow_their_condition(trained):
    found = {name: trained.sample(64, 64, 0, condition=shown_to(trained, name)).points for name in CLASSES}
    assert share_standing(found["standing"]) >= 0.9
    assert share_standing(found["lying"]) <= 0.1


def test_guidance_makes_them_more_typical(trained):
    free = share_standing(trained.sample(64, 64, 0).points)
    assert 0.15 < free < 0.85  # without a condition: both kinds
    told = {"condition": shown_to(trained, "standing")}
    assert share_standing(trained.sample(64, 64, 0, **told, guidance=2.0).points) >= 0.95
    nothing = trained.sample(8, 16, 0, **told, guidance=0.0).points
    assert_close(nothing, trained.sample(8, 16, 0).points, atol=1e-5, rtol=0)


def test_one_condition_for_each_shape(trained):
    first, second = (shown_to(trained, name) for name in CLASSES)
    if trained.config.condition.kind == "class":
        both = [first, second]
    else:
        n = min(len(first), len(second))
        both = torch.stack([first[:n], second[:n]])
        first, second = both
    found = trained.sample(2, 16, 3, condition=both).points
    assert_close(found[0], trained.sample(2, 16, 3, condition=first).points[0], atol=1e-5, rtol=0)
    assert_close(found[1], trained.sample(2, 16, 3, condition=second).points[1], atol=1e-5, rtol=0)


def test_told_nothing_classes_are_drawn_as_in_training(trained):
    if trained.config.condition.kind != "class":
        return
    config = dataclasses.replace(trained.config.condition, shares=(1.0, 4.0))
    model = PointFlow(dataclasses.replace(trained.config, condition=config)).eval()
    model.load_state_dict(trained.state_dict())
    names = model.condition.usual(64, 5)
    found = model.sample(64, 32, 5).points
    assert torch.equal(found, trained.sample(64, 32, 5, condition=names).points)
    assert abs(share_standing(found) - names.count("standing") / 64) < 0.1
    guided = model.sample(64, 32, 5, guidance=2.0).points
    assert torch.equal(guided, trained.sample(64, 32, 5, condition=names, guidance=2.0).points)
    free = model.sample(8, 16, 5, guidance=0.0).points  # no condition at all, as one that never counted its classes
    assert_close(free, trained.sample(8, 16, 5).points, atol=1e-5, rtol=0)


def test_densities_know_the_condition(trained):
    """A standing shape is more probable as one, by the whole of its code's density."""
    x = clouds(2, 32, seeded(5))[0][1:]
    bound = {name: float(trained.log_likelihood(x, 0, condition=shown_to(trained, name)).bound) for name in CLASSES}
    assert bound["standing"] > bound["lying"] + 1


# Laws, without training.


@given(st.integers(0, 2**40), st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=6))
def test_choices_keep_to_their_shares(seed, shares):
    """Of shape i whatever their number is; never what has no share; twice the weights are the same shares."""
    if not sum(shares):
        return
    found = choices(seed, 20, shares)
    assert found[:7] == choices(seed, 7, shares) == choices(seed, 7, [2 * share for share in shares])
    assert all(shares[i] > 0 for i in found)


def test_choices_are_as_frequent_as_their_shares():
    count = np.bincount(choices(1, 4000, (5, 0, 3, 2)), minlength=4)
    assert chisquare(count[[0, 2, 3]], [2000, 1200, 800]).pvalue > 1e-3 and count[1] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 3.0])
def test_the_guided_velocity_is_the_formulas(perturb, kind, guidance):
    """By Euler's method in one step, where the solution is the velocity: without + w (with − without)."""
    model = perturb(PointFlow(conditional(kind)))
    one_step, w = SolverConfig("euler", steps=1), normal(3, 4)
    value = {"class": "standing", "cloud": normal(20, 3)}.get(kind, torch.rand(8, 8, generator=seeded()))
    without, told = (model.shape_from_prior(w, one_step, condition=c).detach() for c in (None, value))
    found = model.shape_from_prior(w, one_step, condition=value, guidance=guidance)
    assert (told - without).abs().max() > 1e-3
    assert_close(found.detach(), without + guidance * (told - without))


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_with_a_condition(perturb, kind):
    model = perturb(PointFlow(conditional(kind, solver=SolverConfig())))
    z = normal(3, 4)
    value = {"class": "standing", "cloud": normal(20, 3)}.get(kind, torch.rand(8, 8, generator=seeded()))
    w, _ = model.shape_to_prior(z, condition=value)
    assert_close(model.shape_from_prior(w, condition=value), z, atol=1e-4, rtol=0)
    assert (model.shape_from_prior(w) - z).abs().max() > 1e-2


def test_the_dropped_condition_is_the_learnt_one(perturb):
    condition = perturb(PointFlow(conditional(dropout=0.5)).condition)
    shown = torch.tensor([0, 1, -1] * 200)
    context = condition.training_context(shown, 600, seeded())
    nothing = (context == condition.nothing).all(1)
    assert nothing[2::3].all() and 0.4 < float(nothing[shown >= 0].float().mean()) < 0.6
    with torch.no_grad():  # nobody is left without who is not trained
        assert not (condition.training_context(shown, 600, seeded()) == condition.nothing).all(1)[shown >= 0].any()
    assert torch.equal(condition.context(None, 2), condition.nothing.expand(2, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_of_the_condition_learns(kind):
    model = PointFlow(conditional(kind, dropout=0.5))
    x, label = clouds(8, 32, seeded())
    shown = model.condition.of_shapes(x, [CLASSES[i] for i in label], seeded())
    model.loss(x, seeded(), condition=shown).total.backward()
    # A fresh latent flow takes no notice yet in some layers; none is cut off.
    assert all(p.grad is not None for p in model.condition.parameters())


@pytest.mark.parametrize("kind", ["depth", "silhouette"])
def test_pictures_have_the_proportions_of_the_data(kind):
    """Where axes are standardised by themselves too: a slab three times as tall as wide is seen as one."""
    slab = torch.rand(1, 3000, 3, generator=seeded()) * torch.tensor([1.0, 3.0, 0.5])
    model = PointFlow(conditional(kind), slab[0].mean(0), slab[0].std(0))
    seen = model.shown(model.standardise(slab), [""], [seeded()])
    assert_close(seen, views(slab, torch.zeros(1), 8, kind), atol=0.05, rtol=0)
    assert (seen[0] > 0).any(1).sum() == 6 and (seen[0] > 0).any(0).sum() == 2


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_told_nothing_the_prior_is_the_mixture_of_its_classes(perturb, dropout):
    config = conditional(dropout=dropout, solver=SolverConfig("rk4", steps=8))
    shared = dataclasses.replace(config.condition, shares=(3.0, 1.0))
    model = perturb(PointFlow(dataclasses.replace(config, condition=shared)))
    z, exact = normal(5, 4), Trace("exact")
    lying, standing = (model.prior_log_density(z, exact, name).exp() for name in CLASSES)
    assert_close(model.prior_log_density(z, exact).exp(), 0.75 * lying + 0.25 * standing)
    x = normal(2, 9, 3)
    bound = {name: model.log_likelihood(x, 0, condition=name).bound.exp() for name in (None, *CLASSES)}
    assert_close(bound[None], 0.75 * bound["lying"] + 0.25 * bound["standing"])


def test_the_line_of_a_prior_has_its_condition(perturb):
    """Its ends are the shapes' own codes under any condition; between them the priors differ."""
    model = perturb(PointFlow(conditional(dropout=0.0, solver=SolverConfig())))
    z = normal(2, 4)
    lines = {c: model.interpolate(*z, 3, 9, 0, space="prior", condition=c) for c in CLASSES}
    straight = model.interpolate(*z, 3, 9, 0)
    for line in lines.values():
        assert_close(line[[0, 2]], straight[[0, 2]], atol=1e-4, rtol=0)
    assert (lines["lying"][1] - lines["standing"][1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="never went without its condition"):
        model.interpolate(*z, 3, 9, 0, space="prior")


def test_a_part_is_half_of_the_shape():
    condition = PointFlow(conditional("cloud", points=5)).condition
    x = torch.randn(3, 40, 3, generator=seeded())
    part = condition.of_shapes(x, [""] * 3, seeded())
    assert part.shape == (3, 5, 3)
    for cloud, some in zip(x, part):
        assert {tuple(p) for p in some.tolist()} <= {tuple(p) for p in cloud.tolist()}


def test_noise_of_a_shape_does_not_know_the_others(perturb):
    """One generator for each shape: any part of a batch has the noise that it has in the whole."""
    generators = lambda rows: [seeded(i) for i in rows]  # noqa: E731
    whole = drawn(lambda n, g: torch.rand(n, 3, generator=g), 4, generators(range(4)))
    assert torch.equal(drawn(lambda n, g: torch.rand(n, 3, generator=g), 2, generators([2, 3])), whole[2:])
    x = normal(4, 5, 3)
    for kind in ("gaussian", "rademacher"):
        e = ShapeTrace("hutchinson", kind, generators(range(4))).directions(x)
        assert torch.equal(ShapeTrace("hutchinson", kind, generators([1])).directions(x[1:2]), e[1:2])
        assert torch.equal(e[:1], Trace("hutchinson", kind, seeded(0)).directions(x[:1]))
    model = perturb(PointFlow(conditional()))
    shown = torch.tensor([0, 1, 0, 1])
    losses = [model.loss(x[i : i + 1], [seeded(i)], condition=shown[i : i + 1]).total for i in range(4)]
    assert_close(torch.stack(losses).mean(), model.loss(x, generators(range(4)), condition=shown).total)
    with pytest.raises(ValueError, match="one generator, or one for each shape, got 3 for 4 rows"):
        model.loss(x, generators(range(3)))


# Pictures.


def test_the_front_view_is_the_shapes_own_outline():
    """A triangle of dots in the plane z = 0: as it would be drawn, upright."""
    rows = [[0], [-1, 0, 1], [-2, -1, 0, 1, 2]]
    dots = [[x, -float(y), 0.0] for y, row in enumerate(rows) for x in row]
    picture = views(torch.tensor([dots]), torch.zeros(1), 7, "silhouette")[0]
    assert picture[1:-1, 1:-1].int().tolist()[1] == [0, 0, 1, 0, 0]
    assert picture[4].int().tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert not picture[0].any() and not picture[:, 0].any() and not picture[:, -1].any()


def test_a_quarter_turn_looks_from_the_right():
    """From azimuth 90° about y the camera stands at +x: what points to +z is then on the left."""
    arrow = torch.tensor([[[0.0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3], [0, 1.5, 3]]])
    picture = views(arrow, torch.tensor([math.pi / 2]), 9, "silhouette")[0]
    column = picture.sum(0).nonzero().flatten()
    tall = picture.sum(0).argmax()
    assert tall == column.min()


@given(st.sampled_from("xyz"), st.sampled_from(["depth", "silhouette"]), st.integers(0, 100))
def test_views_turn_with_the_shape(up, kind, seed):
    """A view from azimuth α is the front view of the shape turned by −α; place and size do not matter."""
    x, angle = normal(1, 60, 3, seed=seed), torch.tensor([0.7], dtype=torch.float64)
    first, second = ("xyz".index(up) + 1) % 3, ("xyz".index(up) + 2) % 3
    turned = x.clone()
    turned[..., first] = math.cos(0.7) * x[..., first] + math.sin(0.7) * x[..., second]
    turned[..., second] = math.cos(0.7) * x[..., second] - math.sin(0.7) * x[..., first]
    seen = views(3 * x + 5, angle, 16, kind, up)
    front = views(turned, torch.zeros(1, dtype=torch.float64), 16, kind, up)
    assert float(((seen - front).abs() > 1e-6).double().mean()) < 0.02  # rounding may move a dot by a pixel
    assert seen.min() >= 0 and seen.max() == 1


def test_the_nearest_point_is_seen():
    """Two points behind each other: the brighter one hides the other."""
    x = torch.tensor([[[0.0, 0, -1], [0, 0, 1], [1, 1, 0], [-1, -1, 0]]])
    picture = views(x, torch.zeros(1), 8, "depth")[0]
    assert float(picture.max()) == 1.0 and sorted(set(picture.flatten().tolist()))[1] == pytest.approx(0.625)


@pytest.mark.parametrize("kind", ["depth", "silhouette"])
def test_one_point_many_and_huge_ones_are_drawn(kind):
    for x in (torch.ones(2, 1, 3), torch.zeros(1, 500, 3), 1e30 * torch.randn(1, 9, 3), 1e-30 * torch.randn(1, 9, 3)):
        picture = views(x, torch.zeros(len(x)), 8, kind)
        assert picture.isfinite().all() and (picture.flatten(1).max(1).values > 0).all()
    whole = torch.randint(-5, 5, (1, 30, 3), generator=seeded())
    assert torch.equal(views(whole, torch.zeros(1), 8, kind), views(whole.float(), torch.zeros(1), 8, kind))


def test_a_users_picture_comes_into_the_same_frame():
    """A large silhouette somewhere in a picture, against the view of the points that it shows."""
    rows, columns = torch.meshgrid(torch.arange(90.0), torch.arange(120.0), indexing="ij")
    inside = ((rows - 40) / 30) ** 2 + ((columns - 70) / 15) ** 2 < 1
    dots = torch.stack([columns[inside], -rows[inside], torch.zeros(int(inside.sum()))], -1)
    ours = views(dots[None], torch.zeros(1), 16, "silhouette")[0]
    far = ((framed(inside.double(), 16) > 0.5) != (ours > 0.5)).double().mean()
    assert float(far) < 0.08, far


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: views(torch.zeros(5, 3), torch.zeros(1), 8), r"x must be clouds \(B, N, 3\), got \(5, 3\)"),
        (lambda: views(torch.zeros(1, 0, 3), torch.zeros(1), 8), r"x must be clouds \(B, N, 3\), got \(1, 0, 3\)"),
        (lambda: views(torch.zeros(2, 5, 3), torch.zeros(1), 8), r"azimuth must be \(2,\), .*, got \(1,\)"),
        (
            lambda: views(torch.full((1, 5, 3), math.nan), torch.zeros(1), 8),
            "x must be finite, got 15 values",
        ),
        (
            lambda: views(torch.zeros(1, 5, 3), torch.zeros(1), 8, "dept"),
            r"expected kind .*, got 'dept' and 'y'",
        ),
        (lambda: views(torch.zeros(1, 5, 3), torch.zeros(1), 8, up="w"), "up 'x', 'y' or 'z', got 'depth' and 'w'"),
        (lambda: views(torch.zeros(1, 5, 3), torch.zeros(1), 3), "resolution must be at least 4 pixels, got 3"),
        (lambda: framed(torch.zeros(8, 8, 3), 8), r"a picture must be \(H, W\), got \(8, 8, 3\)"),
        (lambda: framed(torch.zeros(8, 8), 8), "must show something before a black background"),
        (lambda: framed(torch.ones(8, 8), 8), "must show something before a black background"),
        (lambda: framed(2 * torch.eye(8), 8), "finite values between 0 and 1"),
        (lambda: framed(torch.full((8, 8), math.nan), 8), "finite values between 0 and 1"),
    ],
)
def test_wrong_pictures(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# What users get wrong.


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "class",
            {"condition": "standng"},
            "no class 'standng' .nearest: 'standing'.; .* lying, standing",
        ),
        ("class", {"condition": ["lying"]}, "one class for all, or one for each of 2 shapes, got 1"),
        ("class", {"condition": torch.zeros(8, 8)}, "the model's condition is a class .lying, standing., got Tensor"),
        ("class", {"condition": 1}, "the model's condition is a class .lying, standing., got int"),
        ("depth", {"condition": "standing"}, r"condition is a picture \(8, 8\), .* got 'standing'"),
        ("depth", {"condition": torch.zeros(9, 9)}, r"condition is a picture \(8, 8\), .* got \(9, 9\) for 2"),
        ("depth", {"condition": torch.zeros(3, 8, 8)}, r"got \(3, 8, 8\) for 2 shapes"),
        ("silhouette", {"condition": torch.full((8, 8), 2.0)}, "must be finite and between 0 and 1"),
        ("silhouette", {"condition": torch.full((8, 8), math.nan)}, "must be finite and between 0 and 1"),
        ("cloud", {"condition": torch.zeros(9, 2)}, r"condition is a cloud \(N, 3\), .* got \(9, 2\)"),
        ("cloud", {"condition": torch.zeros(0, 3)}, r"condition is a cloud \(N, 3\), .* got \(0, 3\)"),
        ("depth", {"condition": torch.full((8, 8), 255.0)}, "between 0 and 1, got 255 to 255"),
        ("depth", {"condition": ["standing", "lying"]}, r"condition is a picture \(8, 8\), .* got list"),
        ("cloud", {"condition": [[[0.0] * 3], [[0.0] * 3] * 2]}, r"condition is a cloud \(N, 3\), .* got list"),
        ("cloud", {"condition": {"points": 1}}, r"condition is a cloud \(N, 3\), .* got dict"),
        ("cloud", {"condition": "standing"}, r"condition is a cloud \(N, 3\), .* got 'standing'"),
        ("class", {"guidance": 2.0}, "guidance 2 leads towards a condition, and none was given"),
        ("class", {"condition": "lying", "guidance": math.nan}, "guidance must be a finite number, got nan"),
        ("class", {"condition": "lying", "guidance": "2"}, "guidance must be a finite number, got '2'"),
    ],
)
def test_wrong_conditions(kind, options, message):
    with pytest.raises(ValueError, match=message) as error:
        PointFlow(conditional(kind)).sample(2, 5, 0, **options)
    assert "\n" not in str(error.value)


def test_models_without(small_model):
    with pytest.raises(ValueError, match="trained without conditions: it takes neither a condition nor guidance"):
        small_model().sample(1, 5, 0, condition="chair")
    with pytest.raises(ValueError, match="neither a condition nor guidance"):
        small_model().sample(1, 5, 0, guidance=2.0)
    always = PointFlow(conditional(dropout=0.0))
    assert always.sample(1, 5, 0, condition="lying").points.shape == (1, 5, 3)
    with pytest.raises(ValueError, match=r"never went without its condition .*: give one"):
        always.sample(1, 5, 0)
    with pytest.raises(ValueError, match=r"trained by flow matching with condition\.dropout above 0"):
        always.sample(1, 5, 0, condition="lying", guidance=2.0)
    by_likelihood = PointFlow(dataclasses.replace(conditional(), objective=ObjectiveConfig("likelihood")))
    with pytest.raises(ValueError, match="guidance needs a model trained by flow matching"):
        by_likelihood.sample(1, 5, 0, condition="lying", guidance=2.0)


def test_the_likelihood_takes_a_condition_too():
    model = PointFlow(dataclasses.replace(conditional(), objective=ObjectiveConfig("likelihood", trace="exact")))
    x = torch.randn(2, 8, 3, generator=seeded())
    told, other = (model.loss(x, seeded(), condition=torch.tensor(c)).terms["prior"] for c in ([0, 1], [1, 0]))
    assert told.isfinite() and told != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "picture"}, "kind must be one of 'class', 'depth', 'silhouette', 'cloud', got 'picture'"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"points": -1}, "points must be at least 1, got -1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": math.nan}, "dropout must be at least 0 and below 1, got nan"),
        ({"resolution": 24}, "resolution must be a power of two of at least 8, got 24"),
        ({"classes": ("a", "a")}, "classes must differ, got a, a"),
        ({"classes": ("a", "b"), "shares": (1.0,)}, "shares are of classes, one for each of 2, got 1"),
        ({"shares": (1.0,)}, "shares are of classes, one for each of 0, got 1"),
        ({"classes": ("a", "b"), "shares": (1.0, -1.0)}, "shares must be finite, none negative and not all zero"),
        ({"classes": ("a", "b"), "shares": (0.0, 0.0)}, "shares must be finite, none negative and not all zero"),
        ({"classes": ("a", "b"), "shares": (1.0, math.nan)}, "shares must be finite, none negative and not all zero"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        ConditionConfig(**options)


def test_a_condition_needs_a_prior_and_classes():
    with pytest.raises(ValueError, match="a condition is told to the latent flow, and latent_flow is null"):
        dataclasses.replace(conditional(), latent_flow=None)
    with pytest.raises(ValueError, match=r"condition\.classes is empty"):
        PointFlow(dataclasses.replace(conditional(), condition=ConditionConfig()))


def test_arrays_of_other_kinds_are_taken(trained):
    if trained.config.condition.kind == "class":
        want = trained.sample(2, 5, 0, condition="lying").points
        assert torch.equal(trained.sample(2, 5, 0, condition=("lying", "lying")).points, want)
        assert torch.equal(trained.sample(2, 5, 0, condition=np.array(["lying"] * 2)).points, want)
        return
    value = shown_to(trained, "lying")
    want = trained.sample(2, 5, 0, condition=value).points
    for other in (value.numpy(), value.tolist(), value.double(), np.asarray(value)[::-1][::-1]):
        assert_close(trained.sample(2, 5, 0, condition=other).points, want)


# By the command line.

TINY = [
    *("data.shapes=10", "data.mesh_points=300", "data.points=32", "training.batch=4", "training.steps=2"),
    *("training.prior_steps=1", "model.latent=4", "model.encoder.widths=[8, 16]", "model.encoder.head=[8]"),
    *("model.point_flow.dims=[8]", "model.latent_flow.dims=[8]", "training.ema=0"),
    *("evaluation.shapes=2", "evaluation.points=20", "evaluation.gallery_points=40"),
]
BY_CLASS = ["data.categories=[chair, lamp]", "model.condition={kind: class}"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs of two kinds; not to be written to."""
    folder = tmp_path_factory.mktemp("runs")
    for name, words in {"class": BY_CLASS, "picture": ["model.condition={kind: silhouette, resolution: 8}"]}.items():
        assert main(["train", "demo", *TINY, *words, "--out", str(folder / name), "--quiet"]) == 0
    return folder


@pytest.fixture
def pcgen(capsys):
    """A function that runs a command and returns (status, its last line)."""

    def command(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, (err if status else out).strip().splitlines()[-1]

    return command


def test_a_checkpoint_knows_its_classes(runs, pcgen, tmp_path):
    kept = read_yaml(runs / "class" / "config.yaml")["model"]["condition"]
    data = load(DataConfig(shapes=10, mesh_points=300, points=32, categories=("chair", "lamp")))
    assert kept["classes"] == ["chair", "lamp"]
    assert kept["shares"] == [data.train.categories.count(name) for name in ("chair", "lamp")]
    words = ["sample", runs / "class", "-n", 2, "--points", 9, "-o", tmp_path / "s.npy"]
    assert pcgen(*words, "--class", "lamp", "--guidance", 2)[0] == 0
    want = load_model(runs / "class").sample(2, 9, 0, condition="lamp", guidance=2.0).points.numpy()
    assert np.allclose(np.load(tmp_path / "s.npy"), want, atol=1e-6)
    model, drawn = load_model(runs / "class"), tmp_path / "drawn.npz"
    assert pcgen("sample", runs / "class", "-n", 5, "--points", 9, "-o", drawn)[0] == 0
    with np.load(drawn) as told:
        assert told["category"].tolist() == model.condition.usual(5, 0)
        assert np.allclose(told["points"], model.sample(5, 9, 0).points.numpy(), atol=1e-6)
    assert pcgen("sample", runs / "class", "-n", 2, "--points", 9, "-o", drawn, "--class", "lamp")[0] == 0
    with np.load(drawn) as told:
        assert told["category"].tolist() == ["lamp"] * 2
    assert pcgen("sample", runs / "class", "-n", 2, "--points", 9, "-o", drawn, "--guidance", 0)[0] == 0
    with np.load(drawn) as told:
        assert "category" not in told
    status, line = pcgen(*words, "--class", "lmap")
    assert status == 2 and "no class 'lmap' (nearest: 'lamp')" in line
    assert "takes --class, got --image x.png" in pcgen(*words, "--image", "x.png")[1]
    assert "one condition at a time, got --class and --part" in pcgen(*words, "--class", "lamp", "--part", "x.npy")[1]
    assert pcgen(*words, "--guidance", 2)[0] == 0  # towards the classes that are drawn
    words = ["sample", runs / "picture", "-n", 2, "--points", 9, "-o", tmp_path / "t.npy"]
    assert "guidance 2 leads towards a condition" in pcgen(*words, "--guidance", 2)[1]


@pytest.mark.filterwarnings("ignore:.*in another unit:UserWarning")
def test_likelihood_and_interpolation_take_a_class(runs, pcgen, tmp_path):
    clouds = np.random.default_rng(0).normal(size=(2, 40, 3)) * 0.15
    np.savez(tmp_path / "two.npz", points=clouds)
    words = ["likelihood", runs / "class", tmp_path / "two.npz", "-o", tmp_path / "r.json"]
    bounds = []
    for options in ([], ["--class", "lamp"], ["--class", "chair"]):
        assert pcgen(*words, *options)[0] == 0
        rows = json.loads((tmp_path / "r.json").read_text())
        bounds.append({row["shape"]: row["bound_per_point"] for row in rows})
    mixture, *each = ([value for _, value in sorted(bound.items())] for bound in bounds)
    assert all(min(of_class) <= one <= max(of_class) for one, of_class in zip(mixture, zip(*each)))
    line = ["interpolate", runs / "class", *(f"{tmp_path}/two.npz:{i}" for i in (0, 1)), "--points", 9, "--steps", 3]
    line += ["-o", tmp_path / "line.npy"]
    assert pcgen(*line, "--space", "prior", "--class", "lamp")[0] == 0
    status, last = pcgen(*line, "--class", "lamp")
    assert status == 2 and "it goes with --space prior" in last
    assert "takes --class, got --image x.png" in pcgen(*words, "--image", "x.png")[1]


def test_a_run_goes_on_under_the_same_condition_alone(runs, pcgen, tmp_path):
    same = shutil.copytree(runs / "class", tmp_path / "same")
    words = ["train", "demo", *TINY, "--out", same, "--resume", "--quiet"]
    assert main([str(word) for word in [*words, *BY_CLASS]]) == 0  # whose classes need not be named again
    status, line = pcgen(*words, "data.categories=[chair, lamp]")
    assert status == 2 and "model.condition.kind None (was class)" in line
    status, line = pcgen(*words, BY_CLASS[0], "model.condition={kind: class, classes: [lamp, chair], dropout: 0.2}")
    assert status == 2 and "model.condition.dropout 0.2 (was 0.1)" in line and "model.condition.classes" in line


def test_a_picture_is_read_and_framed(runs, pcgen, tmp_path):
    picture = torch.zeros(50, 70, 4)
    picture[5:30, 20:30] = 1.0  # opaque white
    picture[40:, :, :3] = 1.0  # white too, but transparent
    imsave(tmp_path / "p.png", picture.numpy())
    words = ["sample", runs / "picture", "-n", 2, "--points", 9, "-o", tmp_path / "s.npy"]
    assert pcgen(*words, "--image", tmp_path / "p.png")[0] == 0
    condition = framed((picture[..., 0] * picture[..., 3]).double(), 8)
    want = load_model(runs / "picture").sample(2, 9, 0, condition=condition).points.numpy()
    assert np.allclose(np.load(tmp_path / "s.npy"), want, atol=1e-6)
    imsave(tmp_path / "black.png", np.zeros((9, 9, 3)))
    (tmp_path / "broken.png").write_bytes((tmp_path / "p.png").read_bytes()[:40])
    for name, part in (("black", "must show something"), ("broken", "not a valid .png"), ("none", "no file")):
        status, line = pcgen(*words, "--image", tmp_path / f"{name}.png")
        assert status == 2 and part in line and f"{name}.png" in line


def test_a_model_without_conditions_says_so(runs, pcgen, tmp_path):
    assert "silhouette" in str(load_model(runs / "picture").config.condition)
    status, line = pcgen("sample", runs / "picture", "--class", "lamp", "-o", tmp_path / "x.npy")
    assert status == 2 and "takes --image, got --class lamp" in line


def test_classes_come_from_a_column(pcgen, tmp_path):
    family = np.array(["Slope", "Brick"] * 8)
    points = np.random.default_rng(0).normal(size=(16, 40, 3)).astype(np.float32)
    np.savez(tmp_path / "b.npz", points=points, family=family, short=family[:3])
    data = load(DataConfig(source=str(tmp_path / "b.npz"), column="family"))
    assert set(data.train.categories) == {"Slope", "Brick"}
    only = load(DataConfig(source=str(tmp_path / "b.npz"), column="family", categories=("Slope",)))
    assert set(only.train.categories) == {"Slope"} and len(only.train) < len(data.train)
    words = ["train", "bricks", "--data", tmp_path / "b.npz", "--dry-run", "--out", tmp_path / "run"]
    evaluation = ["evaluation.points=40"]
    assert pcgen(*words, *evaluation)[0] == 0
    for column, part in (("familly", "no column 'familly' (nearest: 'family'"), ("short", "16 shapes need as many")):
        status, line = pcgen(*words, *evaluation, f"data.column={column}")
        assert status == 2 and part in line
    status, line = pcgen("train", "bricks", "--data", tmp_path, "--dry-run")
    assert status == 2 and "column='family' is an array of a .npz file" in line
    status, line = pcgen(*words, *evaluation, "model.condition.classes=[Brick, Slop]")
    assert status == 2 and "names 'Slop', which no training shape is (nearest: 'Slope'" in line


# What a run gives the shapes that it generates to measure itself.


def seven_points(shapes):
    """References of so few points that every one of them is among 500 draws."""
    rng = np.random.default_rng(4)
    clouds = tuple(rng.normal(size=(7, 3)).astype(np.float32) * 3 + 5 for _ in range(shapes))
    return ShapeSplit(tuple("abcde"[:shapes]), ("lying", "standing", "lying")[:shapes], clouds)


def at_hand(kind):
    config = conditional(kind, **({"points": 500} if kind == "cloud" else {}))
    return AtHand.of(PointFlow(config, [5.0, 4.0, 5.0], 3.0).eval(), 500)


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_are_those_of_the_references(kind):
    at, split = at_hand(kind), seven_points(3)
    told = conditions_of(at, split, 5, 0)
    assert len(told) == 5
    if kind == "class":
        assert told == ["lying", "standing", "lying", "lying", "standing"]
    elif kind == "cloud":  # half of the points, in data units
        for part, i in zip(told, (0, 1, 2, 0, 1)):
            distance = torch.cdist(part.double(), torch.as_tensor(split.clouds[i]).double()).min(1)
            assert part.shape == (250, 3) and distance.values.max() < 1e-5
            assert 1 <= len(distance.indices.unique()) < 7
    else:
        x = at.model.standardise(np.stack([split.clouds[i] for i in (0, 1, 2, 0, 1)]))
        assert_close(told, views(x, torch.zeros(5), 8, kind))
    assert at.model.sample(5, 4, 0, condition=told).points.shape == (5, 4, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_depend_on_seed_and_number_alone(kind):
    at, split = at_hand(kind), seven_points(3)
    many, few = conditions_of(at, split, 6, 1), conditions_of(at, split, 2, 1)
    if kind == "class":
        assert many[:2] == few
        return
    assert_close(many[:2], few)
    if kind == "cloud":
        assert not torch.equal(many[0], many[3])  # other points of the same shape
        assert not torch.equal(conditions_of(at, split, 2, 2), few)


def test_a_model_without_conditions_is_told_nothing(small_model):
    assert conditions_of(AtHand.of(small_model(), 500), seven_points(2), 4, 0) is None


FAMILIES = ["Slope", "Odd", "Brick", "Slope", "Slope", "Brick", "Brick", "Slope"]
SMALL = [*TINY, "data.source=b.npz", "data.categories=[]", "data.column=family", "evaluation.shapes=5"]


@pytest.fixture
def families(tmp_path, monkeypatch):
    """``b.npz`` in the working folder, whose validation shapes are FAMILIES; "Odd" is not among the training shapes."""
    monkeypatch.chdir(tmp_path)
    points = np.random.default_rng(0).normal(size=(16, 40, 3)).astype(np.float32)
    family = np.array(["Slope", "Brick"] * 4 + FAMILIES)
    np.savez("b.npz", points=points, family=family, split=np.array(["train"] * 8 + ["val"] * 8))
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """The conditions of all calls of ``sample``."""
    conditions, sample = [], PointFlow.sample

    def listening(self, *args, condition=None, **options):
        conditions.append(condition)
        return sample(self, *args, condition=condition, **options)

    monkeypatch.setattr(PointFlow, "sample", listening)
    return conditions


def test_a_run_that_always_has_a_class_ends_with_scores(families, asked, pcgen):
    words = [*SMALL, "model.condition={kind: class, dropout: 0.0}", "training.validate_every=1"]
    status, line = pcgen("train", "demo", *words, "--out", "run")
    assert status == 0 and line == "next: pcgen sample run -n 32 --points 10000 --class Brick -o samples.npz"
    told = [family for family in FAMILIES if family != "Odd"]
    *galleries, end, nothing = asked
    assert end == told[:5] and nothing is None and len(galleries) == 2
    assert all(gallery == (told[:5] + told[:3]) for gallery in galleries)  # of the same references, in turns
    metrics = json.loads((families / "run" / "metrics.json").read_text())
    assert metrics["condition"]["from"] == "val: reference i for generated shape i"
    assert metrics["condition"]["without"]["counts"] == metrics["generation"]["counts"]  # of classes that were drawn
    assert metrics["generation"]["counts"] == {"samples": 5, "references": 5}
    made = {path.name for path in (families / "run").iterdir()}
    assert made >= {"gallery.png", "interpolation.png", "samples.npz"}
    want = load_model("run").sample(5, 40, 0, condition=told[:5]).points.numpy()
    assert np.allclose(np.stack(read_clouds("run/samples.npz").points), want, atol=1e-6)


def test_a_run_by_parts_is_measured_with_and_without(families, asked, capsys):
    words = ["data.normalise=shape", "model.condition={kind: cloud, points: 10}"]
    assert main(["train", "demo", *SMALL, *words, "--out", "run"]) == 0
    *_, told, free = asked
    assert told.shape == (5, 10, 3) and free is None
    metrics = json.loads((families / "run" / "metrics.json").read_text())
    without = metrics["condition"]["without"]
    assert without["names"] == {"samples": "generated, told nothing", "references": "val"}
    assert without["counts"] == metrics["generation"]["counts"]
    assert without["sha256"]["references"] == metrics["generation"]["sha256"]["references"]
    assert without["sha256"]["samples"] != metrics["generation"]["sha256"]["samples"]
    out = capsys.readouterr().out
    assert f"told nothing: MMD-CD {without['scores']['mmd_cd']:.4g}" in out and "--part FILE" in out


def test_a_run_that_always_sees_a_part_has_no_scores_without(families):
    words = ["data.normalise=shape", "model.condition={kind: cloud, points: 10, dropout: 0.0}"]
    assert main(["train", "demo", *SMALL, *words, "--out", "run", "--quiet"]) == 0
    told = json.loads((families / "run" / "metrics.json").read_text())["condition"]
    assert told == {"kind": "cloud", "from": "val: reference i for generated shape i", "without": None}


def test_references_of_none_of_the_classes_are_told_before_the_training(families, pcgen):
    source = dict(np.load("b.npz"))
    np.savez("b.npz", **{**source, "family": np.array(["Slope", "Brick"] * 4 + ["Odd"] * 8)})
    status, line = pcgen("train", "demo", *SMALL, "model.condition={kind: class}", "--out", "run")
    assert status == 2 and line.endswith("of the classes that the model learns (Brick, Slope): they are Odd")
    assert not (families / "run").exists()
