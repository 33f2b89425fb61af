"""Distances: exact answers, laws, and the numbers of the published programs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from pcgen import ops

REFERENCE = Path(__file__).parents[1].parent / "shared" / "reference"
seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 40)
quick = settings(deadline=None, max_examples=20)


def cloud(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(seed):
    return torch.linalg.qr(cloud(seed, 3, 3)).Q


@pytest.fixture(scope="module")
def small():
    path = REFERENCE / "metrics_small.npz"
    if not path.is_file():
        pytest.skip(f"no reference values: {path} is absent")
    with np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


# nearest


@quick
@given(seeds, sizes, sizes, st.integers(1, 5), st.sampled_from([torch.float32, torch.float64]))
def test_nearest_is_the_minimum(seed, n, m, d, dtype):
    x, y = cloud(seed, n, d, dtype=dtype), cloud(seed + 1, m, d, dtype=dtype)
    distance, index = ops.nearest(x, y)
    every = (x[:, None] - y[None]).square().sum(-1)
    assert distance.dtype == dtype and index.dtype == torch.int64
    torch.testing.assert_close(distance, every.amin(1))
    torch.testing.assert_close(every.gather(1, index[:, None])[:, 0], distance)


@quick
@given(seeds)
def test_nearest_gives_ties_to_the_lowest_index(seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(0, 3, (n, 3), generator=generator).double() for n in (30, 50))
    every = (x[:, None] - y[None]).square().sum(-1)
    lowest = [row.index(min(row)) for row in every.tolist()]
    assert ops.nearest(x, y).index.tolist() == lowest


def test_nearest_in_blocks_and_batches():
    x, y = cloud(0, 2, 700, 3), cloud(1, 2, 900, 3)  # 700 x 900 is more than one block
    batched = ops.nearest(x, y)
    for b in range(2):
        distance, index = cKDTree(y[b].numpy()).query(x[b].numpy())
        assert batched.index[b].tolist() == index.tolist()
        np.testing.assert_allclose(batched.distance[b], distance**2, rtol=1e-12)


def test_nearest_does_not_cancel():
    x = torch.tensor([[1000.0, 1000.0, 1000.0]])
    y = x + torch.tensor([[2.0**-10, 0.0, 0.0]])  # |x|² + |y|² − 2 x·y is 0 or 0.25 here in float32
    assert ops.nearest(x, y).distance.item() == 2.0**-20


# Chamfer


@quick
@given(seeds, sizes, sizes, st.booleans())
def test_chamfer_laws(seed, n, m, squared):
    x, y = cloud(seed, n, 3), cloud(seed + 1, m, 3)
    value = ops.chamfer(x, y, squared).value
    torch.testing.assert_close(ops.chamfer(y, x, squared).value, value)
    shuffled = x[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    torch.testing.assert_close(ops.chamfer(shuffled, y, squared).value, value)
    torch.testing.assert_close(ops.chamfer(3 * x, 3 * y, squared).value, value * (9 if squared else 3))
    Q, t = rotation(seed), cloud(seed + 2, 3)
    torch.testing.assert_close(ops.chamfer(x @ Q + t, y @ Q + t, squared).value, value)
    assert ops.chamfer(x, x, squared).value == 0


def test_chamfer_by_hand():
    x, y = torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    found = ops.chamfer(x, y)
    assert found.value == (9 + 25) / 2 + 9
    assert found.x_to_y.tolist() == [9, 25] and found.y_to_x.tolist() == [9]
    assert found.x_index.tolist() == [0, 0] and found.y_index.tolist() == [0]
    assert ops.chamfer(x, y, squared=False).value == (3 + 5) / 2 + 3


@pytest.mark.parametrize("squared", [True, False])
def test_chamfer_gradient(squared):
    x, y = cloud(0, 2, 5, 3).requires_grad_(), cloud(1, 2, 7, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: ops.chamfer(x, y, squared).value, (x, y))


def test_chamfer_gradient_is_finite_where_points_coincide():
    x = cloud(0, 5, 3).requires_grad_()
    ops.chamfer(x, x.detach().clone(), squared=False).value.backward()
    assert (x.grad == 0).all()


def test_chamfer_of_a_batch_is_that_of_its_clouds():
    x, y = cloud(0, 3, 6, 3), cloud(1, 3, 4, 3)
    found = ops.chamfer(x, y)
    each = [ops.chamfer(a, b) for a, b in zip(x, y)]
    assert torch.equal(found.value, torch.stack([one.value for one in each]))
    assert torch.equal(found.f_score(0.9), torch.stack([one.f_score(0.9) for one in each]))


@pytest.mark.parametrize("squared", [True, False])
def test_f_score_by_hand(squared):
    x, y = torch.tensor([[0.0], [1.0], [5.0], [9.0]]), torch.tensor([[0.25], [1.0], [40.0]])
    found = ops.chamfer(x, y, squared)  # two of four x are near, two of three y
    torch.testing.assert_close(found.f_score(0.5).item(), 2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert found.f_score(0.25) == pytest.approx(2 * 0.25 * (1 / 3) / (0.25 + 1 / 3))  # strictly nearer
    assert ops.chamfer(x, x + 100).f_score(1) == 0
    assert ops.chamfer(x, x).f_score(1e-6) == 1
    with pytest.raises(ValueError, match="threshold must be a positive length, got -1"):
        found.f_score(-1)


@quick
@given(seeds, st.integers(1, 4), st.integers(1, 4), sizes, sizes)
def test_chamfer_matrix_is_every_pair(seed, s, r, n, m):
    X, Y = cloud(seed, s, n, 3), cloud(seed + 1, r, m, 3)
    pairs = torch.stack([torch.stack([ops.chamfer(x, y).value for y in Y]) for x in X])
    torch.testing.assert_close(ops.chamfer_matrix(X, Y), pairs)
    torch.testing.assert_close(ops.chamfer_matrix(X, X), ops.chamfer_matrix(X, X.clone()))


# earth mover's distance


@quick
@given(seeds, st.integers(1, 60))
def test_emd_finds_a_known_plan(seed, n):
    # Points of a lattice, each moved by less than half a spacing: no plan is better than undoing the move.
    generator = torch.Generator().manual_seed(seed)
    x = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 3)[:n]
    move = torch.nn.functional.normalize(cloud(seed, n, 3), dim=-1) * torch.rand(n, 1, generator=generator) * 0.2
    order = torch.randperm(n, generator=generator)
    found = ops.emd(x, (x + move)[order])
    assert torch.equal(order[found.assignment], torch.arange(n))
    torch.testing.assert_close(found.value, move.norm(dim=1).mean())


@quick
@given(seeds, sizes)
def test_emd_of_a_translation_is_its_length(seed, n):
    x, t = cloud(seed, n, 3), cloud(seed + 1, 3)
    shuffled = (x + t)[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    torch.testing.assert_close(ops.emd(x, shuffled).value, t.norm())


@quick
@given(seeds, sizes)
def test_emd_on_a_line_pairs_in_order(seed, n):
    x, y = cloud(seed, n, 1), cloud(seed + 1, n, 1)
    torch.testing.assert_close(ops.emd(x, y).value, (x.sort(0).values - y.sort(0).values).abs().mean())


@quick
@given(seeds, st.integers(1, 25))
def test_emd_is_a_metric(seed, n):
    x, y, z = cloud(seed, 3, n, 3)
    xy, yz, xz = ops.emd(x, y).value, ops.emd(y, z).value, ops.emd(x, z).value
    assert xz <= xy + yz + 1e-12
    torch.testing.assert_close(ops.emd(y, x).value, xy)
    torch.testing.assert_close(ops.emd(2 * x, 2 * y).value, 2 * xy)
    assert ops.emd(x, x.flip(0)).value == 0
    # every point travels at least to its nearest neighbour
    assert 2 * xy >= ops.chamfer(x, y, squared=False).value - 1e-12


def test_emd_gradient_and_batch():
    x, y = cloud(0, 2, 5, 3).requires_grad_(), cloud(1, 2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: ops.emd(x, y).value, (x, y))
    found = ops.emd(x, y)
    assert found.assignment.shape == (2, 5) and torch.equal(found.value[1], ops.emd(x[1], y[1]).value)


@pytest.mark.parametrize("variant", ["exact", "pointflow", "pvd"])
def test_emd_matrix_is_every_pair(variant):
    X, Y = cloud(0, 3, 20, 3), cloud(1, 4, 20, 3)
    pairs = torch.stack([torch.stack([ops.emd(x, y, variant).value for y in Y]) for x in X])
    seen = []
    found = ops.emd_matrix(X, Y, variant, progress=lambda done, total: seen.append((done, total)), workers=2)
    torch.testing.assert_close(found.value, pairs)
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))] and seen
    torch.testing.assert_close(ops.emd_matrix(X, X, variant).value, ops.emd_matrix(X, X.clone(), variant).value)


def annealed_by_loops(x, y, variant):
    """The published algorithm, one scalar at a time."""
    n, m = len(x), len(y)
    left, right = [float(max(1, m // n))] * n, [float(max(1, n // m))] * m
    match = np.zeros((n, m))
    d2 = ((x[:, None] - y[None]) ** 2).sum(-1).numpy()
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
    return (match * (d2 if variant == "pvd" else np.sqrt(d2))).sum() / n


@pytest.mark.parametrize("variant", ["pointflow", "pvd"])
@pytest.mark.parametrize(("n", "m"), [(9, 9), (4, 9), (9, 4)])
def test_annealed_emd_is_the_published_algorithm(variant, n, m):
    x, y = cloud(0, n, 3), cloud(1, m, 3)
    assert ops.emd(x, y, variant).value.item() == pytest.approx(annealed_by_loops(x, y, variant), rel=1e-9)


@pytest.mark.parametrize("variant", ["pointflow", "pvd"])
def test_annealed_emd_knows_its_left(variant):
    x, y = cloud(0, 30, 3) / 4, cloud(1, 30, 3) / 4
    assert abs(ops.emd(x, y, variant).value - ops.emd(y, x, variant).value) > 1e-5
    X = torch.stack([x, y])
    matrix = ops.emd_matrix(X, X, variant).value
    assert matrix[0, 1] == pytest.approx(ops.emd(x, y, variant).value.item(), rel=1e-12)
    assert matrix[1, 0] == pytest.approx(ops.emd(y, x, variant).value.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("variant", "name"), [("pointflow", "emd_pointflow"), ("pvd", "emd_squared"), ("exact", "emd_exact")]
)
def test_emd_has_the_published_values(small, variant, name):
    found = ops.emd_matrix(small["sample"][:6], small["ref"][:6], variant).value
    torch.testing.assert_close(found, small[name], rtol=0, atol=1e-7)


def test_chamfer_has_the_published_values(small):
    X, Y = small["sample"][:6], small["ref"][:6]
    torch.testing.assert_close(ops.chamfer_matrix(X, Y), small["cd"], rtol=0, atol=1e-7)


# what is refused


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(2, 3), ValueError, r"x must be .* got \(0, 3\)"),
        (torch.zeros(2, 3), torch.zeros(3), ValueError, r"y must be .* got \(3,\)"),
        (torch.zeros(2, 3), torch.zeros(2, 2), ValueError, r"agree .* got \(2, 3\) and \(2, 2\)"),
        (torch.zeros(1, 2, 3), torch.zeros(2, 3), ValueError, r"agree .* got \(1, 2, 3\) and \(2, 3\)"),
        (torch.zeros(1, 2, 3), torch.zeros(4, 2, 3), ValueError, r"agree .* got \(1, 2, 3\) and \(4, 2, 3\)"),
        (torch.full((2, 3), torch.nan), torch.zeros(2, 3), ValueError, r"x \(2, 3\) .* 6 NaN or infinite"),
        (torch.zeros(2, 3), torch.full((2, 3), torch.inf), ValueError, r"y \(2, 3\) .* 6 NaN or infinite"),
        (torch.zeros(2, 3), torch.zeros(2, 3).double(), ValueError, "share dtype"),
        (torch.zeros(2, 3).int(), torch.zeros(2, 3).int(), TypeError, "x must be of floating point"),
        (np.zeros((2, 3)), torch.zeros(2, 3), TypeError, "x must be a tensor .* got ndarray"),
    ],
)
@pytest.mark.parametrize("function", [ops.nearest, ops.chamfer, ops.emd])
def test_bad_pairs_are_refused(function, x, y, error, message):
    with pytest.raises(error, match=message) as raised:
        function(x, y)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("function", [ops.chamfer_matrix, ops.emd_matrix])
def test_bad_sets_are_refused(function):
    with pytest.raises(ValueError, match=r"X must be a set of clouds \(S, N, D\), got \(2, 3\)"):
        function(torch.zeros(2, 3), torch.zeros(2, 2, 3))


def test_bad_emds_are_refused():
    x, y = torch.zeros(2, 3), torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"equal size, got \(2, 3\) and \(3, 3\)"):
        ops.emd(x, y)
    with pytest.raises(ValueError, match="variant must be one of exact, pointflow, pvd, got 'sinkhorn'"):
        ops.emd(x, x, "sinkhorn")
