#!/usr/bin/env bash
# On a machine with a CUDA device: tests every CUDA kernel against the definition and replayed solves against solves,
# then measures them and the full-size generator (under ten minutes). Needs python3 with a CUDA build of PyTorch, pytest
# and hypothesis; installs nothing and needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}
if command -v g++ >/dev/null; then
    python3 setup.py -q build_ext --inplace
else
    echo "no g++: on the CPU plain PyTorch serves, and the kernels are not emulated"
fi
python3 -m pytest --noconftest tests/test_gpu.py tests/test_replay.py
python3 benchmarks/gpu.py "$@"
python3 benchmarks/gpu_generator.py
