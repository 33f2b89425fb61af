"""The CUDA kernels against the definition: on the CPU by emulation, and on a GPU where there is one."""

import ctypes
import io
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path
from types import SimpleNamespace

import emulation
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcgen import ops
from pcgen.ops import gpu, gpu_annealed, gpu_compiler, gpu_distances, gpu_neighbours, gpu_sinkhorn, native, reference

FLOAT, DOUBLE = torch.float32, torch.float64
seeds = st.integers(0, 2**31 - 1)
sizes = st.lists(st.integers(1, 70), min_size=1, max_size=3)
dtypes = st.sampled_from([FLOAT, DOUBLE])
dimensions = st.integers(1, 3)
kinds = st.sampled_from(["random", "lattice", "line", "plane", "point", "far", "small"])
quick = settings(max_examples=10, deadline=None)  # the first example compiles
DEVICES = ["emulated", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    if emulation.COMPILER is None:
        pytest.skip("no g++: the CUDA kernels are NOT tested")
    return emulation.Emulator(tmp_path_factory.mktemp("emulated"))


@pytest.fixture(scope="module", params=DEVICES)
def on(request):
    """A function that runs another where the CUDA kernels run; its tensors come from the CPU and return there."""
    if request.param == "cuda":
        return lambda function, *arguments: _moved(function(*_moved(arguments, "cuda")), "cpu")
    emulator = request.getfixturevalue("emulator")

    def emulated(function, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gpu, "_submitter", emulator.submitter)
            patch.setattr(gpu, "multiprocessors", lambda device: 3)
            return function(*arguments)

    return emulated


def _moved(values, device):
    if isinstance(values, torch.Tensor):
        return values.to(device)
    return type(values)(_moved(value, device) for value in values) if isinstance(values, (tuple, list)) else values


def cloud(seed, n, dimension, dtype, kind="random"):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, dimension, generator=generator, dtype=DOUBLE)
    if kind == "lattice":
        x = torch.randint(0, 3, (n, dimension), generator=generator).double()
    if kind in ("line", "plane", "point"):
        x[:, {"line": 1, "plane": 2, "point": 0}[kind] :] = 0.5
    return (x * {"far": 1e6, "small": 1e-6}.get(kind, 1)).to(dtype)


def packed(counts, gap=2):
    """Spans of clouds one after the other, with rows between them that belong to none, and how many rows there are."""
    starts = [sum(counts[:b]) + gap * b for b in range(len(counts))]
    return torch.tensor(list(zip(starts, counts))), starts[-1] + counts[-1] + gap


def pair(seed, n, m, dimension, dtype, kind="random"):
    """Two batches of clouds as the kernels take them; as many clouds in the one as in the other."""
    batch = min(len(n), len(m))
    (x_spans, rows), (y_spans, others) = packed(n[:batch]), packed(m[:batch], gap=1)
    return cloud(seed, rows, dimension, dtype, kind), x_spans, cloud(seed + 1, others, dimension, dtype, kind), y_spans


def assert_equal(found, expected):
    for one, other in zip(found, expected):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def assert_near(found, expected, tolerance=1e-5):
    """Within a tolerance relative to the largest number."""
    for one, other in zip(found, expected):
        scale = other.nan_to_num(0.0, 0.0, 0.0).abs().amax().item() if other.is_floating_point() else 0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(scale, 1e-30), equal_nan=True)


def twin(name, *arguments):
    """The answer of the CPU's own operation, whose bits the CUDA kernel must give."""
    return getattr(torch.ops.pcgen, name)(*arguments)


def exact(kind):
    """Whether the plain definition has the kernels' bits too: whole numbers do not round."""
    return native.available() or kind == "lattice"


# nearest and Chamfer


@quick
@given(seeds, sizes, sizes, dimensions, dtypes, kinds)
def test_nearest(on, seed, n, m, dimension, dtype, kind):
    clouds = pair(seed, n, m, dimension, dtype, kind)
    found, expected = on(gpu_distances.nearest_both, *clouds), twin("nearest_both", *clouds)
    (assert_equal if exact(kind) else assert_near)(found, expected)
    assert_equal(on(gpu_distances.nearest, *clouds), found[:2])


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE])
def test_nearest_of_few_queries_shares_the_points_out(on, request, dtype):
    clouds = pair(0, [3, 40], [1700, 1500], 3, dtype, "lattice")
    assert_equal(on(gpu_distances.nearest, *clouds), reference.nearest(*clouds))
    if "cuda" not in request.node.name:
        assert any(name.startswith("combine") for name in request.getfixturevalue("emulator").launched)


def test_nearest_of_more_queries_than_a_block_has(on):
    clouds = pair(0, [1500, 1030], [33, 500], 2, FLOAT, "lattice")
    assert_equal(on(gpu_distances.nearest, *clouds), reference.nearest(*clouds))


def test_nearest_overflows_to_the_first(on):
    x, spans = torch.tensor([[1e30]]), torch.tensor([[0, 1]])
    y, y_spans = torch.tensor([[-1e30], [-2e30]]), torch.tensor([[0, 2]])
    assert_equal(on(gpu_distances.nearest, x, spans, y, y_spans), (torch.tensor([torch.inf]), torch.tensor([0])))


@quick
@given(seeds, sizes, sizes, dimensions, dtypes, kinds, st.booleans())
def test_chamfer_matrix(on, seed, n, m, dimension, dtype, kind, squared):
    (x_spans, rows), (y_spans, others) = packed(n), packed(m)
    x, y = cloud(seed, rows, dimension, dtype, kind), cloud(seed + 1, others, dimension, dtype, kind)
    found = on(gpu_distances.chamfer_matrix, x, x_spans, y, y_spans, squared, False)
    expected = twin("chamfer_matrix", x, x_spans, y, y_spans, squared, False)
    torch.testing.assert_close(found, expected, rtol=1e-13 if exact(kind) else 1e-5, atol=0)


def test_chamfer_matrix_of_a_set_with_itself(on):
    spans, rows = packed([300, 9, 40])
    x = cloud(0, rows, 3, FLOAT)
    found = on(gpu_distances.chamfer_matrix, x, spans, x, spans, True, True)
    torch.testing.assert_close(found, on(gpu_distances.chamfer_matrix, x, spans, x, spans, True, False))
    assert torch.equal(found, found.T) and (found.diag() == 0).all()


def test_chamfer_matrix_of_many_rows_and_of_large_clouds(on, monkeypatch):
    (x_spans, rows), (y_spans, others) = packed([2100, 40]), packed([30, 600])
    x, y = cloud(0, rows, 3, FLOAT), cloud(1, others, 3, FLOAT)
    expected = reference.chamfer_matrix(x, x_spans, y, y_spans, False, False)
    torch.testing.assert_close(on(gpu_distances.chamfer_matrix, x, x_spans, y, y_spans, False, False), expected)
    monkeypatch.setattr(gpu_distances, "COLUMNS", 500)  # the last cloud of y is too large for shared memory
    torch.testing.assert_close(on(gpu_distances.chamfer_matrix, x, x_spans, y, y_spans, False, False), expected)


# earth mover's distances


@quick
@given(seeds, sizes, sizes, dimensions, dtypes, kinds, st.booleans())
def test_annealed(on, seed, n, m, dimension, dtype, kind, squared):
    clouds = pair(seed, n, m, dimension, dtype, kind)
    found, expected = on(gpu_annealed.annealed, *clouds, squared), reference.annealed(*clouds, squared)
    # What rounding a distance changes is large beside a small cost, but not beside the longest distance.
    tolerance, longest = 3e-5 if dtype == FLOAT else 1e-10, torch.cdist(clouds[0].double(), clouds[2].double()).amax()
    assert (found[0] - expected[0]).abs().amax() <= tolerance * (longest**2 if squared else longest)
    assert (found[1] - expected[1]).abs().amax() <= tolerance
    if dtype == DOUBLE and kind in ("random", "plane"):  # elsewhere a rest of mass is the difference of equal numbers
        assert_near(found[2:], expected[2:], 1e-9)
    gradient = torch.rand(len(clouds[1]), dtype=DOUBLE)
    arguments = *clouds, squared, *expected[2:], gradient
    assert_near(
        on(gpu_annealed.annealed_gradient, *arguments),
        reference.annealed_gradient(*arguments),
        1e-4 if dtype == FLOAT else 1e-10,
    )


@pytest.mark.parametrize("squared", [False, True])
def test_annealed_matrix(on, squared):
    (x_spans, rows), (y_spans, others) = packed([300, 9, 40]), packed([20, 530])
    x, y = cloud(0, rows, 3, FLOAT), cloud(1, others, 3, FLOAT)
    expected = reference.annealed_matrix(x, x_spans, y, y_spans, squared)
    assert_near(on(gpu_annealed.annealed_matrix, x, x_spans, y, y_spans, squared), expected, 1e-6)


def test_annealing_has_the_levels_of_the_definition(on):
    # One point moves to one other at distance d: at the level λ as much as K = exp(λ d²) allows.
    spans = torch.tensor([[0, 1]])
    for d in (1e-3, 0.02, 0.3, 1.0, 4.0):
        x, y = torch.zeros(1, 1, dtype=DOUBLE), torch.full((1, 1), d, dtype=DOUBLE)
        for squared in (False, True):
            arguments = x, spans, y, spans, squared
            found, expected = on(gpu_annealed.annealed, *arguments), reference.annealed(*arguments)
            assert len(found[2]) == len(reference.ANNEALING["pvd" if squared else "pointflow"])
            assert_near(found, expected, 1e-10)


@quick
@given(seeds, sizes, sizes, dimensions, dtypes, kinds, st.sampled_from([1, 2]))
def test_softmin(on, seed, n, m, dimension, dtype, kind, power):
    x, x_spans, y, y_spans = pair(seed, n, m, dimension, dtype, kind)
    extent = max(float((x.amax(0) - x.amin(0)).norm()), 1e-9)
    eps = torch.linspace(0.02, 0.5, len(x_spans), dtype=DOUBLE) * extent**power
    a, h, w = (cloud(seed + i, rows, 1, dtype)[:, 0] for i, rows in ((2, len(x)), (3, len(y)), (4, len(y))))
    tolerance = 1e-5 if dtype == FLOAT else 1e-10
    arguments = x, x_spans, y, y_spans, h, eps, power
    assert_near([on(gpu_sinkhorn.softmin, *arguments)], [reference.softmin(*arguments)], tolerance)
    arguments = x, x_spans, a, y, y_spans, h, w, eps, power
    found, expected = on(gpu_sinkhorn.softmin_pull, *arguments), reference.softmin_pull(*arguments)
    assert_near(found, expected, 10 * tolerance)


# neighbourhoods


@quick
@given(
    seeds,
    sizes,
    sizes,
    dimensions,
    dtypes,
    kinds,
    st.sampled_from([1, 2, 5, 31, 32, 33, 100, 128, 200]),
    st.sampled_from([0.1, 1.0, float("inf")]),
    st.booleans(),
)
def test_neighbours(on, seed, n, m, dimension, dtype, kind, k, radius, by_index):
    clouds = pair(seed, n, m, dimension, dtype, kind)
    arguments = *clouds, k, radius, by_index
    found, expected = on(gpu_neighbours.neighbours, *arguments), twin("neighbours", *arguments)
    (assert_equal if exact(kind) and k <= gpu_neighbours.LONGEST else assert_near)(found, expected)


def test_neighbours_among_many(on):
    clouds = pair(0, [3, 40], [1700, 1300], 3, FLOAT, "lattice")
    for k in (9, 90):
        arguments = *clouds, k, float("inf"), False
        assert_equal(on(gpu_neighbours.neighbours, *arguments), reference.neighbours(*arguments))


@quick
@given(seeds, sizes, dimensions, dtypes, kinds)
def test_farthest_point_sampling(on, seed, n, dimension, dtype, kind):
    spans, rows = packed(n)
    x, start = cloud(seed, rows, dimension, dtype, kind), torch.tensor([seed % count for count in n])
    found = on(gpu_neighbours.farthest_point_sampling, x, spans, start, 30)
    assert_equal([found], [twin("farthest_point_sampling", x, spans, start, 30)])


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE])
def test_farthest_point_sampling_of_large_clouds(on, dtype):
    spans, rows = packed([17000, 5, 8193])
    x, start = (
        cloud(0, rows, 3, dtype, "lattice") + cloud(1, rows, 3, dtype, "lattice") / 4,
        torch.tensor([16999, 4, 1]),
    )
    found = on(gpu_neighbours.farthest_point_sampling, x, spans, start, 7)
    assert_equal([found], [reference.farthest_point_sampling(x, spans, start, 7)])


# what is not finite, and what must not matter


def _calls(x, x_spans, y, y_spans):
    """A call of every kernel."""
    clouds = x, x_spans, y, y_spans
    h, eps = torch.linspace(0, 1, len(y), dtype=y.dtype), torch.full((len(x_spans),), 0.1, dtype=DOUBLE)
    a, start = torch.linspace(0, 1, len(x), dtype=x.dtype), torch.zeros(len(x_spans), dtype=torch.int64)
    ratios = reference.annealed(*clouds, False)[2:]
    return {
        gpu_distances.nearest_both: clouds,
        gpu_distances.chamfer_matrix: (*clouds, False, False),
        gpu_annealed.annealed: (*clouds, True),
        gpu_annealed.annealed_gradient: (*clouds, False, *ratios, eps),
        gpu_annealed.annealed_matrix: (*clouds, False),
        gpu_sinkhorn.softmin: (*clouds, h, eps, 1),
        gpu_sinkhorn.softmin_pull: (x, x_spans, a, y, y_spans, h, h, eps, 2),
        gpu_neighbours.neighbours: (*clouds, 40, float("inf"), False),
        gpu_neighbours.farthest_point_sampling: (x, x_spans, start, 20),
    }


def _results(answer):
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", [0, 2])
@pytest.mark.parametrize("by_index", [False, True])
def test_what_is_not_finite_gives_nan_and_spoils_no_other_cloud(on, value, side, by_index):
    clouds = pair(0, [20, 30], [40, 25], 3, FLOAT)
    clouds[side][3, 1] = value  # of the first cloud
    for function, arguments in _calls(*clouds).items():
        if function is gpu_neighbours.neighbours:
            arguments = *clouds, 40, 0.5, by_index
        found = _results(on(function, *arguments))
        expected = _results(getattr(reference, function.__name__)(*arguments))
        if function is gpu_annealed.annealed_gradient:  # the derivative by what is no number may be anything
            found[side // 2][3], expected[side // 2][3] = 0, 0
        assert [f.isnan().tolist() for f in found] == [e.isnan().tolist() for e in expected]
        compared = 2 if function is gpu_annealed.annealed else len(found)  # ratios: see test_annealed
        assert_near([f.double() for f in found[:compared]], [e.double() for e in expected[:compared]], 1e-4)


def test_starts_outside_of_their_cloud_choose_nothing(on):
    spans, rows = packed([5, 9000])
    x, start = cloud(0, rows, 3, FLOAT), torch.tensor([5, -1])
    assert (on(gpu_neighbours.farthest_point_sampling, x, spans, start, 3) == -1).all()
    assert (on(gpu_neighbours.farthest_point_sampling, x[:7], spans[:1], start[:1], 3) == -1).all()


def test_no_answer_depends_on_the_order_of_threads(on, request):
    # On a GPU the second run has another order by itself.
    clouds = pair(0, [300, 30], [40, 1100], 3, FLOAT)
    for function, arguments in _calls(*clouds).items():
        answers = []
        for seed in range(3):
            if "cuda" not in request.node.name:
                request.getfixturevalue("emulator").seed = seed
            answers.append(_results(on(function, *arguments)))
        assert_equal(answers[0], answers[1])
        assert_equal(answers[0], answers[2])


def test_older_devices_reduce_by_shuffles(tmp_path, emulator, monkeypatch):
    old = emulation.Emulator(tmp_path, architecture=750)
    spans, rows = packed([70, 33])
    x = cloud(0, rows, 3, FLOAT)
    answers = []
    for one in (old, emulator):
        monkeypatch.setattr(gpu, "_submitter", one.submitter)
        answers.append(gpu_distances.chamfer_matrix(x, spans, x, spans, True, False))
    assert torch.equal(*answers)


@pytest.mark.parametrize("barrier", [True, False])
def test_the_emulation_finds_a_missing_barrier(tmp_path, monkeypatch, emulator, barrier):
    wait = "__syncthreads();" if barrier else ""
    source = """extern "C" __global__ void turn(const double* x, double* y) {
        __shared__ double shared[64];
        shared[threadIdx.x] = x[threadIdx.x];
        WAIT
        y[threadIdx.x] = shared[63 - threadIdx.x];
    }"""
    (tmp_path / "turned.cu").write_text(source.replace("WAIT", wait))
    (tmp_path / "emulate.h").write_text((gpu_compiler.SOURCES / "emulate.h").read_text())
    monkeypatch.setattr(gpu_compiler, "SOURCES", tmp_path)
    here = emulation.Emulator(tmp_path)
    monkeypatch.setattr(gpu, "_submitter", here.submitter)
    x, y = torch.arange(64, dtype=DOUBLE), torch.zeros(64, dtype=DOUBLE)
    gpu.launch("turned", "turn", 1, 64, x, y)
    assert torch.equal(y, x.flip(0)) == barrier


def test_the_emulation_finds_threads_that_wait_forever(tmp_path, monkeypatch, emulator):
    (tmp_path / "stuck.cu").write_text(
        'extern "C" __global__ void stuck(double* x) { if (threadIdx.x < 32) __syncthreads(); else x[0] = '
        "__shfl_xor_sync(0xffffffffu, threadIdx.x < 40 ? 1.0 : 2.0, 1); if (threadIdx.x == 0) __syncthreads(); }"
    )
    (tmp_path / "emulate.h").write_text((gpu_compiler.SOURCES / "emulate.h").read_text())
    monkeypatch.setattr(gpu_compiler, "SOURCES", tmp_path)
    monkeypatch.setattr(gpu, "_submitter", emulation.Emulator(tmp_path).submitter)
    x = torch.zeros(1, dtype=DOUBLE)
    gpu.launch("stuck", "stuck", 1, 64, x)  # as on a GPU: threads that have returned are not waited for
    (tmp_path / "stuck2.cu").write_text(
        'extern "C" __global__ void stuck2(double* x) { if (threadIdx.x) __syncthreads(); '
        "else __syncwarp(); x[0] = 1; }"
    )
    with pytest.raises(RuntimeError, match="stuck2: the threads of a block wait for each other forever"):
        gpu.launch("stuck2", "stuck2", 1, 64, x)


# compiling and its cache


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """NVRTC replaced by a function that counts its calls, and a cache of its own."""
    calls = []

    def compile_source(source, name, architecture, headers, options=()):
        calls.append((name, architecture, sorted(headers)))
        return f"{name} for {architecture}".encode(), ""

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(gpu_compiler, "compile_source", compile_source)
    monkeypatch.setattr(gpu_compiler, "nvrtc_version", lambda: (13, 0))
    return calls


def test_sources_are_compiled_once(compiler, tmp_path):
    for _ in range(2):
        assert gpu_compiler.compiled("nearest", "sm_90") == b"nearest.cu for sm_90"
    assert compiler == [("nearest.cu", "sm_90", ["device.h"])]
    assert gpu_compiler.compiled("nearest", "sm_80") == b"nearest.cu for sm_80"
    names = [path.name for path in (tmp_path / "cache" / "pcgen").iterdir()]
    assert len(names) == 2 and all(name.endswith(".cubin") for name in names)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: data[:-1] + b"?"])
def test_a_damaged_cache_is_compiled_anew(compiler, tmp_path, damage):
    gpu_compiler.compiled("nearest", "sm_90")
    (path,) = (tmp_path / "cache" / "pcgen").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert gpu_compiler.compiled("nearest", "sm_90") == b"nearest.cu for sm_90"
    assert len(compiler) == 2
    assert gpu_compiler.compiled("nearest", "sm_90") == b"nearest.cu for sm_90" and len(compiler) == 2


def test_the_cache_knows_everything_that_goes_into_a_compilation(compiler, monkeypatch, tmp_path):
    gpu_compiler.compiled("nearest", "sm_90")
    monkeypatch.setattr(gpu_compiler, "OPTIONS", (*gpu_compiler.OPTIONS, "-lineinfo"))
    gpu_compiler.compiled("nearest", "sm_90")
    monkeypatch.setattr(gpu_compiler, "nvrtc_version", lambda: (13, 1))
    gpu_compiler.compiled("nearest", "sm_90")
    for name in ("nearest.cu", "device.h"):
        (tmp_path / name).write_text((gpu_compiler.SOURCES / name).read_text() + "// changed\n")
    monkeypatch.setattr(gpu_compiler, "SOURCES", tmp_path)
    gpu_compiler.compiled("nearest", "sm_90")
    assert len(compiler) == 4


def test_a_cache_that_cannot_be_written_is_done_without(compiler, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder
    for _ in range(2):
        assert gpu_compiler.compiled("nearest", "sm_90") == b"nearest.cu for sm_90"
    assert len(compiler) == 2


def test_every_source_compiles_with_nvrtc():
    pytest.importorskip("cuda.bindings.nvrtc", reason="no cuda-bindings: the sources are NOT compiled here")
    try:
        gpu_compiler.nvrtc_version()
    except Exception as error:
        pytest.skip(f"no NVRTC: the sources are NOT compiled here ({type(error).__name__})")
    source = (gpu_compiler.SOURCES / "nearest.cu").read_text()
    cubin, _ = gpu_compiler.compile_source(source, "nearest.cu", "sm_90", gpu_compiler.headers_of(source))
    assert cubin.startswith(b"\x7fELF")
    with pytest.raises(RuntimeError, match=r"^bad.cu does not compile for sm_90: NVRTC_ERROR_COMPILATION\n.*expected"):
        gpu_compiler.compile_source("int f() { return }", "bad.cu", "sm_90", {})


def test_no_object_of_the_interpreter_is_written_to(monkeypatch):
    """An empty log is one byte; Python shares its objects of no byte and of one."""

    def write(content):
        def into(program, buffer):
            ctypes.memmove(buffer, content, len(content))
            return (done,)

        return into

    done = SimpleNamespace(value=0)
    nvrtc = types.ModuleType("nvrtc")
    nvrtc.nvrtcResult = SimpleNamespace(NVRTC_SUCCESS=done)
    nvrtc.nvrtcCreateProgram = nvrtc.nvrtcCompileProgram = nvrtc.nvrtcDestroyProgram = lambda *_: (done,)
    nvrtc.nvrtcGetProgramLogSize = nvrtc.nvrtcGetCUBINSize = lambda _: (done, 1)
    nvrtc.nvrtcGetProgramLog, nvrtc.nvrtcGetCUBIN = write(b"\x07"), write(b"\x09")
    bindings = types.ModuleType("cuda.bindings")
    bindings.nvrtc = nvrtc
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    assert gpu_compiler.compile_source("", "empty.cu", "sm_90", {}) == (b"\x09", "\x07")
    everything = bytes(range(256))
    stream = io.BytesIO(everything)
    assert [stream.read(1)[0] for _ in everything] == list(range(256))


# where CUDA cannot be used


@pytest.fixture
def unsupported(monkeypatch):
    monkeypatch.delenv("PCGEN_KERNELS", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for function in (gpu.support, gpu.available):
        function.cache_clear()
    yield monkeypatch
    for function in (gpu.support, gpu.available):
        function.cache_clear()


def test_without_cuda_bindings_one_warning_says_so(unsupported):
    unsupported.setitem(sys.modules, "cuda.bindings", None)
    with pytest.warns(UserWarning, match=r"plain PyTorch on cuda:0, .*: cuda-bindings and NVRTC, .* do not work: ."):
        assert not gpu.available(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not gpu.available(0)


def test_an_architecture_that_nvrtc_does_not_know(unsupported):
    unsupported.setitem(sys.modules, "cuda.bindings", type(sys)("cuda.bindings"))
    unsupported.setattr(sys.modules["cuda.bindings"], "driver", None, raising=False)
    unsupported.setattr(gpu_compiler, "nvrtc_version", lambda: (13, 0))
    unsupported.setattr(gpu_compiler, "supported_architectures", lambda: [75, 90])
    assert gpu.support(0) == (True, "NVRTC 13.0 for sm_90")
    unsupported.setattr(torch.cuda, "get_device_capability", lambda device: (13, 0))
    assert gpu.support(1) == (False, "NVRTC 13.0 does not compile for sm_130")
    unsupported.setenv("PCGEN_KERNELS", "reference")
    assert gpu.support(2) == (False, "PCGEN_KERNELS=reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not gpu.available(2)


# the public operations on a GPU

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
PUBLIC = {
    "nearest": lambda x, y: ops.nearest(x, y).distance,
    "chamfer": lambda x, y: ops.chamfer(x, y, squared=False).value,
    "pointflow": lambda x, y: ops.emd(x, y, "pointflow").value,
    "pvd": lambda x, y: ops.emd(x, y, "pvd").value,
    "sinkhorn": lambda x, y: ops.emd(x, y, "sinkhorn", blur=0.1).value,
    "exact": lambda x, y: ops.emd(x, y).value,
    "knn": lambda x, y: ops.knn(x, y, 5).distance,
    "interpolate": lambda x, y: ops.interpolate(x, y, x),
    "segment_sum": lambda x, y: ops.segment_reduce(x[0], y[0, :, 0].mul(9).long(), 9).value,
    "segment_max": lambda x, y: ops.segment_reduce(x[0], y[0, :, 0].mul(9).long(), 9, "max").value,
    "segment_softmax": lambda x, y: ops.segment_reduce(x[0], y[0, :, 0].mul(9).long(), 9, "softmax").value,
}
MATRICES = {
    "chamfer_matrix": ops.chamfer_matrix,
    "pointflow_matrix": lambda x, y: ops.emd_matrix(x, y, "pointflow").value,
    "farthest_point_sampling": lambda x, y: ops.farthest_point_sampling(x, 20),
    "ball_query": lambda x, y: ops.ball_query(x, y, 0.2, 9).index,
    "voxel_groups": lambda x, y: ops.voxel_groups(x, 0.1).group,
}


def _on_device(function, device, dtype):
    """What an operation answers, and its gradients where it has some."""
    x, y = (cloud(seed, 300, 3, DOUBLE).reshape(2, 150, 3).to(device, dtype) for seed in (0, 1))
    x, y = x.requires_grad_(), y.requires_grad_()
    value = function(x, y)
    if not value.requires_grad:
        return [value]
    weights = torch.linspace(1, 2, value.numel(), device=device, dtype=value.dtype).reshape(value.shape)
    gradients = torch.autograd.grad((value * weights).sum(), (x, y), allow_unused=True)
    return [value.detach(), *(gradient for gradient in gradients if gradient is not None)]


@ON_GPU
@pytest.mark.parametrize("dtype", [torch.float16, FLOAT, DOUBLE])
@pytest.mark.parametrize("function", [*PUBLIC.values(), *MATRICES.values()], ids=[*PUBLIC, *MATRICES])
def test_gpu_and_cpu_answer_alike_and_every_time(function, dtype):
    first, second = (_on_device(function, "cuda", dtype) for _ in range(2))
    assert_equal(_moved(first, "cpu"), _moved(second, "cpu"))
    tolerance = {torch.float16: 2e-2, FLOAT: 1e-4, DOUBLE: 1e-9}[dtype]
    assert_near(_moved(first, "cpu"), _on_device(function, "cpu", dtype), tolerance)


@ON_GPU
@pytest.mark.parametrize("function", PUBLIC.values(), ids=PUBLIC)
def test_gpu_operations_compile_without_a_break(function):
    x, y = (cloud(seed, 60, 3, FLOAT).reshape(2, 30, 3).cuda() for seed in (0, 1))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_near([compiled(x, y)], [function(x, y)], 1e-6)


@ON_GPU
def test_launches_wait_for_their_stream_alone():
    x = cloud(0, 5000, 3, FLOAT).cuda()
    expected = ops.nearest(x, x.flip(0)).index
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)  # what is launched here must wait for it
        late = torch.zeros_like(x).copy_(x)
        index = ops.nearest(late, late.flip(0), validate=False).index
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(index, expected)


@ON_GPU
def test_no_toolkit_is_needed(tmp_path):
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "nvcc").exists()]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA_HOME", "CUDA_PATH"))}
    environment |= {"PATH": os.pathsep.join(folders), "CUDA_HOME": "", "XDG_CACHE_HOME": str(tmp_path)}
    code = (
        "import torch; from pcgen import ops; x = torch.rand(50, 3); "
        "assert torch.equal(ops.nearest(x.cuda(), x.cuda()).index.cpu(), torch.arange(50))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name.partition("-")[0] for path in (tmp_path / "pcgen").iterdir()] == ["nearest"]
