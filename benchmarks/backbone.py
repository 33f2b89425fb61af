"""Seconds and memory of PolarMask3D's backbone: a whole scan at inference, and a training step on a crop of it.

    python benchmarks/backbone.py [--points 400000] [--crop 40000] [--voxel 0.05] [--threads N]

The scan is `shared/data/segmentation/indoor/house.ply` beside the repository, or, where that is absent, a room of boxes
with as many points. The same scan took a PointNet++/PointNeXt-like U-shape 4.9 times as long, and a training step 4.2
times; `pcgen/models/backbone.py` has the figures by which the voxels were chosen.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pcgen.data.ply import read_ply
from pcgen.models.backbone import Backbone, BackboneConfig
from pcgen.models.sparse import voxel_pyramid

HOUSE = Path(__file__).parents[2] / "shared" / "data" / "segmentation" / "indoor" / "house.ply"
INPUTS = 5


def scan(points: int) -> tuple[str, Tensor]:
    """A name and points (N, 3) float32, metres."""
    if HOUSE.is_file():
        vertex = read_ply(HOUSE)["vertex"]
        x = torch.from_numpy(np.stack([vertex[axis] for axis in "xyz"], 1)).float()
        return "house.ply", x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:points]]
    draw = torch.Generator().manual_seed(0)
    corner, size = (torch.rand(1, 60, 3, generator=draw) * scale for scale in (10.0, 2.0))
    x = torch.rand(points, 60, 3, generator=draw)[:, 0]
    box = torch.randint(0, 60, (points,), generator=draw)
    side = torch.randint(0, 3, (points,), generator=draw)
    x[torch.arange(points), side] = x[torch.arange(points), side].round()
    return "boxes", corner[0, box] + size[0, box] * x


def median(run: Callable[[], object], repeats: int) -> float:
    """Seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=400_000)
    parser.add_argument("--crop", type=int, default=40_000)
    parser.add_argument("--voxel", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = BackboneConfig(voxel=args.voxel)
    backbone = Backbone(INPUTS, config)
    name, x = scan(args.points)

    def features(cloud: Tensor) -> Tensor:
        _, levels = voxel_pyramid(cloud, config.voxel, len(config.widths))
        return backbone(levels, cloud.new_ones(len(levels[0].cells), INPUTS))

    def train(cloud: Tensor) -> None:
        backbone.zero_grad()
        features(cloud).square().mean().backward()

    with torch.no_grad():
        whole = median(lambda: features(x), args.repeats)
        pyramid = median(lambda: voxel_pyramid(x, config.voxel, len(config.widths)), args.repeats)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    crop = x[(x - x.mean(0)).norm(dim=1).argsort()[: args.crop]]
    step = median(lambda: train(crop), args.repeats)
    voxels = len(voxel_pyramid(x, config.voxel, 1)[1][0].cells)
    weights = sum(parameter.numel() for parameter in backbone.parameters())
    print(
        f"{name}, voxels of {config.voxel} m, {args.threads} threads, torch {torch.__version__}, {weights:,} weights\n"
    )
    print("| what | seconds |\n|---|---|")
    print(f"| {len(x):,} points, {voxels:,} voxels, inference | {whole:.2f} |")
    print(f"| of that the voxels and their neighbours | {pyramid:.2f} |")
    print(f"| {len(crop):,} points, forward and backward | {step:.2f} |")
    print(f"\npeak memory of inference, interpreter included: {memory:.2f} GB")


if __name__ == "__main__":
    main()
