"""What a sampler errs by, against the number of its evaluations: Chamfer distance to a fine solve of the same noise.

    python benchmarks/solvers.py runs/bodies runs/bricks [--shapes 24] [--points 1024]

First the codes of ``--shapes`` shapes are solved (error: root mean square, of the codes' standard deviation; and what
that alone moves the shapes by), then their points from finely solved codes. Distances are squared, in the units of the
model's data.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
from generate import COST

from pcgen.flows import SolverConfig
from pcgen.models import PointFlow
from pcgen.ops import chamfer
from pcgen.training import find_checkpoint, load_model

EVALUATIONS = (4, 8, 12, 20, 48)
FINE = SolverConfig("rk4", steps=30)


def samplers(method: str) -> Iterable[SolverConfig | None]:
    """With each number of evaluations, None where the method has no step of so few."""
    for evaluations in EVALUATIONS:
        yield None if evaluations % COST[method] else SolverConfig(method, steps=evaluations // COST[method])


def errors(model: PointFlow, shapes: int, points: int) -> None:
    exact = model.sample_codes(shapes, 0, solver=FINE)
    wanted = model.decode(exact, points, 0, solver=FINE)

    def moved(codes: torch.Tensor, solver: SolverConfig) -> str:
        return f"{float(chamfer(model.decode(codes, points, 0, solver=solver), wanted).value.mean()):.2e}"

    def of_codes(solver: SolverConfig) -> str:
        codes = model.sample_codes(shapes, 0, solver=solver)
        return f"{float((codes - exact).square().mean().sqrt() / exact.std()):.4f}, {moved(codes, FINE)}"

    for part, error in {"codes": of_codes, "points": lambda solver: moved(exact, solver)}.items():
        for method in COST:
            row = ("–" if solver is None else error(solver) for solver in samplers(method))
            print(f"| {part} | {method} | {' | '.join(row)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--shapes", type=int, default=24)
    parser.add_argument("--points", type=int, default=1024)
    args = parser.parse_args()
    for folder in args.runs:
        print(f"\n{folder.name}\n| | | {' | '.join(map(str, EVALUATIONS))} |\n|{'---|' * (len(EVALUATIONS) + 2)}")
        errors(load_model(find_checkpoint(folder)).eval(), args.shapes, args.points)


if __name__ == "__main__":
    main()
