"""Seconds and memory of an evaluation at full size: 405 × 405 clouds of 2048 points, as many as ShapeNet's airplanes.

    python benchmarks/full_size.py [--clouds 405] [--part 128] [--points 2048] [--threads 2]

MMD, COV and 1-NNA by the Chamfer distance, and the JSD, are measured whole. The earth mover's distances, ``pointflow``
and ``exact`` to a proven gap of 0.1 %, are measured on the first ``part`` clouds of both sides and extrapolated by the
number of pairs: 128 × 128 clouds have a tenth of the pairs of 405 × 405, of every kind alike (references, samples,
and references with samples), and are evaluated in the same blocks. Their seconds hold the Chamfer distance and the
intervals too.

References are the synthetic chairs of seeds 0 … 404, samples those of seeds 405 … 809. Each row is measured in a
process of its own, so that peak memory is its own; CPU time is that of all threads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from typing import NamedTuple

WHAT = {
    "CD, JSD": {"protocol": "exact", "emd": "none"},
    "and EMD pointflow": {"protocol": "pointflow"},
    "and EMD exact, gap 0.1 %": {"protocol": "exact", "tolerance": 1e-3},
}
TARGET = {"CD, JSD": "60 s", "and EMD pointflow": "90 min", "and EMD exact, gap 0.1 %": "90 min"}


class Measured(NamedTuple):
    """What one evaluation took."""

    seconds: float
    cpu: float  # seconds
    memory: float  # MB, the peak


def measure(what: str, clouds: int, points: int, threads: int) -> Measured:
    """Evaluates this many chairs against as many others."""
    import numpy as np
    import torch

    from pcgen.data.synthetic import sample_shape
    from pcgen.metrics import evaluate

    torch.set_num_threads(threads)
    chairs = np.stack([sample_shape("chair", seed, points).points for seed in range(2 * clouds)])
    wall, cpu = time.perf_counter(), time.process_time()
    evaluate(chairs[clouds:], chairs[:clouds], **WHAT[what])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Measured(wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def pairs_of(what: str, clouds: int) -> int:
    """Pairs of ``clouds`` × ``clouds``: of a symmetric distance one triangle within a set."""
    within = clouds * clouds if "pointflow" in what else clouds * (clouds + 1) // 2
    return clouds * clouds + 2 * within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clouds", type=int, default=405)
    parser.add_argument("--part", type=int, default=128)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print(f"{args.clouds} x {args.clouds} clouds of {args.points} points, {args.threads} threads, ", end="")
    print(f"load of the machine {os.getloadavg()[0]:.1f}\n")
    print("| what | clouds measured | pairs | s | CPU s | of all pairs | at full size | asked | peak memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    for what in WHAT:
        clouds = args.clouds if what == "CD, JSD" else min(args.part, args.clouds)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(measure, (what, clouds, args.points, args.threads))
        share = pairs_of(what, clouds) / pairs_of(what, args.clouds)
        whole = found.seconds / share
        full = f"{whole:.0f} s, measured" if share == 1 else f"{whole / 60:.0f} min, extrapolated"
        took = f"{found.seconds:.1f} | {found.cpu:.1f} | {share:.1%} | {full} | {TARGET[what]} | {found.memory:,.0f} MB"
        print(f"| {what} | {clouds} x {clouds} | {pairs_of(what, clouds):,} | {took} |", flush=True)


if __name__ == "__main__":
    main()
