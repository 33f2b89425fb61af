"""Encoding, sampling and densities of whole models."""

import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal
from torch.testing import assert_close

from pcgen.data import fit
from pcgen.flows import Flow, FlowConfig, SolverConfig, Trace, VelocityNet
from pcgen.models import Encoder, EncoderConfig, ObjectiveConfig, PointFlow, PointFlowConfig, encoder, inference
from pcgen.models.noise import point_noise, shape_noise

LIKELIHOOD = ObjectiveConfig("likelihood")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def count(module):
    return sum(p.numel() for p in module.parameters())


# Sizes.


def test_parameter_counts_are_the_published_ones():
    model = PointFlow(PointFlowConfig(objective=LIKELIHOOD))
    assert count(model.point_flow) == 927_513
    assert count(model.latent_flow) == 134_145
    assert count(model.encoder) == 546_688
    assert count(model.point_flow) + count(model.latent_flow) == 1_061_658
    assert count(model) == 1_608_346
    assert count(Encoder(128, EncoderConfig(variational=False))) == 365_184


# The encoder.


@given(st.integers(1, 3), st.integers(1, 20), st.integers(0, 100))
def test_encoder_is_invariant(perturb, batch, points, seed):
    encoder = perturb(Encoder(5, EncoderConfig((8, 16), (8,))))
    x = normal(batch, points, 3, seed=seed)
    q = encoder(x)
    order = torch.randperm(points, generator=seeded(seed))
    for other in (x[:, order], torch.cat([x, x[:, :1]], 1)):  # order, and copies of points, say nothing
        for a, b in zip(q, encoder(other)):
            assert_close(a, b)
    for i in range(batch):
        assert_close(encoder(x[i : i + 1]).mean, q.mean[i : i + 1])


def test_encoder_normalises_before_the_maximum(perturb):
    """Layer by layer: no ReLU after the last pointwise layer, whose maximum may be negative."""
    encoder = perturb(Encoder(5, EncoderConfig((8, 16), (8,))))
    x = normal(2, 9, 3)
    h = encoder.norms[0](encoder.points[0](x).transpose(1, 2)).transpose(1, 2).relu()
    h = encoder.norms[1](encoder.points[1](h).transpose(1, 2)).amax(2)
    assert (h < 0).any()
    linear, norm, _, last = encoder.mean
    assert_close(encoder(x).mean, last(norm(linear(h)).relu()))
    linear, norm, _, last = encoder.logvar
    assert_close(encoder(x).logvar, last(norm(linear(h)).relu()))


@given(st.integers(1, 3), st.sampled_from([1, 31, 32, 64, 96]), st.integers(0, 100))
def test_largest_is_torchs_max(shapes, points, seed):
    """Values, and gradients where values are tied: to the first of them; NaN wins."""
    h = normal(shapes, points, 5, seed=seed).mul(2).round().requires_grad_()
    weight = normal(shapes, 5, seed=seed + 1)
    found, want = encoder._largest(h), h.max(1).values
    assert torch.equal(found, want)
    gradients = [torch.autograd.grad((values * weight).sum(), h)[0] for values in (found, want)]
    assert torch.equal(*gradients)
    with torch.no_grad():
        h[0, points // 2, 0] = math.nan
    assert torch.equal(encoder._largest(h).isnan(), h.max(1).values.isnan())


def test_posterior_samples(perturb):
    encoder = perturb(Encoder(5, EncoderConfig((8,), (8,))))
    q = encoder(normal(2, 9, 3))
    draws = q.sample(normal(20_000, 2, 5))
    want = Normal(q.mean, (0.5 * q.logvar).exp())
    assert ((draws.mean(0) - want.mean).abs() < 5 * want.stddev / math.sqrt(20_000)).all()
    assert_close(draws.std(0), want.stddev, rtol=0.05, atol=0)
    plain = perturb(Encoder(5, EncoderConfig((8,), (8,), variational=False)))(normal(2, 9, 3))
    assert plain.logvar is None and plain.sample(normal(2, 5)) is plain.mean


# Sampling: shapes and points come from streams of their own.


def test_samples_extend(small_model):
    model = small_model()
    few, many = model.sample(2, 5, 7), model.sample(4, 9, 7)
    assert few.points.shape == (2, 5, 3) and few.z.shape == (2, 4)
    assert_close(many.points[:2, :5], few.points)
    assert_close(many.z[:2], few.z)


def test_a_part_of_the_shapes_is_that_part_of_all(small_model):
    """So several processes can share them: codes of all, clouds from a number on."""
    model = small_model()
    whole = model.sample(5, 7, 3, temperature=0.5)
    z = model.sample_codes(5, 3, temperature=0.5)
    assert torch.equal(z, whole.z)
    assert_close(model.decode(z[2:], 7, 3, first=2), whole.points[2:])
    assert (model.decode(z[2:], 7, 3) - whole.points[2:]).abs().max() > 1e-3


@pytest.mark.parametrize("per_solve", [1, 4, 7, 13, 10_000])
def test_chunks_do_not_show(small_model, monkeypatch, per_solve):
    model = small_model(scale=2.0)
    whole = model.sample(3, 10, 7)
    monkeypatch.setattr(inference, "POINTS_PER_SOLVE", per_solve)
    monkeypatch.setattr(inference, "POINTS_PER_DENSITY", per_solve)
    assert_close(model.sample(3, 10, 7).points, whole.points, atol=1e-5, rtol=0)
    assert_close(model.log_likelihood(whole.points).points, model.log_likelihood(whole.points).points)


def test_density_chunks_do_not_show(small_model, monkeypatch):
    model, x = small_model(), normal(2, 10, 3)
    whole = model.log_likelihood(x)
    monkeypatch.setattr(inference, "POINTS_PER_DENSITY", 3)
    parts = model.log_likelihood(x)
    assert_close(parts.points, whole.points, atol=1e-5, rtol=0)
    assert_close(parts.bound, whole.bound, atol=1e-4, rtol=0)


@pytest.mark.parametrize("at_once", [1, 5, 16])
def test_encoder_chunks_do_not_show(small_model, monkeypatch, at_once):
    model, x = small_model(), normal(3, 11, 3)
    whole = model.encode(x)
    monkeypatch.setattr(encoder, "POINTS_AT_ONCE", at_once)
    assert_close(model.encode(x), whole)


def test_seeds_say_it_all(small_model):
    model, generator = small_model(), seeded(3)
    first, second = model.sample(2, 5, generator), model.sample(2, 5, generator)
    assert torch.equal(model.sample(2, 5, seeded(3)).points, first.points)
    assert (first.points - second.points).abs().max() > 1e-3 and (first.z - second.z).abs().max() > 1e-3
    assert torch.equal(model.sample(2, 5, 11).points, model.sample(2, 5, 11).points)
    assert (model.sample(2, 5, 11).points - model.sample(2, 5, 12).points).abs().max() > 1e-3


def test_samples_are_the_flows_images_of_the_noise(small_model):
    model = small_model(mean=[1.0, 2.0, 3.0], scale=2.0)
    options = {"temperature": 0.8, "truncation": 1.5}
    points = {"temperature": 0.5, "truncation": 2.0}
    found = model.sample(2, 5, 7, **options, **{f"point_{k}": v for k, v in points.items()})
    z = model.shape_from_prior(shape_noise(7, 2, 4, **options))
    y = point_noise(7, 2, 5, **points).double()
    assert_close(found.z, z)
    assert_close(found.points, model.points_from_prior(y, z) * 2 + torch.tensor([1.0, 2.0, 3.0]))


def test_zero_temperature_is_the_mean(small_model):
    model = small_model()
    found = model.sample(3, 5, 0, temperature=0.0, point_temperature=0.0)
    assert_close(found.z, model.shape_from_prior(torch.zeros(1, 4)).expand(3, 4))
    assert_close(found.points, found.points[:1, :1].expand(3, 5, 3))


def test_a_solver_given_replaces_that_of_points(small_model):
    """Codes keep theirs: a rough solve of a code is another shape."""
    model = small_model()
    model.sample(2, 5, 0, solver=SolverConfig("euler", steps=3))
    assert model.evaluations() == {"points": (3, 0), "prior": (16, 0)}
    model.sample_codes(2, 0, solver=SolverConfig("euler", steps=5))
    assert model.evaluations() == {"points": (3, 0), "prior": (5, 0)}
    samplers = {"sampler": SolverConfig("ab2", steps=6), "latent_sampler": SolverConfig("midpoint", steps=4)}
    model.config = dataclasses.replace(model.config, **samplers)
    model.sample(2, 5, 0)
    assert model.evaluations() == {"points": (6, 0), "prior": (8, 0)}
    model = small_model()
    model.sample(2, 5, 0)
    assert model.evaluations() == {"points": (16, 0), "prior": (16, 0)}


def test_sampling_computes_no_divergence_and_no_gradient(small_model, monkeypatch):
    def refuse(*args):
        raise RuntimeError("a divergence was computed")

    monkeypatch.setattr(VelocityNet, "jvp", refuse)
    model = small_model()
    samples = model.sample(2, 5, 0)
    assert not samples.points.requires_grad and not samples.z.requires_grad
    assert not model.reconstruct(samples.points, 5, 0).requires_grad
    assert not model.interpolate(samples.z[0], samples.z[1], 3, 5, 0, space="prior").requires_grad


def test_a_part_that_was_frozen_stays_so(small_model):
    model = small_model().train()
    model.encoder.eval()
    model.sample(1, 5, 0)
    assert model.training and model.point_flow.training and not model.encoder.training


def test_sampling_leaves_the_mode_and_statistics(small_model):
    model = small_model().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    want = small_model().sample(2, 5, 0).points
    assert torch.equal(model.sample(2, 5, 0).points, want)
    model.log_likelihood(want)
    model.reconstruct(want, 4)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_vae_without_a_latent_flow_samples_the_standard_normal(small_model):
    model = small_model(prior=False)
    assert_close(model.sample(3, 5, 7).z, shape_noise(7, 3, 4).double())
    w, log_density = model.shape_to_prior(normal(3, 4))
    assert torch.equal(w, normal(3, 4))
    assert_close(log_density, Normal(0.0, 1.0).log_prob(w).sum(1))


def test_an_autoencoder_has_nothing_to_sample_from(small_model):
    model = small_model(variational=False, prior=False)
    with pytest.raises(ValueError, match="an autoencoder has no prior over shapes to sample from") as error:
        model.sample(1, 5)
    assert "\n" not in str(error.value)
    assert model.reconstruct(normal(2, 6, 3), 5, 0).shape == (2, 5, 3)
    assert model.log_likelihood(normal(2, 6, 3)).bound is None


# Both ways.


def test_prior_and_back(small_model):
    model, x, z = small_model(solver=SolverConfig()), normal(2, 6, 3), normal(2, 4, seed=1)
    y, log_density = model.points_to_prior(x, z)
    assert y.shape == x.shape and log_density.shape == (2, 6)
    assert_close(model.points_from_prior(y, z), x, atol=2e-5, rtol=0)
    w, log_density = model.shape_to_prior(z)
    assert log_density.shape == (2,)
    assert_close(model.shape_from_prior(w), z, atol=2e-5, rtol=0)


# Data units.


def test_mean_and_scale_enter_everywhere(small_model):
    mean, scale = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), 2.5
    plain, model = small_model(), small_model(mean=mean, scale=scale)
    x, z = normal(2, 6, 3), normal(2, 4, seed=1)
    data = x * scale + mean
    assert_close(model.to_data(x), data)
    assert_close(model.standardise(data), x)
    assert_close(model.sample(2, 5, 0).points, plain.sample(2, 5, 0).points * scale + mean)
    assert_close(model.sample(2, 5, 0).z, plain.sample(2, 5, 0).z)
    assert_close(model.decode(z, 5, 0), plain.decode(z, 5, 0) * scale + mean)
    assert_close(model.reconstruct(data, 5, 0), plain.reconstruct(x, 5, 0) * scale + mean)
    assert_close(model.interpolate(data[0], data[1], 3, 5, 0), plain.interpolate(x[0], x[1], 3, 5, 0) * scale + mean)
    found, want = model.log_likelihood(data, 0), plain.log_likelihood(x, 0)
    assert_close(found.points, want.points - 3 * math.log(scale))
    assert_close(found.bound, want.bound - 6 * 3 * math.log(scale))


def test_a_scale_per_axis(small_model):
    scale = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    plain, model, x = small_model(), small_model(scale=scale), normal(2, 6, 3)
    assert_close(model.log_likelihood(x * scale).points, plain.log_likelihood(x).points - math.log(0.5 * 2 * 4))


def test_densities_in_data_units_integrate_to_one(small_model):
    """Over space, for one code: a density per cubic data unit, whatever the scale."""
    model = small_model(variational=False, mean=[0.5, 0.0, 0.0], scale=[0.5, 1.0, 2.0])
    cloud = normal(1, 8, 3)
    z = model.encode(model.standardise(cloud)).mean
    corners = torch.cartesian_prod(*3 * [torch.linspace(-5, 5, 9).double()])
    with torch.no_grad():
        support = model.to_data(model.points_from_prior(corners[None], z)[0])
        axes = [torch.linspace(float(a), float(b), 45).double() for a, b in zip(support.amin(0), support.amax(0))]
        grid = torch.cartesian_prod(*axes)[None]
        log_p = inference.point_log_density(model, model.standardise(grid)[0], z[0], Trace("exact"))
        density = (log_p - model.data_scale.log().sum()).exp()
        density = density.reshape(45, 45, 45)
    for axis in reversed(axes):
        density = torch.trapezoid(density, axis)
    assert float(density) == pytest.approx(1, abs=0.01)


def test_bound_is_the_negative_loss(small_model):
    """The loss of one draw of z, in nats per cloud."""
    model, x = small_model(trace="exact"), normal(1, 6, 3)
    likelihood = model.log_likelihood(x, 5)
    q = model.encode(x)
    z = q.sample(shape_noise(5, 1, 4).double())
    entropy = Normal(q.mean, (0.5 * q.logvar).exp()).entropy().sum(1)
    points = model.points_to_prior(x, z)[1]
    assert_close(likelihood.points, points.detach())
    assert_close(likelihood.bound, (points.sum(1) + model.shape_to_prior(z)[1] + entropy).detach())


def test_hutchinson_likelihood_is_not_exact(small_model):
    model, x = small_model(), normal(2, 6, 3)
    exact, estimate = model.log_likelihood(x).points, model.log_likelihood(x, trace="hutchinson").points
    assert 1e-3 < (exact - estimate).abs().mean() < 5


def test_hutchinson_noise_comes_from_the_generator(small_model):
    model, x, z = small_model(), normal(2, 6, 3), normal(2, 4, seed=1)
    for density in (
        lambda seed: model.log_likelihood(x, seed, "hutchinson").bound,
        lambda seed: model.points_to_prior(x, z, "hutchinson", seed)[1].detach(),
        lambda seed: model.shape_to_prior(z, "hutchinson", seed)[1].detach(),
    ):
        assert torch.equal(density(3), density(3)) and not torch.equal(density(3), density(4))
    draws = [model.points_to_prior(x, z, "hutchinson")[1] for _ in range(2)]
    assert not torch.equal(*draws)


# Reconstruction and interpolation.


def test_reconstruction_goes_through_the_mean_or_a_draw(small_model):
    model, x = small_model(), normal(2, 6, 3)
    q = model.encode(x)
    assert_close(model.reconstruct(x, 5, 7), model.decode(q.mean.detach(), 5, 7))
    z = q.sample(shape_noise(7, 2, 4).double()).detach()
    assert_close(model.reconstruct(x, 5, 7, draw=True), model.decode(z, 5, 7))
    assert model.reconstruct(x, 5, 7, temperature=0.0).std(1).max() < 1e-12


@pytest.mark.parametrize("space", ["latent", "prior"])
def test_interpolation_starts_at_a_and_ends_at_b(small_model, space):
    model, x = small_model(solver=SolverConfig()), normal(2, 6, 3)
    line = model.interpolate(x[0], x[1], 5, 8, 7, space=space)
    assert line.shape == (5, 8, 3)
    for end, cloud in ((line[0], x[:1]), (line[-1], x[1:])):
        assert_close(end, model.reconstruct(cloud, 8, 7, shared_noise=True)[0], atol=1e-4, rtol=0)


def test_interpolation_shares_one_noise_and_is_straight_in_its_space(small_model):
    model, z = small_model(), normal(2, 4)
    noise = point_noise(7, 1, 8).double().expand(3, 8, 3)
    line = torch.stack([z[0], z.mean(0), z[1]])
    assert_close(model.interpolate(z[0], z[1], 3, 8, 7), model.points_from_prior(noise, line).detach())
    w = model.shape_to_prior(z)[0]
    bent = model.shape_from_prior(torch.stack([w[0], w.mean(0), w[1]]))
    found = model.interpolate(z[0], z[1], 3, 8, 7, space="prior")
    assert_close(found, model.points_from_prior(noise, bent).detach())
    assert (found[1] - model.interpolate(z[0], z[1], 3, 8, 7)[1]).abs().max() > 1e-3


def test_clouds_and_codes_are_alike_as_ends(small_model):
    model, x = small_model(), normal(2, 6, 3)
    codes = model.encode(x).mean.detach()
    assert_close(model.interpolate(codes[0], x[1], 3, 8, 7), model.interpolate(x[0], codes[1], 3, 8, 7))


def test_shared_noise(small_model):
    model, z = small_model(), normal(1, 4).expand(3, 4)
    shared, own = model.decode(z, 5, 7, shared_noise=True), model.decode(z, 5, 7)
    assert_close(shared, own[:1].expand(3, 5, 3))
    assert (own[0] - own[1]).abs().max() > 1e-2


def test_arrays_of_other_kinds_are_taken(small_model):
    model, x = small_model(), normal(2, 6, 3)
    want = model.reconstruct(x, 5, 0)
    assert_close(model.reconstruct(x.numpy(), 5, 0), want)
    assert_close(model.reconstruct(x.tolist(), 5, 0), want)
    assert_close(model.reconstruct(x.half(), 5, 0), want, atol=0.05, rtol=0.05)
    assert_close(model.reconstruct([cloud.numpy() for cloud in x], 5, 0), want)
    assert_close(model.reconstruct(list(x), 5, 0), want)
    assert_close(model.reconstruct(x.numpy()[:, ::-1], 5, 0), want)  # NumPy's reversed view: a negative stride
    assert_close(model.reconstruct(x.numpy().astype(">f8"), 5, 0), want)
    read_only = x.numpy().copy()
    read_only.flags.writeable = False
    assert_close(model.reconstruct(read_only, 5, 0), want)
    assert_close(model.interpolate(x[:1], x[1:], 2, 5, 0), model.interpolate(x[0], x[1], 2, 5, 0))


def test_statistics_are_copied(small_model):
    mean = torch.zeros(3)
    model = PointFlow(small_model().config, mean)
    model.data_mean.fill_(7.0)
    assert torch.equal(mean, torch.zeros(3))


# What users get wrong.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.sample(0, 5), "shapes must be at least 1, got 0"),
        (lambda m: m.sample(1, 0), "points must be at least 1, got 0"),
        (lambda m: m.sample(1, 5, -1), "a seed must not be negative, got -1"),
        (lambda m: m.sample(1, 5, temperature=-1.0), "temperature must be finite and not negative, got -1.0"),
        (lambda m: m.sample(1, 5, truncation=0.0), "truncation must be positive"),
        (lambda m: m.sample(1, 5, point_truncation=-2.0), "truncation must be positive"),
        (lambda m: m.decode(torch.zeros(2, 3), 5), r"codes must be \(B, 4\), got \(2, 3\)"),
        (lambda m: m.decode(torch.zeros(4), 5), r"codes must be \(B, 4\), got \(4,\)"),
        (lambda m: m.encode(torch.zeros(6, 3)), r"x must be clouds \(B, N, 3\), got \(6, 3\)"),
        (lambda m: m.encode(torch.zeros(2, 6, 2)), r"x must be clouds \(B, N, 3\), got \(2, 6, 2\)"),
        (lambda m: m.encode(torch.zeros(2, 0, 3)), r"x must be clouds \(B, N, 3\), got \(2, 0, 3\)"),
        (lambda m: m.points_from_prior(torch.zeros(6, 3), torch.zeros(1, 4)), r"y must be clouds .* got \(6, 3\)"),
        (
            lambda m: m.points_to_prior(torch.zeros(2, 6, 3), torch.zeros(1, 4)),
            r"context must be \(2, 4\), got \(1, 4\)",
        ),
        (lambda m: m.log_likelihood(torch.zeros(1, 6, 3), trace="none"), "trace must be 'exact' or 'hutchinson'"),
        (lambda m: m.interpolate(torch.zeros(4), torch.zeros(4), 1, 5), "at least its two ends, got steps=1"),
        (lambda m: m.interpolate(torch.zeros(4), torch.zeros(4), 3, 5, space="z"), "space must be .*, got 'z'"),
        (lambda m: m.interpolate(torch.zeros(4), torch.zeros(5), 3, 5), r"codes must be \(B, 4\), got \(1, 5\)"),
        (lambda m: m.interpolate(torch.zeros(2, 6, 3), torch.zeros(4), 3, 5), r"a must be a cloud .* got \(2, 6, 3\)"),
        (lambda m: m.interpolate(torch.zeros(4), torch.zeros(6, 2), 3, 5), r"b must be a cloud .* got \(6, 2\)"),
        (lambda m: PointFlow(m.config, mean=[0.0, 1.0]), r"mean must be \(3,\) .*, got \[0.0, 1.0\]"),
        (lambda m: PointFlow(m.config, scale=0.0), r"scale positive.*, got .*\[0.0\]"),
        (lambda m: PointFlow(m.config, scale=[1.0, 2.0]), r"scale positive.*, got .*\[1.0, 2.0\]"),
        (lambda m: PointFlow(m.config, scale=float("nan")), r"scale positive.*, got .*\[nan\]"),
        (lambda m: PointFlow(m.config, scale=float("inf")), r"scale positive.*, got .*\[inf\]"),
        (lambda m: PointFlow(m.config, mean=[0.0, float("nan"), 0.0]), r"mean must be .*, got \[0.0, nan, 0.0\]"),
        (lambda m: m.encode(torch.full((1, 6, 3), math.nan)), "x must be finite, got 18 values that are not"),
        (lambda m: m.decode(torch.full((1, 4), math.inf), 5), "codes must be finite, got 4 values that are not"),
        (lambda m: PointFlowConfig(latent=0, objective=LIKELIHOOD), "latent must be at least 1, got 0"),
        (lambda m: EncoderConfig(()), "layer widths must be positive"),
        (lambda m: EncoderConfig((8,), (0,)), "layer widths must be positive"),
    ],
)
def test_wrong_arguments(small_model, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(small_model())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.sample(1.5, 5), "shapes must be a whole number, got 1.5"),
        (lambda m: m.sample(1, "5"), "points must be a whole number, got '5'"),
        (lambda m: m.decode(torch.zeros(1, 4), 2.5), "points must be a whole number, got 2.5"),
        (lambda m: m.interpolate(torch.zeros(4), torch.zeros(4), 2.5, 5), "steps must be a whole number, got 2.5"),
        (lambda m: m.sample(1, 5, "0"), "generator must be a seed or a torch.Generator, got str"),
    ],
)
def test_arguments_of_another_type(small_model, call, message):
    with pytest.raises(TypeError, match=message) as error:
        call(small_model())
    assert "\n" not in str(error.value)


def test_state_survives_a_round_trip(small_model, tmp_path):
    model = small_model(mean=[1.0, 2.0, 3.0], scale=2.0)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = PointFlow(model.config).double().eval()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.sample(2, 5, 0).points, model.sample(2, 5, 0).points)


@pytest.mark.parametrize("blocks", [1, 2])
def test_chains_alternate_norms_and_blocks(blocks):
    flow = Flow(3, 4, FlowConfig((8,), blocks))
    assert [type(m).__name__ for m in flow.chain] == ["MovingBatchNorm", *["CNF", "MovingBatchNorm"] * blocks]
    assert [type(m).__name__ for m in Flow(3, 4, FlowConfig((8,), blocks, norm="none")).chain] == ["CNF"] * blocks


MILLION = """
import resource, torch
from pcgen.flows import SolverConfig
from pcgen.models import PointFlow, PointFlowConfig
cloud = PointFlow(PointFlowConfig()).sample(1, 1_000_000, 0, solver=SolverConfig("euler", steps=1)).points
assert cloud.shape == (1, 1_000_000, 3) and cloud.isfinite().all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_million_points_fit_in_two_gigabytes():
    """The paper's network; the number of steps does not change the peak."""
    done = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout) / (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 2 * 1024**2


# Clouds that are standardised one by one.


def shape_by_shape(small_model):
    """The same weights twice: standardising by the data's statistics, and each cloud by its own."""
    plain = small_model()
    own = small_model(mean=[0.5, 0.0, -1.0], scale=2.0)
    own.own_frames = True
    return plain, own


@pytest.mark.parametrize(("unit", "shift"), [(1.0, 0.0), (1e-3, 2.0), (1000.0, -7e4)])
def test_the_unit_and_the_place_of_a_cloud_do_not_matter(small_model, unit, shift):
    plain, own = shape_by_shape(small_model)
    x = normal(2, 40, 3) * torch.tensor([1.0, 2.0, 0.5]).double()
    frames = [fit([cloud.numpy()]) for cloud in x]
    standard = torch.stack([frame.apply(cloud) for frame, cloud in zip(frames, x)])
    back = plain.reconstruct(standard, 9, 3)
    want = torch.stack([frame.invert(cloud) for frame, cloud in zip(frames, back)])
    assert_close(own.reconstruct(unit * x + shift, 9, 3), unit * want + shift, atol=1e-5 * unit, rtol=1e-5)
    changes = torch.tensor([[frame.log_det + 3 * math.log(unit)] for frame in frames]).double()
    found, wanted = own.log_likelihood(unit * x + shift, 0), plain.log_likelihood(standard, 0)
    assert_close(found.points, wanted.points - changes, atol=1e-4, rtol=1e-5)
    assert_close(found.bound, wanted.bound - 40 * changes[:, 0], atol=4e-3, rtol=1e-5)


def test_generated_shapes_stand_where_the_data_does_on_average(small_model):
    plain, own = shape_by_shape(small_model)
    assert_close(own.sample(2, 9, 1).points, own.to_data(plain.sample(2, 9, 1).points))
    a, b = normal(20, 3), normal(20, 3, seed=1)
    assert_close(own.interpolate(1000 * a, b + 5, 3, 9, 0), own.interpolate(a, b, 3, 9, 0), atol=1e-6, rtol=1e-5)


def test_a_frame_that_is_given_is_taken(small_model):
    """Such as that of the whole cloud, of which the model sees some points."""
    plain, own = shape_by_shape(small_model)
    whole = 3 * normal(200, 3) + 1
    frame = fit([whole.numpy()])
    some = whole[None, :30]
    for model in (plain, own):
        back = frame.invert(plain.reconstruct(frame.apply(some), 9, 0))
        assert_close(model.reconstruct(some, 9, 0, frame=frame), back)
        want = plain.log_likelihood(frame.apply(some), 0).points - frame.log_det
        assert_close(model.log_likelihood(some, 0, frame=frame).points, want)


def test_a_cloud_of_no_extent_has_no_frame(small_model):
    _, own = shape_by_shape(small_model)
    with pytest.raises(ValueError, match="cloud 1 has no extent to standardise it by"):
        own.reconstruct(torch.cat([normal(1, 4, 3), torch.ones(1, 4, 3)]), 5, 0)


def test_shapes_far_from_the_origin_keep_their_points(small_model):
    """Float64 clouds are moved before they are rounded."""
    x = normal(1, 200, 3)
    model = small_model(mean=[5e6, 0.0, 0.0]).float()
    assert_close(model.standardise(x + torch.tensor([5e6, 0, 0])).double(), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(5, 3), r"a batch must be clouds \(B, N, 3\), got \(5, 3\)"),
        (torch.zeros(0, 5, 3), r"a batch must be clouds \(B, N, 3\), got \(0, 5, 3\)"),
        (torch.zeros(2, 0, 3), r"a batch must be clouds \(B, N, 3\), got \(2, 0, 3\)"),
        (torch.zeros(2, 5, 2), r"a batch must be clouds \(B, N, 3\), got \(2, 5, 2\)"),
    ],
)
@pytest.mark.parametrize("name", ["likelihood", "flow_matching"])
def test_the_loss_refuses_what_is_no_batch(small_model, name, x, message):
    model = small_model(name=name)
    with pytest.raises(ValueError, match=message):
        model.loss(x)
    with pytest.raises(ValueError, match=r"codes must be \(B, 4\), got \(2, 3\)"):
        model.prior_loss(torch.zeros(2, 3))


@pytest.mark.parametrize("name", ["likelihood", "flow_matching"])
def test_the_loss_takes_arrays_of_any_type(small_model, name):
    model, x = small_model(name=name), normal(2, 8, 3)
    want = model.loss(x, torch.Generator().manual_seed(0)).total
    found = model.loss(x.numpy()[:, ::-1][:, ::-1], torch.Generator().manual_seed(0)).total
    assert_close(found, want)
    assert model.float().loss(x, torch.Generator().manual_seed(0)).total.dtype == torch.float32
