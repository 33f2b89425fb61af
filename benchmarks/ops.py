"""Every operation of pcgen.ops beside what one can install for the same, on the same inputs, in one run.

    python benchmarks/ops.py [--only NAME …] [--threads N] [--repeats R] [--points N] [--scan N] [--markdown]

A row is one operation on one set of clouds: our median time, the best peer and its median, the ratio, and the error of
both against a float64 result got in another way. The variants take turns. Peers that are not installed are named at the
end. EMD rows and farthest point sampling run on one thread, as no peer can use more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

import clouds
import peers

from pcgen import ops
from pcgen.ops import reference
from pcgen.ops.clouds import clouds as spanned

K, RADIUS, NEIGHBOURS, COUNT, VOXEL, BLUR = 16, 0.02, 32, 2048, 0.02, 0.05


class Case(NamedTuple):
    """One operation: ours and the peers, as functions of (x, y, threads) that return the function to be timed."""

    name: str
    inputs: str  # which sets: shapes, pairs (single shapes), degenerate, scans, rows
    ours: Callable
    truth: Callable | None
    peers: dict[str, Callable]
    one_thread: bool = False


def ours(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable:
    """A function of tensors as a function that prepares a run."""

    def prepare(x, y, threads):
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        return lambda: function(x, y).numpy()

    return prepare


def doubled(function: Callable) -> Callable:
    """The same in float64, by the definitions in plain PyTorch."""

    def prepare(x, y, threads):
        return function(torch.from_numpy(x).double(), torch.from_numpy(y).double())

    return prepare


def annealed_truth(variant: str) -> Callable:
    def prepare(x: torch.Tensor, y: torch.Tensor) -> Callable:
        left, right = spanned("x", x), spanned("y", y)
        return lambda: reference.annealed(left.points, left.spans, right.points, right.spans, variant == "pvd")[
            0
        ].numpy()

    return doubled(prepare)


CASES = (
    Case(
        "chamfer_matrix",
        "shapes",
        ours(ops.chamfer_matrix),
        peers.chamfer_scipy,
        {
            "SciPy cKDTree, built before": peers.chamfer_scipy,
            "torch.cdist": peers.chamfer_cdist,
            "KeOps": peers.chamfer_keops,
            "Open3D, built before": peers.chamfer_open3d,
        },
    ),
    Case(
        "nearest",
        "scans",
        ours(lambda x, y: ops.nearest(x[0], y[0]).distance.sqrt()),
        peers.nearest_scipy,
        {
            "SciPy cKDTree": peers.nearest_scipy,
            "SciPy cKDTree, unbalanced": peers.nearest_scipy_unbalanced,
            "scikit-learn KDTree": peers.nearest_sklearn,
            "Open3D": peers.nearest_open3d,
            "KeOps (brute force)": peers.nearest_keops,
        },
    ),
    *(
        Case(
            f"emd {variant}",
            "pairs",
            ours(lambda x, y, variant=variant: ops.emd(x[0], y[0], variant).value),
            annealed_truth(variant),
            {"SciPy assignment (exact)": peers.exact_scipy},
            one_thread=True,
        )
        for variant in ("pointflow", "pvd")
    ),
    *(
        Case(
            name,
            inputs,
            ours(lambda x, y, tolerance=tolerance: ops.emd(x[0].double(), y[0].double(), tolerance=tolerance).value),
            peers.exact_scipy,
            {"POT emd2": peers.exact_pot, "SciPy": peers.exact_scipy, "lapx": peers.exact_lapx},
            one_thread=True,
        )
        for name, inputs, tolerance in (
            ("emd exact, gap 0", "pairs", 0.0),
            ("emd exact, gap 0.1 %", "pairs", 1e-3),
            ("emd exact, gap 0, degenerate", "degenerate", 0.0),
        )
    ),
    Case(
        "emd sinkhorn",
        "pairs",
        ours(lambda x, y: ops.emd(x[0], y[0], "sinkhorn", blur=BLUR, power=2, scaling=0.9).value),
        None,
        {"geomloss, tensorized": peers.sinkhorn_geomloss(BLUR)},
    ),
    Case(
        "farthest_point_sampling",
        "scans",
        ours(lambda x, y: ops.farthest_point_sampling(x[0], COUNT)),
        None,
        {
            "fpsample kdline h=7": peers.farthest_fpsample("bucket_fps_kdline_sampling", COUNT, h=7, start_idx=0),
            "fpsample kdline h=9": peers.farthest_fpsample("bucket_fps_kdline_sampling", COUNT, h=9, start_idx=0),
            "fpsample kdline h=5": peers.farthest_fpsample("bucket_fps_kdline_sampling", COUNT, h=5, start_idx=0),
            "fpsample kdtree": peers.farthest_fpsample("bucket_fps_kdtree_sampling", COUNT, start_idx=0),
        },
        one_thread=True,
    ),
    Case(
        f"knn, k = {K}",
        "scans",
        ours(lambda x, y: ops.knn(x[0], x[0], K).distance.sqrt()),
        peers.knn_scipy(K),
        {"SciPy cKDTree": peers.knn_scipy(K), "Open3D": peers.knn_open3d(K)},
    ),
    Case(
        f"ball_query, r = {RADIUS}, k = {NEIGHBOURS}",
        "scans",
        ours(lambda x, y: ops.ball_query(x[0], x[0], RADIUS, NEIGHBOURS).count),
        peers.ball_scipy(RADIUS, NEIGHBOURS),
        {"SciPy cKDTree": peers.ball_scipy(RADIUS, NEIGHBOURS), "Open3D": peers.ball_open3d(RADIUS, NEIGHBOURS)},
    ),
    *(
        Case(
            f"segment_reduce, {reduce}",
            "rows",
            ours(lambda x, y, reduce=reduce: ops.segment_reduce(x, y, reduce=reduce).value),
            None,
            {"torch": peers.segments_torch(reduce), "torch-scatter": peers.segments_scatter(reduce)},
        )
        for reduce in ("sum", "max")
    ),
    Case(
        "voxel_groups",
        "scans",
        ours(lambda x, y: ops.voxel_groups(x[0], VOXEL).counts),
        None,
        {"numpy.unique": peers.voxels_numpy(VOXEL), "Open3D": peers.voxels_open3d(VOXEL)},
    ),
)


def rows() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A million features and their segments."""
    random = np.random.default_rng(3)
    segments = random.integers(0, 10_000, 1_000_000)
    values = {c: random.standard_normal((len(segments), c)).astype(np.float32) for c in (1, 16)}
    return {
        f"{channels} channels, {order}": (values[channels], np.sort(segments) if order == "sorted" else segments)
        for channels in values
        for order in ("unsorted", "sorted")
    }


def difference(result: np.ndarray, truth: np.ndarray) -> float:
    """Relative to the largest entry; of slow peers, which compute a part, on that part."""
    truth = truth[tuple(map(slice, result.shape))]
    return float(np.abs(result - truth).max() / max(np.abs(truth).max(), 1e-300))


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, np.asarray(result, np.float64)


def measure(case: Case, x: np.ndarray, y: np.ndarray, threads: int, repeats: int, missing: set[str]) -> dict:
    """Median time per pair, and relative error, of ours ("pcgen") and of every peer that is there."""
    runs = {"pcgen": case.ours(x, y, threads)}
    for name, prepare in case.peers.items():
        try:
            runs[name] = prepare(x, y, threads)
        except ImportError as error:
            missing.add(f"{name} ({error.name or error})")
    truth = case.truth and np.asarray(case.truth(x.astype(np.float64), y.astype(np.float64), threads)(), np.float64)
    times: dict[str, list[float]] = {name: [] for name in runs}
    errors = {}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            if turn > 1 and times[name][-1] > 2:  # slow ones are timed once after their warm-up
                continue
            seconds, result = timed(run)
            errors[name] = None if truth is None else difference(result, truth)
            if turn or seconds > 20:
                times[name].append(seconds / max(result.size if case.inputs == "shapes" else 1, 1))
    return {name: (statistics.median(times[name]), errors[name]) for name in runs}


def line(case: Case, kind: str, found: dict) -> tuple:
    others = {name: value for name, value in found.items() if name != "pcgen"}
    best = min(others, key=lambda name: others[name][0], default=None)
    seconds, error = found["pcgen"]
    cells = [case.name, kind, f"{1e3 * seconds:.3g} ms", _error(error)]
    if best is None:
        return (*cells, "none installed", "", "", "")
    return (
        *cells,
        best,
        f"{1e3 * others[best][0]:.3g} ms",
        _error(others[best][1]),
        f"{others[best][0] / seconds:.1f} ×",
    )


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="NAME", help="operations whose name contains one of these"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--points", type=int, default=2048, help="of the small clouds")
    parser.add_argument("--clouds", type=int, default=64, help="on each side of a matrix")
    parser.add_argument("--scan", type=int, default=100_000, help="points of the large clouds")
    parser.add_argument("--all", action="store_true", help="a line for every peer, not for the best alone")
    arguments = parser.parse_args()
    chosen = [case for case in CASES if not arguments.only or any(name in case.name for name in arguments.only)]
    shapes = clouds.shapes(arguments.clouds, arguments.points)
    sets = {
        "shapes": shapes,
        "pairs": {name: (x[:1], y[:1]) for name, (x, y) in shapes.items()},
        "degenerate": clouds.degenerate(arguments.points),
        "scans": clouds.scans(arguments.scan),
        "rows": rows(),
    }
    warnings.simplefilter("ignore")
    missing: set[str] = set()
    header = ("operation", "on", "pcgen", "error", "best peer", "time", "error", "ratio")
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for case in chosen:
        threads = 1 if case.one_thread else arguments.threads
        torch.set_num_threads(threads)
        for kind, (x, y) in sets[case.inputs].items():
            found = measure(case, x, y, threads, arguments.repeats, missing)
            print("| " + " | ".join(line(case, kind, found)) + " |", flush=True)
            if arguments.all:
                for name, (seconds, error) in found.items():
                    print(f"|  |  |  |  | {name} | {1e3 * seconds:.3g} ms | {_error(error)} |  |", flush=True)
    if missing:
        print("\nnot installed: " + "; ".join(sorted(missing)))


if __name__ == "__main__":
    main()
