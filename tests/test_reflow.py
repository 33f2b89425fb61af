"""Reflow: pairs are the flow's own, its loss is flow matching on them, and paths straighten."""

import copy

import pytest
import torch
from torch.testing import assert_close

from pcgen.flows import SolverConfig, Trace, flow_matching_error
from pcgen.models import inference, reflow_loss, reflow_pairs


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model(small_model):
    return small_model(name="flow_matching", prior=False, times=1)


@pytest.fixture
def codes():
    return torch.randn(3, 4, generator=seeded(), dtype=torch.float64)


def test_pairs_are_what_the_flow_makes_of_noise(model, codes):
    pairs = reflow_pairs(model, codes, 7, seeded(1))
    assert torch.equal(pairs.z, codes) and pairs.noise.shape == (3, 7, 3)
    assert_close(pairs.points, model.points_from_prior(pairs.noise, codes).detach())
    assert not pairs.points.requires_grad
    fine = SolverConfig("rk4", steps=16)
    other = reflow_pairs(model, codes, 7, seeded(1), fine)
    assert_close(other.points, model.points_from_prior(pairs.noise, codes, fine).detach())
    assert not torch.equal(other.points, pairs.points)


def test_solves_do_not_show(model, codes, monkeypatch):
    together, told = reflow_pairs(model, codes, 7, seeded(1)), []
    monkeypatch.setattr(inference, "POINTS_PER_SOLVE", 14)
    apart = reflow_pairs(model, codes.numpy(), 7, seeded(1), progress=lambda *done: told.append(done))
    assert all(torch.equal(a, b) or (a - b).abs().max() < 1e-12 for a, b in zip(together, apart))
    assert told == [(14, 21), (21, 21)]


def test_draws_keep_pairs_and_codes_together(model, codes):
    pairs = reflow_pairs(model, codes, 7, seeded(1))
    drawn = pairs.draw(20, 30, seeded(2))
    assert drawn.z.shape == (20, 4) and drawn.noise.shape == drawn.points.shape == (20, 30, 3)
    shape = torch.cdist(drawn.z, codes).argmin(1)
    assert_close(drawn.z, codes[shape])
    assert set(shape.tolist()) == {0, 1, 2}
    for i, noise, points in zip(shape, drawn.noise, drawn.points):
        j = torch.cdist(noise, pairs.noise[i]).argmin(1)
        assert torch.equal(noise, pairs.noise[i][j]) and torch.equal(points, pairs.points[i][j])
    assert torch.equal(drawn.noise, pairs.draw(20, 30, seeded(2)).noise)


def test_loss_is_flow_matching_of_the_point_flow_alone(model, codes):
    pairs = reflow_pairs(model, codes, 6, seeded(1))
    loss = reflow_loss(model, pairs, seeded(3))
    s = torch.rand(3, 1, generator=seeded(3)).reshape(-1)
    want = flow_matching_error(model.point_flow, pairs.points, codes, pairs.noise, s).mean()
    assert_close(loss.total, want)
    assert_close(loss.terms["points"], want.detach())
    loss.total.backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"point_flow"}


def test_a_straight_flow_is_left_as_it_is(model, codes):
    """The velocity of a translation matches its own pairs without error."""
    last = model.point_flow.chain[1].net.layers[-1]
    with torch.no_grad():
        for linear in (last.linear, last.gate, last.shift):
            linear.weight.zero_()
    assert reflow_loss(model, reflow_pairs(model, codes, 6, seeded(1)), seeded()).total < 1e-20


def bend(model, pairs):
    """∫ |dx/ds|² ds / |x(1) − x(0)|² − 1 of the paths between a flow's ends, 0 where all are straight."""
    (cnf,) = (m for m in model.point_flow.chain if hasattr(m, "net"))
    norm = model.point_flow.chain[-1]
    with torch.no_grad():
        y, exact = norm.inverse(pairs.noise), Trace("exact", energies=True)
        (x, _, kinetic, _), _ = cnf.transport(y, pairs.z, SolverConfig("rk4", steps=16), exact, reverse=True)
    return float(kinetic.abs().mean() / (x - y).square().sum(-1).mean()) - 1


def test_paths_straighten_and_keep_their_ends(small_model, codes):
    teacher = small_model(name="flow_matching", prior=False, solver=SolverConfig("rk4", steps=16))
    with torch.no_grad():
        for layer in teacher.point_flow.chain[1].net.layers:
            layer.linear.weight *= 2  # or there is little to straighten
    student, pairs = copy.deepcopy(teacher), reflow_pairs(teacher, codes, 128, seeded(1))
    optimizer, generator = torch.optim.Adam(student.point_flow.parameters(), 1e-2), seeded(2)
    for _ in range(150):
        optimizer.zero_grad()
        reflow_loss(student, pairs.draw(3, 64, generator), generator).total.backward()
        optimizer.step()
    before, after = bend(teacher, pairs), bend(student, pairs)
    assert before > 0.01 and after < before / 4
    moved = (student.points_from_prior(pairs.noise, codes).detach() - pairs.points).square().mean().sqrt()
    assert moved < 0.1 * pairs.points.std()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"z": torch.zeros(2, 5)}, r"codes must be \(B, 4\), got \(2, 5\)"),
        ({"z": torch.full((2, 4), torch.nan)}, "codes must be finite"),
        ({"points": 0}, "points must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_told_in_one_line(model, codes, wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        reflow_pairs(model, **{"z": codes, "points": 5, **wrong})
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="shapes must be at least 1, got 0"):
        reflow_pairs(model, codes, 5).draw(0, 5)


def test_flows_without_fixed_ends_are_refused(small_model, codes):
    model = small_model(prior=False)
    with pytest.raises(ValueError, match="set the flow's norm to 'frozen' or 'none', not 'moving'"):
        reflow_loss(model, reflow_pairs(model, codes, 5, seeded()), seeded())
