"""Quality against the number of evaluations, for models trained for equal time: likelihood, flow matching, couplings.

    python benchmarks/generate.py [--minutes 5] [--shapes 120] [--seeds 5] [--points 512] [--width 128]

Synthetic chairs; each variant trains for as many minutes of CPU time from weights of the same seed. Then, for each
number of evaluations of a midpoint sampler, means over sample sets of ``--seeds`` seeds: 1-NNA and MMD (CD, protocol
``exact``) against held-out chairs, the Chamfer distance to the clouds of the same noise at 100 evaluations as a share
of MMD, and CPU seconds per set. ``bend`` says how far paths are from straight: ∫ |dx/ds|² ds / |x(1) − x(0)|² − 1, its
terms averaged over points.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from pcgen.data.synthetic import sample_shape
from pcgen.flows import FlowConfig, SolverConfig, Trace
from pcgen.metrics import evaluate
from pcgen.models import ObjectiveConfig, PointFlow, PointFlowConfig
from pcgen.ops import chamfer

VARIANTS = {
    "likelihood": {"name": "likelihood"},
    "likelihood, kinetic 1": {"name": "likelihood", "kinetic": 1.0},
    "matching": {"coupling": "independent"},
    "matching, kd": {"coupling": "kd"},
    "matching, exact": {"coupling": "exact"},
}
EVALUATIONS = (4, 8, 16, 100)


def chairs(first: int, shapes: int, points: int) -> torch.Tensor:
    return torch.from_numpy(
        np.stack([sample_shape("chair", seed, points).points for seed in range(first, first + shapes)])
    ).float()


def train(objective: ObjectiveConfig, x: torch.Tensor, width: int, minutes: float) -> tuple[PointFlow, int]:
    """A model after so many minutes of CPU time, Adam's rate falling to zero along a half cosine, and its steps."""
    matching = objective.name == "flow_matching"
    options = {"train_time": not matching, "norm": "frozen" if matching else "moving"}
    torch.manual_seed(0)
    mean, scale = x.mean((0, 1)), x.std()
    model = PointFlow(
        PointFlowConfig(
            latent=32,
            point_flow=FlowConfig((width,) * 3, **options),
            latent_flow=FlowConfig((width,) * 2, **options),
            objective=objective,
        ),
        mean,
        scale,
    ).train()
    x = model.standardise(x)
    generator, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(model.parameters())
    start, share, steps = 0.0, 0.0, 0
    while share < 1:
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + np.cos(np.pi * share))
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


def report(model: PointFlow, references: torch.Tensor, seeds: int) -> None:
    shapes, points, _ = references.shape
    sets, seconds = {}, {}
    for evaluations in EVALUATIONS:
        solver, start = SolverConfig("midpoint", steps=evaluations // 2), time.process_time()
        sets[evaluations] = [model.sample(shapes, points, seed, solver=solver).points for seed in range(seeds)]
        seconds[evaluations] = (time.process_time() - start) / seeds
    for evaluations, clouds in sets.items():
        scores = [evaluate(each, references, "exact", emd="none", interval=0) for each in clouds]
        nna, mmd = (np.mean([s.scores()[name] for s in scores]) for name in ("one_nna_cd", "mmd_cd"))
        moved = np.mean([float(chamfer(a, b).value.mean()) for a, b in zip(clouds, sets[EVALUATIONS[-1]])])
        row = f"{evaluations:>12}{nna:10.3f}{mmd:12.3e}{moved / mmd:16.2%}{seconds[evaluations]:10.2f}"
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--shapes", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--threads", type=int, default=1, help="CPU time means little with more than one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    training, references = chairs(0, 400, 2048), chairs(10_000, args.shapes, args.points)
    for name in args.variants:
        model, steps = train(ObjectiveConfig(**VARIANTS[name]), training, args.width, args.minutes)
        print(f"\n{name}: {steps} steps, bend {bend(model):.3f}")
        print(f"{'evaluations':>12}{'1-NNA-CD':>10}{'MMD-CD':>12}{'CD to 100 / MMD':>16}{'s/set':>10}")
        report(model, references, args.seeds)


if __name__ == "__main__":
    main()
