"""Steps against torchdiffeq's and closed forms; gradients whatever is kept on tape; energies of paths."""

import math

import pytest
import torch
import torchdiffeq
from torch.testing import assert_close

import pcgen.flows.tape
from pcgen.flows import Flow, FlowConfig, SolverConfig, Trace, solve
from pcgen.flows.multistep import SPACING
from pcgen.flows.runge_kutta import ADAPTIVE, FIXED
from pcgen.flows.solver import FIXED_STEP

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def pendulum(t, state):
    """Two tensors of unlike shapes that act on each other, and on whom time acts."""
    angle, speed = state
    return speed.sum(-1, keepdim=True) + t, -4 * angle.sin().expand_as(speed) - t * speed


START = (normal(5, 1), normal(5, 2, seed=1))


@pytest.mark.parametrize("tableau", [*FIXED.values(), *ADAPTIVE.values()], ids=[*FIXED, *ADAPTIVE])
def test_tableaus_are_consistent(tableau):
    """Rows sum to their nodes, weights to 1, errors to 0; a last stage that is the result."""
    assert sum(tableau.weights) == pytest.approx(1, abs=1e-15)
    for node, row in zip(tableau.nodes, tableau.stages, strict=True):
        assert sum(row) == pytest.approx(node, abs=1e-14)
    if tableau.error:
        assert sum(tableau.error) == pytest.approx(0, abs=1e-15)
        assert tableau.weights == (*tableau.stages[-1], 0) and len(tableau.error) == len(tableau.weights)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_are_torchdiffeqs(method, reverse):
    found, _ = solve(pendulum, START, SolverConfig(method, steps=7), reverse=reverse)
    times = torch.linspace(0, 1, 8, dtype=F64)
    want = torchdiffeq.odeint(pendulum, START, times.flip(0) if reverse else times, method=method)
    for a, b in zip(found, want):
        assert_close(a, b[-1], atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_two_steps_are_exact_for_slopes_linear_in_time(steps, reverse):
    """But for the first step, which is Euler's: it errs by half the change of the slope."""

    def slope(t, state):
        return (3 - 5 * t.expand_as(state[0]), 0 * state[1] - 2)

    first = (1 / steps) ** SPACING if not reverse else 1 - (1 - 1 / steps) ** SPACING
    found, evaluations = solve(slope, START, SolverConfig("ab2", steps=steps), reverse=reverse)
    way = -1 if reverse else 1
    assert_close(found[0], START[0] + way * 0.5 + 2.5 * first**2, atol=1e-13, rtol=0)
    assert_close(found[1], START[1] - way * 2.0, atol=1e-13, rtol=0)
    assert evaluations.forward == steps


@pytest.mark.parametrize("reverse", [False, True])
def test_two_steps_are_of_second_order_on_a_pendulum(reverse):
    times = torch.tensor([1.0, 0.0] if reverse else [0.0, 1.0], dtype=F64)
    want = torchdiffeq.odeint(pendulum, START, times, method="dopri8", rtol=1e-12, atol=1e-12)

    def error(steps):
        found, _ = solve(pendulum, START, SolverConfig("ab2", steps=steps), reverse=reverse)
        return max(float((a - b[-1]).abs().max()) for a, b in zip(found, want))

    assert math.log2(error(100) / error(200)) == pytest.approx(2, abs=0.1)
    assert error(400) < 1e-3


def test_two_steps_have_no_adjoint():
    with pytest.raises(ValueError, match="one-step method, got 'ab2'"):
        SolverConfig("ab2", adjoint=True)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_adaptive_steps_keep_the_tolerance(method, reverse, tolerance):
    solver = SolverConfig(method, tolerance, tolerance, error_norm="rms")  # as torchdiffeq's
    found, evaluations = solve(pendulum, START, solver, reverse=reverse)
    times = torch.tensor([1.0, 0.0] if reverse else [0.0, 1.0], dtype=F64)
    want = torchdiffeq.odeint(pendulum, START, times, method="dopri8", rtol=1e-12, atol=1e-12)
    for a, b in zip(found, want):
        assert 1e-16 < (a - b[-1]).abs().max() < 10 * tolerance
    count = 0

    def counted(t, state):
        nonlocal count
        count += 1
        return pendulum(t, state)

    torchdiffeq.odeint(counted, START, times, method=method, rtol=tolerance, atol=tolerance)
    assert evaluations.forward <= 1.2 * count + 6


def test_a_bend_in_the_middle_is_found():
    """A velocity that is nothing but a bump at a random moment."""
    for centre in (0.07, 0.31, 0.5, 0.77, 0.93):

        def bump(t, state, centre=centre):
            return (torch.exp(-0.5 * ((t - centre) / 0.05) ** 2).expand_as(state[0]),)

        (found,), _ = solve(bump, (torch.zeros(1, dtype=F64),), SolverConfig())
        area = 0.05 * math.sqrt(2 * math.pi) * 0.5
        want = area * (math.erf((1 - centre) / 0.05 / math.sqrt(2)) + math.erf(centre / 0.05 / math.sqrt(2)))
        assert float(found) == pytest.approx(want, abs=2e-4)


@pytest.mark.parametrize(
    "solver", [SolverConfig(), SolverConfig("bosh3", 1e-4, 1e-4), SolverConfig("rk4", steps=5), SolverConfig("ab2")]
)
@pytest.mark.parametrize("trace", [None, Trace("exact")])
def test_what_is_recomputed_gives_the_same_gradients(perturb, monkeypatch, solver, trace):
    flow = perturb(Flow(3, 4, FlowConfig((8, 7), solver=solver)))
    x, c = normal(2, 5, 3).requires_grad_(), normal(2, 4, seed=1).requires_grad_()

    def gradients(tape):
        monkeypatch.setattr(pcgen.flows.tape, "TAPE_BYTES", tape)
        found = flow.to_prior(x, c, trace)
        value = found.x.sin().sum() if trace is None else found.x.sin().sum() + found.log_det.sum()
        return torch.autograd.grad(value, [*flow.parameters(), x, c], allow_unused=True), flow.evaluations()

    (kept, counts), (recomputed, more) = gradients(1 << 30), gradients(0)
    assert counts[1] == 0 and counts[0] == more[0] and 0 < more[1] < more[0]
    for a, b in zip(kept, recomputed):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.equal(a, b)


@pytest.mark.parametrize("method", FIXED_STEP)
def test_fixed_steps_wait_for_nothing(method):
    """On the meta device whoever looks at a value fails, as a CUDA graph's capture would."""
    with torch.device("meta"):
        flow = Flow(3, 4, FlowConfig((8, 7), norm="frozen")).eval().requires_grad_(False)
        x, c = torch.zeros(2, 100, 3), torch.zeros(2, 4)
    assert flow.from_prior(x, c, solver=SolverConfig(method, steps=3)).x.shape == (2, 100, 3)


# Energies.


def test_energies_of_a_linear_flow(perturb):
    """dx/ds = T (A x + b): ∫ |dx/ds|² against a fine quadrature, and T² |A|² for the Jacobian."""
    flow = perturb(Flow(3, 0, FlowConfig((5,), layer="ignore", nonlinearity="identity", norm="none")))
    first, last = flow.chain[0].net.layers
    end = flow.chain[0].end_time.detach()
    matrix = end * (last.linear.weight @ first.linear.weight).detach()
    offset = end * (last.linear.weight @ first.linear.bias + last.linear.bias).detach()
    x = normal(2, 6, 3)
    generator = torch.zeros(4, 4, dtype=F64)
    generator[:3, :3], generator[:3, 3] = matrix, offset
    moments = torch.linspace(0, 1, 2001, dtype=F64)
    homogeneous = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    speeds = torch.stack([homogeneous @ torch.matrix_exp(generator * s).T @ generator.T for s in moments])
    kinetic = torch.trapezoid(speeds.square().sum(-1), moments, dim=0)
    with torch.no_grad():
        for found in (
            flow.to_prior(x, trace=Trace("exact", energies=True)),
            flow.from_prior(flow.to_prior(x).x, trace=Trace("exact", energies=True)),
        ):
            assert_close(found.energies.kinetic, kinetic, atol=1e-4, rtol=1e-4)
            assert_close(found.energies.jacobian, matrix.square().sum().expand(2, 6), atol=1e-6, rtol=0)
        x = x[:1, :1].expand(1, 5000, 3)
        estimate = flow.to_prior(x, trace=Trace("hutchinson", "gaussian", torch.Generator().manual_seed(0), True))
    spread = estimate.energies.jacobian.std() / 5000**0.5
    assert abs(estimate.energies.jacobian.mean() - matrix.square().sum()) < 4 * spread


@pytest.mark.parametrize("blocks", [1, 2])
def test_energies_cost_no_evaluations_and_change_nothing(perturb, blocks):
    flow = perturb(Flow(3, 4, FlowConfig((8, 7), blocks=blocks)))
    x, c = normal(2, 5, 3), normal(2, 4, seed=1)
    with torch.no_grad():
        without, along = (flow.to_prior(x, c, Trace("exact", energies=energies)) for energies in (False, True))
    assert without.energies is None and without.evaluations == along.evaluations
    assert torch.equal(without.x, along.x) and torch.equal(without.log_det, along.log_det)
    assert along.energies.kinetic.shape == (2, 5) and (along.energies.jacobian > 0).all()


def test_energies_have_adjoint_gradients(perturb):
    flows = [
        perturb(
            Flow(
                3,
                4,
                FlowConfig((8, 7), solver=SolverConfig(atol=1e-8, rtol=1e-8, adjoint=adjoint)),
            ),
            size=0.2,
        )
        for adjoint in (True, False)
    ]
    x, c = normal(2, 5, 3), normal(2, 4, seed=1)
    found = [
        torch.autograd.grad(
            sum(e.sum() for e in f.to_prior(x, c, Trace("exact", energies=True)).energies), f.chain[1].parameters()
        )
        for f in flows
    ]
    for a, b in zip(*found):
        assert b.abs().max() > 0
        assert_close(a, b, atol=1e-4 * float(b.abs().max()), rtol=1e-4)
