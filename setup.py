"""What pyproject.toml cannot say: the packages by name, and the C++ kernels, compiled once per instruction set.

The kernels are plain C functions in libraries that know neither Python nor PyTorch (pcgen/ops/native.py loads them), so
they build in pip's isolated environment and one wheel serves every version of both. Without a compiler they are left
out, and plain PyTorch does their work.
"""

import copy
import os
import platform
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# No contraction of a * b + c, no reordering: every instruction set must give the same bits.
FLAGS = ["-O3", "-g0", "-std=c++17", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-pthread"]
WARNINGS = ["-Wall", "-Wextra", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]  # GCC 12's own intrinsics
AVX2 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mpopcnt"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
LEVELS = {"x86_64": {"sse2": [], "avx2": AVX2, "avx512": AVX512}, "aarch64": {"neon": []}, "arm64": {"neon": []}}


class Library(build_ext):
    """A shared library without Python's name, version or initialisation function."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extension(self, extension):
        # Each instruction set keeps its objects to itself: they are made of the same sources, and at the same time.
        alone = copy.copy(self)
        alone.build_temp = str(Path(self.build_temp) / extension.name)
        super(Library, alone).build_extension(extension)

    def get_ext_filename(self, name):
        return str(Path(*name.split("."))) + ".so"

    def get_export_symbols(self, extension):
        return []


class Wheel(bdist_wheel):
    """For any Python 3 on this platform."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


sources = sorted(str(path.relative_to(Path(__file__).parent)) for path in Path(__file__).parent.glob("cuda/*.cpp"))
headers = sorted(str(path.relative_to(Path(__file__).parent)) for path in Path(__file__).parent.glob("cuda/*.h"))

setup(
    packages=[*find_packages(include=["pcgen", "pcgen.*"]), "pcgen.configs", "pcgen.cuda"],
    # In a wheel the configurations and kernel sources live inside the package; in a checkout beside it.
    package_dir={"pcgen.configs": "configs", "pcgen.cuda": "cuda"},
    package_data={"pcgen.configs": ["**/*.yaml"], "pcgen.cuda": ["*.cu", "*.cpp", "*.h"]},
    ext_modules=[
        Extension(
            f"pcgen.ops._kernels_{level}",
            sources,
            depends=headers,
            extra_compile_args=[*FLAGS, *WARNINGS, *flags],
            extra_link_args=["-pthread"],
            optional=True,
        )
        for level, flags in LEVELS.get(platform.machine(), {}).items()
    ],
    cmdclass={"build_ext": Library, "bdist_wheel": Wheel},
)
