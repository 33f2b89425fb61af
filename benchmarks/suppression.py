"""How long suppression of many overlapping stars takes, and whether it keeps what comparing all pairs keeps.

    python benchmarks/suppression.py [--objects 2000] [--copies 50] [--rays fibonacci-96] [--threshold 0.5]
        [--stardist 10 40 160]

The scene: random stars in a box, a few touching, each in jittered copies with scores. ``star_nms`` on all of them; on a
twentieth of them also against the greedy rule over the overlaps of all pairs. StarDist, where it is installed, gets the
first few objects with all their copies, and is extrapolated by the number of candidates. Seconds are of CPU time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from pcgen.geometry.overlap import star_overlap
from pcgen.geometry.rays import Rays, rays
from pcgen.geometry.suppression import star_nms


def scene(v: Rays, objects: int, copies: int, jitter: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centres, lengths and scores of jittered copies of smooth random stars of mean length about 1."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    waves = torch.sin(2 * noise(objects, 3, 3) @ v.directions.T.float() + 6 * noise(objects, 3, 1)).sum(1)
    size = (0.2 * noise(objects, 1)).exp()
    lengths = size[:, None] * (1 + 0.12 * waves)[:, None] * (1 + jitter * noise(objects, copies, len(v)))
    side = (objects * 8) ** (1 / 3)
    centres = side * torch.rand(objects, 1, 3, generator=generator) + jitter * noise(objects, copies, 3)
    order = torch.randperm(objects * copies, generator=generator)
    scores = torch.rand(objects * copies, generator=generator)
    return centres.reshape(-1, 3)[order], lengths.clamp_min(0.05).reshape(-1, len(v))[order], scores


def exhaustive(
    v: Rays, centres: torch.Tensor, lengths: torch.Tensor, scores: torch.Tensor, threshold: float
) -> list[int]:
    """The greedy rule over the IoU of all pairs, row by row, at the quadrature's default accuracy."""
    order = scores.sort(descending=True, stable=True).indices
    centres, lengths = centres[order], lengths[order]
    alive, kept = torch.ones(len(order), dtype=torch.bool), []
    reach = lengths.amax(1)
    for i in range(len(order)):
        if not alive[i]:
            continue
        kept.append(i)
        after = torch.arange(i + 1, len(order))
        # Stars whose balls are apart share nothing: that alone is not computed.
        after = after[(centres[after] - centres[i]).norm(dim=1) < reach[after] + reach[i]]
        iou = star_overlap(v, centres, lengths, torch.stack([torch.full_like(after, i), after], 1)).iou
        alive[after[iou > threshold]] = False
    return order[kept].tolist()


def stardist(v: Rays, centres: torch.Tensor, lengths: torch.Tensor, scores: torch.Tensor, threshold: float) -> float:
    """Seconds of CPU that StarDist's own suppression takes; it wants polyhedra in pixels, z first."""
    from stardist.nms import non_maximum_suppression_3d_sparse
    from stardist.rays3d import Rays_Explicit

    theirs = Rays_Explicit(v.directions[:, [2, 1, 0]].numpy(), v.faces.numpy())
    points = 20 * (centres - centres.amin(0))[:, [2, 1, 0]]
    start = time.process_time()
    non_maximum_suppression_3d_sparse(
        (20 * lengths).numpy().astype(np.float32),
        scores.numpy(),
        points.numpy().round().astype(int),
        theirs,
        nms_thresh=threshold,
    )
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--rays", default="fibonacci-96")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--stardist", type=int, nargs="*", default=[10, 40, 160], help="objects")
    args = parser.parse_args()
    v = rays(args.rays)
    print(f"{torch.get_num_threads()} threads, {v.name}, IoU {args.threshold}")
    for jitter in (0.03, 0.1):
        stars = scene(v, args.objects, args.copies, jitter)
        star_nms(v, *(x[:100] for x in stars))  # tables are made once
        start, cpu = time.perf_counter(), time.process_time()
        kept = star_nms(v, *stars, args.threshold)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"jitter {jitter}: {len(stars[0])} stars, {seconds:.2f} s ({cpu:.2f} s of CPU), {len(kept)} kept")
        few = scene(v, max(1, args.objects // 20), args.copies, jitter)
        same = star_nms(v, *few, args.threshold).tolist() == (every := exhaustive(v, *few, args.threshold))
        print(f"  {len(few[0])} stars: {'the same' if same else 'not the same'} {len(every)} as from all pairs")
        for objects in args.stardist:
            some = scene(v, objects, args.copies, jitter)
            try:
                seconds = stardist(v, *some, args.threshold)
            except ImportError as error:
                print(f"  stardist: not measured ({error})")
                break
            whole = seconds * len(stars[0]) / len(some[0])
            print(f"  stardist, {len(some[0])} stars: {seconds:.2f} s, at this rate {whole:.0f} s for all", flush=True)


if __name__ == "__main__":
    main()
