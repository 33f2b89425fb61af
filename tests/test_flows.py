"""Velocity networks, norms, solvers and densities against brute force and exact answers."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

import pcgen.flows.solver
from pcgen.flows import (
    CNF,
    LAYERS,
    NONLINEARITIES,
    Flow,
    FlowConfig,
    MovingBatchNorm,
    SolverConfig,
    Trace,
    VelocityNet,
    divergence,
    log_density,
)

TIGHT = SolverConfig(atol=1e-6, rtol=1e-6, adjoint=False)
RK4 = SolverConfig("rk4", steps=5)
# Evaluations per step, and the order of convergence.
FIXED = {"euler": (1, 1), "midpoint": (2, 2), "heun2": (2, 2), "heun3": (3, 3), "rk4": (4, 4), "ab2": (1, 2)}
# Every layer type and every nonlinearity, not every pair: for what costs a solve.
KINDS = [
    *((layer, "tanh") for layer in LAYERS),
    *(("concatsquash", name) for name in NONLINEARITIES if name != "tanh"),
]
ROUGH = ("relu", "elu")  # their divergence jumps or bends, so its integral converges slowly
CHAINS = list(itertools.product(("moving", "frozen", "none"), (1, 2)))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def flow(perturb):
    """A function that builds a small perturbed flow of points in 3-D with context of 4 values."""

    def build(dim=3, context=4, seed=0, size=0.3, dims=(8, 7), solver=TIGHT, **options):
        return perturb(Flow(dim, context, FlowConfig(dims, solver=solver, **options)), seed, size)

    return build


def jacobians(function, x):
    """The Jacobian (B, N, D, D) of each state's image, for a map that acts on each state alone."""
    x = x.clone().requires_grad_()
    y = function(x)
    rows = [torch.autograd.grad(y[..., i].sum(), x, retain_graph=True)[0] for i in range(x.shape[-1])]
    return torch.stack(rows, -2)


# Velocity networks.

FORMULAS = {
    "ignore": lambda layer, x, s: layer.linear(x),
    "concat_v2": lambda layer, x, s: layer.linear(x) + s @ layer.shift.weight.T,
    "squash": lambda layer, x, s: layer.linear(x) * torch.sigmoid(layer.gate(s)),
    "scale": lambda layer, x, s: layer.linear(x) * layer.gate(s),
    "concatsquash": lambda layer, x, s: layer.linear(x) * torch.sigmoid(layer.gate(s)) + s @ layer.shift.weight.T,
    "concatscale": lambda layer, x, s: layer.linear(x) * layer.gate(s) + s @ layer.shift.weight.T,
}
MODULES = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softplus": F.softplus,
    "elu": F.elu,
    "square": torch.square,
    "identity": lambda x: x,
}


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("context", [0, 4])
def test_velocity_is_the_published_formula(perturb, layer, nonlinearity, context):
    net = perturb(VelocityNet(3, (8, 7), context, layer, nonlinearity))
    x, c, t = normal(2, 5, 3), normal(2, context, seed=1), torch.tensor([0.3, 0.7]).double()
    s = torch.cat([t[:, None], c], 1)[:, None]  # time first, the same for all points
    h = x
    for i, module in enumerate(net.layers):
        h = FORMULAS[layer](module, h, s)
        if i < 2:
            h = h * torch.sigmoid(net.beta * h) if nonlinearity == "swish" else MODULES[nonlinearity](h)
    assert_close(net(t, x, net.modulation(c if context else None)), h)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("layer", LAYERS)
def test_jvp_is_the_directional_derivative(perturb, layer, nonlinearity):
    net = perturb(VelocityNet(3, (8, 7), 4, layer, nonlinearity))
    x, dx, t = normal(2, 5, 3), normal(2, 5, 3, seed=1), torch.tensor([0.3, 0.7]).double()
    modulation = net.modulation(normal(2, 4, seed=2))
    v, jv = net.jvp(t, x, dx, modulation)
    want_v, want_jv = torch.func.jvp(lambda x: net(t, x, modulation), (x,), (dx,))
    assert_close(v, want_v)
    assert_close(jv, want_jv)


@pytest.mark.parametrize("frequencies", [0, 1, 4])
def test_features_are_octaves_of_each_coordinate(perturb, frequencies):
    net, plain = (perturb(VelocityNet(2, (8, 7), 4, frequencies=f)) for f in (frequencies, 0))
    x, dx, t = normal(2, 5, 2), normal(2, 5, 2, seed=1), torch.tensor(0.3).double()
    modulation = net.modulation(normal(2, 4, seed=2))
    seen = torch.cat([x] + [f(2**k * x) for f in (torch.sin, torch.cos) for k in range(frequencies)], -1)
    plain.load_state_dict({**net.state_dict(), "layers.0.linear.weight": plain.layers[0].linear.weight})
    plain.layers[0].linear.weight = torch.nn.Parameter(net.layers[0].linear.weight.detach())  # of any input width
    assert_close(net(t, x, modulation), plain(t, seen, modulation))
    assert_close(net.jvp(t, x, dx, modulation), torch.func.jvp(lambda x: net(t, x, modulation), (x,), (dx,)))


@pytest.mark.parametrize("frequencies", [0, 2])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("layer", LAYERS)
def test_exact_divergence_is_the_trace_of_the_jacobian(perturb, layer, nonlinearity, frequencies):
    net = perturb(VelocityNet(3, (8, 7), 4, layer, nonlinearity, frequencies))
    x, t, modulation = normal(2, 5, 3), torch.tensor(0.4).double(), net.modulation(normal(2, 4, seed=1))
    v, trace = divergence(net, t, x, modulation, None)
    brute = jacobians(lambda x: net(t, x, modulation), x)
    assert_close(v, net(t, x, modulation))
    assert_close(trace, brute.diagonal(dim1=-2, dim2=-1).sum(-1))
    assert trace.std() > 1e-3 or nonlinearity == "identity"  # not a constant that anything matches


def test_points_do_not_see_each_other(perturb):
    net = perturb(VelocityNet(3, (8, 7), 4))
    modulation = net.modulation(normal(2, 4, seed=1))
    x = normal(2, 5, 3)
    whole = torch.autograd.functional.jacobian(lambda x: net(torch.tensor(0.4).double(), x, modulation), x)
    same = torch.eye(10).bool().reshape(2, 5, 2, 5)
    per_pair = whole.permute(0, 1, 3, 4, 2, 5).abs().amax((-1, -2))
    assert (per_pair[~same] == 0).all() and (per_pair[same] > 0).all()


# Flows: inverse and density.


@pytest.mark.parametrize(("layer", "nonlinearity"), KINDS)
def test_log_density_is_that_of_the_whole_map(flow, layer, nonlinearity):
    check_log_density(flow(layer=layer, nonlinearity=nonlinearity, size=0.2), 5e-3 if nonlinearity in ROUGH else 2e-5)


@pytest.mark.parametrize(("norm", "blocks"), CHAINS)
def test_log_density_of_chains(flow, norm, blocks):
    check_log_density(flow(norm=norm, blocks=blocks))


def check_log_density(f, tolerance=2e-5):
    x, c = 0.7 * normal(2, 3, 3), normal(2, 4, seed=1)
    y = f.to_prior(x, c).x
    brute = jacobians(lambda x: f.to_prior(x, c).x, x)
    found = log_density(f, x, c)
    assert (y - x).abs().max() > 0.1  # far from the identity
    standard = torch.distributions.Normal(torch.zeros(3).double(), 1.0).log_prob(y).sum(-1)
    assert_close(found.y, y, atol=tolerance, rtol=0)
    assert_close(found.value, standard + brute.det().abs().log(), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("layer", "nonlinearity"), KINDS)
def test_inverse_at_default_tolerances(flow, layer, nonlinearity):
    f = flow(layer=layer, nonlinearity=nonlinearity, size=0.2, solver=SolverConfig())
    check_inverse(f, *((3e-4, 1e-2) if nonlinearity in ROUGH else (2e-5, 1e-4)))


@pytest.mark.parametrize(("norm", "blocks"), CHAINS)
def test_inverse_of_chains(flow, norm, blocks):
    check_inverse(flow(norm=norm, blocks=blocks, size=0.2, solver=SolverConfig()))


def check_inverse(f, tolerance=2e-5, of_log_det=1e-4):
    x, c = 0.7 * normal(2, 6, 3), normal(2, 4, seed=1)
    there = f.to_prior(x, c)
    back = f.from_prior(there.x, c)
    assert (there.x - x).abs().max() > 0.1
    assert_close(back.x, x, atol=tolerance, rtol=0)
    there = f.to_prior(x, c, Trace("exact"))
    back = f.from_prior(there.x, c, Trace("exact"))
    assert there.log_det.abs().min() > 1e-4
    assert_close(back.log_det, there.log_det, atol=of_log_det, rtol=0)  # both are that of data → prior


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(("norm", "blocks"), [("moving", 1), ("none", 2)])
def test_density_integrates_to_one(flow, dim, norm, blocks):
    f = flow(dim=dim, context=0, norm=norm, blocks=blocks, seed=3, solver=SolverConfig(atol=1e-6, rtol=1e-6))
    corners = torch.cartesian_prod(*dim * [torch.linspace(-7, 7, 41).double()]).reshape(1, -1, dim)
    with torch.no_grad():
        support = f.from_prior(corners).x[0]  # all mass but 1e-11 lies inside
        low, high = support.amin(0), support.amax(0)
        axes = [torch.linspace(float(a), float(b), 1001 if dim == 1 else 161).double() for a, b in zip(low, high)]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        density = log_density(f, grid.reshape(1, -1, dim)).value.exp().reshape(grid.shape[:-1])
    for axis in reversed(axes):
        density = torch.trapezoid(density, axis)
    assert float(density) == pytest.approx(1, abs=1e-4)


def test_transport_permutes_with_its_points(flow):
    f, x, c = flow(solver=RK4), normal(2, 9, 3), normal(2, 4, seed=1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    straight, shuffled = f.to_prior(x, c, Trace("exact")), f.to_prior(x[:, order], c, Trace("exact"))
    assert_close(shuffled.x, straight.x[:, order])
    assert_close(shuffled.log_det, straight.log_det[:, order])


def test_each_shape_follows_its_own_context(flow):
    f, x, c = flow(solver=RK4), normal(1, 9, 3).expand(2, -1, -1), normal(2, 4, seed=1)
    both = f.to_prior(x, c).x
    assert_close(both[1:], f.to_prior(x[1:], c[1:]).x)
    assert (both[0] - both[1]).abs().max() > 1e-2


# Hutchinson's estimate.


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_hutchinson_is_unbiased(flow, noise, blocks):
    f, draws = flow(solver=RK4, blocks=blocks), 4000
    x, c = normal(1, 1, 3).expand(1, draws, 3), normal(1, 4, seed=1)
    with torch.no_grad():
        exact = f.to_prior(x[:, :1], c, Trace("exact")).log_det
        estimates = f.to_prior(x, c, Trace("hutchinson", noise, torch.Generator().manual_seed(0))).log_det
    error = estimates.std() / math.sqrt(draws)
    assert error > 1e-4  # an estimate, not the trace itself
    assert abs(estimates.mean() - exact.item()) < 4 * error


def test_directions_are_what_their_names_say():
    x = torch.zeros(4, 1000, 3, dtype=torch.float64)
    assert Trace("exact").directions(x) is None
    rademacher = Trace("hutchinson", "rademacher", torch.Generator().manual_seed(0)).directions(x)
    assert rademacher.dtype == x.dtype and set(rademacher.unique().tolist()) == {-1.0, 1.0}
    assert abs(rademacher.mean()) < 4 / math.sqrt(x.numel())
    gaussian = Trace("hutchinson", "gaussian", torch.Generator().manual_seed(0)).directions(x)
    assert abs(gaussian.mean()) < 4 / math.sqrt(x.numel()) and abs(gaussian.var() - 1) < 4 * math.sqrt(2 / x.numel())


# A velocity with a known solution: f = A x + u t + b, in closed form by a matrix exponential.


@pytest.fixture
def linear(flow):
    """A linear block with its context, the exact map over [0, T] as a matrix on (x, t, 1), and its log-determinant."""
    f, c = flow(dims=(5,), layer="concat_v2", nonlinearity="identity", norm="none"), normal(2, 4, seed=1)
    first, last = f.chain[0].net.layers
    with torch.no_grad():
        end = f.chain[0].end_time
        a = last.linear.weight @ first.linear.weight
        u = last.linear.weight @ first.shift.weight[:, 0] + last.shift.weight[:, 0]
        hidden = first.linear.bias + c @ first.shift.weight[:, 1:].T
        b = hidden @ last.linear.weight.T + last.linear.bias + c @ last.shift.weight[:, 1:].T
        generator = torch.zeros(2, 5, 5, dtype=torch.float64)
        generator[:, :3, :3], generator[:, :3, 3], generator[:, :3, 4], generator[:, 3, 4] = a, u, b, 1
        return f, c, torch.matrix_exp(generator * end), end * a.trace()


def carried(matrix, x):
    start = torch.cat([x, torch.zeros_like(x[..., :1]), torch.ones_like(x[..., :1])], -1)  # t = 0 at the data
    return (start @ matrix.mT)[..., :3]


def test_linear_flow_is_the_matrix_exponential(linear):
    f, c, matrix, log_det = linear
    x = normal(2, 6, 3)
    there = f.to_prior(x, c, Trace("exact"))
    assert_close(there.x, carried(matrix, x), atol=1e-6, rtol=0)
    assert_close(there.log_det, log_det.expand(2, 6), atol=1e-6, rtol=0)
    assert_close(f.from_prior(carried(matrix, x), c).x, x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_converge_at_their_order(linear, method):
    f, c, matrix, _ = linear
    x = normal(2, 6, 3)

    def error(steps):
        return (f.to_prior(x, c, solver=SolverConfig(method, steps=steps)).x - carried(matrix, x)).abs().max()

    with torch.no_grad():
        order = torch.log2(error(4) / error(8))
    assert float(order) == pytest.approx(FIXED[method][1], abs=0.35)


# The error of the whole way, in units of the tolerance, is at most this. Fehlberg's second-order pair estimates its
# error by h/512 of a difference of two slopes, a small part of it: the error is proportional to the tolerance, but 80
# times as large.
OF_TOLERANCE = {"dopri5": 1, "dopri8": 1, "bosh3": 1, "adaptive_heun": 1, "fehlberg2": 100}


@pytest.mark.parametrize("method", OF_TOLERANCE)
def test_adaptive_methods_heed_their_tolerance(linear, method):
    f, c, matrix, _ = linear
    x, want = normal(2, 6, 3), carried(matrix, normal(2, 6, 3))
    evaluations = []
    for tolerance in (1e-3, 1e-4, 1e-5, 1e-6):
        with torch.no_grad():
            found = f.to_prior(x, c, solver=SolverConfig(method, tolerance, tolerance))
        assert (found.x - want).abs().max() < OF_TOLERANCE[method] * tolerance
        evaluations.append(found.evaluations)
    assert evaluations == sorted(evaluations)
    # A first step as long as may be is already within the tolerance for the method of order 8.
    assert evaluations[-1] > evaluations[0] or method == "dopri8"


def test_hutchinson_noise_is_drawn_once_per_solve(linear):
    f, c, _, _ = linear
    x, first = normal(2, 6, 3), f.chain[0].net.layers
    e = Trace("hutchinson", "gaussian", torch.Generator().manual_seed(5)).directions(x)
    a = first[1].linear.weight @ first[0].linear.weight
    found = f.to_prior(x, c, Trace("hutchinson", "gaussian", torch.Generator().manual_seed(5))).log_det
    assert_close(found, f.chain[0].end_time * torch.einsum("bni,ij,bnj->bn", e, a, e), atol=1e-7, rtol=1e-7)


# What a solve costs.


@pytest.fixture
def calls(monkeypatch):
    """How often velocities are evaluated, by way of the network."""
    count = {"forward": 0, "jvp": 0}

    def counted(name, method):
        def call(self, *args):
            count[name] += 1
            return method(self, *args)

        return call

    for name in count:
        monkeypatch.setattr(VelocityNet, name, counted(name, getattr(VelocityNet, name)))
    return count


@pytest.mark.parametrize("trace", [None, Trace("exact"), Trace("hutchinson")])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_count(flow, calls, method, blocks, trace):
    f = flow(blocks=blocks, solver=SolverConfig(method, steps=20))
    for carry in (f.to_prior, f.from_prior):
        before = sum(calls.values())
        with torch.no_grad():
            found = carry(normal(2, 5, 3), normal(2, 4), trace)
        assert found.evaluations == sum(calls.values()) - before == 20 * FIXED[method][0] * blocks
        assert f.evaluations() == (found.evaluations, 0)


def test_adaptive_evaluations_are_counted_both_ways(flow, calls):
    f = flow(blocks=2, solver=SolverConfig(adjoint=True))
    found = log_density(f, normal(2, 5, 3), normal(2, 4))
    assert found.evaluations == calls["jvp"] == f.evaluations()[0] > 20
    assert f.evaluations()[1] == 0
    found.value.sum().backward()
    assert f.evaluations() == (found.evaluations, calls["jvp"] - found.evaluations)
    assert f.evaluations()[1] > 20 and calls["forward"] == 0


def test_no_divergence_unless_asked(flow, monkeypatch):
    def refuse(*args):
        raise RuntimeError("a divergence was computed")

    monkeypatch.setattr(VelocityNet, "jvp", refuse)
    f, x, c = flow(solver=SolverConfig(adjoint=True)), normal(2, 5, 3), normal(2, 4)
    assert f.to_prior(x, c).log_det is None and f.from_prior(x, c).log_det is None
    f.to_prior(x, c).x.sum().backward()
    with pytest.raises(RuntimeError, match="divergence"):
        f.to_prior(x, c, Trace("exact"))


# Gradients.


def value(f, x, c, trace):
    """A scalar that states and densities both enter, with the same noise at each call."""
    y, log_det = f.to_prior(x, c, Trace(trace, "gaussian", torch.Generator().manual_seed(0)))[:2]
    return (y.sin() * normal(*y.shape, seed=9)).sum() + (log_det * normal(*log_det.shape, seed=8)).sum()


def gradients(f, x, c, trace):
    """Its gradients: of all parameters, the states and the context."""
    return torch.autograd.grad(value(f, x, c, trace), [*f.parameters(), x, c])


DEEP = [("concatsquash", "tanh", "moving", 2), ("concatscale", "swish", "none", 1), ("scale", "softplus", "moving", 1)]


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize(("layer", "nonlinearity", "norm", "blocks"), DEEP)
def test_adjoint_gradients_are_those_of_the_steps(flow, layer, nonlinearity, norm, blocks, trace):
    options = {"layer": layer, "nonlinearity": nonlinearity, "norm": norm, "blocks": blocks, "size": 0.2}
    x, c = normal(2, 3, 3).requires_grad_(), normal(2, 4, seed=1).requires_grad_()
    by_adjoint, by_steps = (
        gradients(flow(solver=SolverConfig(atol=1e-7, rtol=1e-7, adjoint=a), **options), x, c, trace)
        for a in (True, False)
    )
    for a, b in zip(by_adjoint, by_steps):
        assert a.abs().max() > 0
        assert_close(a, b, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("error_norm", ["max", "rms"])
def test_adaptive_solves_land_on_their_ends(flow, error_norm):
    """States, densities and adjoint gradients at the default tolerance, not those of an interpolated last step."""
    x, c = normal(2, 3, 3).requires_grad_(), normal(2, 4, seed=1).requires_grad_()
    default = flow(blocks=2, size=0.2, solver=SolverConfig(error_norm=error_norm))
    tight = flow(blocks=2, size=0.2, solver=SolverConfig(atol=1e-9, rtol=1e-9, adjoint=False))
    assert_close(default.to_prior(x, c).x, tight.to_prior(x, c).x, atol=1e-5, rtol=0)
    assert_close(log_density(default, x, c).value, log_density(tight, x, c).value, atol=2e-5, rtol=0)
    found, want = (torch.cat([g.flatten() for g in gradients(f, x, c, "exact")]) for f in (default, tight))
    assert (found - want).abs().max() < 3e-6 * want.abs().max()


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize(("layer", "nonlinearity", "norm", "blocks"), DEEP)
def test_gradients_are_finite_differences(flow, layer, nonlinearity, norm, blocks, trace):
    """Of every parameter tensor, T among them, of the states and of the context, along a random direction each."""
    solver = SolverConfig("rk4", steps=3, adjoint=False)
    f = flow(layer=layer, nonlinearity=nonlinearity, norm=norm, blocks=blocks, size=0.2, solver=solver)
    x, c = normal(2, 3, 3).requires_grad_(), normal(2, 4, seed=1).requires_grad_()
    assert any(name.endswith("sqrt_end_time") for name, _ in f.named_parameters())
    by_steps = gradients(f, x, c, trace)
    eps = 1e-5
    for i, tensor in enumerate([*f.parameters(), x, c]):
        direction, kept, ends = normal(*tensor.shape, seed=i), tensor.detach().clone(), []
        for step in (eps, -eps):
            tensor.data = kept + step * direction
            with torch.no_grad():
                ends.append(value(f, x, c, trace).item())
        tensor.data = kept
        slope = (ends[0] - ends[1]) / (2 * eps)
        assert slope == pytest.approx((by_steps[i] * direction).sum().item(), rel=1e-6, abs=1e-6)


def test_adjoint_of_fixed_steps(flow):
    x, c = normal(2, 3, 3).requires_grad_(), normal(2, 4, seed=1).requires_grad_()
    pair = [gradients(flow(solver=SolverConfig("rk4", steps=20, adjoint=a)), x, c, "exact") for a in (True, False)]
    for a, b in zip(*pair):
        assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_no_gradient_of_a_fixed_end_time():
    assert "sqrt_end_time" in dict(CNF(3, 4, FlowConfig((8,))).named_parameters())
    assert "sqrt_end_time" in dict(CNF(3, 4, FlowConfig((8,), train_time=False)).named_buffers())
    assert float(CNF(3, 4, FlowConfig((8,), time_length=2.0)).end_time.detach()) == pytest.approx(2)


# Norms.


@given(st.integers(2, 4), st.integers(1, 5), st.integers(2, 6), st.integers(0, 1000))
def test_moving_statistics(dim, batch, points, seed):
    norm = MovingBatchNorm(dim).double().train()
    with torch.no_grad():
        norm.weight.copy_(normal(dim, seed=seed))
        norm.bias.copy_(normal(dim, seed=seed + 1))
        norm.running_mean.copy_(normal(dim, seed=seed + 2))
        norm.running_var.copy_(0.5 + normal(dim, seed=seed + 3).square())
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    offsets = 10.0 ** torch.arange(dim, dtype=torch.float64)  # axes on unlike scales: mixing them would show
    x = normal(batch, points, dim, seed=seed + 4) * offsets + offsets
    before = norm.log_det()
    y = norm(x)
    want = (x - mean) / torch.sqrt(var + 1e-4) * norm.weight.exp() + norm.bias
    assert_close(y, want)  # with the statistics from before the step
    assert_close(before, (norm.weight - 0.5 * torch.log(var + 1e-4)).sum())
    rows = x.reshape(-1, dim).numpy()
    assert_close(norm.running_mean, mean + 0.1 * (torch.from_numpy(rows.mean(0)) - mean))
    assert_close(norm.running_var, var + 0.1 * (torch.from_numpy(rows.var(0, ddof=1)) - var))  # unbiased
    norm.eval()
    assert_close(norm.inverse(norm(x)), x)


def test_norm_log_det_is_that_of_its_jacobian(perturb):
    norm = perturb(MovingBatchNorm(3))
    brute = jacobians(norm, normal(2, 5, 3))
    assert_close(norm.log_det().expand(2, 5), brute.det().log())
    assert_close(jacobians(norm.inverse, normal(2, 5, 3)).det().log(), -norm.log_det().expand(2, 5))


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_stay_where_nothing_trains(perturb, frozen):
    norm = perturb(MovingBatchNorm(3, frozen)).train(frozen)  # frozen in training, or any in evaluation
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    norm(normal(2, 5, 3))
    norm.train().inverse(normal(2, 5, 3))
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    assert all(p.requires_grad is not frozen for p in norm.parameters())


def test_no_gradient_through_statistics(perturb):
    norm = perturb(MovingBatchNorm(3)).train()
    scale = (norm.weight.exp() / torch.sqrt(norm.running_var + 1e-4)).detach()
    x = normal(2, 5, 3).requires_grad_()
    (norm(x) * normal(2, 5, 3, seed=1)).sum().backward()
    assert_close(x.grad, scale * normal(2, 5, 3, seed=1))
    assert not norm.running_mean.requires_grad and not norm.running_var.requires_grad


def test_one_state_has_no_variance(perturb):
    norm = perturb(MovingBatchNorm(3)).train()
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    norm(normal(1, 1, 3))
    assert_close(norm.running_mean, mean + 0.1 * (normal(3) - mean))
    assert torch.equal(norm.running_var, var)


def test_training_densities_use_the_statistics_from_before(flow):
    f, x, c = flow(), 5 * normal(2, 5, 3), normal(2, 4, seed=1)
    evaluated = log_density(f, x, c)
    trained = log_density(f.train(), x, c)
    assert_close(trained.value, evaluated.value)
    assert (log_density(f, x, c).value - evaluated.value).abs().max() > 0.1  # and then they moved


# What users get wrong.


@pytest.mark.parametrize(
    ("x", "c", "message"),
    [
        ((5, 3), (5, 4), r"states must be \(B, N, 3\), got \(5, 3\)"),
        ((2, 5, 2), (2, 4), r"states must be \(B, N, 3\), got \(2, 5, 2\)"),
        ((2, 5, 3), (3, 4), r"context must be \(2, 4\), got \(3, 4\)"),
        ((2, 5, 3), (2, 5), r"context must be \(2, 4\), got \(2, 5\)"),
        ((2, 5, 3), None, r"context must be \(2, 4\), got \(2, 0\)"),
    ],
)
def test_shapes_are_checked(flow, x, c, message):
    with pytest.raises(ValueError, match=message):
        flow().to_prior(normal(*x), None if c is None else normal(*c))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlowConfig(()), "dims must be positive"),
        (lambda: FlowConfig((8, 0)), "dims must be positive"),
        (lambda: FlowConfig(blocks=0), "blocks must be at least 1, got 0"),
        (lambda: FlowConfig(time_length=0), "time_length must be positive and finite, got 0"),
        (lambda: FlowConfig(time_length=float("nan")), "time_length must be positive and finite, got nan"),
        (lambda: SolverConfig(atol=0), "tolerances must be positive, got atol=0"),
        (lambda: SolverConfig(steps=0), "steps must be at least 1, got 0"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_velocity_that_is_not_finite(flow):
    f = flow()
    with torch.no_grad():
        f.chain[1].net.layers[0].linear.bias.fill_(math.nan)
    with pytest.raises(ArithmeticError, match=r"the dopri5 solver gave up after \d+ evaluations"):
        f.to_prior(normal(2, 5, 3), normal(2, 4))


def test_a_flow_too_stiff_to_solve_is_given_up(flow, monkeypatch):
    monkeypatch.setattr(pcgen.flows.solver, "MOST_STEPS", 5)
    with pytest.raises(ArithmeticError, match=r"gave up after \d+ evaluations: 5 steps did not suffice"):
        flow(size=3.0).to_prior(normal(2, 5, 3), normal(2, 4))


def test_all_fixed_step_methods_are_tested():
    assert set(FIXED) == set(pcgen.flows.solver.FIXED_STEP)
