"""Which compiled kernels are taken, what happens without any, and the wheel that carries them."""

import os
import shutil
import subprocess
import sys
import sysconfig
import types
import zipfile
from pathlib import Path

import pytest
import torch

from pcgen.ops import native

ROOT = Path(__file__).parents[1]
FOLDER = Path(native.__file__).parent


@pytest.fixture
def choose(monkeypatch):
    """A function from a value of PCGEN_KERNELS to the library it means."""

    def library(choice):
        monkeypatch.setenv("PCGEN_KERNELS", choice)
        return native.library.__wrapped__()

    return library


def built():
    """The names of the libraries that are there."""
    return [path.name for path in sorted(FOLDER.glob("_kernels_*.so"))]


needs_kernels = pytest.mark.skipif(not built(), reason="no compiled kernels here: the choice was NOT tested")


def python(code, *, path, **environment):
    """Runs Python code with the package that lies at ``path``, from elsewhere."""
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", **environment}
    words = [sys.executable, "-W", "error::ImportWarning", "-c", code]
    done = subprocess.run(words, env=environment, cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_kernels
def test_the_best_library_is_taken(choose, monkeypatch, tmp_path):
    best = choose("auto")
    assert best.functions and best.why in native.LEVELS[native.platform.machine()]
    assert choose(best.why).why == best.why
    lowest = next(level for level in native.LEVELS[native.platform.machine()] if f"_kernels_{level}.so" in built())
    shutil.copy(FOLDER / f"_kernels_{lowest}.so", tmp_path)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    assert choose("auto").why == lowest


@needs_kernels
def test_a_library_may_be_given_by_its_path(choose):
    path = str(FOLDER / built()[0])
    assert choose(path).functions and choose(path).why == path


def test_the_reference_may_be_asked_for(choose):
    assert choose("reference") == native.Library(None, "PCGEN_KERNELS=reference")


@needs_kernels
@pytest.mark.parametrize("choice", ["fast", "", "avx", "altivec"])
def test_an_unknown_choice_is_refused(choose, choice):
    with pytest.raises(ValueError, match=f"PCGEN_KERNELS={choice}: expected auto, reference, a path") as raised:
        choose(choice)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("choice", ["avx2", "fast"])
def test_a_choice_that_is_not_there_is_refused(choose, monkeypatch, tmp_path, choice):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    with pytest.raises(ValueError, match=f"PCGEN_KERNELS={choice}: .* or no instruction set, none being compiled"):
        choose(choice)


def test_the_absence_of_kernels_has_a_reason(choose, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    found = choose("auto")
    assert found.functions is None and native.platform.machine() in found.why


@pytest.mark.parametrize(
    ("status", "error", "message"), [(1, MemoryError, "out of memory"), (2, RuntimeError, "status 2")]
)
def test_a_kernel_that_fails_raises(monkeypatch, status, error, message):
    functions = types.SimpleNamespace(pcgen_nothing=lambda *_: status)
    monkeypatch.setattr(native, "library", lambda: native.Library(functions, "a stand-in"))
    with pytest.raises(error, match=f"pcgen.ops: nothing .*{message}"):
        native.call("nothing", torch.zeros(3), 1)


WITHOUT = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    from pcgen import ops
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    for _ in range(2):
        assert ops.nearest(x, x[1:]).distance.tolist() == [25, 0]
        assert ops.segment_reduce(x, torch.tensor([1, 1])).value.tolist() == [[0, 0], [3, 4]]
ours = [str(warning.message) for warning in caught if "pcgen" in str(warning.message)]
assert len(ours) == 1 and "plain PyTorch" in ours[0] and "no compiled kernels" in ours[0], ours
assert all("C++" not in server.cpu for server in ops.servers())
"""


def test_without_kernels_one_warning_and_the_same_results(tmp_path):
    shutil.copytree(ROOT / "pcgen", tmp_path / "pcgen", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    python(WITHOUT, path=tmp_path, PCGEN_KERNELS="auto")


WHEEL = """
import pcgen, pathlib, torch
from pcgen import ops
from pcgen.cli import main
assert pathlib.Path(pcgen.__file__).is_relative_to(pathlib.Path.cwd()), pcgen.__file__
x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
assert ops.nearest(x, x[1:]).distance.tolist() == [25, 0]
raise SystemExit(main(["info"]))
"""


@needs_kernels
def test_the_wheel_needs_no_compiler(tmp_path):
    """Packs it, offline, from the libraries built here (compiling takes minutes), runs it with an empty PATH."""
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    source.mkdir()
    for name in ("pcgen", "cuda", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    # Where setuptools finds a library newer than its sources, it does not compile.
    done_before = source / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "pcgen" / "ops"
    done_before.mkdir(parents=True)
    for name in built():
        shutil.copyfile(FOLDER / name, done_before / name)
    words = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), "."]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "CC": "false", "CXX": "false"}
    done = subprocess.run([sys.executable, *words], cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "-py3-none-" in wheel.name  # for every Python 3
    zipfile.ZipFile(wheel).extractall(unpacked)
    assert sorted(path.name for path in (unpacked / "pcgen" / "ops").glob("*.so")) == built()
    out = python(WHEEL, path=unpacked, PATH=str(tmp_path / "nowhere"), PCGEN_KERNELS="auto")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "C++ (" in lines["nearest"] and "C++ (" in lines["segment_sum"]
