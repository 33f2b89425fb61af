"""Polar IoU: exact intersections of polyhedra and polygons, gradients, masks; centerness by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from pcgen.geometry import centerness, icosphere, inside, polar_iou, polar_iou_loss, rays, volume

KINDS = ["linear", "cubic", "triangulated"]
SETS = ["circle-3", "circle-36", "fibonacci-4", "icosphere-12", "icosphere-42", "cube-sphere-2", "lat-lon-5x5"]
seeds = st.integers(0, 2**31 - 1)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_intersection(v, a, b, counted=None):
    """The volume common to the polyhedra with lengths a and b (n,), facet by facet.

    In the coordinates λ of a facet both are simplices {λ ≥ 0, Σ λ_k / d_k ≤ 1}; what they share has the corners 0, the
    nearer of both on each axis, and on each plane of two axes the point where the two facets cross.
    """
    total, dim = 0.0, v.dimension
    corners = v.directions.numpy()
    for f, face in enumerate(v.faces.numpy()):
        if counted is not None and not counted[f]:
            continue
        p, q = 1 / a.numpy()[face], 1 / b.numpy()[face]
        points = [np.zeros(dim), *(np.eye(dim) / np.maximum(p, q))]
        for i in range(dim):
            for j in range(i):
                across = p[i] * q[j] - p[j] * q[i]
                at = np.array([q[j] - p[j], p[i] - q[i]]) / across if across else np.array([-1.0, 0.0])
                if (at > 0).all():
                    points.append(np.zeros(dim))
                    points[-1][[i, j]] = at
        total += ConvexHull(np.stack(points)).volume * abs(np.linalg.det(corners[face]))
    return total


def test_exact_intersection_is_what_lies_in_both():
    v = icosphere(12)
    a, b = 0.4 + uniform(12), 0.4 + uniform(12, seed=1)
    points = 2.8 * uniform(100000, 3, seed=2) - 1.4
    both = inside(v, torch.zeros(2, 3), torch.stack([a, b]), points, "facet").all(0).double().mean().item()
    exact = exact_intersection(v, a, b) / 2.8**3
    assert abs(both - exact) < 4 * math.sqrt(exact / len(points))


@pytest.mark.parametrize("name", SETS)
@given(seed=seeds, contrast=st.sampled_from([0.01, 0.3, 1.0]))
def test_triangulated_bounds_the_true_iou_from_below(name, seed, contrast):
    v = rays(name)
    a, b = (1.01 - contrast * uniform(len(v), seed=seed + i) for i in range(2))
    common = exact_intersection(v, a, b)
    iou = common / (volume(v, a) + volume(v, b) - common).item()
    bound = polar_iou(v, a, b, "triangulated").item()
    assert bound <= iou + 1e-9
    smaller = torch.minimum(a, b)  # one body in the other: no longer a bound but the IoU
    assert polar_iou(v, smaller, b, "triangulated").item() == pytest.approx((volume(v, smaller) / volume(v, b)).item())


@given(seed=seeds)
def test_with_masks_it_bounds_the_iou_over_counted_facets(seed):
    v = icosphere(12)
    a, b, valid = 0.1 + uniform(12, seed=seed), 0.1 + uniform(12, seed=seed + 1), uniform(12, seed=seed + 2) > 0.25
    counted = valid[v.faces].all(1)
    bound = polar_iou(v, a, b, "triangulated", valid).item()
    if not counted.any():
        assert bound == 1
        return
    common = exact_intersection(v, a, b, counted)
    pieces = torch.linalg.det(v.directions[v.faces]) / 6 * counted
    both = sum((pieces * d[v.faces].prod(1)).sum().item() for d in (a, b))
    assert bound <= common / (both - common) + 1e-9


@pytest.mark.parametrize("name", ["circle-36", "icosphere-42", "lat-lon-5x5"])
def test_linear_and_cubic_are_their_sums(name):
    v = rays(name)
    a, b, valid = uniform(5, len(v)), uniform(5, len(v), seed=1), uniform(5, len(v), seed=2) > 0.4
    for kind, power in (("linear", 1), ("cubic", v.dimension)):
        m, M = (f(a, b) ** power * v.weights * valid for f in (torch.minimum, torch.maximum))
        torch.testing.assert_close(polar_iou(v, a, b, kind, valid), m.sum(1) / M.sum(1))
        torch.testing.assert_close(polar_iou(v, a, b, kind), polar_iou(v, a, b, kind, torch.ones_like(valid)))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, power=st.sampled_from([-30, -12, 0, 12, 30]), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_iou_is_symmetric_and_has_no_unit(kind, seed, power, dtype):
    v = icosphere(42)
    a, b = uniform(3, 42, seed=seed), uniform(3, 42, seed=seed + 1)
    iou = polar_iou(v, a, b, kind)
    scaled = polar_iou(v, (a * 10.0**power).to(dtype), (b * 10.0**power).to(dtype), kind)
    torch.testing.assert_close(scaled.double(), iou, rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=0)
    assert torch.equal(polar_iou(v, b, a, kind), iou) and polar_iou(v, a, a, kind).tolist() == [1, 1, 1]
    assert ((iou > 0) & (iou < 1)).all()
    torch.testing.assert_close(polar_iou_loss(v, a, b, kind), -iou.log().mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["circle-3", "icosphere-12", "fibonacci-4"])
def test_gradients(name, kind):
    v = rays(name)
    a, b = (0.2 + uniform(4, len(v), seed=i) for i in range(2))
    valid = uniform(4, len(v), seed=2) > 0.3
    valid[0], valid[1] = True, False
    valid[2] = torch.arange(len(v)) == 1  # a single ray

    def both(a, b):
        return polar_iou(v, a, b, kind, valid), polar_iou_loss(v, a, b, kind, valid)

    for second in (b, a.clone()):  # of equal lengths too, where the IoU has its peak
        assert torch.autograd.gradcheck(both, (a.clone().requires_grad_(), second.requires_grad_()))
    equal = a.clone().requires_grad_()
    assert torch.autograd.grad(polar_iou_loss(v, equal, a, kind), equal)[0].abs().max() < 1e-16


@pytest.mark.parametrize("kind", KINDS)
def test_invalid_rays_may_hold_anything(kind):
    v = icosphere(42)
    a, b, valid = uniform(6, 42), uniform(6, 42, seed=1), uniform(6, 42, seed=2) > 0.2
    expected = polar_iou_loss(v, a, b, kind, valid)
    for junk in (math.nan, math.inf, 1e300, 0.0):
        one = torch.where(valid, a, junk).requires_grad_()
        loss = polar_iou_loss(v, one, torch.where(valid, b, junk), kind, valid)
        assert loss == expected
        gradient = torch.autograd.grad(loss, one)[0]
        assert gradient.isfinite().all() and (gradient[~valid] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_iou_of_nothing(kind):
    v = icosphere(12)
    a, none = (0.1 + uniform(2, 12)).requires_grad_(), torch.zeros(2, 12, dtype=torch.bool)
    assert polar_iou(v, a, a + 1, kind, none).tolist() == [1, 1]
    zero = torch.zeros(2, 12, dtype=torch.float64)
    assert polar_iou(v, zero, zero, kind).tolist() == [1, 1] and polar_iou(v, zero, a, kind).tolist() == [0, 0]
    for loss in (polar_iou_loss(v, a, a + 1, kind, none), polar_iou_loss(v, a[:0], a[:0], kind)):
        assert loss == 0 and torch.autograd.grad(loss, a)[0].abs().max() == 0
    loss = polar_iou_loss(v, a, zero, kind)  # worth log(1/tiny), and drawn to be shorter
    gradient = torch.autograd.grad(loss, a)[0]
    assert loss > 600 and gradient.isfinite().all() and (gradient >= 0).all() and (gradient > 0).any()
    assert polar_iou(v, a * math.nan, a, kind).isnan().all()


def test_one_valid_ray():
    v = icosphere(12)
    a, b, one = torch.full((12,), 2.0), torch.full((12,), 4.0), torch.arange(12) == 5
    assert [polar_iou(v, a, b, kind, one).item() for kind in KINDS] == pytest.approx([0.5, 0.125, 1.0])


def test_loss_weighs_stars():
    v = icosphere(12)
    a, b, weights = 0.1 + uniform(3, 12), 0.1 + uniform(3, 12, seed=1), torch.tensor([1.0, 0.0, 3.0])
    each = -polar_iou(v, a, b).log()
    torch.testing.assert_close(polar_iou_loss(v, a, b, weights=weights), (each[0] + 3 * each[2]) / 4)
    valid = torch.ones(3, 12, dtype=torch.bool)
    valid[0] = False  # does not count, neither above nor below the fraction
    torch.testing.assert_close(polar_iou_loss(v, a, b, valid=valid, weights=weights), each[2])
    assert polar_iou_loss(v, a, b, weights=0 * weights) == 0


def test_polygons_have_their_exact_iou():
    """A square in a square, and two triangles whose hexagram's core is a third of its area."""
    v = rays("circle-4")
    a, b = torch.ones(4, dtype=torch.float64), torch.full((4,), 3.0, dtype=torch.float64)
    assert volume(v, b).item() == pytest.approx(18) and polar_iou(v, a, b, "triangulated").item() == pytest.approx(
        1 / 9
    )
    v = rays("circle-6")
    long, short = torch.tensor([1.0, 0.5] * 3).double(), torch.tensor([0.5, 1.0] * 3).double()
    triangle = volume(v, long).item()
    assert triangle == pytest.approx(3 * math.sqrt(3) / 4)
    common = exact_intersection(v, long, short)
    assert common == pytest.approx(2 / 3 * triangle)
    assert polar_iou(v, long, short, "triangulated").item() == pytest.approx(0.25)
    assert common / (2 * triangle - common) == pytest.approx(0.5)


@given(seed=seeds, name=st.sampled_from(["circle-3", "circle-36", "icosphere-42", "fibonacci-96"]))
def test_centerness_by_quantiles(seed, name):
    v = rays(name)
    d, valid = uniform(4, len(v), seed=seed), uniform(4, len(v), seed=seed + 1) > 0.5
    valid[0] = True
    for kind, low, high in (("polarmask", 0, 1), ("quantile", 0.1, 0.9)):
        found = centerness(v, d, kind, valid)
        for i in range(4):
            row = d[i][valid[i]].numpy()
            exact = math.sqrt(np.quantile(row, low) / np.quantile(row, high)) if len(row) else 0.0
            assert found[i].item() == pytest.approx(exact, rel=1e-12)
        torch.testing.assert_close(centerness(v, d[0], kind), found[0])


@pytest.mark.parametrize("name", ["circle-36", "icosphere-42", "cube-sphere-3", "lat-lon-4x6"])
def test_antipodal_centerness(name):
    v = rays(name)
    d, valid = 0.1 + uniform(len(v)), uniform(len(v), seed=1) > 0.3
    ratios = []
    for i in range(len(v)):
        [j] = torch.nonzero((v.directions + v.directions[i]).norm(dim=1) < 1e-9)[:, 0].tolist()
        if i < j and valid[i] and valid[j]:
            ratios.append((min(d[i], d[j]) / max(d[i], d[j])).item())
    found = centerness(v, d, "antipodal", valid).item()
    assert found == pytest.approx(math.prod(ratios) ** (1 / (2 * len(ratios))), rel=1e-12)
    shift = 0.1 * uniform(v.dimension)  # of the centre, in a ball of radius 1
    along = v.directions @ shift
    moved = (1 - shift.square().sum() + along**2).sqrt() - along
    assert centerness(v, moved, "antipodal") < centerness(v, torch.ones_like(moved), "antipodal") == 1


@pytest.mark.parametrize("kind", ["polarmask", "quantile", "antipodal"])
def test_centerness_of_next_to_nothing(kind):
    v = icosphere(12)
    d = torch.ones(3, 12)
    assert centerness(v, d, kind, torch.zeros(3, 12, dtype=torch.bool)).tolist() == [0, 0, 0]
    assert centerness(v, 0 * d, kind).tolist() == [0, 0, 0]
    assert centerness(v, d[:0], kind).shape == (0,)
    d[0, 3] = 0.0
    assert centerness(v, d, kind)[0] == (1 if kind == "quantile" else 0)
    assert centerness(v, d * 1e-20, kind)[1:].tolist() == pytest.approx([1, 1])


def test_refusals():
    v, a = rays("fibonacci-96"), torch.ones(96)
    with pytest.raises(ValueError, match="needs rays in opposite pairs, fibonacci-96 has others"):
        centerness(v, a, "antipodal")
    with pytest.raises(ValueError, match="kind must be one of 'linear', 'cubic', 'triangulated', got 'square'"):
        polar_iou(v, a, a, "square")
    with pytest.raises(ValueError, match=r"b must have the shape \(\.\.\., 96\), got \(95,\)"):
        polar_iou(v, a, a[:95])
    with pytest.raises(ValueError, match=r"weights must be one a star, \(2,\), got \(2, 1\)"):
        polar_iou_loss(v, a.expand(2, -1), a, weights=torch.ones(2, 1))
    with pytest.raises(TypeError, match=r"valid must be a bool tensor, got torch\.float32"):
        polar_iou(v, a, a, valid=a)
    with pytest.raises(ValueError, match=r"valid must have the shape \(\.\.\., 96\)"):
        centerness(v, a, valid=a[:4] > 0)
