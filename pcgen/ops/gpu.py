"""The CUDA kernels: whether a device can be served, and how a kernel is launched on tensors.

Each kernel is compiled for the device's own architecture when it is first used (:mod:`pcgen.ops.gpu_compiler`) and
runs on PyTorch's current stream. ``PCGEN_KERNELS=reference`` in the environment leaves them out.
"""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcgen.ops import gpu_compiler

__all__ = ["Support", "available", "describe", "launch", "multiprocessors", "support"]


class Support(NamedTuple):
    """Whether the CUDA kernels run on a device, and why or why not."""

    works: bool
    why: str  # "NVRTC 13.0 for sm_90", or what is missing


@functools.cache
def support(device: int) -> Support:
    """Whether the CUDA kernels run on device number ``device``."""
    if os.environ.get("PCGEN_KERNELS") == "reference":
        return Support(False, "PCGEN_KERNELS=reference")
    try:
        from cuda.bindings import driver  # noqa: F401

        version = "NVRTC {}.{}".format(*gpu_compiler.nvrtc_version())
        known = gpu_compiler.supported_architectures()
    except Exception as error:  # whatever an absent or damaged library raises
        reason = str(error).partition("\n")[0] or type(error).__name__
        return Support(False, f"cuda-bindings and NVRTC, which PyTorch's CUDA wheels bring, do not work: {reason}")
    architecture = _architecture(device)
    if int(architecture[3:]) not in known:
        return Support(False, f"{version} does not compile for {architecture}")
    return Support(True, f"{version} for {architecture}")


@functools.cache
def available(device: int) -> bool:
    """Whether the CUDA kernels run on a device; if not, and nobody asked for that, the first answer warns."""
    found = support(device)
    if not found.works and not found.why.startswith("PCGEN_KERNELS"):
        warnings.warn(f"pcgen runs on plain PyTorch on cuda:{device}, many times slower: {found.why}", stacklevel=2)
    return found.works


def describe() -> str:
    """What serves the operations that have a CUDA kernel, on the current CUDA device, and why."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    works, why = support(torch.cuda.current_device())
    return f"{'CUDA' if works else 'plain PyTorch'} ({why})"


def launch(
    source: str,
    kernel: str,
    grid: tuple[int, int] | int,
    threads: int,
    *arguments: Tensor | int | float | None,
    steps: int | None = None,
) -> None:
    """Runs ``kernel`` of ``cuda/<source>.cu`` on the device of the first tensor, on PyTorch's current stream.

    ``grid`` counts blocks of ``threads`` threads, across or across and down. Tensors (contiguous, on one device) arrive
    as pointers, integers and booleans as ``long long``, floats as ``double``, None as a null pointer. With
    ``steps`` the kernel runs that many times, its last argument being the number of the step. ``RuntimeError`` names
    the kernel if CUDA refuses it.
    """
    device = next(a.device for a in arguments if isinstance(a, Tensor))
    assert all(a.device == device and a.is_contiguous() for a in arguments if isinstance(a, Tensor))
    across, down = (grid, 1) if isinstance(grid, int) else grid
    values = [_as_c(argument) for argument in (*arguments, *([] if steps is None else [0]))]
    parameters = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    submit = _submitter(source, kernel, device, (across, down), threads, ctypes.addressof(parameters))
    for step in range(1 if steps is None else steps):
        if steps is not None:
            values[-1].value = step
        submit()


def multiprocessors(device: torch.device) -> int:
    """The number of multiprocessors of a device."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def _as_c(argument: Tensor | int | float | None) -> ctypes._SimpleCData:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_void_p(None) if argument is None else ctypes.c_longlong(argument)


def _submitter(
    source: str, kernel: str, device: torch.device, grid: tuple[int, int], threads: int, parameters: int
) -> Callable[[], None]:
    """A function that hands a launch to the driver; ``parameters`` is the address of an array of addresses."""
    from cuda.bindings import driver

    stream = driver.CUstream(torch.cuda.current_stream(device).cuda_stream)
    context = _context(device.index)
    with _current(context):
        function = _function(source, kernel, device.index)

    def submit() -> None:
        with _current(context):
            answer = driver.cuLaunchKernel(function, *grid, 1, threads, 1, 1, 0, stream, parameters, 0)
        _done(answer, f"launching {kernel} as {grid} blocks of {threads} threads")

    return submit


@contextmanager
def _current(context: Any) -> Iterator[None]:
    """Makes a context the current one of this thread."""
    from cuda.bindings import driver

    _done(driver.cuCtxPushCurrent(context), "entering the CUDA context")
    try:
        yield
    finally:
        driver.cuCtxPopCurrent()


@functools.cache
def _context(device: int) -> Any:
    """The context that PyTorch uses on a device."""
    from cuda.bindings import driver

    _done(driver.cuInit(0), "initialising CUDA")
    ordinal = _done(driver.cuDeviceGet(device), f"finding cuda:{device}")
    return _done(driver.cuDevicePrimaryCtxRetain(ordinal), f"taking the context of cuda:{device}")


@functools.cache
def _module(source: str, device: int) -> Any:
    """A compiled source, loaded into the current context."""
    from cuda.bindings import driver

    cubin = gpu_compiler.compiled(source, _architecture(device))
    return _done(driver.cuModuleLoadData(cubin), f"loading {source}.cu")


@functools.cache
def _function(source: str, kernel: str, device: int) -> Any:
    from cuda.bindings import driver

    return _done(driver.cuModuleGetFunction(_module(source, device), kernel.encode()), f"finding {kernel}")


def _architecture(device: int) -> str:
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def _done(answer: tuple, what: str) -> Any:
    """What a call of the driver returned beside its status; ``RuntimeError`` unless that says success."""
    result, *values = answer
    if result.value:
        raise RuntimeError(f"pcgen.ops, {what}: {result.name}")
    return values[0] if values else None
