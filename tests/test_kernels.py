"""Every operation that PyTorch's dispatcher knows by us, and every public function: one table of each, one set of laws.

An operation without a sample, or a public function without a call, fails here.
"""

import ctypes
import functools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from adversarial import SLOW
from torch import Tensor

from pcgen import ops
from pcgen.ops import native, reference

FLOATS = (torch.float32, torch.float64)


def points(n, dtype, seed=0, d=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def spans(n):
    """Two clouds, the smaller one first, and a row of padding between them."""
    return torch.tensor([[0, n // 3], [n // 3 + 1, n - n // 3 - 1]])


def two_sets(n, dtype):
    return points(n, dtype), spans(n), points(n + 7, dtype, 1), spans(n + 7)


def rows(n, dtype):
    """Segments, some empty and some rows in none, and values of 20 columns."""
    segments = torch.randint(-1, 50, (n,), generator=torch.Generator().manual_seed(0))
    return torch.where(segments == 7, 8, segments), points(n, dtype, d=20)


def equal_sizes(n, dtype):
    halves = torch.tensor([[0, n // 2], [n // 2, n // 2]])
    return points(n, dtype), halves, points(n, dtype, 1), halves


def with_potentials(n, dtype):
    """Two sets, a potential for each point, and a temperature for each pair of clouds."""
    x, x_spans, y, y_spans = two_sets(n, dtype)
    return x, x_spans, x[:, 0] / 9 - 7, y, y_spans, y[:, 1] / 9, torch.tensor([0.3, 0.7], dtype=torch.float64)


def softmin(n, dtype):
    x, x_spans, _, y, y_spans, h, eps = with_potentials(n, dtype)
    return x, x_spans, y, y_spans, h, eps, 2


def softmin_pull(n, dtype):
    *arguments, h, eps = with_potentials(n, dtype)
    return *arguments, h, h.square(), eps, 1


def annealed_gradient(n, dtype):
    x, x_spans, y, y_spans = two_sets(n, dtype)
    ratios = reference.annealed(x.double(), x_spans, y.double(), y_spans, False)[2:]  # the same for every twin
    return (
        x,
        x_spans,
        y,
        y_spans,
        False,
        *(ratio.to(dtype) for ratio in ratios),
        torch.tensor([1.0, -2.0], dtype=torch.float64),
    )


class Operation(NamedTuple):
    """What an operation is tried on."""

    sample: Callable  # (n, dtype) -> its arguments
    gradient: tuple[int, ...] = ()  # of which of them
    large: int = 12_000  # n where PyTorch, and we, use threads
    tolerance: float = 1e-5  # between C++ and the definition in float32, of the largest number; in float64 1e-9
    uncertain: tuple[int, ...] = ()  # outputs that rounding decides, so that twins may differ in them
    memory: int | None = 3_000  # n at which memory is measured, and at 4 n; None: it is allowed to grow faster


OPERATIONS = {
    # Its ratios, kept for the gradient, are quotients of masses of which nothing but rounding errors is left.
    "annealed": Operation(
        lambda n, dtype: (*two_sets(n, dtype), True), (0, 2), large=700, uncertain=(2, 3), memory=600, tolerance=3e-5
    ),
    "annealed_gradient": Operation(annealed_gradient, large=700, memory=600),
    "annealed_matrix": Operation(lambda n, dtype: (*two_sets(n, dtype), False), large=700, memory=600),
    "chamfer_matrix": Operation(lambda n, dtype: (*two_sets(n, dtype), True, False)),
    # Every cost stays at hand: memory grows with the square.
    "emd_exact": Operation(lambda n, dtype: (*equal_sizes(n, dtype), False, 0.0), (0, 2), large=600, memory=None),
    "emd_exact_matrix": Operation(lambda n, dtype: (*equal_sizes(n, dtype), True, 0.0, False), large=600, memory=None),
    "farthest_point_sampling": Operation(
        lambda n, dtype: (points(n, dtype), spans(n), torch.tensor([0, 1]), min(16, n // 3)), memory=100_000
    ),
    "gather": Operation(
        lambda n, dtype: (points(n, dtype, d=8), torch.arange(-1, 3 * n - 1).reshape(n, 3) % (n + 1) - 1), (0,)
    ),
    "nearest": Operation(two_sets, (0, 2)),
    "nearest_both": Operation(two_sets, (0, 2)),
    "neighbours": Operation(lambda n, dtype: (*two_sets(n, dtype), 3, 0.7, False), (0, 2)),
    "segment_max": Operation(lambda n, dtype: (*rows(n, dtype), 50), (1,), memory=100_000),
    "segment_softmax": Operation(lambda n, dtype: (*rows(n, dtype), 50), (1,), memory=100_000),
    "segment_sum": Operation(lambda n, dtype: (*rows(n, dtype), 50, True), (1,), memory=100_000),
    "sinkhorn_potentials": Operation(lambda n, dtype: (*two_sets(n, dtype), 0.3, 2, 0.5), large=700, memory=600),
    "sinkhorn_matrix": Operation(lambda n, dtype: (*two_sets(n, dtype), 0.3, 2, 0.5), large=700, memory=600),
    "softmin": Operation(softmin, (0, 2, 4), large=2_000, memory=1_500),
    "softmin_pull": Operation(softmin_pull, large=2_000, memory=1_500),
    "voxel_groups": Operation(lambda n, dtype: (points(n, dtype), spans(n), [0.3, 0.5, 0.2]), memory=100_000),
}

# Public functions on x (2, N, 3) and y (2, M, 3).
FUNCTIONS = {
    "ball_query": lambda x, y: ops.ball_query(x, y, 0.6, 5),
    "chamfer": ops.chamfer,
    "chamfer_matrix": ops.chamfer_matrix,
    "emd": lambda x, y: ops.emd(x, x.flip(0)),
    "emd_matrix": lambda x, y: ops.emd_matrix(x, x.flip(0)),
    "farthest_point_sampling": lambda x, y: ops.farthest_point_sampling(x, 7),
    "gather": lambda x, y: ops.gather(y, torch.arange(2 * x.shape[1] * 2).reshape(2, -1, 2) % y.shape[1]),
    "interpolate": lambda x, y: ops.interpolate(x, y, y),
    "knn": lambda x, y: ops.knn(x, y, 4),
    "nearest": ops.nearest,
    "segment_reduce": lambda x, y: ops.segment_reduce(x[0], torch.arange(x.shape[1]) % 7, 9, "mean"),
    "voxel_groups": lambda x, y: ops.voxel_groups(x, 0.4),
}

operations = pytest.mark.parametrize("name", OPERATIONS)
functions = pytest.mark.parametrize("name", FUNCTIONS)


def tensors(result):
    """The tensors in a result, whatever its form."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in tensors(part)] if isinstance(result, (tuple, list)) else []


def with_gradient(arguments, which):
    """The arguments, those of ``which`` anew and asking for a gradient."""
    return [a.clone().requires_grad_() if i in which else a for i, a in enumerate(arguments)]


def run(name, arguments):
    """All that an operation gives: its outputs and the gradients of a weighted sum of them."""
    which = OPERATIONS[name].gradient
    arguments = with_gradient(arguments, which)
    outputs = tensors(registered(name)(*arguments))
    if not which:
        return outputs
    weighted = [
        (out * torch.rand(out.shape, generator=torch.Generator().manual_seed(0), dtype=out.dtype)).sum()
        for out in outputs
        if out.requires_grad
    ]
    gradients = torch.autograd.grad(sum(weighted), [arguments[i] for i in which])
    return [out.detach() for out in outputs] + list(gradients)


def registered(name):
    return getattr(torch.ops.pcgen, name).default


def identical(left, right):
    return len(left) == len(right) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(left, right)
    )


def test_the_tables_are_complete():
    assert set(OPERATIONS) == {server.operation for server in ops.servers()}
    assert set(FUNCTIONS) == {name for name in ops.__all__ if name.islower()} - {"servers"}


@operations
@pytest.mark.parametrize("dtype", FLOATS)
def test_opcheck(name, dtype):
    """Schema, shapes without values, and gradient agree with what the operation does."""
    arguments = with_gradient(OPERATIONS[name].sample(40, dtype), OPERATIONS[name].gradient)
    torch.library.opcheck(registered(name), tuple(arguments))


@pytest.fixture
def threads():
    """A function that runs another with so many threads."""
    before = torch.get_num_threads()

    def with_threads(number, function):
        torch.set_num_threads(number)
        return function()

    yield with_threads
    torch.set_num_threads(before)


@operations
def test_two_threads_and_two_runs_give_the_same_bits(name, threads):
    arguments = OPERATIONS[name].sample(OPERATIONS[name].large // (4 if SLOW else 1), torch.float32)
    found = [threads(n, lambda: run(name, arguments)) for n in (1, 2, 2)]
    assert identical(found[0], found[1]) and identical(found[1], found[2])


def test_means_over_padded_clouds_do_not_depend_on_threads(threads):
    x, y = points(40_000, torch.float32).reshape(2, -1, 3), points(50_000, torch.float32, 1).reshape(2, -1, 3)
    x.requires_grad_(), y.requires_grad_()

    def both():
        value = ops.chamfer(x, y, x_lengths=torch.tensor([20_000, 9]), y_lengths=torch.tensor([5, 25_000])).value
        return value.detach(), *torch.autograd.grad(value.sum(), (x, y))

    found = [threads(n, both) for n in (1, 2, 2)]
    assert identical(found[0], found[1]) and identical(found[1], found[2])


# public functions


@functions
def test_compiles_without_a_graph_break(name):
    function = FUNCTIONS[name]
    x, y = points(2 * 20, torch.float32).reshape(2, 20, 3), points(2 * 31, torch.float32, 1).reshape(2, 31, 3)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):  # for the number of voxels
        torch._dynamo.reset()
        compiled = torch.compile(lambda x, y: tuple(tensors(function(x, y))), fullgraph=True, backend="aot_eager")
        assert identical(tensors(compiled(x, y)), tensors(function(x, y)))


@functions
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    x, y = points(2 * 20, dtype).reshape(2, 20, 3), points(2 * 31, dtype, 1).reshape(2, 31, 3)
    half, single = FUNCTIONS[name](x, y), FUNCTIONS[name](x.float(), y.float())
    assert identical(tensors(half), tensors(single))


@functions
def test_strides_do_not_matter(name):
    x, y = points(2 * 20, torch.float64).reshape(2, 20, 3), points(2 * 31, torch.float64, 1).reshape(2, 31, 3)
    strided = [torch.stack([a.mT.contiguous(), -a.mT], -1)[..., 0].mT for a in (x, y)]
    assert not any(a.is_contiguous() for a in strided)
    assert identical(tensors(FUNCTIONS[name](*strided)), tensors(FUNCTIONS[name](x, y)))


# twins, each in a process of its own


def elsewhere(task, path, kernels):
    """Runs ``task(path)`` of this module in a new process with those kernels."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import {__name__} as m; m.{task}({path!r})"
    environment = {
        **os.environ,
        "PCGEN_KERNELS": kernels,
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed goes back at once
    }
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def record(path):
    """Saves what every operation gives on its samples, gradients included."""
    torch.save(
        {
            f"{name} {n} {dtype}": run(name, operation.sample(n, dtype))
            for name, operation in OPERATIONS.items()
            for dtype in FLOATS
            for n in (5, 16, 33, 400)
        },
        path,
    )


def instruction_sets():
    """Those for which there is a library that this processor runs."""
    levels, folder = native.LEVELS.get(platform.machine(), ()), Path(native.__file__).parent
    present = {level: folder / f"_kernels_{level}.so" for level in levels}
    present = {level: path for level, path in present.items() if path.is_file()}
    if not present:
        return []
    highest = ctypes.CDLL(next(iter(present.values()))).pcgen_level()
    return [level for level in present if levels.index(level) <= highest]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A function from a choice of kernels to what they gave."""
    folder = tmp_path_factory.mktemp("twins")

    @functools.cache
    def give(kernels):
        elsewhere("record", str(folder / f"{kernels}.pt"), kernels)
        return torch.load(folder / f"{kernels}.pt")

    return give


@pytest.mark.parametrize("level", instruction_sets() or [None])
def test_instruction_sets_give_the_same_bits(recorded, level):
    if level is None:
        pytest.skip("no compiled kernels here: the C++ twins were NOT compared")
    found, first = recorded(level), recorded(instruction_sets()[0])
    different = [case for case in first if not identical(found[case], first[case])]
    assert not different


def test_the_compiled_kernels_are_the_reference(recorded):
    if not instruction_sets():
        pytest.skip("no compiled kernels here: the C++ twins were NOT compared with the reference")
    found, definition = recorded(instruction_sets()[-1]), recorded("reference")
    for case, outputs in definition.items():
        operation = OPERATIONS[case.split()[0]]
        tolerance = operation.tolerance if "float32" in case else 1e-9
        for i, (ours, output) in enumerate(zip(found[case], outputs, strict=True)):
            if i not in operation.uncertain:
                check_close(ours, output, tolerance, f"{case}, output {i}: ")


def check_close(ours, expected, tolerance, case):
    if not expected.is_floating_point():  # an index is right or wrong
        assert torch.equal(ours, expected), case
        return
    atol = tolerance * expected.nan_to_num().abs().max().item()
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=atol, equal_nan=True, msg=lambda text: case + text)


# memory


def record_peaks(path):
    """Saves how many bytes each operation needs, backward included, at n and at 4 n."""
    peaks = {
        name: [peak(operation, name, factor * operation.memory) for factor in (1, 4)]
        for name, operation in OPERATIONS.items()
        if operation.memory
    }
    Path(path).write_text(json.dumps(peaks))


def peak(operation, name, n):
    arguments = operation.sample(n, torch.float32)
    run(name, operation.sample(10, torch.float32))  # what is loaded at first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    before = resident("VmRSS")
    run(name, arguments)
    return resident("VmHWM") - before


def resident(kind):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured by Linux")
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_memory_grows_with_the_number_of_points(kernels, tmp_path):
    path = tmp_path / "peaks.json"
    chosen = os.environ.get("PCGEN_KERNELS", "auto") if kernels == "compiled" else "reference"
    elsewhere("record_peaks", str(path), chosen)
    for name, (small, large) in json.loads(path.read_text()).items():
        # Four times the points: four times the memory, or sixteen if it grows with the square. Below 2 MB, noise.
        assert large < 8 * max(small, 2 * 2**20), f"{name}: {small:,} bytes, then {large:,}"
