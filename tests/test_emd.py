"""The earth mover's distances: exact answers, certificates, laws, and the numbers of the published programs."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from pcgen import ops

REFERENCE = Path(__file__).parents[1].parent / "shared" / "reference"
seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 40)
few = settings(max_examples=10)


def cloud(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def shuffled(seed, x):
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]


def grid(n, shift=0.0):
    side = torch.arange(math.ceil(n ** (1 / 3)) + 1, dtype=torch.float64)
    return shuffled(n, torch.cartesian_prod(side, side, side))[:n] + shift


def clusters(seed, n, share, apart):
    x = cloud(seed, n, 3)
    x[int(n * share) :, 0] += apart
    return x


# Pairs (seed, n) -> x, y on which an auction, a price or a list of neighbours can go wrong.
HARD = {
    "gaussian": lambda s, n: (cloud(s, n, 3), cloud(s + 1, n, 3)),
    "large": lambda s, n: (1e6 * cloud(s, n, 3), 1e6 * cloud(s + 1, n, 3)),
    "small": lambda s, n: (1e-6 * cloud(s, n, 3), 1e-6 * cloud(s + 1, n, 3)),
    "shifted": lambda s, n: (cloud(s, n, 3) + 1e6, cloud(s + 1, n, 3) + 1e6),
    "apart": lambda s, n: (cloud(s, n, 3), cloud(s + 1, n, 3) + 1e4),
    "collinear": lambda s, n: tuple(cloud(s + k, n, 1) * torch.tensor([1.0, 2.0, 3.0]) for k in (0, 1)),
    "coplanar": lambda s, n: tuple(cloud(s + k, n, 3) * torch.tensor([1.0, 1.0, 0.0]) for k in (0, 1)),
    "lattice": lambda s, n: (grid(n), shuffled(s, grid(n, 0.5))),
    "duplicates": lambda s, n: tuple(cloud(s + k, -(-n // 4), 3).repeat(4, 1)[:n] for k in (0, 1)),
    "one place": lambda s, n: (cloud(s, n, 3), cloud(s + 1, 1, 3).expand(n, 3)),
    "identical": lambda s, n: (torch.ones(n, 3).double(), torch.ones(n, 3).double()),
    "unbalanced": lambda s, n: (clusters(s, n, 0.5, 50.0), clusters(s + 1, n, 0.25, 50.0)),
    "scales": lambda s, n: (cloud(s, n, 3), 100 * cloud(s + 1, n, 3)),
    "cauchy": lambda s, n: tuple((cloud(s + k, n, 3) / cloud(s + 2 + k, n, 3)) ** 3 for k in (0, 1)),
    "tiny": lambda s, n: (1e-120 * cloud(s, n, 3), 1e-120 * cloud(s + 1, n, 3)),
    "heavy tails": lambda s, n: tuple(cloud(s + k, n, 3) / cloud(s + 2 + k, n, 1).abs() for k in (0, 1)),
}


def by_scipy(x, y, squared):
    costs = cdist(x.numpy(), y.numpy(), "sqeuclidean" if squared else "euclidean")
    return costs[linear_sum_assignment(costs)].mean(), costs


def check(x, y, squared, tolerance=0.0):
    """A permutation, of the value it claims, with a bound that no assignment undercuts, as close as was asked."""
    best, costs = by_scipy(x, y, squared)
    found = ops.emd(x, y, squared=squared, tolerance=tolerance)
    plan = found.assignment.numpy()
    extent = costs.max()
    assert sorted(plan) == list(range(len(x)))
    np.testing.assert_allclose(found.value, costs[np.arange(len(x)), plan].mean(), rtol=1e-12, atol=1e-300)
    assert found.dual <= best + 1e-12 * extent and best <= found.value + 1e-12 * extent
    assert 0 <= found.gap <= tolerance * found.value + 1e-12 * extent
    if not tolerance:
        np.testing.assert_allclose(found.value, best, rtol=1e-9, atol=1e-12 * extent)


# the optimum and its certificate


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("n", [1, 2, 15, 17, 33, 150])
def test_exact_is_optimal_and_proves_it(kind, n, squared):
    check(*HARD[kind](n, n), squared)


@few
@given(seeds, st.integers(1, 120), st.integers(1, 4), st.booleans())
def test_exact_in_any_dimension(seed, n, dimension, squared):
    check(cloud(seed, n, dimension), cloud(seed + 1, n, dimension), squared)


@few
@given(seeds, st.sampled_from(sorted(HARD)), st.integers(2, 200), st.sampled_from([0.3, 1e-2, 1e-4]))
def test_tolerance_is_a_proven_relative_gap(seed, kind, n, tolerance):
    check(*HARD[kind](seed, n), False, tolerance)


@few
@given(seeds, st.integers(1, 60))
def test_points_of_few_places(seed, n):
    generator = torch.Generator().manual_seed(seed)
    check(*(torch.randint(0, 3, (n, 3), generator=generator).double() for _ in range(2)), bool(seed % 2))


def test_a_thousand_points():
    x, y = cloud(0, 1000, 3), cloud(1, 1000, 3) + torch.tensor([3.0, 0.0, 0.0])
    check(x, y, False)
    check(x, y, True, 1e-3)


# answers known without an algorithm


@given(seeds, st.integers(1, 60))
def test_exact_finds_a_known_plan(seed, n):
    # Points of a lattice, each moved by less than half a spacing: no plan is better than undoing the move.
    generator = torch.Generator().manual_seed(seed)
    x = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 3)[:n]
    move = torch.nn.functional.normalize(cloud(seed, n, 3), dim=-1) * torch.rand(n, 1, generator=generator) * 0.2
    order = torch.randperm(n, generator=generator)
    found = ops.emd(x, (x + move)[order])
    assert torch.equal(order[found.assignment], torch.arange(n))
    torch.testing.assert_close(found.value, move.norm(dim=1).mean())


@given(seeds, sizes)
def test_exact_of_a_translation_is_its_length(seed, n):
    x, t = cloud(seed, n, 3), cloud(seed + 1, 3)
    torch.testing.assert_close(ops.emd(x, shuffled(seed, x + t)).value, t.norm())
    torch.testing.assert_close(ops.emd(x, shuffled(seed, x + t), squared=True).value, t.square().sum())


@given(seeds, sizes, st.booleans())
def test_exact_on_a_line_pairs_in_order(seed, n, squared):
    x, y = cloud(seed, n, 1), cloud(seed + 1, n, 1)
    moves = (x.sort(0).values - y.sort(0).values).abs()
    torch.testing.assert_close(ops.emd(x, y, squared=squared).value, moves.pow(2 if squared else 1).mean())


@given(seeds, st.integers(1, 25))
def test_exact_is_a_metric(seed, n):
    x, y, z = cloud(seed, 3, n, 3)
    xy, yz, xz = ops.emd(x, y).value, ops.emd(y, z).value, ops.emd(x, z).value
    assert xz <= xy + yz + 1e-12
    torch.testing.assert_close(ops.emd(y, x).value, xy)
    torch.testing.assert_close(ops.emd(3 * x, 3 * y).value, 3 * xy)
    assert ops.emd(x, x.flip(0)).value == 0
    # every point travels at least to its nearest neighbour
    assert 2 * xy >= ops.chamfer(x, y, squared=False).value - 1e-12


@given(seeds, sizes, st.booleans())
def test_exact_under_rigid_motion_and_permutation(seed, n, squared):
    x, y, t = cloud(seed, n, 3), cloud(seed + 1, n, 3), cloud(seed + 2, 3)
    Q = torch.linalg.qr(cloud(seed + 3, 3, 3)).Q
    value = ops.emd(x, y, squared=squared).value
    torch.testing.assert_close(ops.emd(x @ Q + t, shuffled(seed, y @ Q + t), squared=squared).value, value)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-4])
def test_exact_on_parallel_lines_pairs_in_order(noise, squared):
    direction = torch.tensor([[1.0, 2.0, 3.0]])
    x, y = cloud(0, 300, 1) * direction, cloud(1, 300, 1) * direction + torch.tensor([0.0, 3.0, -2.0])
    check(x + noise * cloud(2, 300, 3), y + noise * cloud(3, 300, 3), squared)
    matched = y[ops.emd(x, y, squared=squared).assignment][x[:, 0].argsort()]
    assert noise or (matched[:, 0].diff() >= 0).all()


# forms of the arguments, gradients, twins


@pytest.mark.parametrize("squared", [False, True])
def test_exact_gradient(squared):
    x, y = cloud(0, 2, 5, 3).requires_grad_(), cloud(1, 2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: ops.emd(x, y, squared=squared).value, (x, y))


def test_exact_gradient_is_zero_where_points_coincide():
    x = cloud(0, 20, 3).requires_grad_()
    ops.emd(x, x.detach().flip(0)).value.backward()
    assert (x.grad == 0).all()


def test_exact_of_padded_and_packed_clouds_is_that_of_each():
    lengths = torch.tensor([7, 20, 1])
    x, y = cloud(0, 3, 20, 3), cloud(1, 3, 20, 3)
    x[0, 7:], y[2, 1:] = torch.nan, 1e9  # padding may hold anything
    each = [ops.emd(a[:n], b[:n]) for a, b, n in zip(x, y, lengths)]
    padded = ops.emd(x, y, x_lengths=lengths, y_lengths=lengths)
    offsets = torch.tensor([0, 7, 27, 28])
    parts = [torch.cat([a[:n] for a, n in zip(side, lengths)]) for side in (x, y)]
    packed = ops.emd(*parts, x_offsets=offsets, y_offsets=offsets)
    for b, (one, n) in enumerate(zip(each, lengths)):
        for field in ("value", "dual", "gap"):
            assert getattr(padded, field)[b] == getattr(packed, field)[b] == getattr(one, field)
        assert torch.equal(padded.assignment[b, :n], one.assignment) and (padded.assignment[b, n:] == -1).all()
        assert torch.equal(packed.assignment[offsets[b] : offsets[b + 1]], one.assignment)
    matrix = ops.emd_matrix(parts[0][:14], parts[1][:14], x_offsets=offsets[:2] * 2, y_offsets=offsets[:2] * 2)
    assert matrix.value.item() == ops.emd(parts[0][:14], parts[1][:14]).value


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_exact_of_fewer_bits(dtype):
    x, y = cloud(0, 30, 3).to(dtype), cloud(1, 60, 3)[::2].to(dtype)
    found = ops.emd(x.T.contiguous().T, y)
    assert found.value.dtype == torch.float32 and found.dual.dtype == torch.float64
    exact = ops.emd(x.double(), y.double())
    assert found.value == exact.value.float() and torch.equal(found.assignment, exact.assignment)


def test_exact_is_the_same_on_any_number_of_threads():
    x, y = cloud(0, 6, 90, 3), cloud(1, 6, 90, 3)
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            a = x.clone().requires_grad_()
            found = ops.emd(a, y, tolerance=1e-2)
            found.value.sum().backward()
            seen.append((found.value.detach(), found.dual, found.assignment, a.grad, *ops.emd_matrix(x, y)[:2]))
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        assert all(torch.equal(p, q) for p, q in zip(seen[0], other))


@pytest.mark.parametrize("squared", [False, True])
def test_exact_has_no_opinion_on_what_is_not_finite(squared):
    x, y = cloud(0, 3, 20, 3), cloud(1, 3, 20, 3)
    x[0, 3, 1], y[1, 19, 2] = torch.nan, torch.inf
    spans = torch.tensor([[0, 20], [20, 20], [40, 20]])
    value, dual, plan = torch.ops.pcgen.emd_exact(x.view(-1, 3), spans, y.view(-1, 3), spans, squared, 0.0)
    assert value.isnan().tolist() == dual.isnan().tolist() == [True, True, False]
    assert (plan[:40] == -1).all() and (plan[40:] >= 0).all()
    short = torch.tensor([[0, 20], [20, 19], [40, 20]])
    unequal, _, plan = torch.ops.pcgen.emd_exact(x.view(-1, 3), spans, y.view(-1, 3), short, squared, 0.0)
    assert unequal[1].isnan() and (plan[20:40] == -1).all()
    huge = 1e200 * cloud(2, 20, 3)
    assert torch.ops.pcgen.emd_exact(huge, spans[:1], y[2], spans[:1], squared, 0.0)[0].isnan()


# all variants


@pytest.mark.parametrize("variant", ["exact", "pointflow", "pvd", "sinkhorn"])
def test_emd_matrix_is_every_pair(variant):
    X, Y = cloud(0, 3, 20, 3), cloud(1, 4, 20, 3)
    pairs = torch.stack([torch.stack([ops.emd(x, y, variant).value for y in Y]) for x in X])
    seen = []
    found = ops.emd_matrix(X, Y, variant, progress=lambda done, total: seen.append((done, total)))
    torch.testing.assert_close(found.value, pairs)
    assert seen[-1] == (12, 12)
    torch.testing.assert_close(ops.emd_matrix(X, X, variant).value, ops.emd_matrix(X, X.clone(), variant).value)
    assert (found.dual is not None) == (variant == "exact")
    assert (found.moved is not None) == (variant in ("pointflow", "pvd"))


@pytest.mark.parametrize("variant", ["exact", "pointflow", "pvd", "sinkhorn"])
def test_compiles_without_a_break(variant):
    x, y = (cloud(i, 2, 20, 3).requires_grad_() for i in (0, 1))

    def both(x, y):
        return ops.emd(x, y, variant).value, ops.emd_matrix(x, y, variant).value

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    found, expected = compiled(x, y), both(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    gradients = (torch.autograd.grad(value.sum(), (x, y)) for value in (found[0], expected[0]))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_a_matrix_of_packed_clouds_compiles():
    x, offsets = cloud(0, 30, 3), torch.tensor([0, 9, 10, 30])

    def matrix(x, offsets):
        return ops.emd_matrix(x, x, "sinkhorn", x_offsets=offsets, y_offsets=offsets).value

    compiled = torch.compile(matrix, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, offsets), matrix(x, offsets))


def test_exact_matrix_of_many_tiles_is_symmetric_and_proven():
    X = cloud(0, 19, 24, 3)
    found = ops.emd_matrix(X, X, squared=True, tolerance=1e-2)
    assert torch.equal(found.value, found.value.T) and (found.value.diagonal() == 0).all()
    assert (found.dual <= found.value).all()
    assert (found.value - found.dual <= 1e-2 * found.value + 1e-12).all()
    assert found.value[3, 17] == ops.emd(X[3], X[17], squared=True, tolerance=1e-2).value


def test_annealed_emd_reports_what_it_moves():
    x = cloud(0, 2, 16, 3) / 4
    found = ops.emd(x, x.flip(1), "pvd")
    assert found.assignment is None and found.dual is None and found.gap is None
    assert found.moved.shape == (2,) and (found.moved > 0.99).all() and (found.moved <= 1 + 1e-6).all()
    assert ops.emd(x[0], 40 + x[1], "pointflow").moved < 0.5  # no level that wide


def test_exact_has_the_published_values():
    path = REFERENCE / "metrics_small.npz"
    if not path.is_file():
        pytest.skip(f"no reference values: {path} is absent")
    with np.load(path, allow_pickle=False) as file:
        sample, ref, emd = (torch.from_numpy(file[name]) for name in ("sample", "ref", "emd_exact"))
    torch.testing.assert_close(ops.emd_matrix(sample[:6], ref[:6]).value, emd, rtol=0, atol=1e-7)


# what is refused


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((2, 3), {}, r"x and y of equal size, got \(2, 3\) and \(3, 3\)"),
        ((2, 2), {"variant": "emd"}, "variant must be one of exact, pointflow, pvd, sinkhorn, got 'emd'"),
        ((2, 2), {"tolerance": -1e-3}, "tolerance must be a relative gap of at least 0, got -0.001"),
        ((2, 2), {"tolerance": math.nan}, "tolerance must be .* got nan"),
        ((2, 2), {"variant": "pvd", "squared": True}, "squared and tolerance belong to the exact EMD, got True"),
        ((2, 2), {"blur": 0.1}, r"blur, power, scaling and backend belong to sinkhorn, got \(0.1, .* for 'exact'"),
    ],
)
def test_bad_emds_are_refused(sizes, options, message):
    x, y = (torch.zeros(n, 3) for n in sizes)
    with pytest.raises(ValueError, match=message) as raised:
        ops.emd(x, y, **options)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=message.split(" of equal size")[0].replace("x and y", "X and Y")):
        ops.emd_matrix(x[None], y[None], **options)


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("exact", {"tolerance": None}, "tolerance must be a number, got NoneType"),
        ("exact", {"squared": 1}, "squared must be True or False, got int"),
        ("sinkhorn", {"blur": "0.1"}, "blur must be a number, got str"),
        ("sinkhorn", {"power": 2.0}, "power must be an integer, got float"),
        ("sinkhorn", {"scaling": True}, "scaling must be a number, got bool"),
    ],
)
@pytest.mark.parametrize("function", [ops.emd, ops.emd_matrix])
def test_options_of_other_types_are_refused(function, variant, options, message):
    with pytest.raises(TypeError, match=message):
        function(torch.rand(1, 3, 3), torch.rand(1, 3, 3), variant, **options)


def test_exact_refuses_pairs_of_unequal_length():
    x = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"equal size, got \[5, 4\] points and \[5, 3\] points"):
        ops.emd(x, x, x_lengths=torch.tensor([5, 4]), y_lengths=torch.tensor([5, 3]))
    with pytest.raises(ValueError, match=r"X and Y of equal size, got \[5, 4\] points and \[5, 4\] points"):
        ops.emd_matrix(x, x.clone(), x_lengths=torch.tensor([5, 4]), y_lengths=torch.tensor([5, 4]))
