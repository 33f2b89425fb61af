"""The compiled CPU kernels: which library this processor takes, and how its C functions are called.

``PCGEN_KERNELS`` in the environment chooses: ``auto`` (the default), ``reference`` (plain PyTorch), an instruction set
(``sse2``, ``avx2``, ``avx512``, ``neon``) or the path of a library.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Library", "call", "call_on", "library"]

LEVELS = {"x86_64": ("sse2", "avx2", "avx512"), "AMD64": (), "aarch64": ("neon",), "arm64": ("neon",)}


class Library(NamedTuple):
    """A library of kernels, or the reason why there is none."""

    functions: ctypes.CDLL | None
    why: str  # "avx512", or what is missing


@functools.cache
def library() -> Library:
    """The best library that is there and that this processor runs.

    ``ValueError`` if ``PCGEN_KERNELS`` names one that is neither.
    """
    choice = os.environ.get("PCGEN_KERNELS", "auto")
    if choice == "reference":
        return Library(None, "PCGEN_KERNELS=reference")
    if choice.endswith(".so"):
        return Library(ctypes.CDLL(choice), choice)
    levels = LEVELS.get(platform.machine(), ())
    present = {level: path for level in levels if (path := Path(__file__).parent / f"_kernels_{level}.so").is_file()}
    if not present and choice == "auto":
        return Library(None, f"this installation has no compiled kernels for {platform.machine()}")
    runs = levels[: 1 + ctypes.CDLL(present[min(present, key=levels.index)]).pcgen_level()] if present else ()
    usable = [level for level in present if level in runs and choice in ("auto", level)]
    if not usable:
        there = ", ".join(level for level in present if level in runs) or "no instruction set, none being compiled"
        raise ValueError(f"PCGEN_KERNELS={choice}: expected auto, reference, a path ending in .so, or {there}")
    return Library(ctypes.CDLL(present[usable[-1]]), usable[-1])


@functools.cache
def available() -> bool:
    """Whether there is a library; if not, and nobody asked for that, the first answer comes with a warning."""
    found = library()
    if not found.functions and not found.why.startswith("PCGEN_KERNELS"):
        warnings.warn(f"pcgen runs on plain PyTorch, many times slower: {found.why}", stacklevel=2)
    return found.functions is not None


def call(name: str, *arguments: Tensor | int | float | None) -> None:
    """Runs the C function ``pcgen_<name>`` on tensors (contiguous, on the CPU), integers and floats.

    The number of threads, PyTorch's own, is handed over as the last argument. Python's lock is released meanwhile.
    ``MemoryError`` where the kernel ran out of memory.
    """
    function = getattr(library().functions, f"pcgen_{name}")
    status = function(*map(_as_c, arguments), ctypes.c_int64(torch.get_num_threads()))
    if status == 1:
        raise MemoryError(f"pcgen.ops: {name} ran out of memory")
    if status:
        raise RuntimeError(f"pcgen.ops: {name} failed with status {status}")


def call_on(name: str, x: Tensor, *arguments: Tensor | int | float | None) -> None:
    """:func:`call` of a function of points (rows, D), whose first arguments are their type and dimension."""
    call(name, x.dtype == torch.float64, x.shape[1], x, *arguments)


def _as_c(argument: Tensor | int | float | None) -> ctypes._SimpleCData | None:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous() and argument.device.type == "cpu"
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return None if argument is None else ctypes.c_int64(argument)
