"""CUDA sources of this package compiled by NVRTC, which PyTorch's CUDA wheels bring: no toolkit and no GPU needed.

A source holds device code only; our own headers are handed over as strings. What was compiled is kept on disk, under
``$XDG_CACHE_HOME/pcgen`` (``~/.cache/pcgen``), named by the hash of all that went into it.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

__all__ = ["OPTIONS", "SOURCES", "compile_source", "compiled", "headers_of", "nvrtc_version", "supported_architectures"]

# In a wheel the sources lie inside the package, in a checkout beside it.
SOURCES = next(p for up in (1, 2) if (p := Path(__file__).parents[up] / "cuda").is_dir() or up == 2)

# No contraction of a * b + c: the CPU's kernels must give the same bits.
OPTIONS = ("--fmad=false", "--std=c++17", "-default-device")

DIGEST = 32  # bytes of SHA-256 in front of a cached CUBIN


def compiled(name: str, architecture: str) -> bytes:
    """The CUBIN of the source ``cuda/<name>.cu`` for an architecture ("sm_90"), from the cache if it is there.

    ``RuntimeError`` with the compiler's log if it does not compile.
    """
    source = (SOURCES / f"{name}.cu").read_text()
    headers = headers_of(source)
    key = repr((source, sorted(headers.items()), architecture, nvrtc_version(), OPTIONS))
    path = _cache_folder() / f"{name}-{architecture}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.cubin"
    cubin = _read(path)
    if cubin is None:
        cubin, _ = compile_source(source, f"{name}.cu", architecture, headers)
        _write(path, cubin)
    return cubin


def compile_source(
    source: str, name: str, architecture: str, headers: dict[str, str], options: tuple[str, ...] = ()
) -> tuple[bytes, str]:
    """The CUBIN of ``source`` and the compiler's log; ``RuntimeError`` with the log if it does not compile."""
    from cuda.bindings import nvrtc

    contents = [text.encode() for text in headers.values()]
    names = [header.encode() for header in headers]
    program = _done(nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), len(headers), contents, names))
    try:
        every = [option.encode() for option in (*OPTIONS, *options, f"--gpu-architecture={architecture}")]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(every), every)
        log = _buffer(_done(nvrtc.nvrtcGetProgramLogSize(program)))
        _done(nvrtc.nvrtcGetProgramLog(program, log))
        text = log.decode(errors="replace").strip("\0 \n")
        if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"{name} does not compile for {architecture}: {result.name}\n{text}")
        cubin = _buffer(size := _done(nvrtc.nvrtcGetCUBINSize(program)))
        _done(nvrtc.nvrtcGetCUBIN(program, cubin))
        return cubin[:size], text
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _buffer(size: int) -> bytes:
    """Room for NVRTC to write ``size`` bytes into.

    Never one byte alone: Python keeps a single object of each such value for the whole process, and an empty log, its
    zero written into that of the space, made every later reader of files take 32 for 0.
    """
    return bytes(size + 2)


def headers_of(source: str) -> dict[str, str]:
    """Our headers that a source includes, and those that they include, by name."""
    found: dict[str, str] = {}
    wanted = re.findall(r'^#include "(.+)"', source, re.M)
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = (SOURCES / name).read_text()
            wanted += re.findall(r'^#include "(.+)"', found[name], re.M)
    return found


def nvrtc_version() -> tuple[int, int]:
    """Of the NVRTC that is installed; an exception, which says why, where there is none."""
    from cuda.bindings import nvrtc

    result, major, minor = nvrtc.nvrtcVersion()
    _done((result,))
    return major, minor


def supported_architectures() -> list[int]:
    """Those that this NVRTC compiles for: 75 for sm_75."""
    from cuda.bindings import nvrtc

    return list(_done(nvrtc.nvrtcGetSupportedArchs()))


def _done(answer: tuple):
    """What a call of NVRTC returned beside its status; ``RuntimeError`` unless that says success."""
    result, *values = answer
    if result.value:
        raise RuntimeError(f"NVRTC answers {result.name}")
    return values[0] if values else None


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pcgen"


def _read(path: Path) -> bytes | None:
    """A cached CUBIN; None if there is none, or if it is not what was written."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, cubin = data[:DIGEST], data[DIGEST:]
    return cubin if hashlib.sha256(cubin).digest() == digest else None


def _write(path: Path, cubin: bytes) -> None:
    """Keeps a CUBIN, in one step, so that no other process reads half of it; a read-only disk is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(cubin).digest() + cubin)
        os.replace(file.name, path)
    except OSError:
        pass
