"""What one can install today for each operation, at its best: built before, in the best of its variants.

A peer is a function of (x, y, threads), sets of clouds (S, N, 3) float32, that prepares what may be prepared and
returns a function without arguments, the part that is timed. A library that is not installed raises ImportError, which
the tables report.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import torch

Run = Callable[[], np.ndarray]
PAIRS = 8  # of slow peers: distances between 8 × 8 clouds stand for all


# Chamfer distances of all pairs, (S, R)


def chamfer_scipy(x, y, threads) -> Run:
    from scipy.spatial import cKDTree

    trees = [[cKDTree(cloud) for cloud in clouds] for clouds in (x, y)]

    def pair(index: tuple[int, int]) -> float:
        s, r = index
        there, back = trees[1][r].query(x[s])[0], trees[0][s].query(y[r])[0]
        return np.square(there).mean() + np.square(back).mean()

    def run() -> np.ndarray:
        with ThreadPoolExecutor(threads) as pool:
            values = list(pool.map(pair, product(range(len(x)), range(len(y))), chunksize=8))
        return np.array(values).reshape(len(x), len(y))

    return run


def chamfer_cdist(x, y, threads) -> Run:
    x, y = torch.from_numpy(x[:PAIRS]), torch.from_numpy(y[:PAIRS])

    def pair(a, b):
        d2 = torch.cdist(a, b).square()
        return d2.amin(1).mean() + d2.amin(0).mean()

    return lambda: torch.stack([torch.stack([pair(a, b) for b in y]) for a in x]).numpy()


def chamfer_keops(x, y, threads) -> Run:
    LazyTensor = _keops(threads)
    x, y = torch.from_numpy(x[:PAIRS]), torch.from_numpy(y[:PAIRS])

    def one_way(a, b):
        d2 = (LazyTensor(a[:, None, :, None]) - LazyTensor(b[None, :, None])).square().sum(-1)
        return d2.min(dim=3).squeeze(-1).mean(-1)

    return lambda: (one_way(x, y) + one_way(y, x).T).numpy()


def chamfer_open3d(x, y, threads) -> Run:
    import open3d.core as o3c

    def search(cloud):
        tree = o3c.nns.NearestNeighborSearch(o3c.Tensor(cloud))
        tree.knn_index()
        return tree

    x, y = x[:PAIRS], y[:PAIRS]
    trees = [[search(cloud) for cloud in clouds] for clouds in (x, y)]
    queries = [[o3c.Tensor(cloud) for cloud in clouds] for clouds in (x, y)]

    def one_way(tree, points):
        return tree.knn_search(points, 1)[1].numpy().mean()

    def run() -> np.ndarray:
        values = [
            one_way(trees[1][r], queries[0][s]) + one_way(trees[0][s], queries[1][r])
            for s, r in product(range(len(x)), range(len(y)))
        ]
        return np.array(values).reshape(len(x), len(y))

    return run


# Nearest neighbours of one large pair, distances (N,); everything is built within the time


def nearest_scipy(x, y, threads) -> Run:
    from scipy.spatial import cKDTree

    return lambda: cKDTree(y[0]).query(x[0], workers=threads)[0]


def nearest_scipy_unbalanced(x, y, threads) -> Run:
    from scipy.spatial import cKDTree

    return lambda: cKDTree(y[0], balanced_tree=False, compact_nodes=False).query(x[0], workers=threads)[0]


def nearest_open3d(x, y, threads) -> Run:
    import open3d.core as o3c

    def run() -> np.ndarray:
        tree = o3c.nns.NearestNeighborSearch(o3c.Tensor(y[0]))
        tree.knn_index()
        return np.sqrt(tree.knn_search(o3c.Tensor(x[0]), 1)[1].numpy()[:, 0])

    return run


def nearest_keops(x, y, threads) -> Run:
    LazyTensor = _keops(threads)
    a, b = torch.from_numpy(x[0]), torch.from_numpy(y[0])
    d2 = (LazyTensor(a[:, None]) - LazyTensor(b[None])).square().sum(-1)
    return lambda: d2.min(dim=1).sqrt().squeeze(-1).numpy()


def nearest_sklearn(x, y, threads) -> Run:
    from sklearn.neighbors import KDTree

    return lambda: KDTree(y[0]).query(x[0])[0][:, 0]


# Exact earth mover's distance of single pairs, ()


def exact_scipy(x, y, threads) -> Run:
    from scipy.optimize import linear_sum_assignment

    cost = _costs(x, y)
    return lambda: cost[linear_sum_assignment(cost)].mean()


def exact_pot(x, y, threads) -> Run:
    import ot

    cost = _costs(x, y)
    weight = np.full(len(cost), 1 / len(cost))
    return lambda: np.asarray(
        ot.emd2(weight, weight, cost, numItermax=10_000_000, center_dual=False, numThreads=threads)
    )


def exact_lapx(x, y, threads) -> Run:
    import lap

    cost = _costs(x, y)
    return lambda: np.asarray(lap.lapjv(cost)[0] / len(cost))


# Sinkhorn divergence of a pair, ()


def sinkhorn_geomloss(blur: float):
    def prepare(x, y, threads) -> Run:
        from geomloss import SamplesLoss

        loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=0.9, backend="tensorized")
        a, b = torch.from_numpy(x[0]), torch.from_numpy(y[0])
        return lambda: loss(a, b).numpy()

    return prepare


# Farthest point sampling, indices (count,)


def farthest_fpsample(name: str, count: int, **options):
    def prepare(x, y, threads) -> Run:
        import fpsample

        return lambda: np.asarray(getattr(fpsample, name)(x[0], count, **options)).astype(np.int64)

    return prepare


# k nearest neighbours of a cloud in itself, distances (N, k)


def knn_scipy(k: int):
    def prepare(x, y, threads) -> Run:
        from scipy.spatial import cKDTree

        return lambda: cKDTree(x[0]).query(x[0], k=k, workers=threads)[0]

    return prepare


def knn_open3d(k: int):
    def prepare(x, y, threads) -> Run:
        import open3d.core as o3c

        def run() -> np.ndarray:
            points = o3c.Tensor(x[0])
            tree = o3c.nns.NearestNeighborSearch(points)
            tree.knn_index()
            return np.sqrt(tree.knn_search(points, k)[1].numpy())

        return run

    return prepare


def ball_open3d(radius: float, k: int):
    def prepare(x, y, threads) -> Run:
        import open3d.core as o3c

        def run() -> np.ndarray:
            points = o3c.Tensor(x[0])
            tree = o3c.nns.NearestNeighborSearch(points)
            tree.hybrid_index(radius)
            return tree.hybrid_search(points, radius, k)[2].numpy().reshape(-1)

        return run

    return prepare


def ball_scipy(radius: float, k: int):
    def prepare(x, y, threads) -> Run:
        from scipy.spatial import cKDTree

        def run() -> np.ndarray:
            distance, _ = cKDTree(x[0]).query(x[0], k=k, distance_upper_bound=radius, workers=threads)
            return np.isfinite(distance).sum(1)

        return run

    return prepare


# Reductions over segments, (segments, channels); `values` and `segments` are handed over as x and y


def segments_torch(reduce: str):
    def prepare(values, segments, threads) -> Run:
        values, segments = torch.from_numpy(values), torch.from_numpy(segments)
        count, rows = int(segments.max()) + 1, segments[:, None].expand_as(values)
        if reduce == "sum":
            return lambda: values.new_zeros(count, values.shape[1]).index_add(0, segments, values).numpy()
        return lambda: values.new_zeros(count, values.shape[1]).scatter_reduce(
            0, rows, values, "amax", include_self=False
        ).numpy()  # fmt: skip

    return prepare


def segments_scatter(reduce: str):
    def prepare(values, segments, threads) -> Run:
        import torch_scatter

        values, segments = torch.from_numpy(values), torch.from_numpy(segments)
        function = torch_scatter.scatter_sum if reduce == "sum" else lambda *a: torch_scatter.scatter_max(*a)[0]
        return lambda: function(values, segments, 0).numpy()

    return prepare


# Voxels of a cloud, numbers of points (V,)


def voxels_numpy(size: float):
    def prepare(x, y, threads) -> Run:
        return lambda: np.unique(np.floor(x[0] / np.float32(size)), axis=0, return_inverse=True, return_counts=True)[2]

    return prepare


def voxels_open3d(size: float):
    def prepare(x, y, threads) -> Run:
        import open3d as o3d

        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(x[0].astype(np.float64)))
        low = np.floor(x[0].min(0) / size).astype(np.float64) * size

        def run() -> np.ndarray:
            groups = cloud.voxel_down_sample_and_trace(size, low, low + 1e4 * size)[2]
            return np.array([len(group) for group in groups])

        return run

    return prepare


def _costs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(x[0].astype(np.float64), y[0].astype(np.float64))


def _keops(threads: int):
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import pykeops

    pykeops.set_verbose(False)
    from pykeops.torch import LazyTensor

    return LazyTensor
