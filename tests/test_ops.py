"""Distances: exact answers, laws, and the numbers of the published programs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from adversarial import SLOW
from hypothesis import given
from hypothesis import strategies as st

from pcgen import ops

REFERENCE = Path(__file__).parents[1].parent / "shared" / "reference"
seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 40)


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


# Chamfer


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
    assert ops.chamfer(x, x, squared).f_score(1e-200) == ops.chamfer(x, x + 100, squared).f_score(1e200) == 1
    with pytest.raises(TypeError, match="threshold must be a number, got NoneType"):
        found.f_score(None)
    with pytest.raises(ValueError, match="threshold must be a positive length, got -1"):
        found.f_score(-1)


@given(seeds, st.integers(1, 4), st.integers(1, 4), sizes, sizes)
def test_chamfer_matrix_is_every_pair(seed, s, r, n, m):
    X, Y = cloud(seed, s, n, 3), cloud(seed + 1, r, m, 3)
    pairs = torch.stack([torch.stack([ops.chamfer(x, y).value for y in Y]) for x in X])
    torch.testing.assert_close(ops.chamfer_matrix(X, Y), pairs)
    torch.testing.assert_close(ops.chamfer_matrix(X, X), ops.chamfer_matrix(X, X.clone()))


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
        (torch.zeros(2, 3), torch.zeros(2, 3).half(), ValueError, "share dtype .*float32 .*float16"),
        (torch.zeros(2, 3).int(), torch.zeros(2, 3).int(), TypeError, "x must be of floating point"),
        (
            torch.zeros(2, 3).to_sparse(),
            torch.zeros(2, 3),
            TypeError,
            "x must be a dense tensor, got .*sparse",
        ),
        (np.zeros((2, 3)), torch.zeros(2, 3), TypeError, "x must be a tensor .* got ndarray"),
    ],
)
@pytest.mark.parametrize("function", [ops.nearest, ops.chamfer, ops.emd])
def test_bad_pairs_are_refused(function, x, y, error, message):
    with pytest.raises(error, match=message) as raised:
        function(x, y)
    assert "\n" not in str(raised.value)


def test_tensors_without_values_have_shapes():
    x = torch.empty(2, 5, 3, device="meta")
    found = ops.knn(x, x, 4, x_lengths=torch.empty(2, dtype=torch.long, device="meta"))
    assert found.distance.shape == found.index.shape == (2, 5, 4) and found.index.is_meta


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_coordinates_may_be_as_large_as_their_type_holds(dtype):
    x = torch.full((50, 3), torch.finfo(dtype).max, dtype=dtype)  # their sum is infinite
    assert (ops.nearest(x, x).index == 0).all()
    x[7, 1] = -torch.inf
    with pytest.raises(ValueError, match=r"x \(50, 3\) must be finite, got 1 NaN or infinite"):
        ops.nearest(x, x)


@pytest.mark.parametrize("function", [ops.chamfer, ops.chamfer_matrix])
def test_a_flag_is_no_number(function):
    with pytest.raises(TypeError, match="squared must be True or False, got float"):
        function(torch.rand(1, 5, 3), torch.rand(1, 5, 3), 0.01)


@pytest.mark.parametrize("function", [ops.chamfer_matrix, ops.emd_matrix])
def test_bad_sets_are_refused(function):
    with pytest.raises(ValueError, match=r"X must be a set of clouds \(S, N, D\), got \(2, 3\)"):
        function(torch.zeros(2, 3), torch.zeros(2, 2, 3))


@pytest.mark.parametrize("function", [ops.chamfer_matrix, ops.emd_matrix])
def test_sets_of_other_dimensions_are_refused(function):
    with pytest.raises(ValueError, match=r"X and Y must agree in dimension, got \(2, 5, 3\) and \(3, 5, 2\)"):
        function(torch.rand(2, 5, 3), torch.rand(3, 5, 2))


def test_one_set_with_two_kinds_of_lengths_is_two_sets():
    X, lengths = cloud(0, 2, 5, 3), torch.tensor([2, 3])
    expected = ops.chamfer_matrix(X, X.clone(), y_lengths=lengths)
    torch.testing.assert_close(ops.chamfer_matrix(X, X, y_lengths=lengths), expected, rtol=0, atol=0)


def test_nan_that_nobody_looked_at_is_no_perfect_score():
    x, y = cloud(0, 5, 3), cloud(1, 4, 3)
    x[0, 0] = torch.nan
    compiled = torch.compile(lambda x, y: ops.chamfer(x, y, squared=False).value, fullgraph=True, backend="aot_eager")
    assert compiled(x, y).isnan()


def test_the_value_of_a_large_cloud_does_not_depend_on_threads():
    x, y = (cloud(i, 10_000 if SLOW else 70_000, 3, dtype=torch.float32) for i in (0, 1))
    threads = torch.get_num_threads()
    try:
        values = [torch.set_num_threads(n) or ops.chamfer(x, y).value for n in (1, 2)]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*values)


def test_a_matrix_of_one_set_compiles():
    X = cloud(0, 3, 5, 3)
    compiled = torch.compile(lambda X: ops.chamfer_matrix(X, X), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X), ops.chamfer_matrix(X, X))


@pytest.mark.parametrize("variant", ["pointflow", "sinkhorn"])
def test_a_second_derivative_that_is_not_there_is_an_error(variant):
    x, y = cloud(0, 6, 3).requires_grad_(), cloud(1, 6, 3)
    (gradient,) = torch.autograd.grad(ops.emd(x, y, variant).value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.square().sum().backward()
