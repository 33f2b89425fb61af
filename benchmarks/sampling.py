"""Seconds to sample clouds: the original's way against ours, same weights, noise and number of evaluations.

    python benchmarks/sampling.py [--shapes 8] [--points 2048] [--steps 10] [--repeats 3] [--threads N] [--grow]

Full-size model, midpoint steps, all variants in one process in turns, medians and their ratios, and the distance of
each variant's clouds from those in float64. ``--grow`` adds time and peak memory of one shape with up to 200,000
points.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from original_style import Velocity
from torchdiffeq import odeint

from pcgen.flows import Flow, FlowConfig, SolverConfig

METHOD = "midpoint"


def build(gain: float) -> Flow:
    """A point flow of the paper's size; its weight matrices times ``gain``, or velocities would hardly bend."""
    torch.manual_seed(0)
    flow = Flow(3, 128, FlowConfig(norm="none")).eval().requires_grad_(False)
    for parameter in flow.parameters():
        if parameter.dim() == 2:
            parameter *= gain
    return flow


def original_style(flow: Flow, y: torch.Tensor, z: torch.Tensor, steps: int) -> torch.Tensor:
    """As the original program samples: the divergence integrated along, gates from [t, z] at every evaluation."""
    (cnf,) = flow.chain
    end = float(cnf.end_time)
    times, options = torch.tensor([end, 0.0]).to(y), {"step_size": end / steps}
    state = (y, y.new_zeros(*y.shape[:-1], 1), z)
    return odeint(Velocity(cnf.net), state, times, method=METHOD, options=options)[0][-1].detach()


def ours(flow: Flow, y: torch.Tensor, z: torch.Tensor, steps: int, precision: str = "float32") -> torch.Tensor:
    return flow.from_prior(y, z, solver=SolverConfig(METHOD, steps=steps, precision=precision)).x


def seconds(call) -> float:
    """CPU seconds of a process of one thread, which other processes disturb least, else those of the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def compare(flow: Flow, shapes: int, points: int, steps: int, repeats: int) -> None:
    y, z = torch.randn(shapes, points, 3), torch.randn(shapes, 128)
    variants = {
        "original_style": lambda: original_style(flow, y, z, steps),
        "float32": lambda: ours(flow, y, z, steps),
        "bfloat16": lambda: ours(flow, y, z, steps, "bfloat16"),
    }
    times = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, call in variants.items():
            taken = seconds(call)
            if repeat:  # the first round warms up
                times[name].append(taken)
    exact = ours(flow.double(), y.double(), z.double(), steps)
    flow.float()
    base = statistics.median(times["original_style"])
    print(
        f"{shapes} shapes x {points} points, {2 * steps} evaluations, median of {repeats}, in float64 each point moves"
    )
    print(f"{(exact - y).square().sum(-1).mean().sqrt():.3g} (rms)")
    print(f"{'variant':16}{'seconds':>9}{'faster':>9}{'rms error':>12}{'largest':>12}")
    for name, call in variants.items():
        error = (call() - exact).norm(dim=-1)
        median = statistics.median(times[name])
        rms = error.square().mean().sqrt()
        print(f"{name:16}{median:9.3f}{base / median:8.1f}x{rms:12.2e}{error.max():12.2e}")


def grow(flow: Flow, steps: int) -> None:
    print(f"{'points':>8}{'seconds':>9}{'per 2048':>10}{'peak MB':>9}")
    for points in (2_048, 20_000, 200_000):
        y, z = torch.randn(1, points, 3), torch.randn(1, 128)
        taken = seconds(lambda y=y, z=z: ours(flow, y, z, steps))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{points:8}{taken:9.3f}{taken * 2048 / points:10.4f}{peak:9.0f}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=8)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gain", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--grow", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    flow = build(args.gain)
    if args.grow:  # first: peak memory is the process's
        grow(flow, args.steps)
    compare(flow, args.shapes, args.points, args.steps, args.repeats)


if __name__ == "__main__":
    main()
