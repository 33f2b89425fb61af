"""Compile every CUDA source for every architecture, with NVRTC: no GPU, no driver and no toolkit needed.

    python cuda/compile_all.py [FOLDER]

Headers (``*.h``) beside the sources are handed over as strings, as at run time. Exits with 1 if one does not compile.
"""

from __future__ import annotations

import sys
from pathlib import Path

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
OPTIONS = ("--fmad=false", "--std=c++17", "-default-device")


def compile_source(source: str, name: str, architecture: str, headers: dict[str, str]) -> tuple[bool, str]:
    """Whether ``source`` compiles to a CUBIN for ``architecture``, and the compiler's log."""
    from cuda.bindings import nvrtc

    contents = [text.encode() for text in headers.values()]
    names = [header.encode() for header in headers]
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), len(headers), contents, names)
    options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={architecture}")]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(program)
    return result == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode(errors="replace").strip("\0 \n")


def main(folder: Path) -> int:
    headers = {path.name: path.read_text() for path in sorted(folder.glob("*.h"))}
    sources = sorted(folder.glob("*.cu"))
    failed = 0
    for path in sources:
        for architecture in ARCHITECTURES:
            good, log = compile_source(path.read_text(), path.name, architecture, headers)
            failed += not good
            print(f"{path.name} {architecture}: {'compiled' if good else 'FAILED'}")
            if not good:
                print(log)
    print(f"{len(sources)} CUDA sources, {len(sources) * len(ARCHITECTURES) - failed} compiled, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent))
