"""CUDA kernels on the CPU: each source compiled by g++ with ``cuda/emulate.h``, and launched in place of the driver."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from pcgen.ops import gpu_compiler

COMPILER = shutil.which("g++")
FLAGS = ("-x", "c++", "-std=c++20", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-fPIC", "-w")


class Emulator:
    """Compiles sources into a folder, and launches their kernels on CPU tensors as ``gpu._submitter`` does on a GPU."""

    def __init__(self, folder: Path, architecture: int = 900):
        self.folder, self.architecture, self.seed = folder, architecture, 0
        self.launched: list[str] = []
        self.library = functools.cache(self._library)

    def submitter(
        self, source: str, kernel: str, device: torch.device, grid: tuple[int, int], threads: int, parameters: int
    ) -> Callable[[], None]:
        assert device.type == "cpu"
        self.launched.append(kernel)
        run = getattr(self.library(source), f"run_{kernel}")

        def submit() -> None:
            stuck = run(ctypes.c_void_p(parameters), *(ctypes.c_uint(n) for n in (*grid, threads, self.seed)))
            if stuck:
                raise RuntimeError(f"{kernel}: the threads of a block wait for each other forever")

        return submit

    def _library(self, source: str) -> ctypes.CDLL:
        path = gpu_compiler.SOURCES / f"{source}.cu"
        # The macros of a source are expanded, and CUDA's words still there, where its kernels are looked for.
        expanded = _run("-E", "-P", "-x", "c++", str(path))
        kernels = re.findall(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\))?\s*(\w+)\(', expanded)
        lines = [
            f'extern "C" int run_{name}(void** parameters, unsigned across, unsigned down, unsigned threads, unsigned '
            f"seed) {{ return emulation::run({name}, parameters, across, down, threads, seed); }}"
            for name in kernels
        ]
        wrapped = self.folder / f"{source}.cpp"
        wrapped.write_text("\n".join([f'#include "{path}"', *lines]))
        library = self.folder / f"{source}.so"
        emulate = gpu_compiler.SOURCES / "emulate.h"
        architecture = f"-DEMULATED_ARCHITECTURE={self.architecture}"
        _run(*FLAGS, "-shared", architecture, "-include", str(emulate), str(wrapped), "-o", str(library))
        return ctypes.CDLL(str(library))


def _run(*arguments: str) -> str:
    done = subprocess.run([COMPILER, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[:4000])
    return done.stdout
