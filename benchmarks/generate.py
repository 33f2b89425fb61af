"""Quality against the number of evaluations, for models trained for equal time: likelihood, flow matching, couplings.

    python benchmarks/generate.py [--minutes 5] [--shapes 120] [--seeds 5] [--points 512] [--width 128]

Synthetic chairs; each variant trains for as many minutes of CPU time, from the same weights where its network is the
same. Then, for each number of evaluations of a sampler (``--method``), over sample sets of ``--seeds`` seeds:

- 1-NNA (CD, protocol ``exact``) against held-out chairs, its mean, and how far it is from that of the same noise at the
  most evaluations, mean and standard error of the paired differences;
- MMD-CD in data units, and the Chamfer distance to the clouds of the same noise at the most evaluations as its share;
- CPU seconds per set.

``bend`` says how far paths are from straight: ∫ |dx/ds|² ds / |x(1) − x(0)|² − 1, its terms averaged over points.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from pcgen.data.synthetic import sample_shape
from pcgen.flows import FlowConfig, SolverConfig, Trace
from pcgen.metrics import evaluate
from pcgen.models import ObjectiveConfig, PointFlow, PointFlowConfig
from pcgen.ops import chamfer
from pcgen.training import TrainingConfig, new_optimizer


class Variant(NamedTuple):
    """What is trained, and how."""

    objective: ObjectiveConfig
    optimizer: TrainingConfig = TrainingConfig()
    frequencies: int = 0


def matching(coupling: str) -> ObjectiveConfig:
    return ObjectiveConfig(coupling=coupling, times=4)


MUON = TrainingConfig(optimizer="muon", lr=8e-3)
VARIANTS = {
    "likelihood": Variant(ObjectiveConfig("likelihood")),
    "likelihood, kinetic 1": Variant(ObjectiveConfig("likelihood", kinetic=1.0)),
    "matching": Variant(matching("independent")),
    "matching, kd": Variant(matching("kd")),
    "matching, exact": Variant(matching("exact")),
    "matching, kd, muon": Variant(matching("kd"), MUON),
    "matching, kd, muon, features": Variant(matching("kd"), MUON, 4),
}
EVALUATIONS = (4, 8, 16, 100)
COST = {"ab2": 1, "euler": 1, "midpoint": 2, "rk4": 4}  # evaluations of a step


def chairs(first: int, shapes: int, points: int) -> torch.Tensor:
    return torch.from_numpy(
        np.stack([sample_shape("chair", seed, points).points for seed in range(first, first + shapes)])
    ).float()


def train(variant: Variant, x: torch.Tensor, width: int, minutes: float) -> tuple[PointFlow, int]:
    """A model after so many minutes of CPU time, the learning rate falling to zero along a half cosine; its steps."""
    matched = variant.objective.name == "flow_matching"
    options = {"train_time": not matched, "norm": "frozen" if matched else "moving"}
    torch.manual_seed(0)
    mean, scale = x.mean((0, 1)), x.std()
    model = PointFlow(
        PointFlowConfig(
            latent=32,
            point_flow=FlowConfig((width,) * 3, frequencies=variant.frequencies, **options),
            latent_flow=FlowConfig((width,) * 2, **options),
            objective=variant.objective,
        ),
        mean,
        scale,
    ).train()
    x = model.standardise(x)
    trained = [p for p in model.parameters() if p.requires_grad]
    generator, optimizer = torch.Generator().manual_seed(0), new_optimizer(trained, variant.optimizer)
    start, share, steps = 0.0, 0.0, 0
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = variant.optimizer.lr * (1 + np.cos(np.pi * share)) / 2
        batch = x[torch.randint(len(x), (16,), generator=generator)]
        batch = batch[:, torch.randint(x.shape[1], (512,), generator=generator)]
        optimizer.zero_grad()
        model.loss(batch, generator).total.backward()
        optimizer.step()
        steps += 1
        start = start if steps > 1 else time.process_time()  # the first step loads parts of PyTorch
        share = (time.process_time() - start) / (60 * minutes)
    return model.eval(), steps


@torch.no_grad()
def bend(model: PointFlow, shapes: int = 20, points: int = 256) -> float:
    z = model.shape_from_prior(torch.randn(shapes, model.config.latent, generator=torch.Generator().manual_seed(1)))
    y = torch.randn(shapes, points, 3, generator=torch.Generator().manual_seed(2))
    (cnf,) = (m for m in model.point_flow.chain if hasattr(m, "net"))
    (x, _, kinetic, _), _ = cnf.transport(y, z, SolverConfig(), Trace("exact", energies=True), reverse=True)
    return float((kinetic.neg().abs().mean() / (x - y).square().sum(-1).mean()) - 1)


def report(
    model: PointFlow, references: torch.Tensor, seeds: int, counts: Sequence[int] = EVALUATIONS, method: str = "ab2"
) -> None:
    """Prints a row for each number of evaluations; the last is what the others are compared with."""
    shapes, points, _ = references.shape
    sets, rows = {}, {}
    print(
        f"\n{'evaluations':>12}{'1-NNA-CD':>10}{'MMD-CD':>12}{'1-NNA to last':>24}{'CD to last / MMD':>18}{'s/set':>8}"
    )
    for evaluations in reversed(counts):
        steps = evaluations // COST[method]
        solver, start = SolverConfig(method, steps=steps), time.process_time()
        sets[evaluations] = [model.sample(shapes, points, seed, solver=solver).points for seed in range(seeds)]
        seconds = (time.process_time() - start) / seeds
        found = [evaluate(clouds, references, emd="none", interval=0) for clouds in sets[evaluations]]
        rows[evaluations] = np.array([scores.cd.one_nna for scores in found])
        mmd = np.mean([scores.data_units()["mmd_cd"] for scores in found])
        moved = np.mean([float(chamfer(a, b).value.mean()) for a, b in zip(sets[evaluations], sets[counts[-1]])])
        apart = rows[evaluations] - rows[counts[-1]]
        within = f"{apart.mean():+.4f} ± {apart.std(ddof=min(1, seeds - 1)) / np.sqrt(seeds):.4f}"
        row = (
            f"{evaluations:>12}{rows[evaluations].mean():10.3f}{mmd:12.3e}{within:>24}{moved / mmd:18.2%}{seconds:8.1f}"
        )
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--shapes", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--method", default="ab2", choices=COST)
    parser.add_argument("--threads", type=int, default=1, help="CPU time means little with more than one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", ".*outside the JSD grid", UserWarning)  # which is not printed
    training, references = chairs(0, 400, 2048), chairs(10_000, args.shapes, args.points)
    for name in args.variants:
        model, steps = train(VARIANTS[name], training, args.width, args.minutes)
        print(f"\n{name}: {steps} steps, bend {bend(model):.3f}")
        report(model, references, args.seeds, method=args.method)


if __name__ == "__main__":
    main()
