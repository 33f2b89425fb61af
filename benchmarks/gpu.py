"""The operations of pcgen.ops on a CUDA device, beside what the device can do at most.

    python benchmarks/gpu.py [--repeats R] [--skip-full]

Memory and arithmetic ceilings are measured in the same run, by a copy and by a loop of multiply-adds in float32. A row
is the median time of one operation on float32 clouds, the pairs of points it looks at in a second, the shares of the
ceilings that its least traffic (inputs and outputs, once) and its arithmetic come to, and its difference from the same
operation in float64, relative to the largest number there; the tests compare both with the definition. The last row
is a whole evaluation: Chamfer and `pointflow` distances within and between two sets of 405 clouds of 2048 points.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen import ops
from pcgen.ops import gpu

DISTANCE = 8  # operations for a squared distance and a minimum: 3 differences, a product, 2 multiply-adds
LEVEL = 11  # one sum of a level of the annealing: a distance, a product, an exponential not counted, a multiply-add
PLAN = 8 + 9 * 4 + 4  # the finished plan, exponentials and roots not counted


class Row(NamedTuple):
    """An operation on clouds, and what it has to do."""

    name: str
    run: Callable[..., Tensor]  # of the inputs
    inputs: tuple[Tensor, ...]
    pairs: float  # of points
    operations: float  # in float32, for each pair


def clouds(*shape: int) -> Tensor:
    """Points on spheres of radius ½."""
    x = torch.randn(*shape, 3, generator=torch.Generator().manual_seed(sum(shape)))
    return torch.nn.functional.normalize(x, dim=-1).cuda() / 2


def rows() -> list[Row]:
    x, y = clouds(100_000), clouds(100_001)[:100_000]
    X, Y = clouds(64, 2048), clouds(65, 2048)[:64]
    scan, sets = clouds(1_000_000), clouds(32, 8192)
    segments = torch.randint(0, 10_000, (len(scan),), generator=torch.Generator().manual_seed(0)).cuda()
    n, batch, matrix = 100_000**2, 64 * 2048**2, 64 * 64 * 2048**2
    annealing = 27 * LEVEL + PLAN
    return [
        Row("nearest, 100,000", lambda x, y: ops.nearest(x, y).distance, (x, y), n, DISTANCE),
        Row("nearest, 64 × 2048", lambda x, y: ops.nearest(x, y).distance, (X, Y), batch, DISTANCE),
        Row("torch.cdist and min, 64 × 2048", lambda x, y: torch.cdist(x, y).amin(-1), (X, Y), batch, DISTANCE),
        Row("chamfer, 64 × 2048", lambda x, y: ops.chamfer(x, y).value, (X, Y), 2 * batch, DISTANCE),
        Row("chamfer_matrix, 64 × 64", ops.chamfer_matrix, (X, Y), matrix, DISTANCE + 1),
        Row("emd pointflow, 64", lambda x, y: ops.emd(x, y, "pointflow").value, (X, Y), batch, annealing),
        Row("emd pvd, 64", lambda x, y: ops.emd(x, y, "pvd").value, (X, Y), batch, annealing + LEVEL * 3),
        Row("emd_matrix pointflow, 16 × 16", _pointflow_matrix, (X[:16], Y[:16]), matrix / 16, annealing),
        Row("emd sinkhorn, 16", lambda x, y: ops.emd(x, y, "sinkhorn", blur=0.05).value, (X[:16], Y[:16]), 0, 0),
        Row("knn, 100,000, k = 16", lambda x, y: ops.knn(x, y, 16).distance, (x, y), n, DISTANCE),
        Row("ball_query, 100,000, k = 32", lambda x, y: ops.ball_query(x, y, 0.02, 32).count, (x, y), n, DISTANCE),
        Row("farthest points, 100,000 → 2048", lambda x: ops.farthest_point_sampling(x, 2048), (x,), 2048e5, DISTANCE),
        Row(
            "farthest points, 32 × 8192 → 1024",
            lambda x: ops.farthest_point_sampling(x, 1024),
            (sets,),
            2**28,
            DISTANCE,
        ),
        Row(
            "segment_reduce sum, 1,000,000 × 3", lambda x: ops.segment_reduce(x, segments, 10_000).value, (scan,), 0, 0
        ),
        Row("segment_reduce max", lambda x: ops.segment_reduce(x, segments, 10_000, "max").value, (scan,), 0, 0),
        Row("voxel_groups, 1,000,000", lambda x: ops.voxel_groups(x, 0.02).counts, (scan,), 0, 0),
    ]


def _pointflow_matrix(X: Tensor, Y: Tensor) -> Tensor:
    return ops.emd_matrix(X, Y, "pointflow").value


def timed(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call on the device, after a first one that compiles."""
    run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times)


def ceilings(repeats: int) -> tuple[float, float]:
    """Bytes in a second of a copy, read and written, and float32 operations in a second."""
    x = torch.empty(2**28, device="cuda")
    y = torch.empty_like(x)
    memory = 2 * x.numel() * x.element_size() / timed(lambda: y.copy_(x), repeats)
    blocks, threads, steps = 16 * gpu.multiprocessors(x.device), 256, 2**14
    run = lambda: gpu.launch("ceiling", "multiply_add", blocks, threads, x, steps, 0.5)  # noqa: E731
    return memory, 2 * 8 * steps * blocks * threads / timed(run, repeats)


def line(row: Row, memory: float, arithmetic: float, repeats: int) -> str:
    seconds = timed(lambda: row.run(*row.inputs), repeats)
    result = row.run(*row.inputs)
    truth = row.run(*(x.double() for x in row.inputs)).double()
    error = ((result.double() - truth).abs().max() / truth.abs().max()).item() if len(result) == len(truth) else None
    traffic = sum(x.numel() * x.element_size() for x in (*row.inputs, result))
    cells = [
        row.name,
        f"{1000 * seconds:.3f}",
        f"{row.pairs / seconds:.2e}" if row.pairs else "",
        f"{traffic / seconds / memory:.1%}",
        f"{row.pairs * row.operations / seconds / arithmetic:.1%}" if row.pairs else "",
        "another number of them" if error is None else f"{error:.1e}",
    ]
    return f"| {' | '.join(cells)} |"


def evaluation() -> float:
    """Seconds for all distances of an evaluation of 405 clouds against 405."""
    samples, references = clouds(405, 2048), clouds(406, 2048)[:405]
    start = time.perf_counter()
    for left, right in ((references, references), (references, samples), (samples, samples)):
        ops.chamfer_matrix(left, right)
        _pointflow_matrix(left, right)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def commit() -> str:
    root = Path(__file__).parents[1]
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=root)
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-full", action="store_true", help="leave out the evaluation of 405 × 405 clouds")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("not run: no CUDA device")
    for server in ops.servers():
        print(f"{server.operation}: {server.cuda}")
    memory, arithmetic = ceilings(options.repeats)
    peak = 2 * 128 * gpu.multiprocessors(torch.device("cuda", 0))
    print(f"\ncopy {memory / 1e12:.2f} TB/s, multiply-adds {arithmetic / 1e12:.1f} TFLOP/s", end=" ")
    print(f"(128 a clock and multiprocessor at {arithmetic / peak / 1e9:.2f} GHz)\n")
    print("| operation | ms | pairs/s | of the copy | of the multiply-adds | against float64 |")
    print("|---|---|---|---|---|---|")
    for row in rows():
        print(line(row, memory, arithmetic, options.repeats), flush=True)
    if not options.skip_full:
        print(f"| Chamfer and pointflow, 3 × 405 × 405 | {1000 * evaluation():.0f} | | | | |")
    print(f"\n{datetime.date.today()}, {torch.cuda.get_device_name()}, PyTorch {torch.__version__}, commit {commit()}")


if __name__ == "__main__":
    main()
