"""A velocity network's evaluation by autograd, by torch.compile and by hand (pcgen/flows/fused.py), in one process.

    python benchmarks/compiled.py [--repeats 15] [--threads 1]

The networks of the laptop's configurations and of the paper, forward and backward (a training step's share) and forward
alone (a sampler's), variants in turns after two warm-ups, medians; with one thread seconds are CPU time. Needs a C++
compiler, as torch.compile does. The last columns are the gradients' relative distance from autograd's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from timing import in_turns
from torch import Tensor

from pcgen.flows import VelocityNet, fused
from pcgen.training.loop import keep_freed_memory

SIZES = ((256, 4, 16, 512), (512, 0, 4, 2048))  # width, octaves, shapes, points
Evaluation = Callable[[], Tensor]


def variants(net: VelocityNet, t: Tensor, x: Tensor, c: Tensor) -> dict[str, tuple[Evaluation, Evaluation]]:
    """(with gradients, without) of each."""

    def plain() -> Tensor:
        return net(t, x, net.modulation(c))

    compiled = torch.compile(plain)
    by_hand = lambda: fused.velocity(net, t, x, net.modulation(c))[0]  # noqa: E731
    without = lambda: fused.infer(net, t, x, net.modulation(c))[0]  # noqa: E731
    return {"autograd": (plain, plain), "torch.compile": (compiled, compiled), "by hand": (by_hand, without)}


def step(net: VelocityNet, evaluate: Evaluation) -> Tensor:
    """All gradients."""
    net.zero_grad(set_to_none=True)
    evaluate().square().mean().backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])


@torch.no_grad()
def forward(evaluate: Evaluation) -> Tensor:
    return evaluate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    print(f"{args.threads} threads, {torch.backends.cpu.get_cpu_capability()}, median of {args.repeats}\n")
    print("| network | | step, ms | forward, ms | gradient |\n|---|---|---|---|---|")
    for width, octaves, shapes, points in SIZES:
        torch.manual_seed(0)
        net = VelocityNet(3, (width,) * 3, 64, frequencies=octaves)
        given = torch.rand(shapes), torch.randn(shapes, points, 3), torch.randn(shapes, 64)
        found = variants(net, *given)
        gradients = {name: step(net, evaluate) for name, (evaluate, _) in found.items()}
        steps = in_turns(
            {name: lambda e=e, net=net: step(net, e) for name, (e, _) in found.items()}, args.repeats, warm_up=2
        )
        forwards = in_turns({name: lambda e=e: forward(e) for name, (_, e) in found.items()}, args.repeats, warm_up=2)
        for name, gradient in gradients.items():
            error = (gradient - gradients["autograd"]).norm() / gradients["autograd"].norm()
            cells = f"{1000 * steps[name]:.1f} | {1000 * forwards[name]:.1f} | {float(error):.1e}"
            print(f"| {width} wide, {shapes} × {points} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
