"""How many evaluations a solve takes as likelihood training goes on, regularised and not (Finlay et al. 2020).

    python benchmarks/evaluations.py [--steps 3000] [--width 64] [--points 256] [--out runs/evaluations]

A small PointFlow with a normal prior learns synthetic chairs by likelihood, once for each row, from the same weights on
the same batches. Printed: evaluations per solve of the point flow, their mean over steps 300 to 600 and over the last
tenth, and nats per shape on held-out chairs. ``evaluations.png`` in --out has the curves. What is there already is not
trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from pcgen.config import read, to_yaml
from pcgen.data import load
from pcgen.training import RunConfig, read_history, train
from pcgen.viz import curves

VARIANTS = {
    "unregularised": {},
    "kinetic 0.1": {"kinetic": 0.1},
    "kinetic 0.5": {"kinetic": 0.5},
    "kinetic 0.5, jacobian 0.1": {"kinetic": 0.5, "jacobian": 0.1},
    "kinetic 0.5, jacobian 0.5": {"kinetic": 0.5, "jacobian": 0.5},
}


def settings(args: argparse.Namespace, weights: dict[str, float]) -> RunConfig:
    words = [
        *("data.source=synthetic", f"data.points={args.points}", f"training.batch={args.batch}"),
        *(f"training.steps={args.steps}", "training.device=cpu"),
        *("model.latent=32", "model.encoder.widths=[64, 128, 256]", "model.latent_flow=null", "model.sampler=null"),
        *(f"model.point_flow.dims=[{args.width}, {args.width}, {args.width}]", "model.point_flow.norm=moving"),
        *("model.point_flow.train_time=true", "model.objective.name=likelihood"),
        *(f"model.objective.{name}={value}" for name, value in weights.items()),
    ]
    return read(RunConfig, overrides=words)


def history(args: argparse.Namespace, name: str) -> list[dict]:
    """The rows of a variant's log, which is trained if it was not, or not to its end."""
    folder, config = args.out / name.replace(", ", "_").replace(" ", "_"), settings(args, VARIANTS[name])
    if (folder / "config.yaml").exists() and (folder / "config.yaml").read_text() != to_yaml(config):
        raise SystemExit(f"{folder} holds a run with other settings: remove it, or say --out")
    rows = read_history(folder)
    if not rows or rows[-1]["step"] < args.steps:
        train(config, load(config.data), folder, resume=(folder / "resume").exists(), quiet=True)
    return read_history(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--points", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--out", type=Path, default=Path("runs/evaluations"))
    args = parser.parse_args()
    together = []
    print("| | steps 300–600 | last tenth | ratio | nats, held out | minutes |\n|---|---|---|---|---|---|")
    for name in args.variants:
        rows = history(args, name)
        told = [row for row in rows if "train/points" in row]
        step, found = (np.array([row[key] for row in told]) for key in ("step", "evaluations/points"))
        early, late = found[(step > 300) & (step <= 600)].mean(), found[step > 0.9 * args.steps].mean()
        nats = [-row["val/points"] for row in rows if "val/points" in row][-1]
        print(
            f"| {name} | {early:.1f} | {late:.1f} | {late / early:.2f} | {nats:.0f} | {rows[-1]['seconds'] / 60:.1f} |"
        )
        together += [{"step": row["step"], f"evaluations per solve/{name}": row["evaluations/points"]} for row in told]
        curves(together, args.out / "evaluations.png")


if __name__ == "__main__":
    main()
