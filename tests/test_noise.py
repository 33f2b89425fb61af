"""Prior noise: one stream per (seed, shape), truncation and temperature."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, truncnorm
from torch.testing import assert_close

from pcgen.models.noise import point_noise, seed_of, shape_noise

SEEDS = st.integers(0, 2**62)


@given(SEEDS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 50), st.integers(1, 50))
def test_more_extends(seed, shapes, more_shapes, points, more_points):
    few, many = point_noise(seed, shapes, points), point_noise(seed, shapes + more_shapes, points + more_points)
    assert few.shape == (shapes, points, 3) and few.dtype == torch.float32
    assert torch.equal(many[:shapes, :points], few)
    assert torch.equal(shape_noise(seed, shapes + more_shapes, 5)[:shapes], shape_noise(seed, shapes, 5))


@given(SEEDS, st.integers(0, 10), st.integers(1, 5))
def test_batches_are_windows_of_one_set(seed, first, shapes):
    whole = point_noise(seed, first + shapes, 7)
    assert torch.equal(point_noise(seed, shapes, 7, first=first), whole[first:])
    assert torch.equal(shape_noise(seed, shapes, 4, first=first), shape_noise(seed, first + shapes, 4)[first:])


def test_streams_are_apart():
    """Of unlike seeds, shapes and purposes: no two rows are the same or correlated."""
    rows = torch.cat([point_noise(seed, 4, 1000).flatten(1) for seed in (0, 1, 2**40)])
    rows = torch.cat([rows, shape_noise(0, 4, 3000)])
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 5 / 3000**0.5


def test_noise_is_standard_normal():
    assert kstest(point_noise(0, 20, 1000).flatten().numpy(), "norm").pvalue > 0.01
    assert kstest(shape_noise(0, 500, 128).flatten().numpy(), "norm").pvalue > 0.01


@pytest.mark.parametrize("bound", [0.1, 1.0, 2.0, 4.0])
def test_truncation_bounds_and_keeps_ranks(bound):
    free = point_noise(3, 2, 2000).flatten()
    kept = point_noise(3, 2, 2000, truncation=bound).flatten()
    assert kept.abs().max() <= bound
    assert kept.isfinite().all()
    assert torch.equal(kept[free.argsort()], kept.sort().values)
    assert kstest(kept.numpy(), truncnorm(-bound, bound).cdf).pvalue > 0.01
    assert torch.equal(torch.sign(free), torch.sign(kept))


def test_no_noise_is_lost_far_out():
    """A bound beyond all values changes hardly anything."""
    assert_close(shape_noise(0, 50, 50, truncation=9.0), shape_noise(0, 50, 50), atol=1e-5, rtol=1e-5)


@given(st.floats(0, 3), st.sampled_from([None, 1.5]))
def test_temperature_scales_after_truncation(temperature, truncation):
    cold = shape_noise(1, 3, 8, temperature=temperature, truncation=truncation)
    assert_close(cold, shape_noise(1, 3, 8, truncation=truncation) * temperature)
    if truncation is not None:
        assert cold.abs().max() <= temperature * truncation + 1e-6


def test_zero_temperature_is_the_mean():
    assert not point_noise(0, 2, 10, temperature=0.0).any()


def test_seeds():
    assert seed_of(7) == 7 and seed_of(np.int64(7)) == 7 and type(seed_of(np.int64(7))) is int
    one, other = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    assert seed_of(one) == seed_of(other)
    assert seed_of(one) != seed_of(torch.Generator().manual_seed(0))  # a consumed generator gives another
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = seed_of(None)
        assert first != seed_of(None)
        torch.manual_seed(0)
        assert first == seed_of(None)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: seed_of(-1), ValueError, "a seed must not be negative, got -1"),
        (lambda: seed_of("0"), TypeError, "generator must be a seed or a torch.Generator, got str"),
        (lambda: seed_of(0.5), TypeError, "generator must be a seed or a torch.Generator, got float"),
        (lambda: shape_noise(0, 1, 2, temperature=-0.1), ValueError, "temperature must be finite and .*, got -0.1"),
        (lambda: shape_noise(0, 1, 2, truncation=0.0), ValueError, "truncation must be positive .*, got 0.0"),
        (lambda: point_noise(0, 1, 2, truncation=-1.0), ValueError, "truncation must be positive .*, got -1.0"),
        (lambda: point_noise(0, 1, 2, truncation=float("nan")), ValueError, "truncation must be positive .*, got nan"),
        (lambda: point_noise(0, 1, 2, temperature=float("nan")), ValueError, "temperature must be finite .*, got nan"),
    ],
)
def test_wrong_arguments(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert "\n" not in str(error.value)
