"""Sinkhorn divergences: their definition, their laws, their limit and their gradient."""

import importlib.util

import numpy as np
import pytest
import torch
from adversarial import cloud, dimensions, dtypes, kinds, rotation, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from pcgen.ops import reference as definition
from pcgen.ops.clouds import clouds
from pcgen.ops.sinkhorn import sinkhorn, sinkhorn_matrix

powers = pytest.mark.parametrize("power", [1, 2])


def value(x, y, blur=0.1, power=2, scaling=0.5, backend="auto"):
    found = sinkhorn(clouds("x", x), clouds("y", y), blur, power, scaling, backend)
    return found if x.ndim == 3 else found[0]


def by_matrices(x, y, blur, power, scaling):
    """The authors' algorithm on dense matrices, one after the other."""

    def cost(a, b):
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") ** power / power

    def soft(e, C, log_weight, potential):
        return -e * torch.logsumexp(log_weight + (potential - C) / e, 1)

    both = torch.cat([x, y])
    diameter = (both.amax(0) - both.amin(0)).norm().item()
    steps = np.exp(np.arange(power * np.log(diameter), power * np.log(blur), power * np.log(scaling)))
    schedule = [diameter**power, *steps, blur**power]
    a, b = -np.log(len(x)), -np.log(len(y))
    C = {"xy": cost(x, y), "yx": cost(y, x), "xx": cost(x, x), "yy": cost(y, y)}
    # name of the potential: its matrix, the weight and the potential on the other side
    sides = {"f": ("xy", b, "g"), "g": ("yx", a, "f"), "ff": ("xx", a, "ff"), "gg": ("yy", b, "gg")}

    def updated(e, p):
        return {name: soft(e, C[m], w, p[other]) for name, (m, w, other) in sides.items()}

    zero = {"f": torch.zeros(len(x)), "g": torch.zeros(len(y)), "ff": torch.zeros(len(x)), "gg": torch.zeros(len(y))}
    potentials = updated(schedule[0], zero)
    for e in schedule:
        found = updated(e, potentials)
        potentials = {name: (potentials[name] + found[name]) / 2 for name in sides}
    last = updated(schedule[-1], potentials)
    return (last["f"] - last["ff"]).mean() + (last["g"] - last["gg"]).mean()


# the soft minimum


@powers
@given(
    seeds,
    st.integers(1, 70),
    st.integers(1, 70),
    dimensions,
    kinds,
    st.sampled_from([1e-3, 0.1, 10.0]),
    dtypes,
)
def test_softmin_is_the_definition(power, seed, n, m, d, kind, sharpness, dtype):
    x, y = cloud(seed, n, d, kind=kind, dtype=dtype), cloud(seed + 1, m, d, kind=kind, dtype=dtype)
    every = (x.double()[:, None] - y.double()[None]).norm(dim=-1) ** power / power
    eps = sharpness * max(every.max().item(), 1e-12)
    h = cloud(seed + 2, m).to(dtype)
    left, right = clouds("x", x), clouds("y", y)
    arguments = (left.points, left.spans, right.points, right.spans, h, torch.tensor([eps], dtype=torch.float64), power)
    found = torch.ops.pcgen.softmin(*arguments)
    expected = -eps * torch.logsumexp(h.double() - every / eps, 1)
    digits = 1e-6 if dtype == torch.float32 else 1e-11
    tolerance = {"rtol": 10 * digits, "atol": digits * max(eps, eps / sharpness)}
    torch.testing.assert_close(found.double(), expected, **tolerance)
    torch.testing.assert_close(definition.softmin(*arguments).double(), expected, **tolerance)


@powers
def test_softmin_gradient(power):
    left, right = clouds("x", cloud(0, 2, 19, 3)), clouds("y", cloud(1, 2, 23, 3))
    eps, h = torch.tensor([0.3, 0.5], dtype=torch.float64), cloud(2, 46)

    def softmin(x, y, h):
        return torch.ops.pcgen.softmin(x, left.spans, y, right.spans, h, eps, power)

    inputs = tuple(t.requires_grad_() for t in (left.points, right.points, h))
    assert torch.autograd.gradcheck(softmin, inputs, fast_mode=True)


@powers
def test_small_eps_leaves_blocks_out(power):
    # In order of their first coordinate, most blocks of sixteen are out of reach of most points.
    x, y = (cloud(i, 700, 3)[cloud(i, 700, 3)[:, 0].argsort()] for i in (0, 1))
    left, right = clouds("x", x), clouds("y", y)
    arguments = (
        left.points,
        left.spans,
        right.points,
        right.spans,
        cloud(2, 700),
        torch.tensor([1e-2], dtype=torch.float64),
        power,
    )
    found, expected = torch.ops.pcgen.softmin(*arguments), definition.softmin(*arguments)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    a = expected / 1e-2
    pull = (*arguments[:2], a, *arguments[2:5], cloud(3, 700), *arguments[5:])
    for one, other in zip(torch.ops.pcgen.softmin_pull(*pull), definition.softmin_pull(*pull)):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


# the divergence


@powers
@settings(max_examples=8)
@given(seeds, st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.5, 0.8]))
def test_is_the_authors_algorithm(power, seed, n, m, scaling):
    x, y = cloud(seed, n, 3), cloud(seed + 1, m, 3)
    expected = by_matrices(x, y, 0.05, power, scaling)
    torch.testing.assert_close(value(x, y, 0.05, power, scaling), expected, rtol=1e-9, atol=1e-10)
    found = value(x.float(), y.float(), 0.05, power, scaling)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@powers
@settings(max_examples=8)
@given(seeds, st.integers(1, 30), st.integers(1, 30))
def test_laws(power, seed, n, m):
    x, y = cloud(seed, n, 3), cloud(seed + 1, m, 3)
    there = value(x, y, 0.3, power, 0.8)
    assert there > 0
    torch.testing.assert_close(value(y, x, 0.3, power, 0.8), there)
    torch.testing.assert_close(value(3 * x, 3 * y, 0.9, power, 0.8), there * 3**power)
    Q = rotation(seed + 2)
    # The box, and with it the first ε, turns with the clouds: equal only where the potentials have converged.
    torch.testing.assert_close(value(x @ Q + 1, y @ Q + 1, 0.3, power, 0.8), there, rtol=1e-2, atol=1e-3)
    assert value(x, x, 0.3, power) == 0
    assert value(x, x.flip(0), 0.3, power).abs() < 1e-10


def test_of_a_translation():
    # Both potentials of (x, x + t) are those of (x, x) and a linear function: S is |t|²/2, whatever the blur.
    x, t = cloud(0, 60, 3), torch.tensor([0.3, -0.1, 0.2], dtype=torch.float64)
    for blur in (0.2, 1.0):
        torch.testing.assert_close(value(x, x + t, blur, 2, 0.95), t.square().sum() / 2, rtol=1e-3, atol=0)


@powers
def test_small_blur_gives_the_exact_distance(power):
    x, y = cloud(0, 60, 3), cloud(1, 60, 3)
    costs = torch.cdist(x, y) ** power / power
    exact = costs[linear_sum_assignment(costs)].mean()
    errors = [abs(value(x, y, blur, power, 0.95) / exact - 1) for blur in (0.3, 0.1, 0.01)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-2


@powers
def test_gradient(power):
    x, y = cloud(0, 4, 3).requires_grad_(), cloud(1, 5, 3).requires_grad_()
    # Exact where the potentials have converged.
    assert torch.autograd.gradcheck(lambda x, y: value(x, y, 2.0, power, 0.97), (x, y), atol=1e-4, rtol=1e-3)
    (at_itself,) = torch.autograd.grad(value(x, x.detach(), 0.5, power), x)
    assert at_itself.abs().max() < 1e-12


def test_one_point_each():
    x, y = torch.zeros(1, 3).double(), torch.tensor([[3.0, 4.0, 0.0]]).double()
    assert value(x, y, power=1) == pytest.approx(5.0) and value(x, y, power=2) == pytest.approx(12.5)
    assert value(x, x.expand(4, 3)) == pytest.approx(0, abs=1e-12)  # no extent at all


@powers
def test_batches_and_matrices_are_their_pairs(power):
    X, Y = cloud(0, 5, 30, 3), torch.stack([cloud(1, 25, 3) * s for s in (1, 2, 3)])  # of different diameters
    seen = []
    how = 0.1, power, 0.5, "auto"
    matrix = sinkhorn_matrix(clouds("X", X), clouds("Y", Y), *how, lambda done, total: seen.append((done, total)))
    pairs = torch.stack([torch.stack([value(x, y, 0.1, power) for y in Y]) for x in X])
    torch.testing.assert_close(matrix, pairs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(value(X[:3], Y, 0.1, power), pairs.diagonal(), rtol=1e-10, atol=1e-12)
    assert seen[-1] == (15, 15)
    both = clouds("X", X)
    square = sinkhorn_matrix(both, both, *how)
    torch.testing.assert_close(square, sinkhorn_matrix(both, clouds("Y", X.clone()), *how))


def test_padding_and_packing():
    x, y = cloud(0, 2, 30, 3), cloud(1, 2, 30, 3)
    lengths = torch.tensor([30, 18])
    each = torch.stack([value(a[:n], b[:n]) for a, b, n in zip(x, y, lengths.tolist())])
    x[1, 18:], y[1, 18:] = torch.nan, torch.inf
    x.requires_grad_()
    padded = sinkhorn(clouds("x", x, lengths), clouds("y", y, lengths), 0.1, 2, 0.5, "auto")
    torch.testing.assert_close(padded, each, rtol=1e-9, atol=0)
    (gradient,) = torch.autograd.grad(padded.sum(), x)
    assert (gradient[1, 18:] == 0).all() and gradient[1, :18].isfinite().all()
    offsets = torch.tensor([0, 30, 48])
    packed = [clouds(name, z.detach().reshape(-1, 3)[:48], None, offsets) for name, z in (("x", x), ("y", y))]
    torch.testing.assert_close(sinkhorn(*packed, 0.1, 2, 0.5, "auto"), each, rtol=1e-9, atol=0)


# how it is bound


@powers
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_gives_nan(power, bad):
    left, right = clouds("x", cloud(0, 2, 20, 3)), clouds("y", cloud(1, 2, 20, 3))
    good = sinkhorn(left, right, 0.3, power, 0.5, "auto")
    right.points[3, 1] = bad  # as under torch.compile, where nobody looks
    found = sinkhorn(left, right, 0.3, power, 0.5, "auto")
    assert found[0].isnan()
    torch.testing.assert_close(found[1], good[1])
    eps, h = torch.tensor([0.1, 0.1], dtype=torch.float64), torch.zeros(40).double()
    sums = torch.ops.pcgen.softmin(left.points, left.spans, right.points, right.spans, h, eps, power)
    assert sums[:20].isnan().all() and sums[20:].isfinite().all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"blur": 0.0}, "blur must be a positive length, got 0.0"),
        ({"blur": float("nan")}, "blur must be a positive length, got nan"),
        ({"power": 3}, "power must be 1 or 2, got 3"),
        ({"scaling": 1.0}, "scaling must lie between 0 and 1, got 1.0"),
        ({"backend": "keop"}, "backend must be auto or keops, got 'keop'"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        value(cloud(0, 4, 3), cloud(1, 4, 3), **bad)


@pytest.mark.skipif(importlib.util.find_spec("pykeops") is not None, reason="pykeops is installed")
def test_says_how_to_get_keops():
    with pytest.raises(ImportError, match="pip install pykeops"):
        value(cloud(0, 20, 3), cloud(1, 25, 3), backend="keops")


@pytest.mark.skipif(importlib.util.find_spec("pykeops") is None, reason="pykeops is not installed")
@powers
def test_keops_gives_the_same(power):
    x, y, lengths = cloud(0, 2, 20, 3).requires_grad_(), cloud(1, 2, 25, 3).requires_grad_(), torch.tensor([20, 13])
    found, expected = (
        sinkhorn(clouds("x", x, lengths), clouds("y", y), 0.1, power, 0.5, backend) for backend in ("keops", "auto")
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    for ours, theirs in zip(*(torch.autograd.grad(divergence.sum(), (x, y)) for divergence in (found, expected))):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
    itself = clouds("x", x)  # pairs of points at distance 0, where the root has no derivative
    (at_itself,) = torch.autograd.grad(sinkhorn(itself, itself, 0.1, power, 0.5, "keops").sum(), x)
    assert at_itself.abs().max() < 1e-10
