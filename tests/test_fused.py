"""The fast velocity against its definition: values, derivatives along tangents, gradients, types and chunks."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import pcgen.flows.fused as fused
from pcgen.flows import (
    LAYERS,
    Flow,
    FlowConfig,
    SolverConfig,
    Trace,
    VelocityNet,
    flow_matching_error,
    log_density,
    products,
)
from pcgen.flows.products import linear, linear_no_grad, outer

F64 = torch.float64


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


@pytest.fixture
def arguments(perturb):
    """A function that builds (net, t, x, modulation, tangents) away from the identity."""

    def build(layer="concatsquash", context=4, tangents=0, points=6, dims=(8, 7), dtype=F64, size=0.3, frequencies=0):
        net = perturb(VelocityNet(3, dims, context, layer, frequencies=frequencies), size=size).to(dtype)
        modulation = net.modulation(normal(2, context, seed=1, dtype=dtype) if context else None)
        e = normal(tangents, 2, points, 3, seed=2, dtype=dtype) if tangents else None
        return net, torch.tensor(0.3, dtype=dtype), normal(2, points, 3, dtype=dtype), modulation, e

    return build


def defined(net, t, x, modulation, tangents):
    """What the fast functions compute, in plain PyTorch."""
    return (net(t, x, modulation), None) if tangents is None else net.jvp(t, x, tangents, modulation)


def gradients(function, net, t, x, modulation, tangents):
    x = x.clone().requires_grad_()
    v, jv = function(net, t, x, modulation, tangents)
    value = (v.sin() * torch.arange(1, 4)).sum()
    if jv is not None:
        value = value + (jv.sin() * torch.arange(1, 4)).sum()
    found = torch.autograd.grad(value, [x, *net.parameters()], allow_unused=True, retain_graph=True)
    return [torch.zeros(()) if g is None else g for g in found]


@pytest.mark.parametrize("tangents", [0, 1, 3])
@pytest.mark.parametrize("context", [0, 4])
@pytest.mark.parametrize("layer", LAYERS)
def test_velocity_and_gradients_are_the_definition(arguments, layer, context, tangents):
    inputs = arguments(layer, context, tangents)
    for found, want in zip(fused.velocity(*inputs), defined(*inputs)):
        assert_close(found, want)
    for found, want in zip(gradients(fused.velocity, *inputs), gradients(defined, *inputs), strict=True):
        assert_close(found.expand_as(want) if want.dim() else found.sum(), want)


@pytest.mark.parametrize("tangents", [0, 1, 3])
def test_fourier_features(arguments, tangents):
    inputs = arguments(tangents=tangents, frequencies=3)
    for found, want in zip(fused.velocity(*inputs), defined(*inputs)):
        assert_close(found, want)
    with torch.no_grad():
        for found, want in zip(fused.infer(*inputs), defined(*inputs)):
            assert_close(found, want)
    for found, want in zip(gradients(fused.velocity, *inputs), gradients(defined, *inputs), strict=True):
        assert_close(found, want)


@pytest.mark.parametrize("dims", [(5,), (5, 6), (5, 6, 7, 4)])
def test_any_depth(arguments, dims):
    inputs = arguments(tangents=1, dims=dims)
    for found, want in zip(gradients(fused.velocity, *inputs), gradients(defined, *inputs), strict=True):
        assert_close(found, want)


def test_gradients_reach_the_context_and_time(perturb):
    net, x, e = perturb(VelocityNet(3, (8, 7), 4)), normal(2, 6, 3), normal(1, 2, 6, 3, seed=2)
    c, t = normal(2, 4, seed=1).requires_grad_(), torch.tensor([0.3, 0.6], dtype=F64, requires_grad=True)

    def value(function):
        return torch.autograd.grad(sum(v.sin().sum() for v in function(net, t, x, net.modulation(c), e)), [c, t])

    for found, want in zip(value(fused.velocity), value(defined)):
        assert want.abs().min() > 1e-4
        assert_close(found, want)


@pytest.mark.parametrize("tangents", [0, 1, 3])
def test_float32_by_onednn(arguments, tangents):
    inputs = arguments(tangents=tangents, points=200, dims=(64, 48), dtype=torch.float32, size=0.1)
    exact = arguments(tangents=tangents, points=200, dims=(64, 48), size=0.1)
    assert fused.pays(inputs[0], inputs[2])
    for found, want in zip(fused.velocity(*inputs), defined(*exact)):
        assert want is None or (found - want).abs().max() < 1e-5 * want.abs().max()
    for found, want in zip(gradients(fused.velocity, *inputs), gradients(defined, *exact), strict=True):
        assert (found - want).abs().max() < 2e-5 * want.abs().max()


@pytest.mark.parametrize(("block", "tangents"), [*itertools.product([1, 7, 64, 1000], [0, 3])])
def test_chunks_do_not_show(arguments, monkeypatch, block, tangents):
    inputs = arguments(tangents=tangents, points=65)
    monkeypatch.setattr(fused, "POINTS_PER_THREAD", block)
    for found, want in zip(fused.infer(*inputs), defined(*inputs)):
        assert_close(found, want)


@pytest.mark.parametrize("points", [8, 200])
def test_bfloat16_is_near_and_keeps_coordinates(perturb, points):
    """Half of the bits, a thousandth of the velocity; a network of one hidden layer has no such product."""
    net = perturb(VelocityNet(3, (64, 64), 4), size=0.05).float()
    t, x, c = torch.tensor(0.3), normal(2, points, 3, dtype=torch.float32), normal(2, 4, dtype=torch.float32)
    with torch.no_grad():
        modulation = net.modulation(c)
        want = net(t, x, modulation)
        for found in (
            fused.infer(net, t, x, modulation, hidden=torch.bfloat16)[0],
            net(t, x, modulation, torch.bfloat16),
        ):
            assert found.dtype == torch.float32
            assert 1e-5 < (found - want).square().mean().sqrt() / want.square().mean().sqrt() < 1e-2
        shallow = perturb(VelocityNet(3, (64,), 4), size=0.05).float()
        modulation = shallow.modulation(c)
        assert_close(fused.infer(shallow, t, x, modulation, hidden=torch.bfloat16)[0], shallow(t, x, modulation))


@pytest.mark.parametrize("dims", [(64,), (64, 48), (48, 64, 32, 64)])
@pytest.mark.parametrize("tangents", [0, 1])
def test_bfloat16_gradients_are_near(arguments, tangents, dims):
    """By hand and by autograd, a hundredth at most from float64's; with one hidden layer there is no such product."""
    exact = arguments(tangents=tangents, points=200, dims=dims, size=0.1)
    inputs = arguments(tangents=tangents, points=200, dims=dims, dtype=torch.float32, size=0.1)

    def rounded(*inputs):
        return fused.velocity(*inputs, hidden=torch.bfloat16)

    wanted = gradients(defined, *exact)
    errors = [
        float((found - want).norm() / want.norm())
        for found, want in zip(gradients(rounded, *inputs), wanted)
        if want.any()
    ]
    assert max(errors) < (2e-5 if len(dims) == 1 else 2e-2)
    assert len(dims) == 1 or max(errors) > 1e-4  # it was used
    assert all(found.dtype == torch.float32 for found in gradients(rounded, *inputs))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_products(rows, inputs, outputs, single):
    x, w, b = normal(rows, inputs), normal(outputs, inputs, seed=1), normal(outputs, seed=2)
    g = normal(rows, outputs, seed=3)
    cast = (v.float() if single else v for v in (x, w, b))
    x, w, b = (v.requires_grad_() for v in cast)
    y = linear(x, w, b)
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if single else {}
    assert_close(y, x @ w.T + b, **tolerance)
    found = torch.autograd.grad(y, (x, w, b), g.to(y))
    for grad, want in zip(found, (g.to(y) @ w, g.to(y).T @ x, g.to(y).sum(0))):
        assert_close(grad, want.detach(), **tolerance)
    assert_close(outer(g.to(y), x.detach()), (g.to(y).T @ x).detach(), **tolerance)


# Flows in float32, which take the fast way, against themselves in float64, which take the plain one.


@pytest.fixture
def pair(perturb):
    """A function that builds one flow in float32 and in float64."""

    def build(size=0.1, **options):
        flows = (perturb(Flow(3, 4, FlowConfig((32, 24), **options)), size=size) for _ in range(2))
        return next(flows).float(), next(flows)

    return build


@pytest.mark.parametrize("solver", [SolverConfig(), SolverConfig("midpoint", steps=5), SolverConfig("rk4", steps=4)])
def test_flows_agree_with_float64(pair, solver):
    single, double = pair(solver=solver)
    x, c = normal(2, 100, 3), normal(2, 4, seed=1)
    with torch.no_grad():
        for trace in (None, Trace("exact"), Trace("hutchinson", generator=torch.Generator().manual_seed(0))):
            seeds = [trace and trace._replace(generator=torch.Generator().manual_seed(0)) for _ in range(2)]
            found = single.to_prior(x.float(), c.float(), seeds[0])
            want = double.to_prior(x, c, seeds[1])
            assert (want.x - x).abs().max() > 0.1
            assert_close(found.x.double(), want.x, atol=2e-5, rtol=0)
            if trace:
                assert_close(found.log_det.double(), want.log_det, atol=5e-5, rtol=0)


def test_training_gradients_agree_with_float64(pair):
    single, double = pair(solver=SolverConfig("rk4", steps=3), norm="none", train_time=False)
    x, c, s = normal(2, 100, 3), normal(2, 4, seed=1), torch.tensor([0.2, 0.7])

    def of(flow, dtype):
        trace = Trace("hutchinson", generator=torch.Generator().manual_seed(0))
        density = log_density(flow, x.to(dtype), c.to(dtype), trace).value.mean()
        matching = flow_matching_error(flow, x.to(dtype), c.to(dtype), normal(2, 100, 3, seed=5, dtype=dtype), s).mean()
        return torch.autograd.grad(density + matching, list(flow.parameters()))

    for found, want in zip(of(single, torch.float32), of(double, F64)):
        assert (found - want).abs().max() < 1e-4 * want.abs().max()


def test_bfloat16_samples_and_refuses_densities_and_gradients(pair):
    flow, _ = pair(solver=SolverConfig("midpoint", steps=4, precision="bfloat16"))
    x, c = normal(2, 100, 3, dtype=torch.float32), normal(2, 4, dtype=torch.float32)
    with torch.no_grad():
        error = flow.from_prior(x, c).x - flow.from_prior(x, c, solver=SolverConfig("midpoint", steps=4)).x
        assert 1e-6 < error.abs().max() < 2e-2
        with pytest.raises(ValueError, match="densities need precision 'float32', got 'bfloat16'"):
            flow.to_prior(x, c, Trace("exact"))
    with pytest.raises(ValueError, match="gradients need precision 'float32', got 'bfloat16'"):
        flow.from_prior(x, c)


def test_not_a_number_is_reported(pair):
    flow, _ = pair()
    with torch.no_grad():
        flow.chain[1].net.layers[1].linear.bias.fill_(float("nan"))
        with pytest.raises(ArithmeticError, match=r"the dopri5 solver gave up after \d+ evaluations"):
            flow.to_prior(normal(2, 100, 3, dtype=torch.float32), normal(2, 4, dtype=torch.float32))


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("library", ["MKL", "oneDNN"])
def test_products_of_either_library(monkeypatch, library, biased, tanh):
    """In float32 to its rounding; in bfloat16 summed in float32, by a processor that has such products or not."""
    if library == "oneDNN" and not products._ONEDNN:
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products, "_MKL", library == "MKL")
    monkeypatch.setattr(products, "_ONEDNN_TYPES", [torch.float32] if library == "oneDNN" else [])
    x, weight, bias = normal(50, 300), normal(40, 300, seed=1) / 300**0.5, normal(40, seed=2) if biased else None
    for dtype, tolerance in ((torch.float32, 3e-6), (torch.bfloat16, 2**-8)):
        given = [v if v is None else v.to(dtype) for v in (x, weight, bias)]
        exact = torch.nn.functional.linear(*(v if v is None else v.double() for v in given))
        want, found = exact.tanh() if tanh else exact, linear_no_grad(*given, tanh=tanh)
        assert found.dtype == dtype and (found.double() - want).abs().max() < tolerance * want.abs().max()
