"""The full-size generator on a CUDA device: flow-matching steps a second, and seconds to sample a thousand shapes.

    python benchmarks/gpu_generator.py [--repeats R] [--device cuda] [--shapes 32] [--points 2048] [--samples 1000]

Training is one optimiser step on synthetic chairs, Adam, weights as initialised; the first rows get their noise with
the batch, as ``coupling: once`` does. Sampling solves the same prior draws by 20 evaluations of each point, step by
step and as a replayed CUDA graph (pcgen/flows/replay.py), after a warm-up of the whole; errors are root mean squares
against float64, of 16 of the shapes, beside how far points move. All variants take turns; medians. Matrix products are
in float32, in TF32 (``torch.set_float32_matmul_precision("high")``), or between hidden layers in bfloat16.
``--device cpu`` with few shapes tries the script out.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import torch
from timing import in_turns
from train_step import build, clouds

from pcgen.flows import SolverConfig
from pcgen.models import PointFlow, inference

STEPS_ASKED = {"flow matching": 150, "exact coupling on the fly": 40}
SAMPLES_ASKED = 1.5  # seconds for 1,000 shapes of 2,048 points
SOLVER = SolverConfig("ab2", steps=20)


class Trained(NamedTuple):
    """A way to train."""

    name: str
    variant: str  # of train_step.build
    paired: bool = False  # the batch brings its noise
    products: str = "highest"


TRAINING = (
    Trained("flow matching", "flow_matching", paired=True),
    Trained("flow matching, TF32", "flow_matching", paired=True, products="high"),
    Trained("flow matching, bfloat16", "flow_matching_bfloat16", paired=True),
    Trained("kd coupling on the fly", "flow_matching"),
    Trained("exact coupling on the fly", "flow_matching_exact"),
)


class Sampled(NamedTuple):
    """A way to sample."""

    name: str
    replayed: bool
    precision: str = "float32"
    products: str = "highest"


SAMPLING = tuple(
    Sampled(f"{name}, {'replayed' if replayed else 'step by step'}", replayed, precision, products)
    for name, precision, products in (
        ("float32", "float32", "highest"),
        ("TF32", "float32", "high"),
        ("bfloat16", "bfloat16", "highest"),
    )
    for replayed in (False, True)
)


def training(args: argparse.Namespace, wait: Callable[[], None]) -> None:
    x = clouds(args.shapes, args.points).to(args.device)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(args.device)

    def steps(how: Trained) -> Callable[[], None]:
        model = build(how.variant).to(args.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        generator = torch.Generator().manual_seed(0)

        def call() -> None:
            torch.set_float32_matmul_precision(how.products)
            for _ in range(args.steps):
                optimizer.zero_grad()
                model.loss(x, generator, noise=noise if how.paired else None).total.backward()
                optimizer.step()

        return call

    print(f"\n{args.shapes} shapes x {args.points} points, {args.steps} steps at once, median of {args.repeats}\n")
    print("| training | ms a step | steps a second | asked |\n|---|---|---|---|")
    found = in_turns({how.name: steps(how) for how in TRAINING}, args.repeats, wait)
    for name, seconds in found.items():
        step = seconds / args.steps
        print(f"| {name} | {1000 * step:.2f} | {1 / step:.0f} | {STEPS_ASKED.get(name, '')} |", flush=True)


def sample(model: PointFlow, z: torch.Tensor, points: int, how: Sampled) -> torch.Tensor:
    torch.set_float32_matmul_precision(how.products)
    solver = SolverConfig(SOLVER.method, steps=SOLVER.steps, precision=how.precision)
    replayed = inference.Replayed
    try:
        if not how.replayed:
            inference.Replayed = lambda function: function
        return model.decode(z, points, 0, solver=solver)
    finally:
        inference.Replayed = replayed


def sampling(args: argparse.Namespace, wait: Callable[[], None]) -> None:
    model = build("flow_matching").to(args.device).eval().requires_grad_(False)
    for parameter in model.point_flow.parameters():
        if parameter.dim() == 2:
            parameter *= 2  # or velocities would hardly bend
    z = torch.randn(args.samples, model.config.latent, generator=torch.Generator().manual_seed(0)).to(args.device)
    calls = {how.name: (lambda how=how: sample(model, z, args.points, how)) for how in SAMPLING}
    found = in_turns(calls, args.repeats, wait)
    few = {how.name: sample(model, z[:16], args.points, how).cpu().double() for how in SAMPLING}
    exact = sample(model.double(), z[:16].double(), args.points, Sampled("float64", False)).cpu()
    start = inference.point_noise(0, *exact.shape[:2]).double()
    print(
        f"\n{args.samples} shapes x {args.points} points, 20 evaluations, median of {args.repeats}; points move", end=""
    )
    print(f" {rms(exact - start):.3g}\n\n| sampling | s | asked | error |\n|---|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {seconds:.3f} | {SAMPLES_ASKED} | {rms(few[name] - exact):.1e} |", flush=True)


def rms(x: torch.Tensor) -> float:
    return float(x.square().sum(-1).mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", type=int, default=32, help="of a training batch")
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=1000, help="shapes to sample")
    parser.add_argument("--steps", type=int, default=20, help="timed at once")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("not run: no CUDA device")
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    training(args, wait)
    sampling(args, wait)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(f"\n{datetime.date.today()}, {name}, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
