"""What reflow gains: straightness and quality against the number of evaluations, before and after.

    python benchmarks/reflow.py [--minutes 5] [--reflow-minutes 2] [--shapes 120] [--seeds 5] [--points 512]

A model of synthetic chairs as in ``generate.py``, trained for so many minutes of CPU time; then its point flow alone,
on pairs that it made itself by 100 evaluations of a midpoint sampler, with Adam's rate falling from 5e-4 to zero.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from generate import bend, chairs, report, train

from pcgen.flows import SolverConfig
from pcgen.models import ObjectiveConfig, PointFlow, reflow_loss, reflow_pairs

COUPLINGS = ("independent", "kd")


def reflow(model: PointFlow, clouds: torch.Tensor, minutes: float) -> int:
    """Train the point flow on pairs of its own, for codes of these clouds in data units; returns the steps taken."""
    with torch.no_grad():
        z = model.encode(model.standardise(clouds)).mean
    generator = torch.Generator().manual_seed(0)
    pairs = reflow_pairs(model, z, clouds.shape[1], generator, SolverConfig("midpoint", steps=50))
    optimizer = torch.optim.Adam(model.point_flow.parameters())
    start, share, steps = time.process_time(), 0.0, 0
    while share < 1:
        optimizer.param_groups[0]["lr"] = 2.5e-4 * (1 + np.cos(np.pi * share))
        optimizer.zero_grad()
        reflow_loss(model, pairs.draw(16, 512, generator), generator).total.backward()
        optimizer.step()
        steps, share = steps + 1, (time.process_time() - start) / (60 * minutes)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--reflow-minutes", type=float, default=2)
    parser.add_argument("--shapes", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--width", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)  # CPU time means little with more
    training, references = chairs(0, 400, 2048), chairs(10_000, args.shapes, args.points)
    for coupling in COUPLINGS:
        model, steps = train(ObjectiveConfig(coupling=coupling), training, args.width, args.minutes)
        for stage in ("trained", "reflowed"):
            if stage == "reflowed":
                steps = reflow(model, training, args.reflow_minutes)
            print(f"\n{coupling}, {stage}: {steps} steps, bend {bend(model):.4f}")
            report(model, references, args.seeds)


if __name__ == "__main__":
    main()
