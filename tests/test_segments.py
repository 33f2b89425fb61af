"""Segment reductions against loops in float64, and voxels against NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcgen.ops import reference, segment_reduce, voxel_groups

REDUCTIONS = ("sum", "mean", "max", "min", "softmax")
seeds = st.integers(0, 2**31 - 1)


@st.composite
def tables(draw):
    """Values and segments, some rows left out: few and many columns, ties, huge and tiny numbers."""
    rows, columns, count = draw(st.integers(0, 70)), draw(st.integers(1, 40)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(seeds))
    values = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    values = draw(st.sampled_from([values, values.round(), values * 1e6, values * 1e-6, torch.zeros_like(values)]))
    segments = torch.randint(-1, count, (rows,), generator=generator)
    if draw(st.booleans()):
        segments = segments.sort().values
    return values.to(draw(st.sampled_from([torch.float32, torch.float64]))), segments, count


def by_loop(values, segments, count, reduce):
    """The definition, a segment at a time."""
    value, argmax = torch.zeros(count, values.shape[1], dtype=torch.float64), None
    values = values.double()
    if reduce == "softmax":
        value = torch.zeros_like(values)
    if reduce in ("max", "min"):
        argmax = torch.full((count, values.shape[1]), -1)
    for segment in range(count):
        rows = (segments == segment).nonzero()[:, 0]
        if not len(rows):
            continue
        part = values[rows]
        if reduce == "softmax":
            value[rows] = part.softmax(0)
        elif reduce in ("sum", "mean"):
            value[segment] = getattr(part, reduce)(0)
        else:
            found = getattr(part.numpy(), f"arg{reduce}")(0)  # the first of several
            argmax[segment] = rows[found]
            value[segment] = part.gather(0, torch.from_numpy(found)[None])[0]
    return value, argmax


@pytest.mark.parametrize("reduce", REDUCTIONS)
@given(table=tables())
def test_reductions_are_the_definition(reduce, table):
    values, segments, count = table
    found = segment_reduce(values, segments, count, reduce)
    value, argmax = by_loop(values, segments, count, reduce)
    assert found.value.dtype == values.dtype
    scale = values.abs().max().item() if values.numel() else 1.0
    exact = 1e-6 if values.dtype == torch.float32 else 1e-13
    atol = 0 if argmax is not None else exact * (1 if reduce == "softmax" else scale)
    torch.testing.assert_close(found.value.double(), value, rtol=exact, atol=atol)
    assert (argmax is None and found.argmax is None) or torch.equal(found.argmax, argmax)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@given(table=tables())
def test_twins_agree(reduce, table):
    values, segments, count = table
    if reduce == "softmax":
        found = segment_reduce(values, segments, count, reduce).value
        rtol = 2e-6 if values.dtype == torch.float32 else 1e-13
        torch.testing.assert_close(found, reference.segment_softmax(segments, values, count), rtol=rtol, atol=1e-300)
    elif reduce in ("max", "min"):
        found = segment_reduce(values, segments, count, reduce)
        value, argmax = reference.segment_max(segments, values if reduce == "max" else -values, count)
        assert torch.equal(found.value, value if reduce == "max" else -value)
        assert torch.equal(found.argmax, argmax)
    else:  # the same sums in the same order
        found = segment_reduce(values, segments, count, reduce).value
        assert torch.equal(found, reference.segment_sum(segments, values, count, reduce == "mean"))


def test_by_hand():
    values, segments = torch.tensor([1.0, 7.0, 7.0, -2.0, 5.0]), torch.tensor([2, 0, 0, 2, -1])
    assert segment_reduce(values, segments, 4).value.tolist() == [14, 0, -1, 0]
    assert segment_reduce(values, segments).value.tolist() == [14, 0, -1]
    assert segment_reduce(values, segments, reduce="mean").value.tolist() == [7, 0, -0.5]
    found = segment_reduce(values[:, None], segments, 4, "max")
    assert found.value.tolist() == [[7], [0], [1], [0]] and found.argmax.tolist() == [[1], [-1], [0], [-1]]
    found = segment_reduce(values, segments, 4, "min")
    assert found.value.tolist() == [7, 0, -2, 0] and found.argmax.tolist() == [1, -1, 3, -1]
    assert not torch.signbit(found.value[[1, 3]]).any()
    assert segment_reduce(torch.zeros(5), segments, reduce="softmax").value.tolist() == [0.5, 0.5, 0.5, 0.5, 0]
    assert segment_reduce(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 2, "max").argmax.eq(-1).all()
    assert segment_reduce(torch.zeros(3, 0), torch.zeros(3, dtype=torch.int64)).value.shape == (1, 0)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_only_the_order_within_a_segment_matters(reduce):
    generator = torch.Generator().manual_seed(0)
    values, segments = torch.randn(300, 5, generator=generator), torch.randint(0, 9, (300,), generator=generator)
    order = segments.argsort(stable=True)
    mixed, ordered = (
        segment_reduce(values, segments, 9, reduce),
        segment_reduce(values[order], segments[order], 9, reduce),
    )
    assert torch.equal(mixed.value[order] if reduce == "softmax" else mixed.value, ordered.value)
    if mixed.argmax is not None:
        assert torch.equal(mixed.argmax, order[ordered.argmax])


def test_sums_do_not_lose_what_is_small():
    values = torch.cat([torch.tensor([2.0**24]), torch.ones(1000)])  # in float32, 2²⁴ + 1 = 2²⁴
    assert segment_reduce(values, torch.zeros(1001, dtype=torch.int64)).value.item() == 2.0**24 + 1000
    huge = torch.full((4,), 3e38)
    assert segment_reduce(huge, torch.zeros(4, dtype=torch.int64), reduce="mean").value.item() == huge[0]


@pytest.mark.parametrize("columns", [1, 3, 16, 21])
def test_nan_and_infinity_are_values(columns):
    values = torch.zeros(7, columns)
    values[:, -1] = torch.tensor([-torch.inf, 1.0, torch.nan, 5.0, torch.nan, -torch.inf, torch.inf])
    segments = torch.tensor([0, 1, 1, 1, 1, 2, 3])
    found = segment_reduce(values, segments, 4, "max")
    assert found.argmax[:, -1].tolist() == [0, 2, 5, 6]
    torch.testing.assert_close(found.value[:, -1], values[[0, 2, 5, 6], -1], equal_nan=True)
    found = segment_reduce(values, segments, 4, "min")
    assert found.argmax[:, -1].tolist() == [0, 2, 5, 6]
    sums = segment_reduce(values, segments, 4).value[:, -1]
    torch.testing.assert_close(sums, torch.tensor([-torch.inf, torch.nan, -torch.inf, torch.inf]), equal_nan=True)
    parts = segment_reduce(
        torch.tensor([0.0, -torch.inf, torch.nan, 1.0]), torch.tensor([0, 0, 1, 1]), reduce="softmax"
    )
    assert parts.value[:2].tolist() == [1, 0] and parts.value[2:].isnan().all()


def test_softmax_of_far_values_does_not_overflow():
    values = torch.tensor([1e4, 1e4 - 1, -1e4, -1e30, 0.0], dtype=torch.float64)
    found = segment_reduce(values, torch.zeros(5, dtype=torch.int64), reduce="softmax").value
    torch.testing.assert_close(found, values.softmax(0), rtol=1e-14, atol=0)
    near = torch.linspace(-700, 0, 4001, dtype=torch.float64)  # the whole range of the exponential
    found = segment_reduce(near, torch.zeros(4001, dtype=torch.int64), reduce="softmax").value
    torch.testing.assert_close(found, near.softmax(0), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_half_precision_is_computed_in_float32(dtype, reduce):
    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    segments = torch.arange(50) % 7
    found, wide = segment_reduce(values, segments, 7, reduce), segment_reduce(values.float(), segments, 7, reduce)
    assert found.value.dtype == torch.float32 and torch.equal(found.value, wide.value)


def test_other_integers_and_strides():
    values = torch.arange(24.0).reshape(4, 6).T  # not contiguous
    segments = torch.tensor([1, 0, 1, 0, 2, 2], dtype=torch.int32)
    wide = torch.stack([segments.long(), segments.long()], 1)[:, 0]
    for reduce in REDUCTIONS:
        expected = segment_reduce(values.contiguous(), segments.long(), 3, reduce).value
        assert torch.equal(segment_reduce(values, segments, 3, reduce).value, expected)
        assert torch.equal(segment_reduce(values, wide, 3, reduce).value, expected)


# gradients


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("columns", [1, 3])
def test_gradient(reduce, columns):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(12, columns, generator=generator, dtype=torch.float64, requires_grad=True)
    segments = torch.tensor([0, 3, 3, -1, 0, 1, 1, 1, 3, 0, -1, 1])

    def function(v):
        return segment_reduce(v, segments, 5, reduce).value

    assert torch.autograd.gradcheck(function, values)
    assert torch.autograd.gradgradcheck(function, values)


def test_the_gradient_of_a_maximum_goes_to_the_first():
    values = torch.tensor([2.0, 5.0, 5.0, 1.0, 5.0], requires_grad=True)
    for sign, reduce in ((1, "max"), (-1, "min")):
        value = segment_reduce(sign * values, torch.tensor([0, 0, 0, 1, 0]), 3, reduce).value
        (gradient,) = torch.autograd.grad(value.sum(), values)
        assert gradient.tolist() == [0, sign, 0, sign, 0]


# PyTorch's dispatcher


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_compiles_without_a_break(reduce):
    values = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    segments = torch.arange(40) % 6

    def function(v):
        return segment_reduce(v, segments, 6, reduce).value.square().sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(values), function(values))
    got, expected = (torch.autograd.grad(f(values), values)[0] for f in (compiled, function))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("operation", ["segment_sum", "segment_max", "segment_softmax"])
def test_numbers_out_of_range_are_left_out_where_nobody_looks(operation):
    values = torch.ones(5, 2, requires_grad=True)
    segments = torch.tensor([0, 7, -3, 2**62, -(2**62)])
    extra = (True,) if operation == "segment_sum" else ()
    found = getattr(torch.ops.pcgen, operation)(segments, values, 2, *extra)
    found = found[0] if isinstance(found, tuple) else found
    assert found[0].tolist() == [1, 1] and (found[1:] == 0).all()
    found.sum().backward()
    assert (values.grad[1:] == 0).all()


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("columns", [1, 70])
def test_two_threads_give_the_same_bits(reduce, columns):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20_000, columns, generator=generator, requires_grad=True)
    segments = torch.randint(-1, 40, (20_000,), generator=generator)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            value = segment_reduce(values, segments, 40, reduce).value
            results.append((value, *torch.autograd.grad(value.square().sum(), values)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


# torch_scatter


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_torch_scatter_gives_the_same(reduce):
    pytest.importorskip("torch_scatter", reason="torch-scatter is not installed: its backend was NOT tested")
    generator = torch.Generator().manual_seed(0)
    segments = torch.randint(-1, 9, (200,), generator=generator)
    segments[segments == 4] = 5  # an empty one
    for shape in ((200,), (200, 3)):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64).round(decimals=1).requires_grad_()
        ours, theirs = (segment_reduce(values, segments, 9, reduce, backend) for backend in ("auto", "torch_scatter"))
        torch.testing.assert_close(theirs.value, ours.value)
        assert ours.argmax is theirs.argmax is None or torch.equal(ours.argmax, theirs.argmax)
        weights = torch.randn(ours.value.shape, generator=generator, dtype=torch.float64)
        mine, other = (torch.autograd.grad((found.value * weights).sum(), values)[0] for found in (ours, theirs))
        torch.testing.assert_close(other, mine)


def test_torch_scatter_refuses_what_it_would_overlook():
    pytest.importorskip("torch_scatter", reason="torch-scatter is not installed: its backend was NOT tested")
    with pytest.raises(ValueError, match=r"values \(2, 1\) must be finite for torch_scatter's max"):
        segment_reduce(torch.tensor([1.0, torch.nan]), torch.tensor([0, 0]), 1, "max", "torch_scatter")


def test_torch_scatter_may_be_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_scatter", None)
    with pytest.raises(ModuleNotFoundError, match="torch_scatter"):
        segment_reduce(torch.zeros(2), torch.zeros(2, dtype=torch.int64), backend="torch_scatter")


# voxels


def by_numpy(x, size):
    cells = np.floor(x.double().numpy() / size).astype(np.int64)
    found, group, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    return found, group.reshape(-1), counts


@given(
    seeds,
    st.integers(1, 200),
    st.integers(1, 5),
    st.sampled_from([1e-6, 0.3, 1.0, 1e6]),
    st.sampled_from(["gaussian", "lattice", "line", "twins", "far"]),
)
def test_voxels_are_numpys(seed, n, d, size, kind):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if kind == "lattice":
        x = x.round()
    elif kind == "line":
        x = x[:, :1].expand(n, d)
    elif kind == "twins":
        x = x[torch.arange(n) // 2]
    elif kind == "far":
        x = x + 1e6
    x = x * size * 3
    voxels = voxel_groups(x, size)
    cells, group, counts = by_numpy(x, size)
    assert np.array_equal(voxels.cells, cells) and np.array_equal(voxels.counts, counts)
    assert np.array_equal(voxels.group, group) and (voxels.cloud == 0).all()
    assert torch.equal(voxels.cells[voxels.group], (x / size).floor().long())


def test_voxels_of_many_clouds_are_those_of_each():
    x = torch.randn(4, 30, 3, generator=torch.Generator().manual_seed(0))
    lengths, offsets = torch.tensor([30, 1, 12, 7]), torch.tensor([0, 30, 31, 43, 50])
    x[1, 1:] = torch.nan  # padding may hold anything
    padded = voxel_groups(x, (0.5, 1.0, 2.0), lengths=lengths)
    packed = voxel_groups(torch.cat([a[:n] for a, n in zip(x, lengths)]), (0.5, 1.0, 2.0), offsets=offsets)
    assert padded.group.shape == (4, 30)
    assert all(torch.equal(a, b) for a, b in zip(padded[1:], packed[1:]))
    first = 0
    for b, n in enumerate(lengths.tolist()):
        alone = voxel_groups(x[b, :n], (0.5, 1.0, 2.0))
        here = padded.cloud == b
        assert torch.equal(padded.cells[here], alone.cells) and torch.equal(padded.counts[here], alone.counts)
        assert torch.equal(padded.group[b, :n], alone.group + first)
        assert (padded.group[b, n:] == -1).all()
        assert torch.equal(packed.group[offsets[b] : offsets[b + 1]], alone.group + first)
        first += len(alone.cells)
    points = x.nan_to_num().reshape(-1, 3)
    means = segment_reduce(points, padded.group.reshape(-1), first, "mean").value  # padding, −1, is left out
    assert torch.equal((means / torch.tensor([0.5, 1.0, 2.0])).floor().long(), padded.cells)


def test_cells_that_overflow_a_key_keep_their_order():
    # 2⁵¹ cells on each of three axes: no 64 bits hold them together.
    x = torch.tensor([[1.0, -1, 0], [-1, 1, 1], [-1, 1, -1], [1, -1, 0], [0, 0, 0]], dtype=torch.float64) * 2.0**50
    voxels = voxel_groups(x, 1.0)
    assert (voxels.cells // 2**50).tolist() == [[-1, 1, -1], [-1, 1, 1], [0, 0, 0], [1, -1, 0]]
    assert voxels.group.tolist() == [3, 1, 0, 3, 2] and voxels.counts.tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_voxels_of_many_points_are_the_definitions(threads):
    """More points than a thread takes at once, in clouds of all sizes with gaps between them."""
    x = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    x[::1000] = torch.nan
    starts = torch.tensor([0, 0, 5, 70_000, 140_000, 200_000])
    spans = torch.stack([starts, torch.tensor([0, 3, 69_000, 70_000, 59_999, 0])], 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for size in ([0.05, 0.1, 0.02], [1e3, 1e3, 1e3]):
            found = torch.ops.pcgen.voxel_groups(x, spans, size)
            assert all(torch.equal(a, b) for a, b in zip(found, reference.voxel_groups(x, spans, size), strict=True))
    finally:
        torch.set_num_threads(before)


def test_voxels_where_nobody_looks():
    x = torch.tensor([[torch.nan, 0.0], [1.5, 0.0], [torch.inf, 0.0], [1e30, 0.0]])
    group, cells, counts, _ = torch.ops.pcgen.voxel_groups(x, torch.tensor([[0, 4]]), [1.0, 1.0])
    assert group.tolist() == [-1, 0, -1, -1] and cells.tolist() == [[1, 0]] and counts.tolist() == [1]
    group, cells, _, _ = torch.ops.pcgen.voxel_groups(x[:1], torch.tensor([[0, 1]]), [1.0, 1.0])
    assert group.tolist() == [-1] and cells.shape == (0, 2)


def test_voxels_compile_without_a_break():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))

    def function(x):
        voxels = voxel_groups(x, 0.5)
        return voxels, segment_reduce(x, voxels.group, len(voxels.cells), "mean").value

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    (voxels, means), (plain, plain_means) = compiled, function(x)
    assert all(torch.equal(a, b) for a, b in zip(voxels, plain)) and torch.equal(means, plain_means)


# what is refused


@pytest.mark.parametrize(
    ("values", "segments", "options", "error", "message"),
    [
        (torch.zeros(3), torch.tensor([0, 1]), {}, ValueError, r"got \(3,\) and \(2,\)"),
        (torch.zeros(1, 3, 2), torch.tensor([0]), {}, ValueError, r"got \(1, 3, 2\) and \(1,\)"),
        (torch.zeros(()), torch.tensor(0), {}, ValueError, r"got \(\) and \(\)"),
        (torch.zeros(2), torch.tensor([0, 3]), {"count": 3}, ValueError, r"segments \(2,\) .* got 0 to 3"),
        (torch.zeros(2), torch.tensor([0, -2]), {}, ValueError, r"segments \(2,\) .* got -2 to 0"),
        (torch.zeros(0), torch.zeros(0, dtype=torch.int64), {}, ValueError, "count must be given"),
        (torch.zeros(2), torch.tensor([0, 1]), {"count": -1}, ValueError, "count must"),
        (torch.zeros(2), torch.tensor([0, 1]), {"count": 2.0}, TypeError, "count must be an integer, got float"),
        (
            torch.zeros(2),
            torch.tensor([0.0, 1.0]),
            {},
            TypeError,
            "segments must be a tensor of integers, got torch.flo",
        ),
        (torch.zeros(2).int(), torch.tensor([0, 1]), {}, TypeError, "values must be a tensor of floating point"),
        ([0.0], torch.tensor([0]), {}, TypeError, "values must be a tensor of floating point, got list"),
        (torch.zeros(2), [0, 1], {}, TypeError, "segments must be a tensor of integers, got list"),
        (torch.zeros(2), torch.zeros(2, device="meta").long(), {}, ValueError, "share the device, got cpu and meta"),
        (
            torch.zeros(2),
            torch.tensor([0, 1]),
            {"reduce": "prod"},
            ValueError,
            "sum, mean, max, min, softmax, got 'prod'",
        ),
        (torch.zeros(2), torch.tensor([0, 1]), {"backend": "numpy"}, ValueError, "auto, torch_scatter, got 'numpy'"),
    ],
)
def test_bad_segments_are_refused(values, segments, options, error, message):
    with pytest.raises(error, match=message) as raised:
        segment_reduce(values, segments, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("x", "size", "error", "message"),
    [
        (torch.zeros(2, 3), 0.0, ValueError, r"size must be a positive length or 3 of them for \(2, 3\), got 0.0"),
        (torch.zeros(2, 3), -1, ValueError, "size must be"),
        (torch.zeros(2, 3), float("nan"), ValueError, "size must be"),
        (torch.zeros(2, 3), (1.0, 2.0), ValueError, r"3 of them for \(2, 3\), got \(1.0, 2.0\)"),
        (torch.zeros(2, 3), "x", TypeError, "size must be a number, got str"),
        (torch.zeros(0, 3), 1.0, ValueError, r"x must be .* got \(0, 3\)"),
        (torch.full((2, 3), torch.nan), 1.0, ValueError, r"x \(2, 3\) must be finite"),
        (
            torch.full((2, 3), 1e6),
            0.05,
            ValueError,
            r"x \(2, 3\) .*float32 .* up to .4.194e.05, got 1e.06 on axis 0",
        ),
        (torch.full((2, 1), 1e300, dtype=torch.float64), 1e-3, ValueError, "too far from the origin"),
        (torch.full((2, 1), 1e300, dtype=torch.float64), 1e-300, ValueError, "too far from the origin"),
    ],
)
def test_bad_voxels_are_refused(x, size, error, message):
    with pytest.raises(error, match=message) as raised:
        voxel_groups(x, size)
    assert "\n" not in str(raised.value)


def test_a_float64_cloud_takes_what_float32_cannot():
    assert voxel_groups(torch.full((2, 3), 1e6).double(), 0.05).cells.tolist() == [[20_000_000] * 3]
