"""Protocols: their choices, how clouds are prepared, what is called a deviation, several sets at once."""

import re

import numpy as np
import pytest
import torch

from pcgen import metrics, ops
from pcgen.metrics.protocols import make_plan, normalised

pytestmark = pytest.mark.filterwarnings("ignore:.*outside the JSD grid's ball", "ignore:the .* EMD moves")


def clouds(seed, count, points=20):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 1, 3, generator=generator, dtype=torch.float64) * 0.4 - 0.2
    return centres + torch.rand(count, points, 3, generator=generator, dtype=torch.float64) * 0.1 - 0.05


def test_the_protocols_are_those_of_the_papers():
    chosen = {
        name: (p.emd, p.frame, p.normalise_samples, p.normalise_references, p.split, p.point_range)
        for name, p in metrics.PROTOCOLS.items()
    }
    val = ("val", (10000, 12048))
    assert chosen == {
        "exact": ("exact", "unit", "none", "none", *val),
        "pointflow": ("pointflow", "as-is", "none", "none", *val),
        "pvd": ("pvd", "as-is", "none", "none", *val),
        "lion": ("pvd", "as-is", "none", "none", "val", (0, 2048)),
        "lion-box": ("pvd", "as-is", "half-box", "half-box", "val", (0, 2048)),
        "dpm": ("none", "as-is", "box", "box", "test", (10000, 12048)),
        "shapegf": ("pointflow", "as-is", "none", "whole-box", *val),
    }


@pytest.mark.parametrize(("how", "reach"), [("box", 1.0), ("half-box", 0.5)])
def test_boxes_forget_place_and_size_of_every_cloud(how, reach):
    X = clouds(0, 3)
    placed = normalised(X, how)
    torch.testing.assert_close(placed.amax(1), -placed.amin(1))
    torch.testing.assert_close(placed.amax((1, 2)), torch.full((3,), reach, dtype=torch.float64))
    sizes = torch.tensor([0.1, 3.0, 40.0], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(normalised(X * sizes + sizes, how), placed)
    with pytest.raises(ValueError, match="cloud 1 is one point"):
        normalised(torch.stack([X[0], X[0, :1].expand(20, 3)]), how)


def test_dpm_scales_every_cloud_and_has_no_emd():
    X, Y = clouds(0, 4), clouds(1, 4)
    sizes = torch.tensor([1.0, 2.0, 0.5, 7.0], dtype=torch.float64)[:, None, None]
    one, other = (metrics.evaluate(A, Y, "dpm", interval=0) for A in (X, X * sizes - sizes))
    assert one.emd is None
    assert one.scores() == pytest.approx(other.scores())


def test_points_of_whole_clouds():
    whole = torch.rand(2, 15000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1
    assert torch.equal(metrics.pc15k_references(whole, "pvd"), whole[:, 10000:12048])
    assert torch.equal(metrics.pc15k_references(whole, "lion"), whole[:, :2048])
    assert torch.equal(metrics.pc15k_references(list(whole.numpy()), "exact", 64), whole[:, 10000:10064])
    # ShapeGF's box is that of all points, which the reference's own need not fill.
    assert torch.equal(metrics.pc15k_references(whole, "shapegf"), normalised(whole, "box")[:, 10000:12048])
    with pytest.raises(ValueError, match="normalise must be one of none, box, half-box, whole-box, got 'boxes'"):
        metrics.pc15k_references(whole, "pvd", normalise="boxes")
    with pytest.raises(ValueError, match=r"references\[0\] must have the points 10000:12048 .* got 12000"):
        metrics.pc15k_references(whole[:, :12000], "pvd")


def test_shapegf_says_when_references_are_not_scaled():
    whole = torch.rand(4, 15000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 1.0, 0.5])
    scaled, bare = metrics.pc15k_references(whole, "shapegf", 300), whole[:, 10000:10300]
    departure = "references that are not scaled by the boxes of whole shapes, as pc15k_references does it"
    for references, departed in ((scaled, False), (bare, True), (bare / 10, True)):
        found = metrics.evaluate(clouds(0, 3, 300), references, "shapegf", interval=0)
        assert (departure in found.deviations) == departed
    assert departure not in metrics.evaluate(clouds(0, 3, 300), bare, "pointflow", interval=0).deviations


def test_every_departure_is_listed():
    plan = make_plan("lion-box", "exact", "unit", "none", tolerance=0.001)
    assert plan.departures(512, 4, 4) == (
        "EMD 'exact' in place of 'pvd'",
        "frame 'unit' in place of 'as-is'",
        "normalisation of the samples 'none' in place of 'half-box'",
        "normalisation of the references 'none' in place of 'half-box'",
        "tolerance 0.001 in place of 0.0",
        "512 points a cloud in place of 2048",
        "4 references in place of 1000",
    )
    assert make_plan("lion-box").departures(2048, 1000, 1000) == ()
    assert make_plan("pvd", "pvd", "as-is", "none", 0.0).departures(2048, 5, 5) == ()
    assert make_plan("exact").departures(77, 5, 5) == ()


@pytest.mark.parametrize("protocol", ["lion", "lion-box", "dpm"])
def test_some_protocols_demand_equal_sets(protocol):
    with pytest.raises(ValueError, match=f"{protocol} compares as many samples as references, got 3 and 4"):
        metrics.evaluate(clouds(0, 3), clouds(1, 4), protocol)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "lionbox"}, "nearest: 'lion-box'"),
        ({"normalise": "Box"}, "normalise must be one of .* \\(nearest: 'box'"),
        ({"normalise": "whole-box"}, "normalise must be one of none, box, half-box, got 'whole-box'"),
        ({"tolerance": 1.0}, r"tolerance must be a relative gap in \[0, 1\), got 1.0"),
        ({"protocol": "pvd", "tolerance": 0.1}, "tolerance belongs to the exact EMD, got 0.1 for 'pvd'"),
        ({"interval": 90}, r"interval must be a level in \[0, 1\), 0 for none, got 90"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(clouds(0, 3), clouds(1, 3), **options)


def test_an_annealed_emd_that_loses_mass_warns(monkeypatch):
    def emd_matrix(x, y, variant, **options):
        value = torch.ones(len(x), len(y), dtype=torch.float64)
        return ops.EmdMatrix(value, None, None if variant == "exact" else 0.88 * value)

    monkeypatch.setattr("pcgen.ops.emd_matrix", emd_matrix)
    X, Y = clouds(0, 3), clouds(1, 3)
    with pytest.warns(UserWarning, match=re.escape("the pvd EMD moves 88.0% of the mass between references and")):
        assert metrics.evaluate(X, Y, "pvd", interval=0).as_dict()["moved"] == pytest.approx(0.88)
    assert metrics.evaluate(X, Y, "exact", interval=0).moved is None


def test_means_over_sets():
    sets, Y = [clouds(seed, 5) for seed in range(3)], clouds(9, 6)
    each = [metrics.evaluate(X, Y, emd="none").scores() for X in sets]
    found = metrics.evaluate(sets, Y, emd="none")
    assert found.sets == 3 and found.counts == (5, 6) and found.table().count("means over 3 sets of 5 clouds") == 1
    for name, value in found.scores().items():
        values = [scores[name] for scores in each]
        assert value == pytest.approx(np.mean(values))
        reach = 2.919986 * np.std(values, ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom
        low, high = found.intervals[name]
        assert low == pytest.approx(max(0, value - reach)) and high >= value
    again = metrics.evaluate(torch.stack(sets).numpy(), Y, emd="none")
    assert again.scores() == found.scores() and again.sha256 == found.sha256
    stages = []
    metrics.evaluate(sets, Y, emd="none", training=clouds(8, 5), progress=lambda stage, *_: stages.append(stage))
    assert len(stages) == len(set(stages)) == 1 + 2 * 3 + 2  # references against references once
    with pytest.raises(ValueError, match="sets of equal size, got 5, 4 clouds"):
        metrics.evaluate([sets[0], sets[1][:4]], Y)
