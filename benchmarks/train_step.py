"""Seconds and memory of one optimiser step: likelihood, flow matching, and the original's way, in one run.

    python benchmarks/train_step.py [--shapes 4] [--points 2048] [--repeats 5] [--threads N] [--gain 2.5]

Every variant trains the paper's network from the same weights on the same clouds, in a process of its own (so that
peak memory is its own); the variants take turns, and medians and their ratios are printed. With one thread, seconds are
the process's CPU time, which others on the machine disturb least. ``--gain`` multiplies weight matrices, for solves as
long as later in training.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

VARIANTS = (
    "original_style",
    "likelihood",
    "likelihood_adjoint",
    "flow_matching",
    "flow_matching_exact",
    "flow_matching_bfloat16",
)


def build(variant: str):
    """The full-size model of a variant, as it is initialised."""
    import torch

    from pcgen.flows import FlowConfig, SolverConfig
    from pcgen.models import ObjectiveConfig, PointFlow, PointFlowConfig

    matching = variant.startswith("flow_matching")
    solver = SolverConfig(error_norm="rms", adjoint=variant == "likelihood_adjoint")
    options = {"train_time": not matching, "norm": "frozen" if matching else "moving", "solver": solver}
    torch.manual_seed(0)
    return PointFlow(
        PointFlowConfig(
            point_flow=FlowConfig((512, 512, 512), **options),
            latent_flow=FlowConfig((256, 256), **options),
            objective=ObjectiveConfig(
                name="flow_matching" if matching else "likelihood",
                coupling="exact" if variant == "flow_matching_exact" else "kd",
                precision="bfloat16" if variant == "flow_matching_bfloat16" else "float32",
            ),
        )
    ).train()


def clouds(shapes: int, points: int):
    """Synthetic chairs, standardised."""
    import numpy as np
    import torch

    from pcgen.data.synthetic import sample_shape

    x = np.stack([sample_shape("chair", seed, points).points for seed in range(shapes)])
    return torch.from_numpy((x - x.mean((0, 1))) / x.std()).float()


def worker(variant: str, shapes: int, points: int, threads: int, gain: float, pipe) -> None:
    """Answers each message with (seconds, evaluations forward, backward, peak memory in MB) of one step."""
    import torch

    torch.set_num_threads(threads)
    model, x = build(variant), clouds(shapes, points)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter *= gain
    clock = time.process_time if threads == 1 else time.perf_counter
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    if variant == "original_style":
        from original_style import likelihood_loss
    else:
        from pcgen.training.loop import keep_freed_memory

        keep_freed_memory()  # as our training does
    while pipe.recv():
        start = clock()
        optimizer.zero_grad()
        if variant == "original_style":
            loss, forward = likelihood_loss(model, x)
            loss.backward()
            counts = (forward, None)
        else:
            model.loss(x, generator).total.backward()
            solves = model.evaluations().values() if model.solves_in_training else ()
            counts = (sum(f for f, _ in solves) or 1, sum(b for _, b in solves))
        optimizer.step()
        seconds = clock() - start
        pipe.send((seconds, *counts, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=4)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--gain", type=float, default=1.0)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    workers = {}
    for variant in VARIANTS:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=worker, args=(variant, args.shapes, args.points, args.threads, args.gain, theirs), daemon=True
        )
        process.start()
        workers[variant] = ours
    rows = {variant: [] for variant in VARIANTS}
    for repeat in range(args.repeats + 1):
        for variant, pipe in workers.items():
            pipe.send(True)
            row = pipe.recv()
            if repeat:  # the first round warms up
                rows[variant].append(row)
    for pipe in workers.values():
        pipe.send(False)
    base = statistics.median(row[0] for row in rows["original_style"])
    print(f"{args.shapes} shapes x {args.points} points, {args.threads} threads, median of {args.repeats} steps")
    print(f"{'variant':24}{'s/step':>10}{'faster':>9}{'evaluations':>14}{'peak MB':>9}")
    for variant, measured in rows.items():
        seconds = statistics.median(row[0] for row in measured)
        forward, backward = measured[-1][1], measured[-1][2]
        counts = f"{forward}+{'?' if backward is None else backward}"
        print(f"{variant:24}{seconds:10.3f}{base / seconds:8.1f}x{counts:>14}{max(r[3] for r in measured):9.0f}")


if __name__ == "__main__":
    main()
