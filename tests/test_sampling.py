"""Farthest point sampling: the definition, to the index, and what it promises."""

import pytest
import torch
from adversarial import cloud, dimensions, dtypes, kinds, rotation, seeds, sizes
from hypothesis import given
from hypothesis import strategies as st

from pcgen import ops


def by_definition(points, count, start=0):
    """The indices, by exact arithmetic on integers."""
    chosen = [start]
    remaining = [float("inf")] * len(points)
    while len(chosen) < count:
        last = points[chosen[-1]]
        remaining = [min(r, sum((a - b) ** 2 for a, b in zip(p, last))) for r, p in zip(remaining, points)]
        chosen.append(max((i for i in range(len(points)) if i not in chosen), key=lambda i: (remaining[i], -i)))
    return chosen


@given(seeds, st.integers(1, 90), dimensions, st.integers(1, 4), st.data())
def test_sampling_is_the_definition_with_all_its_ties(seed, n, d, extent, data):
    count, start = data.draw(st.integers(1, n), label="count"), data.draw(st.integers(0, n - 1), label="start")
    points = torch.randint(-extent, extent + 1, (n, d), generator=torch.Generator().manual_seed(seed))
    expected = by_definition(points.tolist(), count, start)
    for dtype in (torch.float32, torch.float64):
        assert ops.farthest_point_sampling(points.to(dtype), count, start).tolist() == expected


@given(seeds, sizes, dimensions, dtypes, kinds, st.data())
def test_each_point_is_the_farthest(seed, n, d, dtype, kind, data):
    count, start = data.draw(st.integers(1, n), label="count"), data.draw(st.integers(0, n - 1), label="start")
    x = cloud(seed, n, d, kind=kind, dtype=dtype)
    index = ops.farthest_point_sampling(x, count, start)
    assert index.shape == (count,) and index.dtype == torch.int64
    assert index[0] == start and len(index.unique()) == count
    distance = (x.double()[:, None] - x.double()[None, index]).square().sum(-1)
    remaining = distance.cummin(1).values  # of every point, before each choice
    for i in range(1, count):
        assert remaining[index[i], i - 1] >= remaining[:, i - 1].max() * (1 - 1e-6)


def test_a_large_cloud_is_sampled_as_by_definition():
    points = torch.randint(-40, 41, (3000, 3), generator=torch.Generator().manual_seed(0))
    assert ops.farthest_point_sampling(points.float(), 150, 7).tolist() == by_definition(points.tolist(), 150, 7)


def test_coincident_points_are_chosen_once_in_order():
    assert ops.farthest_point_sampling(torch.ones(300, 3), 300, 4).tolist() == [4, *range(4), *range(5, 300)]


@given(seeds, st.integers(2, 80))
def test_sampling_laws(seed, n):
    x = cloud(seed, n, 3)
    index = ops.farthest_point_sampling(x, n)
    assert torch.equal(ops.farthest_point_sampling(x, n // 2), index[: n // 2])
    moved = 8 * x @ rotation(seed) + 3
    assert torch.equal(ops.farthest_point_sampling(moved, n), index)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    start = int((order == 0).nonzero())
    assert torch.equal(order[ops.farthest_point_sampling(x[order], n, start)], index)


@given(seeds, st.integers(3, 60), st.integers(1, 8))
def test_sampling_covers(seed, n, count):
    x = cloud(seed, n, 2)
    count = min(count, n - 1)
    index = ops.farthest_point_sampling(x, count + 1)
    spread = torch.pdist(x[index]).min()  # no cover by `count` points has a radius below half of this
    cover = ops.nearest(x, x[index[:count]]).distance.max().sqrt()
    torch.testing.assert_close(cover, (x[index[:count]] - x[index[count]]).norm(dim=1).min())
    assert cover <= spread + 1e-12


def test_batches_are_their_clouds():
    parts = [cloud(i, n, 3) for i, n in enumerate([9, 40, 17])]
    starts = torch.tensor([3, 0, 16])
    each = torch.stack([ops.farthest_point_sampling(x, 9, int(s)) for x, s in zip(parts, starts)])
    lengths = torch.tensor([len(x) for x in parts])
    x = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=torch.nan)
    assert torch.equal(ops.farthest_point_sampling(x, 9, starts, lengths=lengths), each)
    offsets = torch.tensor([0, 9, 49, 66])
    assert torch.equal(ops.farthest_point_sampling(torch.cat(parts), 9, starts.int(), offsets=offsets), each)
    x = cloud(5, 2, 30, 3)
    each = torch.stack([ops.farthest_point_sampling(points, 12) for points in x])
    assert torch.equal(ops.farthest_point_sampling(x, 12), each)


def test_input_need_not_be_contiguous_or_wide():
    x = cloud(0, 3, 50).half()
    expected = ops.farthest_point_sampling(x.T.float().contiguous(), 20)
    assert torch.equal(ops.farthest_point_sampling(x.T, 20), expected)


def test_threads_change_nothing():
    x = cloud(0, 30_000, 3, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append((ops.farthest_point_sampling(x, 200), ops.farthest_point_sampling(x.view(10, -1, 3), 50)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found))


@pytest.mark.parametrize("d", [3, 4])  # by the kernel and by the definition
def test_what_the_front_refuses_may_arrive_when_compiled(d):
    x = cloud(0, 40, d)
    x[25, 0] = torch.inf
    spans, start = torch.tensor([[0, 20], [20, 10], [30, 4], [34, 6]]), torch.tensor([0, 0, 0, 6])
    index = torch.ops.pcgen.farthest_point_sampling(x, spans, start, 6)
    assert index[0].tolist() == ops.farthest_point_sampling(x[:20], 6).tolist()
    assert index[1].tolist() == [-1] * 6  # not finite
    assert sorted(index[2, :4].tolist()) == [0, 1, 2, 3] and index[2, 4:].tolist() == [-1, -1]  # too few
    assert index[3].tolist() == [-1] * 6  # no such start


@pytest.mark.parametrize("d", [3, 4])
def test_distances_may_overflow(d):
    x = torch.full((40, d), 1e38) * torch.tensor([1.0, -1.0]).repeat(20)[:, None]
    index = ops.farthest_point_sampling(x, 4)
    assert index.tolist()[:2] == [0, 1] and len(index.unique()) == 4


def test_compiles_without_a_break():
    x, lengths = cloud(0, 2, 30, 3), torch.tensor([30, 12])

    def function(x, lengths):
        return ops.farthest_point_sampling(x, 8), ops.farthest_point_sampling(x, 8, lengths - 1, lengths=lengths)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(x, lengths), function(x, lengths)):
        assert torch.equal(a, b)


POINTS = torch.zeros(5, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.farthest_point_sampling(POINTS, 6), ValueError, r"count must be 1 to 5, .* x \(5, 3\), got 6"),
        (lambda: ops.farthest_point_sampling(POINTS, 0), ValueError, "count must be 1 to 5, .* got 0"),
        (lambda: ops.farthest_point_sampling(POINTS, 0.5), TypeError, "count must be an integer, got float"),
        (
            lambda: ops.farthest_point_sampling(POINTS, 3, offsets=torch.tensor([0, 2, 5])),
            ValueError,
            "count must be 1 to 2, the points of the smallest cloud of x",
        ),
        (lambda: ops.farthest_point_sampling(POINTS, 2, 5), ValueError, r"start must be an index .* got \[5\]"),
        (lambda: ops.farthest_point_sampling(POINTS, 2, -1), ValueError, r"start must be an index .* got \[-1\]"),
        (
            lambda: ops.farthest_point_sampling(POINTS, 2, torch.ones(1)),
            ValueError,
            "start must be an integer .* got torch.float",
        ),
        (lambda: ops.farthest_point_sampling(POINTS, 2, 1.0), TypeError, "start must be an integer, got float"),
        (
            lambda: ops.farthest_point_sampling(POINTS, 2, torch.tensor([0, 1])),
            ValueError,
            r"start must be an integer or 1 of them .* got torch.int64 \(2,\)",
        ),
        (lambda: ops.farthest_point_sampling(POINTS / 0, 2), ValueError, r"x \(5, 3\) must be finite, got 15"),
        (lambda: ops.farthest_point_sampling(POINTS[:0], 1), ValueError, r"x must be .* got \(0, 3\)"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
