"""The kd coupling: a pairing of the two sets, near to the optimal one, that says nothing of time."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from pcgen.flows import kd_coupling


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
