"""Compile every CUDA source for every architecture, with NVRTC: no GPU, no driver and no toolkit needed.

    python cuda/compile_all.py

As at run time (pcgen/ops/gpu_compiler.py). Prints what the assembler says of registers and of what did not find room in
them. Exits with 1 if a source does not compile.
"""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pcgen.ops.gpu_compiler import SOURCES, compile_source, headers_of

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


def compiled(job: tuple[Path, str]) -> tuple[bool, str]:
    """Whether a source compiles for an architecture, and a line about it."""
    path, architecture = job
    source = path.read_text()
    try:
        _, log = compile_source(source, path.name, architecture, headers_of(source), ("--ptxas-options=-v",))
    except RuntimeError as error:
        return False, f"FAILED: {error}"
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", log)]
    spilled = sum(int(number) for number in re.findall(r"(\d+) bytes spill stores", log))
    kernels = f"{len(registers)} kernels, {max(registers, default=0)} registers at most, {spilled} bytes spilled"
    return True, f"{path.name} {architecture}: {kernels}"


def main() -> int:
    sources = sorted(SOURCES.glob("*.cu"))
    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for good, line in pool.map(compiled, product(sources, ARCHITECTURES)):
            failed += not good
            print(line, flush=True)
    done = len(sources) * len(ARCHITECTURES) - failed
    print(f"{len(sources)} CUDA sources, {done} compiled, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
