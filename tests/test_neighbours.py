"""Neighbourhoods: exact answers, laws, and the definition in float64."""

import time

import numpy as np
import pytest
import torch
from adversarial import cloud, dimensions, dtypes, kinds, rotation, seeds, sizes
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from pcgen import ops
from pcgen.ops import native


def every_distance(x, y):
    """All squared distances in float64."""
    return (x.double()[:, None] - y.double()[None]).square().sum(-1)


def check_neighbours(x, y, distance, index, expected, rtol):
    """Distances are the ``expected`` ones, ascending, equal ones by index, and belong to their distinct indices."""
    every = every_distance(x, y)
    assert distance.dtype == x.dtype and index.dtype == torch.int64
    torch.testing.assert_close(distance.double(), expected, rtol=rtol, atol=0)
    torch.testing.assert_close(every.gather(1, index), expected, rtol=rtol, atol=0)
    assert (distance.diff(dim=1) >= 0).all()
    assert ((distance.diff(dim=1) > 0) | (index.diff(dim=1) > 0)).all()
    assert (index.sort(dim=1).values.diff(dim=1) > 0).all()


def packed(parts):
    """Clouds one after the other, and their offsets."""
    return torch.cat(parts), torch.tensor([0, *np.cumsum([len(part) for part in parts]).tolist()])


def padded(parts, fill=torch.nan):
    """Clouds beside each other, and their lengths."""
    lengths = torch.tensor([len(part) for part in parts])
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill), lengths


RAGGED_X = [cloud(i, n, 3) for i, n in enumerate([5, 1, 18, 7])]
RAGGED_Y = [cloud(9 + i, n, 3) for i, n in enumerate([4, 33, 6, 5])]


def on_threads(count, function):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return function()
    finally:
        torch.set_num_threads(before)


# nearest


@given(seeds, sizes, sizes, dimensions, dtypes, kinds)
def test_nearest_is_the_minimum(seed, n, m, d, dtype, kind):
    x, y = cloud(seed, n, d, kind=kind, dtype=dtype), cloud(seed + 1, m, d, kind=kind, dtype=dtype)
    distance, index = ops.nearest(x, y)
    rtol = 1e-5 if dtype == torch.float32 else 1e-12
    check_neighbours(x, y, distance[:, None], index[:, None], every_distance(x, y).amin(1, keepdim=True), rtol)


@given(seeds)
def test_nearest_gives_ties_to_the_lowest_index(seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(0, 3, (n, 3), generator=generator).double() for n in (30, 50))
    lowest = [row.index(min(row)) for row in every_distance(x, y).tolist()]
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


def test_nearest_is_the_first_of_knn():
    x, y = cloud(0, 2, 100, 3, dtype=torch.float32), cloud(1, 2, 120, 3, dtype=torch.float32)
    one, many = ops.nearest(x, y), ops.knn(x, y, 5)
    assert torch.equal(one.distance, many.distance[..., 0]) and torch.equal(one.index, many.index[..., 0])


# k nearest


@given(seeds, sizes, sizes, dimensions, dtypes, kinds, st.data())
def test_knn_is_the_sorted_distances(seed, n, m, d, dtype, kind, data):
    k = data.draw(st.one_of(st.integers(1, m), st.just(m)), label="k")
    x, y = cloud(seed, n, d, kind=kind, dtype=dtype), cloud(seed + 1, m, d, kind=kind, dtype=dtype)
    expected = every_distance(x, y).sort(1).values[:, :k]
    check_neighbours(x, y, *ops.knn(x, y, k), expected, 1e-5 if dtype == torch.float32 else 1e-12)


@given(seeds, st.integers(1, 60), st.integers(1, 40))
def test_knn_gives_ties_by_index(seed, m, n):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(0, 3, (count, 3), generator=generator).float() for count in (n, m))
    order = [sorted(range(m), key=lambda j: (row[j], j)) for row in every_distance(x, y).tolist()]
    for k in {1, (m + 1) // 2, m}:
        assert ops.knn(x, y, k).index.tolist() == [row[:k] for row in order]


def test_knn_counts_the_point_itself():
    x = cloud(0, 40, 3)
    found = ops.knn(x, x, 4)
    assert found.index[:, 0].tolist() == list(range(40)) and (found.distance[:, 0] == 0).all()


def test_knn_agrees_with_a_tree():
    x, y = cloud(0, 700, 3), cloud(1, 5000, 3)
    distance, index = cKDTree(y.numpy()).query(x.numpy(), 20)
    found = ops.knn(x, y, 20)
    assert found.index.tolist() == index.tolist()
    np.testing.assert_allclose(found.distance, distance**2, rtol=1e-12)


@given(seeds, st.integers(5, 60))
def test_knn_laws(seed, m):
    x, y = cloud(seed, 20, 3), cloud(seed + 1, m, 3)
    found = ops.knn(x, y, 5)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(order[ops.knn(x, y[order], 5).index], found.index)
    moved = ops.knn(2 * x @ rotation(seed) + 3, 2 * y @ rotation(seed) + 3, 5)
    assert torch.equal(moved.index, found.index)
    torch.testing.assert_close(moved.distance, 4 * found.distance)
    assert torch.equal(ops.knn(x, y, 3).index, found.index[:, :3])


@pytest.mark.parametrize("d", [3, 4])  # by the kernel and by the definition
def test_knn_of_what_cannot_be_measured(d):
    huge = torch.full((20, d), 1e38)
    x, y = torch.cat([huge, torch.zeros(1, d)]), torch.cat([-huge, torch.ones(2, d)])
    found = ops.knn(x, y, 4)
    assert (found.index[:20] == -1).all() and found.distance[:20].isinf().all()  # overflow
    assert found.index[20].tolist() == [20, 21, -1, -1] and found.distance[20].tolist() == [d, d, torch.inf, torch.inf]
    spans = torch.tensor([[0, 20], [20, 1]]), torch.tensor([[0, 20], [20, 1]])
    x[3, 0] = torch.nan  # what the front refuses may arrive under torch.compile
    distance, index, count = torch.ops.pcgen.neighbours(x, spans[0], y, spans[1], 2, torch.inf, False)
    assert distance[:20].isnan().all() and (index[:20] == -1).all() and (count[:20] == 0).all()
    assert distance[20].tolist() == [d, torch.inf] and index[20].tolist() == [0, -1] and count[20] == 1


# within a radius


@given(seeds, sizes, sizes, dimensions, st.sampled_from([0.3, 1.0, 2.5]), st.integers(1, 40))
def test_balls_are_the_first_within_the_radius(seed, n, m, d, radius, k):
    x, y = (cloud(seed + i, size, d, kind="lattice") for i, size in enumerate((n, m)))  # ties, and some at the radius
    near, first = ops.ball_query(x, y, radius, k), ops.ball_query(x, y, radius, k, "index")
    for i, row in enumerate(every_distance(x, y).tolist()):
        inside = [j for j in range(m) if row[j] <= radius**2]
        for found, expected in ((near, sorted(inside, key=lambda j: (row[j], j))[:k]), (first, inside[:k])):
            rest = k - len(expected)
            assert found.index[i].tolist() == expected + [-1] * rest
            assert found.distance[i].tolist() == [row[j] for j in expected] + [float("inf")] * rest
            assert found.count[i] == len(expected)


@given(seeds, sizes, sizes, dtypes, kinds)
def test_balls_are_the_nearest_neighbours_within(seed, n, m, dtype, kind):
    x, y = cloud(seed, n, 3, kind=kind, dtype=dtype), cloud(seed + 1, m, 3, kind=kind, dtype=dtype)
    all_of_them = ops.knn(x, y, m)
    radius = max(float(all_of_them.distance.median()), 1e-30) ** 0.5
    found = ops.ball_query(x, y, radius, m)
    inside = all_of_them.distance <= torch.tensor(radius, dtype=dtype).square()
    assert torch.equal(found.index, all_of_them.index.where(inside, torch.tensor(-1)))
    assert torch.equal(found.count, inside.sum(1))
    first = ops.ball_query(x, y, radius, m, "index")
    assert torch.equal(first.index.sort(1).values, found.index.sort(1).values)


def test_a_ball_is_closed_in_the_type_of_the_points():
    x = torch.zeros(1, 1)
    for radius in (0.1, 0.3, 0.7, 1.1):
        y = torch.tensor([[radius], [-radius], [radius * (1 + 1e-6)]])
        assert ops.ball_query(x, y, radius, 3).index.tolist() == [[0, 1, -1]]


def test_a_crowded_ball_is_cut():
    x, y = torch.zeros(1, 3), torch.zeros(100, 3)
    for order in ("distance", "index"):
        found = ops.ball_query(x, y, 1e-3, 7, order)
        assert found.index.tolist() == [list(range(7))] and found.count.tolist() == [7]
    assert ops.ball_query(x, y[:2], 1.0, 5).index.tolist() == [[0, 1, -1, -1, -1]]  # k may exceed the cloud


# batches


SEARCHES = {
    "nearest": lambda x, y, **how: ops.nearest(x, y, **how),
    "knn": lambda x, y, **how: ops.knn(x, y, 3, **how),
    "ball_query": lambda x, y, **how: ops.ball_query(x, y, 1.0, 3, **how),
    "ball_query in order": lambda x, y, **how: ops.ball_query(x, y, 1.0, 3, "index", **how),
    "interpolate": lambda x, y, **how: (ops.interpolate(x, y, y[..., :2].square().nan_to_num(), **how),),
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_batches_are_their_clouds(search):
    each = [search(x, y) for x, y in zip(RAGGED_X, RAGGED_Y)]
    (x, x_offsets), (y, y_offsets) = packed(RAGGED_X), packed(RAGGED_Y)
    for value, parts in zip(search(x, y, x_offsets=x_offsets, y_offsets=y_offsets), zip(*each)):
        assert torch.equal(value, torch.cat(parts))
    (x, x_lengths), (y, y_lengths) = padded(RAGGED_X), padded(RAGGED_Y)
    for value, parts in zip(search(x, y, x_lengths=x_lengths, y_lengths=y_lengths), zip(*each)):
        for b, part in enumerate(parts):
            assert torch.equal(value[b, : len(part)], part)
            empty = -1 if part.dtype == torch.int64 and part.ndim != 1 else 0
            if search is not SEARCHES["nearest"] and part.ndim > 1:
                assert (value[b, len(part) :] == empty).all()
    x, y = cloud(0, 3, 10, 3), cloud(1, 3, 12, 3)
    for value, parts in zip(search(x, y), zip(*[search(a, b) for a, b in zip(x, y)])):
        assert torch.equal(value, torch.stack(parts))


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_input_need_not_be_contiguous_or_wide(search):
    x, y = cloud(0, 3, 30, dtype=torch.float32), cloud(1, 3, 40, dtype=torch.float32)
    for value, expected in zip(search(x.T, y.T), search(x.T.contiguous(), y.T.contiguous())):
        assert torch.equal(value, expected)
    half, wide = search(x.T.half(), y.T.half()), search(x.T.half().float(), y.T.half().float())
    for value, expected in zip(half, wide):
        torch.testing.assert_close(value, expected, rtol=1e-3 if search is SEARCHES["interpolate"] else 0, atol=0)


def test_numbers_may_be_numpys():
    x, y = cloud(0, 9, 3), cloud(1, 9, 3)
    for k, radius in ((np.int64(2), np.float32(0.5)), (np.int32(2), np.float64(0.5)), (np.uint8(2), np.float16(0.5))):
        assert torch.equal(ops.knn(x, y, k).index, ops.knn(x, y, 2).index)
        assert torch.equal(ops.ball_query(x, y, radius, k).index, ops.ball_query(x, y, 0.5, 2).index)


# many neighbours, and many points in one place


@pytest.mark.parametrize("order", ["distance", "index"])
@pytest.mark.parametrize("kind", ["random", "coincident", "duplicates", "lattice"])
def test_long_lists(kind, order):
    x, y = cloud(0, 40, 3, kind=kind), cloud(1, 700, 3, kind=kind)
    every = every_distance(x, y)
    for k in (64, 65, 128, 300, 700):
        found, near = ops.ball_query(x, y, 1.5, k, order), (every <= 1.5**2)
        for i in range(len(x)):
            inside = near[i].nonzero()[:, 0]
            if order == "distance":
                inside = inside[every[i, inside].sort(stable=True).indices]
            assert found.count[i] == min(k, len(inside))
            assert found.index[i, : found.count[i]].tolist() == inside[:k].tolist()


def seconds(function):
    start = time.process_time()
    function()
    return time.process_time() - start


@pytest.mark.skipif(native.library().functions is None, reason="no compiled kernels here: their speed was NOT tested")
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_points_in_one_place_cost_no_more_than_others(share):
    x = cloud(0, 40_000, 3, dtype=torch.float32)
    there = torch.arange(len(x)) < share * len(x)
    heap = torch.where(there[:, None], 0.0, x)

    def least(search, *clouds):
        return min(seconds(lambda: search(*clouds)) for _ in range(3))

    def sixteen(x, y):
        return ops.knn(x, y, 16)

    for search in (ops.nearest, sixteen):
        usual = least(search, x, x)
        assert least(search, heap, heap) < 6 * usual
        assert least(search, x, heap) < 6 * usual
    assert (ops.nearest(heap, heap).index[there] == 0).all()  # the lowest


# features of neighbours


def test_gather_by_hand_and_in_every_form():
    features = [cloud(i, len(y), 2) for i, y in enumerate(RAGGED_Y)]
    index = [ops.ball_query(x, y, 1.0, 3).index for x, y in zip(RAGGED_X, RAGGED_Y)]
    each = [ops.gather(f, i) for f, i in zip(features, index)]
    for f, i, found in zip(features, index, each):
        rows = [[f[j].tolist() if j >= 0 else [0, 0] for j in row] for row in i.tolist()]
        assert found.tolist() == rows
    (f, y_offsets), (i, x_offsets) = packed(features), packed(index)
    assert torch.equal(ops.gather(f, i, x_offsets=x_offsets, y_offsets=y_offsets), torch.cat(each))
    (f, y_lengths), (i, _) = padded(features), padded(index, -1)
    found = ops.gather(f, i, y_lengths=y_lengths)
    for b, part in enumerate(each):
        assert torch.equal(found[b, : len(part)], part) and (found[b, len(part) :] == 0).all()


def test_gather_of_coordinates_gives_the_distances():
    x, y = cloud(0, 2, 30, 3), cloud(1, 2, 50, 3)
    found = ops.knn(x, y, 6)
    torch.testing.assert_close((ops.gather(y, found.index) - x[:, :, None]).square().sum(-1), found.distance)


@given(seeds, sizes, st.integers(1, 3))
def test_interpolation_laws(seed, n, d):
    x, y, features = cloud(seed, n, d), cloud(seed + 1, 30, d), cloud(seed + 2, 30, 4)
    found = ops.interpolate(x, y, features)
    three = ops.gather(features, ops.knn(x, y, 3).index)
    assert (found <= three.amax(1) + 1e-12).all() and (found >= three.amin(1) - 1e-12).all()
    torch.testing.assert_close(ops.interpolate(x, y, torch.ones(30, 1).double()), torch.ones(n, 1).double())
    torch.testing.assert_close(ops.interpolate(3 * x + 1, 3 * y + 1, features), found)
    assert torch.equal(ops.interpolate(y, y, features), features)  # through the data
    assert torch.equal(ops.interpolate(x, y, features, k=1), ops.gather(features, ops.knn(x, y, 1).index)[:, 0])


def test_interpolation_by_the_formula():
    x, y, features = cloud(0, 20, 3), cloud(1, 30, 3), cloud(2, 30, 2)
    weights, index = every_distance(x, y).reciprocal().topk(3)
    expected = (weights[..., None] * features[index]).sum(1) / weights.sum(1, keepdim=True)
    torch.testing.assert_close(ops.interpolate(x, y, features), expected)


def test_coincident_points_share_the_weight():
    y = torch.tensor([[0.0], [1.0], [0.0], [3.0]])
    features = torch.tensor([[2.0], [50.0], [4.0], [90.0]])
    assert ops.interpolate(torch.zeros(1, 1), y, features).tolist() == [[3.0]]
    near = torch.tensor([[1e-18]])  # its square underflows to a number of few digits
    assert ops.interpolate(near, y, features).item() == pytest.approx(3.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_interpolation_does_not_see_the_unit(dtype):
    x, y, features = (cloud(i, 2, 20, 3, dtype=dtype) for i in (0, 1, 2))
    expected = ops.interpolate(x, y, features)
    for exponent in (-100, -70, 70, 120) if dtype == torch.float32 else (-900, -600, 600, 1000):
        unit = torch.tensor([[[2.0**exponent]], [[1.0]]], dtype=dtype)  # of each cloud for itself
        assert torch.equal(ops.interpolate(unit * x, unit * y, features), expected)
    huge = (1e30 * x).requires_grad_()
    ops.interpolate(huge, 1e30 * y, features).sum().backward()
    assert huge.grad.isfinite().all()


# gradients


@pytest.mark.parametrize("search", [SEARCHES[name] for name in ("knn", "ball_query", "ball_query in order")])
def test_gradient_of_distances(search):
    x, y = cloud(0, 2, 5, 3).requires_grad_(), cloud(1, 2, 7, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: search(x, y).distance.nan_to_num(posinf=0), (x, y))


def test_gradient_of_features_and_interpolation():
    x, y, features = (c.requires_grad_() for c in (cloud(0, 2, 5, 3), cloud(1, 2, 7, 3), cloud(2, 2, 7, 2)))
    index = ops.ball_query(x, y, 1.5, 3).index
    assert (index == -1).any()
    assert torch.autograd.gradcheck(lambda features: ops.gather(features, index), features)
    assert torch.autograd.gradcheck(ops.interpolate, (x, y, features))


def test_gradient_of_interpolation_is_finite_at_the_data():
    y, features = cloud(0, 9, 3).requires_grad_(), cloud(1, 9, 2).requires_grad_()
    x = y.detach().clone().requires_grad_()
    ops.interpolate(x, y, features).sum().backward()
    assert (x.grad == 0).all() and (y.grad == 0).all() and (features.grad == 1).all()


def test_gradient_ignores_what_is_not_there():
    x, y = cloud(0, 1, 3).requires_grad_(), torch.zeros(1, 3, dtype=torch.float64)
    found = ops.ball_query(x, y, 10.0, 2)
    found.distance.sqrt().backward(torch.tensor([[1.0, torch.nan]], dtype=torch.float64))
    torch.testing.assert_close(x.grad, torch.nn.functional.normalize(x.detach()))


# how the functions are run


def everything(x, y, features):
    near, ball = ops.knn(x, y, 4), ops.ball_query(x, y, 0.5, 4, "index")
    return *near, *ball, ops.interpolate(x, y, features), ops.gather(features, ball.index)


def with_gradients(function, x, y, features):
    """What a function gives, and the gradients of the sum of its finite floating-point numbers."""
    inputs = [c.clone().requires_grad_() for c in (x, y, features)]
    found = function(*inputs)
    total = sum(value.nan_to_num(posinf=0).square().sum() for value in found if value.is_floating_point())
    return *found, *torch.autograd.grad(total, inputs)


def test_threads_change_no_bit():
    x, y = cloud(0, 4_000, 3, dtype=torch.float32), cloud(1, 300, 3, dtype=torch.float32)
    features = cloud(2, 300, 5, dtype=torch.float32)
    one, two = (on_threads(count, lambda: with_gradients(everything, x, y, features)) for count in (1, 2))
    for a, b in zip(one, two):
        assert torch.equal(a, b)


def test_compiles_without_a_break():
    x, y, features = cloud(0, 2, 9, 3), cloud(1, 2, 12, 3), cloud(2, 2, 12, 2)
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    for a, b in zip(with_gradients(compiled, x, y, features), with_gradients(everything, x, y, features)):
        torch.testing.assert_close(a, b)
    x[0, 3, 1] = torch.nan  # nobody looks: the first cloud cannot be measured, the second can
    distance, index, *_ = compiled(x, y, features)
    assert distance[0].isnan().all() and (index[0] == -1).all() and (index[1] >= 0).all()
    assert compiled(x, y, features)[5][0].isnan().all()  # interpolated


def test_ragged_batches_compile():
    (x, x_offsets), (y, y_offsets) = packed(RAGGED_X), packed(RAGGED_Y)

    def function(x, y, x_offsets, y_offsets):
        found = ops.knn(x, y, 3, x_offsets=x_offsets, y_offsets=y_offsets)
        return *found, ops.gather(y, found.index, x_offsets=x_offsets, y_offsets=y_offsets)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(x, y, x_offsets, y_offsets), function(x, y, x_offsets, y_offsets)):
        assert torch.equal(a, b)


# what is refused

POINTS, OFFSETS, LENGTHS = torch.zeros(5, 3), torch.tensor([0, 2, 5]), torch.tensor([2, 5])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.knn(POINTS, POINTS, 6), ValueError, r"k must be 1 to 5, .* y \(5, 3\), got 6"),
        (lambda: ops.knn(POINTS, POINTS, 0), ValueError, "k must be 1 to 5, .* got 0"),
        (lambda: ops.knn(POINTS, POINTS, 2.0), TypeError, "k must be an integer, got float"),
        (lambda: ops.knn(POINTS, POINTS, True), TypeError, "k must be an integer, got bool"),
        (lambda: ops.ball_query(POINTS, POINTS, None, 3), TypeError, "radius must be a number, got NoneType"),
        (lambda: ops.ball_query(POINTS, POINTS, 10**400, 3), ValueError, "radius must be a positive length"),
        (lambda: ops.nearest(POINTS, POINTS, x_offsets=[0, 5]), TypeError, "x's offsets must be .* got list"),
        (
            lambda: ops.nearest(POINTS[None], POINTS[None], x_lengths=torch.tensor([True])),
            TypeError,
            "x's lengths must be an integer tensor .* got torch.bool",
        ),
        (
            lambda: ops.gather(POINTS, torch.zeros(5, 2, 1).long(), x_offsets=OFFSETS, y_offsets=OFFSETS),
            ValueError,
            r"index must be .* got \(5, 2, 1\)",
        ),
        (lambda: ops.gather(POINTS, torch.zeros(0, 2).long()), ValueError, r"at least one entry, .* got \(0, 2\)"),
        (lambda: ops.gather(POINTS, torch.zeros(5, 0).long()), ValueError, r"at least one entry, .* got \(5, 0\)"),
        (
            lambda: ops.knn(POINTS, POINTS, 3, x_offsets=OFFSETS, y_offsets=OFFSETS),
            ValueError,
            "k must be 1 to 2, the points of the smallest cloud of y",
        ),
        (lambda: ops.knn(POINTS, POINTS[:, :2], 1), ValueError, r"agree .* got \(5, 3\) and \(5, 2\)"),
        (lambda: ops.knn(POINTS, POINTS / 0, 1), ValueError, r"y \(5, 3\) must be finite, got 15"),
        (lambda: ops.ball_query(POINTS, POINTS, 0.0, 3), ValueError, "radius must be a positive length, got 0.0"),
        (lambda: ops.ball_query(POINTS, POINTS, torch.nan, 3), ValueError, "radius must be a positive length, got nan"),
        (lambda: ops.ball_query(POINTS, POINTS, 1.0, 0), ValueError, "k must be at least 1, got 0"),
        (
            lambda: ops.ball_query(POINTS, POINTS, 1.0, 3, "nearest"),
            ValueError,
            "order must be one of distance, index, got 'nearest'",
        ),
        (lambda: ops.gather(POINTS, torch.zeros(5, 2)), TypeError, "index must be an int64 tensor, got torch.float32"),
        (lambda: ops.gather(POINTS, torch.full((5, 2), 5)), ValueError, r"index \(5, 2\) .* got 10 others"),
        (lambda: ops.gather(POINTS, torch.full((5, 2), -2)), ValueError, r"index \(5, 2\) .* got 10 others"),
        (lambda: ops.gather(POINTS, torch.zeros(5).long()), ValueError, r"index must be .* got \(5,\)"),
        (lambda: ops.gather(POINTS, torch.zeros(1, 5, 2).long()), ValueError, r"index must be .* got \(1, 5, 2\)"),
        (
            lambda: ops.gather(POINTS.expand(2, 5, 3), torch.full((2, 4, 1), 3), y_lengths=LENGTHS),
            ValueError,
            "got 4 others",
        ),
        (
            lambda: ops.gather(POINTS.expand(2, 5, 3), torch.zeros(3, 4, 1).long()),
            ValueError,
            r"agree in batch, got \(2, 5, 3\) and \(3, 4, 1\)",
        ),
        (lambda: ops.interpolate(POINTS, POINTS, POINTS[:4]), ValueError, r"got \(4, 3\) for \(5, 3\)"),
        (lambda: ops.interpolate(POINTS, POINTS, POINTS, 6), ValueError, "k must be 1 to 5"),
        (lambda: ops.interpolate(POINTS, POINTS, POINTS.double()), ValueError, "y and features must share dtype"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
