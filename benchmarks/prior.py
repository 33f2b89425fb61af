"""What the latent flow loses of a trained encoder's codes: widths, depths, batches and optimisers, on the same codes.

    python benchmarks/prior.py runs/bricks [--steps 3000] [--variants "256 x 2, 16" "256 x 4, 128"]

Each variant is a fresh latent flow, trained as ``pcgen train`` trains it in the prior's stage: on the posteriors of 16
draws of each training shape's points. Then, with its averaged weights: the error of its velocity on training codes and
on codes of shapes that training has not seen (val and test), and 1-NNA of generated against unseen codes by Euclidean
distance, its mean over ``--sets`` draws, beside that of training codes. Read the two together: 1-NNA is 0.5 where
nobody tells the sets apart, but also where one lies all around the other, as an untrained flow's does. Conditions are
left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from real import unseen_of
from torch import Tensor

from pcgen.config import from_dict, read_yaml
from pcgen.data import load
from pcgen.flows import Flow, FlowConfig, SolverConfig, flow_matching_error, stratified_times
from pcgen.training import RunConfig, TrainingConfig, find_checkpoint, load_model, new_optimizer
from pcgen.training.kept import KeptPosteriors
from pcgen.training.noise import step_noise
from pcgen.training.state import Ema, Stage

MUON, ADAM = TrainingConfig(optimizer="muon", lr=8e-3), TrainingConfig(lr=1e-3)


class Variant(NamedTuple):
    """A latent flow and how it is trained."""

    dims: tuple[int, ...]
    batch: int  # codes of a step
    draws: int  # pairs of noise and moment for each
    optimizer: TrainingConfig = MUON


VARIANTS = {
    "256 x 2, 16": Variant((256,) * 2, 16, 16),
    "256 x 2, 128": Variant((256,) * 2, 128, 8),
    "256 x 4, 128": Variant((256,) * 4, 128, 8),
    "256 x 6, 128": Variant((256,) * 6, 128, 8),
    "512 x 3, 128": Variant((512,) * 3, 128, 8),
    "512 x 3, 128, Adam": Variant((512,) * 3, 128, 8, ADAM),
}
HELD = 32  # pairs of noise and moment for each code that an error is measured on


class Codes(NamedTuple):
    """Codes of shapes, drawn as training draws them."""

    kept: KeptPosteriors
    shapes: int

    def of(self, index: Sequence[int], seed: int, step: int) -> Tensor:
        """A code (B, 1, Z) of each of these shapes."""
        return self.kept.codes(index, step_noise(seed, 0, step, range(len(index)))).unsqueeze(1)

    def some(self, count: int, seed: int) -> Tensor:
        """Codes of so many different shapes, or of all."""
        return self.of(np.random.default_rng(seed).permutation(self.shapes)[:count].tolist(), seed, 0)


def codes_of(folder: Path) -> tuple[Codes, Codes]:
    """Those of the training shapes, and of the unseen ones."""
    found = find_checkpoint(folder)
    config, encoder = from_dict(RunConfig, read_yaml(found / "config.yaml")), load_model(found).encoder
    shapes = load(config.data)
    sets = ((shapes.train, 0), (unseen_of(shapes), 1))
    train, held = (
        Codes(KeptPosteriors(encoder, replace(shapes, train=split), config.data, seed), len(split))
        for split, seed in sets
    )
    return train, held


def error(flow: Flow, z: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity on paths from codes z (B, 1, Z)."""
    s = stratified_times(len(z), draws, generator).reshape(-1)
    z = z.repeat_interleave(draws, 0)
    return flow_matching_error(flow, z, None, torch.randn(z.shape, generator=generator), s).mean()


def train(variant: Variant, codes: Codes, latent: int, steps: int, decay: float = 0.999) -> Flow:
    """A latent flow after so many steps, with its averaged weights."""
    torch.manual_seed(0)
    flow = Flow(latent, 0, FlowConfig(variant.dims, train_time=False, norm="frozen"))
    optimizer = new_optimizer([p for p in flow.parameters() if p.requires_grad], variant.optimizer)
    average, generator = Ema(flow, decay), torch.Generator().manual_seed(0)
    stage = Stage(0, 1, steps, variant.batch, prior_only=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = variant.optimizer.lr * stage.rate(0, step, 0)
        index = torch.randint(codes.shapes, (variant.batch,), generator=generator).tolist()
        optimizer.zero_grad()
        error(flow, codes.of(index, 0, step), variant.draws, generator).backward()
        optimizer.step()
        average.update(flow)
    flow.load_state_dict(average.state)
    return flow.eval()


def one_nna(a: Tensor, b: Tensor) -> float:
    """1-NNA of two sets of codes (S, 1, Z) by Euclidean distance."""
    both, first = torch.cat([a, b]).squeeze(1), torch.arange(len(a) + len(b)) < len(a)
    apart = torch.cdist(both, both).fill_diagonal_(torch.inf)
    return float((first[apart.argmin(1)] == first).double().mean())


@torch.no_grad()
def report(name: str, flow: Flow, train: Codes, unseen: Codes, sets: int, milliseconds: float) -> None:
    generator = torch.Generator().manual_seed(7)
    errors = [float(error(flow, codes.some(unseen.shapes, 5), HELD, generator)) for codes in (train, unseen)]
    found = []
    for seed in range(sets):
        real = unseen.some(unseen.shapes, 100 + seed)
        y = torch.randn(real.shape, generator=generator)
        found.append(one_nna(flow.from_prior(y, solver=SolverConfig("rk4", steps=12)).x, real))
    print(f"| {name} | {milliseconds:.0f} | {errors[0]:.4f} | {errors[1]:.4f} | {np.mean(found):.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--sets", type=int, default=5)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    training, unseen = codes_of(args.run)
    pairs = ((training.some(unseen.shapes, seed), unseen.some(unseen.shapes, 100 + seed)) for seed in range(args.sets))
    floor = np.mean([one_nna(*pair) for pair in pairs])
    print(f"{training.shapes} training codes, {unseen.shapes} unseen; 1-NNA of training codes {floor:.3f}\n")
    print("| hidden layers, batch | CPU ms a step | error, training | unseen | 1-NNA |\n|---|---|---|---|---|")
    for name in args.variants:
        start = time.process_time()
        flow = train(VARIANTS[name], training, training.some(1, 0).shape[-1], args.steps)
        report(name, flow, training, unseen, args.sets, 1e3 * (time.process_time() - start) / args.steps)


if __name__ == "__main__":
    main()
