"""The annealed earth mover's distances: the published algorithm, its published values, and its gradient."""

import adversarial
import numpy as np
import pytest
import torch
from adversarial import dimensions, dtypes, kinds, rotation, seeds
from hypothesis import example, given
from hypothesis import strategies as st

from pcgen.ops import reference as definition
from pcgen.ops.annealed import annealed, annealed_matrix
from pcgen.ops.clouds import clouds

variants = pytest.mark.parametrize("variant", ["pointflow", "pvd"])


def cloud(seed, *shape, **form):
    return adversarial.cloud(seed, *shape, **form) / 4  # levels are lengths for shapes about one unit long


def pair(x, y):
    return clouds("x", x), clouds("y", y)


def value(x, y, variant, **given):
    return annealed(clouds("x", x, given.get("lengths")), clouds("y", y, given.get("lengths")), variant).value


def by_loops(x, y, variant):
    """The published algorithm, one scalar at a time: what each pair moves."""
    n, m = len(x), len(y)
    left, right = [float(max(1, m // n))] * n, [float(max(1, n // m))] * m
    match = np.zeros((n, m))
    d2 = ((x[:, None] - y[None]) ** 2).sum(-1)
    for level in [-(4.0**j) for j in range(7, -2, -1)] + ([0.0] if variant == "pvd" else []):
        K = np.exp(level * d2)
        ratio_left = [left[i] / (1e-9 + sum(K[i, j] * right[j] for j in range(m))) for i in range(n)]
        ratio_right, rest = [], []
        for j in range(m):
            s = sum(K[i, j] * ratio_left[i] for i in range(n)) * right[j]
            ratio_right.append(min(right[j] / (s + 1e-9), 1.0) * right[j])
            rest.append(max(0.0, right[j] - s))
        W = np.array([[K[i, j] * ratio_left[i] * ratio_right[j] for j in range(m)] for i in range(n)])
        match += W
        left = [max(0.0, left[i] - W[i].sum()) for i in range(n)]
        right = rest
    return match, d2


@variants
@pytest.mark.parametrize(("n", "m"), [(9, 9), (4, 9), (9, 4), (1, 5), (17, 33)])
def test_is_the_published_algorithm(variant, n, m):
    x, y = cloud(0, n, 3), cloud(1, m, 3)
    found = annealed(*pair(x, y), variant)
    match, d2 = by_loops(x.numpy(), y.numpy(), variant)
    cost = (match * (d2 if variant == "pvd" else np.sqrt(d2))).sum() / n
    assert found.value.item() == pytest.approx(cost, rel=1e-9)
    assert found.moved.item() == pytest.approx(match.sum() / (n * max(1, m // n)), rel=1e-9)


@variants
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_has_the_published_values(reference, variant, dtype):
    with np.load(reference("metrics_small.npz"), allow_pickle=False) as file:
        X, Y = (torch.from_numpy(file[name][:6]).to(dtype) for name in ("sample", "ref"))
        published = torch.from_numpy(file["emd_pointflow" if variant == "pointflow" else "emd_squared"])
    found = annealed_matrix(*pair(X, Y), variant).value
    torch.testing.assert_close(found, published, rtol=0, atol=1e-10 if dtype == torch.float64 else 1e-6)


@variants
@given(seeds, st.integers(1, 70), st.integers(1, 70), dimensions, kinds, dtypes)
@example(0, 300, 280, 3, "random", torch.float32)
def test_is_the_definition(variant, seed, n, m, d, kind, dtype):
    x, y = cloud(seed, n, d, kind=kind, dtype=dtype), cloud(seed + 1, m, d, kind=kind, dtype=dtype)
    found = annealed(*pair(x, y), variant)
    left, right = pair(x.double(), y.double())
    cost, moved, *_ = definition.annealed(left.points, left.spans, right.points, right.spans, variant == "pvd")
    # The longest way that mass can go is the scale of rounding: of a self-distance not every digit need be right.
    longest = (x.double()[:, None] - y.double()[None]).norm(dim=-1).amax() ** (2 if variant == "pvd" else 1)
    digits, tolerance = (1e-5, 1e-8) if dtype == torch.float32 else (1e-8, 1e-13)
    torch.testing.assert_close(found.value, cost, rtol=digits, atol=tolerance * longest.item() * max(1, m // n))
    torch.testing.assert_close(found.moved, moved, rtol=min(digits, 1e-6), atol=tolerance)


def on_sphere(seed, n):
    return torch.nn.functional.normalize(cloud(seed, n, 3), dim=1) / 2


def in_box(seed, n):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5


@variants
@pytest.mark.parametrize(("left", "right"), [(on_sphere, on_sphere), (in_box, in_box), (on_sphere, in_box)])
@pytest.mark.parametrize(("n", "m"), [(16, 16), (17, 17), (128, 128), (400, 400), (128, 33), (33, 128)])
def test_float32_loses_nothing_that_matters(variant, left, right, n, m):
    # What is left of a mass, the difference of nearly equal numbers, decides where the rest goes.
    x, y = left(2, n).float(), right(5, m).float()
    wide = pair(x.double(), y.double())
    expected = definition.annealed(wide[0].points, wide[0].spans, wide[1].points, wide[1].spans, variant == "pvd")
    found = annealed(*pair(x, y), variant)
    torch.testing.assert_close(found.value, expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found.moved, expected[1], rtol=1e-6, atol=0)


@variants
@pytest.mark.parametrize("points", [on_sphere, in_box])
@pytest.mark.parametrize("n", [16, 128, 400])
def test_float32_of_a_cloud_and_itself(variant, points, n):
    x = points(3, n).float()
    wide = clouds("x", x.double())
    expected = definition.annealed(wide.points, wide.spans, wide.points, wide.spans, variant == "pvd")
    torch.testing.assert_close(annealed(*pair(x, x), variant).value, expected[0], rtol=1e-5, atol=1e-9)


@variants
def test_far_clouds_move_nothing_or_everything(variant):
    x = cloud(0, 20, 3)
    found = annealed(*pair(x, x + 1000), variant)
    if variant == "pointflow":  # no level reaches
        assert found.value == 0 and found.moved == 0
    else:  # level 0 takes everything everywhere
        torch.testing.assert_close(found.value.item(), 3e6, rtol=1e-3, atol=0)
        torch.testing.assert_close(found.moved.item(), 1.0)


@variants
@given(seeds, st.integers(2, 60))
def test_laws(variant, seed, n):
    x, y = cloud(seed, n, 3), cloud(seed + 1, n, 3)
    there = value(x, y, variant)
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(value(x[shuffled], y, variant), there)
    torch.testing.assert_close(value(x, y[shuffled], variant), there)
    Q = rotation(seed + 2)
    torch.testing.assert_close(value(x @ Q + 1, y @ Q + 1, variant), there)


@variants
def test_knows_its_left(variant):
    x, y = cloud(0, 30, 3), cloud(1, 30, 3)
    there, back = value(x, y, variant), value(y, x, variant)
    assert abs(there - back) > 1e-5
    both = clouds("X", torch.stack([x, y]))
    matrix = annealed_matrix(both, both, variant).value
    torch.testing.assert_close(matrix[0, 1], there[0])
    torch.testing.assert_close(matrix[1, 0], back[0])


@variants
def test_matrix_is_every_pair(variant):
    X, Y = cloud(0, 10, 20, 3), cloud(1, 3, 25, 3)
    seen = []
    found = annealed_matrix(*pair(X, Y), variant, progress=lambda done, total: seen.append((done, total)))
    for s in range(10):
        each = annealed(*pair(X[s].expand(3, -1, -1), Y), variant)
        assert torch.equal(found.value[s], each.value) and torch.equal(found.moved[s], each.moved)
    assert seen[-1] == (30, 30) and len(seen) > 1


@variants
def test_padding_and_packing(variant):
    x, y = cloud(0, 2, 30, 3), cloud(1, 2, 30, 3)
    lengths = torch.tensor([30, 18])
    each = torch.stack([value(a[:n], b[:n], variant)[0] for a, b, n in zip(x, y, lengths.tolist())])
    x[1, 18:], y[1, 18:] = torch.nan, torch.inf
    torch.testing.assert_close(value(x, y, variant, lengths=lengths), each, rtol=1e-14, atol=0)
    offsets = torch.tensor([0, 30, 48])
    packed = (clouds(name, z.reshape(-1, 3)[:48], None, offsets) for name, z in (("x", x), ("y", y)))
    torch.testing.assert_close(annealed(*packed, variant).value, each, rtol=1e-14, atol=0)


# gradient


def plan_held(x, y, variant):
    """The value, differentiable, the plan of the published algorithm being constant."""
    match, _ = by_loops(x.detach().numpy(), y.detach().numpy(), variant)
    difference = x[:, None] - y[None]
    cost = difference.square().sum(-1) if variant == "pvd" else torch.linalg.vector_norm(difference, dim=-1)
    return (torch.from_numpy(match) * cost).sum() / len(x)


@variants
@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_holds_the_plan(variant, d, dtype):
    x, y = (cloud(i, 21, d).to(dtype).requires_grad_() for i in (0, 1))
    with torch.no_grad():
        y[3] = x[5]  # where the derivative of a distance is 0
    a, b = x.detach().double().requires_grad_(), y.detach().double().requires_grad_()
    expected = torch.autograd.grad(plan_held(a, b, variant), (a, b))
    found = torch.autograd.grad(value(x, y, variant).sum() * 3, (x, y))
    for one, other in zip(found, expected):
        assert one.dtype == dtype
        tolerance = 1e-9 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(one.double(), 3 * other, rtol=tolerance, atol=tolerance)


@variants
def test_gradient_of_a_batch_is_that_of_its_clouds(variant):
    x, y = cloud(0, 2, 30, 3).requires_grad_(), cloud(1, 2, 30, 3)
    lengths = torch.tensor([30, 18])
    (found,) = torch.autograd.grad((value(x, y, variant, lengths=lengths) * torch.tensor([1.0, 2.0])).sum(), x)
    short = x[1, :18].detach().requires_grad_()
    (alone,) = torch.autograd.grad(2 * value(short, y[1, :18], variant).sum(), short)
    torch.testing.assert_close(found[1, :18], alone)
    assert (found[1, 18:] == 0).all()


def test_gradient_needs_equal_sizes():
    x, y = cloud(0, 4, 3).requires_grad_(), cloud(1, 5, 3)
    with pytest.raises(ValueError, match=r"x and y of equal size, got \(4, 3\) and \(5, 3\)"):
        annealed(*pair(x, y), "pvd")
    with torch.no_grad():
        assert annealed(*pair(x, y), "pvd").value > 0
    x, y = cloud(0, 2, 5, 3).requires_grad_(), cloud(1, 2, 5, 3)
    with pytest.raises(ValueError, match="equal size"):
        annealed(clouds("x", x, torch.tensor([5, 4])), clouds("y", y), "pvd")


# how it is bound


@variants
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_gives_nan(variant, bad):
    left, right = pair(cloud(0, 2, 20, 3), cloud(1, 2, 20, 3))
    good, _ = annealed(left, right, variant)
    right.points[3, 1] = bad  # as under torch.compile, where nobody looks
    arguments = (left.points, left.spans, right.points, right.spans, variant == "pvd")
    cost, moved, *ratios = torch.ops.pcgen.annealed(*arguments)
    assert cost[0].isnan() and moved[0].isnan() and cost[1] == good[1]
    of_x, of_y = torch.ops.pcgen.annealed_gradient(*arguments, *ratios, torch.ones(2).double())
    assert of_x[:20].isnan().all() and of_y[:20].isnan().all() and of_x[20:].isfinite().all()
    matrix = torch.ops.pcgen.annealed_matrix(*arguments)[0]
    assert matrix.isnan().tolist() == [[True, False]] * 2
