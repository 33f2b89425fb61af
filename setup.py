"""Packages are named explicitly: several folders stand beside `pcgen` and setuptools must not guess."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pcgen", "pcgen.*"]), "pcgen.configs", "pcgen.cuda"],
    # In a wheel the configurations and kernel sources live inside the package; in a checkout beside it.
    package_dir={"pcgen.configs": "configs", "pcgen.cuda": "cuda"},
    package_data={"pcgen.configs": ["**/*.yaml"], "pcgen.cuda": ["*.cu", "*.cpp", "*.h"]},
)
