"""The kd coupling: a pairing of the two sets, near to the optimal one, that says nothing of time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from pcgen.flows import exact_coupling, kd_coupling


def rows(x):
    """The points of a set, in an order of their own."""
    return sorted(map(tuple, x.tolist()))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 70), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_both_sets_are_permuted(points, shapes, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shapes, points, dim, generator=generator)
    e = torch.randn(shapes, points, dim, generator=generator)
    a, b = kd_coupling(x, e)
    for before, after in ((x, a), (e, b)):
        assert all(rows(u) == rows(v) for u, v in zip(before, after))


def test_shapes_do_not_mix_and_order_of_input_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    x, e = torch.randn(2, 3, 64, 3, generator=generator, dtype=torch.float64)
    a, b = kd_coupling(x, e)
    for i in range(3):
        alone = kd_coupling(x[i : i + 1], e[i : i + 1])
        assert torch.equal(alone[0][0], a[i]) and torch.equal(alone[1][0], b[i])
    shuffled = kd_coupling(x[:, torch.randperm(64, generator=generator)], e[:, torch.randperm(64, generator=generator)])
    assert torch.equal(shuffled[0], a) and torch.equal(shuffled[1], b)


def test_on_a_line_it_is_the_optimal_assignment():
    generator = torch.Generator().manual_seed(1)
    x, e = torch.randn(2, 1, 33, 1, generator=generator, dtype=torch.float64)
    a, b = kd_coupling(x, e)
    costs = torch.cdist(x[0], e[0]).square().numpy()
    assert abs(float((a - b).square().sum()) - costs[linear_sum_assignment(costs)].sum()) < 1e-9


def test_paths_are_nearly_as_short_as_they_can_be():
    generator = torch.Generator().manual_seed(2)
    x, e = torch.randn(2, 1, 256, 3, generator=generator, dtype=torch.float64)
    a, b = kd_coupling(x, e)
    costs = torch.cdist(x[0], e[0]).square().numpy()
    best = costs[linear_sum_assignment(costs)].mean()
    independent = float((x - e).square().sum(-1).mean())
    cost = float((a - b).square().sum(-1).mean())
    assert best <= cost < min(3.5 * best, independent / 4)


@pytest.mark.parametrize("points", [255, 257, 300, 367, 509, 768])
def test_no_number_of_points_is_paired_worse_than_the_power_of_two_below(points):
    """Primes and odd numbers too: halves need not be equal."""

    def cost(points):
        x, e = torch.randn(2, 8, points, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        a, b = kd_coupling(x, e)
        return float((a - b).square().mean())

    assert cost(points) < 1.05 * cost(2 ** (points.bit_length() - 1))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.0, 0.01, 0.1]), st.integers(0, 99))
def test_exact_pairs_cost_the_least(points, shapes, dim, tolerance, seed):
    generator = torch.Generator().manual_seed(seed)
    x, e = torch.randn(2, shapes, points, dim, generator=generator, dtype=torch.float64)
    a, b = exact_coupling(x, e, tolerance)
    assert torch.equal(a, x)
    for u, v, w in zip(x, e, b):
        assert rows(v) == rows(w)
        costs = torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
        best = costs[linear_sum_assignment(costs)].sum()
        assert float((u - w).square().sum()) <= best / (1 - tolerance) * (1 + 1e-9) + 1e-12


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_large_sets_are_paired_in_parts_each_by_itself(points, most, seed):
    x, e = torch.randn(2, 2, points, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    _, paired = exact_coupling(x, e, most=most)
    parts = -(-points // most)
    for i in range(parts):
        part = slice(i, None, parts)
        assert paired[:, part].shape[1] <= most
        assert torch.equal(paired[:, part], exact_coupling(x[:, part], e[:, part])[1])


def test_exact_pairs_undo_a_small_displacement():
    generator = torch.Generator().manual_seed(3)
    grid = torch.cartesian_prod(*3 * [torch.arange(4.0)])[None]
    moved = grid + 0.3 * torch.rand(grid.shape, generator=generator)
    assert torch.equal(exact_coupling(grid, moved[:, torch.randperm(64, generator=generator)])[1], moved)
