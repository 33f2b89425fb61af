"""Flow matching and the likelihood bound, against toys whose answer is known and distributions of torch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from pcgen.flows import Flow, FlowConfig, SolverConfig, flow_matching_error, stratified_times
from pcgen.flows.coupling import kd_coupling
from pcgen.models import ObjectiveConfig, PointFlowConfig, draw_codes

TIMES = [0.5, 0.81, 2.0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def matching_flow(dim=3, context=0, norm="none", time_length=0.5, **options):
    return Flow(dim, context, FlowConfig((8,), norm=norm, train_time=False, time_length=time_length, **options))


# Flow matching on toys whose velocity is known.


class Ray(nn.Module):
    """The velocity of straight paths from one point to the prior: (x − a) / t, in raw time."""

    def __init__(self, a):
        super().__init__()
        self.a = a

    def modulation(self, context):
        return None

    def forward(self, t, x, modulation):
        return (x - self.a) / t[:, None, None]


@pytest.mark.parametrize("time_length", TIMES)
def test_no_error_for_the_velocity_of_one_point(time_length):
    flow, a = matching_flow(time_length=time_length).double(), normal(3)
    flow.chain[0].net = Ray(a)
    s = stratified_times(4, 1, seeded()).reshape(-1)
    error = flow_matching_error(flow, a.expand(4, 6, 3), None, normal(4, 6, 3), s)
    assert error.shape == (4, 6, 3) and error.max() < 1e-10


@pytest.mark.parametrize("norm", ["none", "frozen"])
@pytest.mark.parametrize("time_length", TIMES)
def test_a_translation_is_learnt_without_error_and_carried_exactly(perturb, norm, time_length):
    flow, shift = perturb(matching_flow(norm=norm, layer="ignore")), normal(3)
    cnf = next(m for m in flow.chain if hasattr(m, "net"))
    with torch.no_grad():
        cnf.sqrt_end_time.fill_(time_length**0.5)
        cnf.net.layers[-1].linear.weight.zero_()
        cnf.net.layers[-1].linear.bias.copy_(shift / time_length)  # distance over raw time
    x = normal(4, 6, 3, seed=1)
    ends = (flow.chain[0], flow.chain[2]) if norm == "frozen" else (nn.Identity(), nn.Identity())
    noise = ends[1](ends[0](x) + shift).detach()
    assert flow_matching_error(flow, x, None, noise, torch.rand(4, generator=seeded())).max() < 1e-10
    # What is matched is what is integrated: the same flow carries each state to the noise it was joined to.
    with torch.no_grad():
        assert_close(flow.to_prior(x).x, noise, atol=1e-6, rtol=0)


@pytest.mark.parametrize("time_length", TIMES)
def test_error_is_on_one_scale_whatever_the_time(perturb, time_length):
    """A velocity of zero errs by (ε − x)², independent of T and s."""
    flow = perturb(matching_flow(time_length=time_length, layer="ignore"))
    nn.init.zeros_(flow.chain[0].net.layers[-1].linear.weight)
    nn.init.zeros_(flow.chain[0].net.layers[-1].linear.bias)
    x, noise = normal(4, 6, 3), normal(4, 6, 3, seed=1)
    assert_close(flow_matching_error(flow, x, None, noise, torch.rand(4)), (noise - x).square())


def test_each_row_has_its_own_moment_and_context(perturb):
    flow = perturb(matching_flow(context=4))
    x, noise, c, s = normal(2, 6, 3), normal(2, 6, 3, seed=1), normal(2, 4, seed=2), torch.tensor([0.2, 0.9])
    both = flow_matching_error(flow, x, c, noise, s)
    assert_close(both[1:], flow_matching_error(flow, x[1:], c[1:], noise[1:], s[1:]))
    assert (both - flow_matching_error(flow, x, c, noise, s.flip(0))).abs().max() > 1e-3
    assert (both - flow_matching_error(flow, x, c.flip(0), noise, s)).abs().max() > 1e-3


def test_flow_matching_refuses_what_has_no_straight_paths():
    x, s = torch.zeros(2, 5, 3), torch.rand(2)
    with pytest.raises(ValueError, match="set the flow's norm to 'frozen' or 'none', not 'moving'"):
        flow_matching_error(matching_flow(norm="moving"), x, None, x, s)
    with pytest.raises(ValueError, match="one block, this flow has 2"):
        flow_matching_error(matching_flow(blocks=2), x, None, x, s)


@pytest.mark.parametrize("part", ["point_flow", "latent_flow"])
@pytest.mark.parametrize("wrong", [{"norm": "moving"}, {"train_time": True}, {"blocks": 2}])
def test_configurations_for_flow_matching_are_checked(part, wrong):
    legal = {"dims": (8,), "norm": "frozen", "train_time": False}
    flows = {"point_flow": FlowConfig(**legal), "latent_flow": FlowConfig(**legal)}
    matching = ObjectiveConfig("flow_matching")
    PointFlowConfig(**flows, objective=matching)
    flows[part] = FlowConfig(**{**legal, **wrong})
    with pytest.raises(ValueError, match=f"flow matching needs {part}.norm 'frozen' or 'none'") as error:
        PointFlowConfig(**flows, objective=matching)
    assert "\n" not in str(error.value)
    PointFlowConfig(**flows, objective=ObjectiveConfig("likelihood"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"times": 0},
        {"prior_draws": 0},
        {"noise_draws": 0},
        {"kl_weight": -1.0},
        {"kinetic": -1.0},
        {"jacobian": float("nan")},
    ],
)
def test_objective_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* must"):
        ObjectiveConfig(**wrong)


@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 1000))
def test_stratified_times_lie_in_their_strata(shapes, times, seed):
    s = stratified_times(shapes, times, seeded(seed))
    assert s.shape == (shapes, times)
    assert torch.equal((s * times).floor().clamp(max=times - 1), torch.arange(times).expand(shapes, times).float())
    assert torch.equal(s, stratified_times(shapes, times, seeded(seed)))


def test_stratified_times_are_uniform():
    s = stratified_times(5000, 4, seeded()).reshape(-1)
    assert abs(float(s.mean()) - 0.5) < 0.005 and abs(float(s.var()) - 1 / 12) < 0.002


# The terms of the loss.


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_likelihood_terms_are_the_public_densities(small_model, trace, noise):
    model, x = small_model(name="likelihood", trace=trace, noise=noise), normal(2, 5, 3)
    loss = model.loss(x, seeded(5))
    q = model.encode(x)
    std = (0.5 * q.logvar).exp()
    z = q.mean + std * torch.randn(q.mean.shape, generator=seeded(5)).double()
    assert set(loss.terms) == {"points", "prior", "entropy"}
    if trace == "exact":
        assert_close(loss.terms["points"], -model.points_to_prior(x, z)[1].sum(1).mean().detach())
        assert_close(loss.terms["prior"], -model.shape_to_prior(z)[1].mean().detach())
    assert_close(loss.terms["entropy"], -Normal(q.mean, std).entropy().sum(1).mean().detach())
    assert_close(loss.total.detach(), sum(loss.terms.values()))


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("prior", [True, False])
def test_energies_are_added_with_their_weights(small_model, trace, prior):
    """They leave the other terms as they are, and each lowers what it weighs."""
    plain, x = small_model(trace=trace, prior=prior).loss(normal(2, 5, 3), seeded(5)), normal(2, 5, 3)
    weighted = small_model(trace=trace, prior=prior, kinetic=0.5, jacobian=2.0)
    loss = weighted.loss(x, seeded(5))
    assert set(loss.terms) == {*plain.terms, "kinetic", "jacobian"}
    for name, term in plain.terms.items():
        assert_close(loss.terms[name], term)
    doubled = small_model(trace=trace, prior=prior, kinetic=1.0).loss(x, seeded(5))
    assert_close(doubled.terms["kinetic"], 2 * loss.terms["kinetic"])
    assert "jacobian" not in doubled.terms and loss.terms["jacobian"] > 0
    found = torch.autograd.grad(loss.total, weighted.point_flow.chain[1].net.layers[0].linear.weight)[0]
    assert found.isfinite().all() and found.abs().max() > 0


def test_hutchinson_loss_is_unbiased(small_model):
    exact, estimate = (small_model(name="likelihood", trace=t, variational=False) for t in ("exact", "hutchinson"))
    x = normal(2, 5, 3)
    with torch.no_grad():
        draws = torch.stack([estimate.loss(x, seeded(i)).total for i in range(300)])
        want = exact.loss(x, seeded()).total
    error = draws.std() / 300**0.5
    assert error > 0 and abs(draws.mean() - want) < 4 * error


@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_kl_term_is_the_divergence_from_the_normal(small_model, kl_weight):
    model, x = small_model(name="flow_matching", kl_weight=kl_weight), normal(3, 8, 3)
    loss = model.loss(x, seeded())
    q = model.encode(x)
    kl = kl_divergence(Normal(q.mean, (0.5 * q.logvar).exp()), Normal(0.0, 1.0)).sum(1).mean()
    if kl_weight:
        assert_close(loss.terms["kl"], kl_weight * kl.detach())
    else:
        assert "kl" not in loss.terms
    assert_close(loss.total.detach(), sum(loss.terms.values()))


@pytest.mark.parametrize(
    ("name", "variational", "prior", "terms"),
    [
        ("likelihood", True, True, {"points", "prior", "entropy"}),
        ("likelihood", True, False, {"points", "prior", "entropy"}),
        ("likelihood", False, False, {"points"}),
        ("likelihood", False, True, {"points"}),
        ("flow_matching", True, True, {"points", "kl", "prior"}),
        ("flow_matching", True, False, {"points", "kl"}),
        ("flow_matching", False, True, {"points", "prior"}),
        ("flow_matching", False, False, {"points"}),
    ],
)
def test_which_terms_there_are(small_model, name, variational, prior, terms):
    model = small_model(name=name, variational=variational, prior=prior)
    loss = model.loss(normal(2, 8, 3), seeded())
    assert set(loss.terms) == terms
    assert loss.total.dim() == 0 and all(not t.requires_grad and t.dim() == 0 for t in loss.terms.values())


def test_a_prior_without_a_flow_is_the_standard_normal(small_model):
    model, x = small_model(name="likelihood", prior=False), normal(2, 5, 3)
    q = model.encode(x)
    z = q.sample(torch.randn(q.mean.shape, generator=seeded()).double())
    want = -Normal(0.0, 1.0).log_prob(z).sum(1).mean()
    assert_close(model.loss(x, seeded()).terms["prior"], want.detach())


def encoder_gradients(model, x, seed=0, **options):
    model.zero_grad(set_to_none=True)
    model.loss(x, seeded(seed), **options).total.backward()
    return {name: p.grad for name, p in model.encoder.named_parameters()}


def test_codes_are_detached_in_their_own_matching(small_model, perturb):
    """The encoder's gradient does not know which latent flow is there."""
    model, x = small_model(name="flow_matching", kl_weight=0.1), normal(3, 8, 3)
    one, terms = encoder_gradients(model, x), model.loss(x, seeded()).terms
    assert all(g is not None and g.abs().max() > 0 for g in (p.grad for p in model.latent_flow.chain[1].parameters()))
    perturb(model.latent_flow, seed=7)
    other = encoder_gradients(model, x)
    assert model.loss(x, seeded()).terms["prior"] != terms["prior"]
    assert any(g.abs().max() > 0 for g in one.values())
    for name, gradient in one.items():
        assert torch.equal(gradient, other[name])


@pytest.mark.parametrize("name", ["likelihood", "flow_matching"])
def test_the_priors_loss_is_the_objectives_term(small_model, name):
    """By likelihood that of the objective's own codes, else the error of matching; it reaches the latent flow alone."""
    model, x = small_model(name=name, trace="exact"), normal(3, 8, 3)
    with torch.no_grad():
        z = draw_codes(model.encode(x), seeded())
    if name == "likelihood":
        want = model.loss(x, seeded()).terms["prior"]
    else:
        draws, generator = model.config.objective.prior_draws, seeded()
        s = stratified_times(len(z), draws, generator).reshape(-1)
        codes = z.unsqueeze(1).repeat_interleave(draws, 0)
        noise = torch.randn(codes.shape, generator=generator).double()
        want = flow_matching_error(model.latent_flow, codes, None, noise, s).mean()
    loss = model.prior_loss(z, seeded())
    assert_close(loss.total, want, check_dtype=True)
    assert set(loss.terms) == {"prior"}
    loss.total.backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None}
    assert reached and all(n.startswith("latent_flow") for n in reached)
    assert all(p.grad is not None for p in model.latent_flow.chain[1].net.parameters())


def test_likelihood_reaches_every_parameter(small_model):
    model = small_model(name="likelihood").train()
    model.loss(normal(4, 8, 3), seeded()).total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("points", [8, 7, 12, 3, 1])
@pytest.mark.parametrize("coupling", ["independent", "kd", "exact", "once"])
def test_points_are_dealt_out_among_moments(small_model, points, coupling, monkeypatch):
    """As many points of each cloud for each moment, fewer than there are moments left out, and its own shape's code."""
    import pcgen.models.objective as module

    seen = []

    def spy(flow, x, context, noise, s, hidden):
        seen.append((x, context, s))
        return flow_matching_error(flow, x, context, noise, s, hidden)

    monkeypatch.setattr(module, "flow_matching_error", spy)
    model, x = small_model(name="flow_matching", times=4, prior=False, coupling=coupling), normal(2, points, 3)
    model.loss(x, seeded())
    dealt, context, s = seen[0]
    times = {8: 4, 7: 4, 12: 4, 3: 3, 1: 1}[points]
    assert dealt.shape == (2 * times, points // times, 3) and s.shape == (2 * times,)
    for cloud, parts in zip(x, dealt.reshape(2, -1, 3)):
        found = set(map(tuple, parts.tolist()))
        assert found <= set(map(tuple, cloud.tolist())) and len(found) == points - points % times
    assert torch.equal(context, context[::times].repeat_interleave(times, 0))
    assert ((s.reshape(2, times) * times).floor() == torch.arange(times)).all()


@pytest.mark.parametrize("coupling", ["kd", "once"])
def test_noise_that_comes_with_points_is_where_their_paths_lead(small_model, coupling):
    """The velocity of zero errs by (ε − x)² whatever the moment, so the loss tells which pairs it saw."""
    model, x, noise = (
        small_model(name="flow_matching", prior=False, coupling=coupling),
        normal(2, 8, 3),
        normal(2, 8, 3),
    )
    noise = noise + 5
    last = model.point_flow.chain[1].net.layers[-1]
    with torch.no_grad():
        for tensor in (last.linear.weight, last.linear.bias, last.shift.weight):
            tensor.zero_()
        ends = model.point_flow.chain[0](x), model.point_flow.chain[2].inverse(noise)
    loss = model.loss(x, seeded(), noise=noise.float())
    assert_close(loss.terms["points"], (ends[1] - ends[0]).square().mean(), atol=1e-5, rtol=1e-5)
    assert model.loss(x, seeded()).terms["points"] < loss.terms["points"] / 2


def test_noise_of_another_size_or_objective_is_refused(small_model):
    x = normal(2, 8, 3)
    with pytest.raises(ValueError, match=r"noise must be that of each point, \(2, 8, 3\), got \(2, 7, 3\)"):
        small_model(name="flow_matching", prior=False).loss(x, seeded(), noise=normal(2, 7, 3))
    with pytest.raises(ValueError, match="is of flow matching, the objective is 'likelihood'"):
        small_model().loss(x, seeded(), noise=x)


def test_coupling_once_is_exact_where_no_noise_came_along(small_model):
    once, exact = (small_model(name="flow_matching", coupling=each) for each in ("once", "exact"))
    assert torch.equal(once.loss(normal(2, 8, 3), seeded()).total, exact.loss(normal(2, 8, 3), seeded()).total)


def test_bfloat16_steps_are_those_of_float32_but_for_rounding(small_model):
    """Of a thousandth: the gradient of every weight, which keeps its type."""
    gradients = {}
    for precision in ("float32", "bfloat16"):
        model = small_model(name="flow_matching", prior=False, precision=precision).float()
        loss = model.loss(normal(2, 8, 3).float(), seeded())
        loss.total.backward()
        gradients[precision] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    want, found = gradients["float32"], gradients["bfloat16"]
    assert found.dtype == torch.float32
    assert 1e-5 < (found - want).norm() / want.norm() < 2e-2
    with pytest.raises(ValueError, match="densities need precision 'float32', got 'bfloat16'"):
        ObjectiveConfig("likelihood", precision="bfloat16")


@given(st.integers(1, 3), st.integers(1, 33), st.integers(1, 3), st.integers(0, 1000))
def test_coupling_permutes_both_sets(batch, points, dim, seed):
    x, noise = normal(batch, points, dim, seed=seed), normal(batch, points, dim, seed=seed + 1)
    for before, after in zip((x, noise), kd_coupling(x, noise)):
        for one, other in zip(before, after):
            assert torch.equal(one.unique(dim=0), other.unique(dim=0))


def test_coupling_on_a_line_is_optimal_and_in_space_shortens_paths():
    x, noise = normal(2, 64, 1), normal(2, 64, 1, seed=1)
    a, b = kd_coupling(x, noise)
    assert_close((a - b).square().sum(), (x.sort(1).values - noise.sort(1).values).square().sum())
    x, noise = normal(2, 256, 3), normal(2, 256, 3, seed=1)
    a, b = kd_coupling(x, noise)
    assert (a - b).square().mean() < 0.3 * (x - noise).square().mean()


# Training.


@pytest.mark.parametrize("name", ["flow_matching", "likelihood"])
def test_a_few_steps_lower_the_loss(small_model, name):
    model = small_model(name=name, solver=SolverConfig("midpoint", steps=4)).train()
    x = normal(8, 16, 3) * 0.2 + normal(8, 1, 3, seed=1)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)

    def loss(seed):
        return model.loss(x, seeded(seed)).total

    before = sum(float(loss(seed).detach()) for seed in range(5))
    for step in range(30):
        optimiser.zero_grad()
        loss(100 + step).backward()
        optimiser.step()
    assert sum(float(loss(seed).detach()) for seed in range(5)) < before - 0.5


def test_flow_matching_learns_two_clusters():
    """After 300 steps, sampling gives both modes, each with its mean, its spread and half of the points."""
    generator = seeded()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = Flow(3, 0, FlowConfig((64, 64), norm="none", train_time=False))
    centre, optimiser = torch.tensor([2.0, -1.0, 0.5]), torch.optim.Adam(flow.parameters(), 1e-2)
    for _ in range(300):
        side = torch.randint(0, 2, (32, 16, 1), generator=generator) * 2 - 1
        x = side * centre + 0.2 * torch.randn(32, 16, 3, generator=generator)
        s = stratified_times(1, 32, generator).reshape(-1)
        loss = flow_matching_error(flow, x, None, torch.randn(x.shape, generator=generator), s).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        samples = flow.from_prior(torch.randn(1, 2000, 3, generator=generator)).x[0]
    side = (samples @ centre).sign()
    assert 0.4 < float((side > 0).float().mean()) < 0.6
    offset = samples - side[:, None] * centre
    assert float((offset.norm(dim=1) < 1).float().mean()) > 0.95  # hardly a point between the modes
    for sign in (1, -1):
        assert offset[side == sign].mean(0).abs().max() < 0.2
    assert 0.1 < float(offset.std()) < 0.4
