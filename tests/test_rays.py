"""Sets of rays: their cells, facets and rotations against geometry, their look-ups against exhaustive search."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import SphericalVoronoi
from scipy.stats import special_ortho_group

from pcgen.geometry import circle, cube_sphere, fibonacci, icosphere, lat_lon, rays, volume
from pcgen.geometry.hull import facets, polygons

# name: rays, rotations of the set, rotations that its facets survive
SETS = {
    "circle-3": (3, 3, 3),
    "circle-36": (36, 36, 36),
    "fibonacci-4": (4, 2, 2),
    "fibonacci-5": (5, 2, 2),
    "fibonacci-96": (96, 2, 2),
    "icosphere-12": (12, 60, 60),
    "icosphere-42": (42, 60, 60),
    "icosphere-162": (162, 60, 60),
    "icosphere-642": (642, 60, 60),
    "cube-sphere-1": (6, 24, 24),
    "cube-sphere-2": (24, 24, 12),
    "cube-sphere-3": (54, 24, 24),
    "cube-sphere-4": (96, 24, 12),
    "lat-lon-2x3": (6, 6, 6),
    "lat-lon-5x5": (25, 10, 2),
    "lat-lon-6x3": (18, 6, 6),
}
SMALL = [name for name, (n, *_) in SETS.items() if n <= 162]
seeds = st.integers(0, 2**31 - 1)


@functools.cache
def planes(name):
    """(F, D): ``planes @ x`` is 1 for x on the plane of each facet."""
    return torch.linalg.inv(rays(name).directions[rays(name).faces]).sum(-1)


def directions(dim, seed, n=400):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", SETS)
def test_solid_angles_fill_the_sphere(name):
    v = rays(name)
    assert (len(v), v.name) == (SETS[name][0], name)
    torch.testing.assert_close(v.directions.norm(dim=1), torch.ones(len(v), dtype=torch.float64), rtol=0, atol=4e-16)
    assert abs(v.weights.sum().item() - 2 * math.pi * (v.dimension - 1)) < 1e-12
    assert v.weights.min() > 0


@pytest.mark.parametrize("name", ["fibonacci-5", "fibonacci-96", "icosphere-42", "icosphere-642", "cube-sphere-4"])
def test_solid_angles_are_those_of_voronoi_cells(name):
    v = rays(name)
    cells = SphericalVoronoi(v.directions.numpy())
    np.testing.assert_allclose(v.weights.numpy(), cells.calculate_areas(), rtol=1e-10)


def test_spread_of_solid_angles():
    spread = {name: (rays(name).weights.std(correction=0) / rays(name).weights.mean()).item() for name in SETS}
    assert spread["fibonacci-96"] == pytest.approx(0.0178, abs=1e-4)
    assert spread["icosphere-42"] == pytest.approx(0.0536, abs=1e-4)
    assert spread["icosphere-162"] == pytest.approx(0.0540, abs=1e-4)
    relative = lat_lon(5, 5).weights / lat_lon(5, 5).weights.mean()
    edges = torch.cos(torch.linspace(0, math.pi, 6, dtype=torch.float64))
    torch.testing.assert_close(relative, 2.5 * (edges[:-1] - edges[1:]).repeat_interleave(5), rtol=1e-14, atol=0)
    assert relative[::5].round(decimals=3).tolist() == [0.477, 1.25, 1.545, 1.25, 0.477]


@pytest.mark.parametrize("name", SETS)
def test_facets_are_a_closed_hull_seen_from_outside(name):
    v = rays(name)
    corners = v.directions[v.faces]
    assert (torch.linalg.det(corners) > 1e-6).all()
    if v.dimension == 2:
        assert v.faces[:, 1].tolist() == v.faces[:, 0].roll(-1).tolist()
        return
    assert len(v.faces) == 2 * len(v) - 4
    edges = torch.cat([v.faces[:, [i, (i + 1) % 3]] for i in range(3)])
    assert len(edges.unique(dim=0)) == len(edges)
    assert set(map(tuple, edges.tolist())) == set(map(tuple, edges.flip(1).tolist()))
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    height = (v.directions @ normal.T) - (corners[:, 0] * normal).sum(1)
    assert height.max() < 1e-12  # no ray stands out of a facet's plane


@pytest.mark.parametrize("name", ["cube-sphere-2", "cube-sphere-4", "lat-lon-5x5", "lat-lon-6x3", "icosphere-42"])
def test_facets_do_not_depend_on_the_pose(name):
    v = rays(name)
    turned = v.directions @ torch.from_numpy(special_ortho_group.rvs(3, random_state=3)).T
    assert torch.equal(facets(polygons(turned), v.rotations().permutations), v.faces)


@pytest.mark.parametrize("name", SETS)
def test_rotations_permute_the_rays(name):
    v = rays(name)
    matrices, permutations = v.rotations()
    assert len(matrices) == len(permutations) == SETS[name][1]
    assert permutations[0].tolist() == list(range(len(v)))
    torch.testing.assert_close(v.directions[permutations], v.directions @ matrices.mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(len(matrices)).double(), rtol=0, atol=1e-13)
    group = set(map(tuple, permutations.tolist()))
    products = permutations[:, permutations].flatten(0, 1).unique(dim=0)
    assert set(map(tuple, products.tolist())) == group


@pytest.mark.parametrize("name", SETS)
def test_which_rotations_the_triangulated_volume_survives(name):
    """All of them, but for facets that are turned into themselves by a quarter or less; the mean over all, always."""
    v = rays(name)
    permutations = v.rotations().permutations
    volumes = volume(v, 1 + torch.rand(len(v), generator=torch.Generator().manual_seed(0)).double()[permutations])
    assert int(((volumes / volumes[0] - 1).abs() < 1e-12).sum()) == SETS[name][2]
    assert volumes.std() < 0.01 * volumes[0]


def test_icospheres_are_nested_and_antipodal():
    for small, large in ((12, 42), (42, 162), (162, 642)):
        assert torch.equal(icosphere(large).directions[:small], icosphere(small).directions)
    v = icosphere(642).directions
    assert set(map(tuple, v.tolist())) == set(map(tuple, (-v).tolist()))


@pytest.mark.parametrize("name", [name for name in SMALL if not name.startswith("lat")])
@given(seed=seeds, power=st.sampled_from([-300, -30, 0, 30, 300]), double=st.booleans())
def test_nearest_is_the_nearest(name, seed, power, double):
    v = rays(name)
    x = directions(v.dimension, seed)
    if double:
        assert torch.equal(v.nearest(x * 10.0**power), (x @ v.directions.T).argmax(1))
    else:
        x = x.float() * 10.0 ** (power / 10)
        assert torch.equal(v.nearest(x), (x.double() @ v.directions.T).argmax(1))


@pytest.mark.parametrize("name", SETS)
def test_rays_are_their_own_nearest(name):
    v = rays(name)
    assert v.nearest(v.directions).tolist() == list(range(len(v)))
    assert v.nearest(1e-3 * v.directions.float()).tolist() == list(range(len(v)))


@pytest.mark.parametrize("name", [name for name in SETS if not name.startswith("lat")])
def test_ties_go_to_the_lowest_ray(name):
    v = rays(name)
    for x in (v.directions[v.faces].sum(1), v.directions[v.faces[:, :2]].sum(1), torch.eye(v.dimension).double()):
        dots = x @ v.directions.T
        lowest = (dots >= dots.amax(1, keepdim=True) - 1e-14).int().argmax(1)
        assert torch.equal(v.nearest(x), lowest)


@given(seed=seeds, rows=st.integers(2, 9), columns=st.integers(3, 9))
def test_sectors(seed, rows, columns):
    v = lat_lon(rows, columns)
    x = directions(3, seed)
    row = np.floor(np.arccos((x[:, 2] / x.norm(dim=1)).numpy()) / np.pi * rows)
    column = np.floor(np.mod(np.arctan2(x[:, 1].numpy(), x[:, 0].numpy()), 2 * np.pi) / (2 * np.pi) * columns)
    assert v.nearest(x).tolist() == (row * columns + column).astype(int).tolist()


def test_sectors_hold_their_first_boundary():
    v = lat_lon(4, 4)
    x = torch.tensor([[1.0, 0, 1e-9], [0, 1, 1], [-1, -0.0, 1], [0, 0, 1], [0, 0, -1], [1, -1e-30, 1], [1, 0, 0]])
    assert v.nearest(x).tolist() == [4, 5, 6, 0, 12, 7, 8]


@pytest.mark.parametrize("name", SMALL)
@given(seed=seeds, power=st.sampled_from([-200, 0, 200]))
def test_facet_is_hit(name, seed, power):
    v = rays(name)
    x = directions(v.dimension, seed, 200)
    index, weights = v.facet(x * 10.0**power)
    assert (weights >= 0).all()
    again = (weights[..., None] * v.directions[v.faces[index]]).sum(1) / 10.0**power
    torch.testing.assert_close(again, x, rtol=0, atol=2e-13)
    # The facet's plane is the one that the ray from the origin meets first.
    heights = planes(name) @ x.T
    torch.testing.assert_close(weights.sum(1) / 10.0**power, heights.amax(0), rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_facet_on_edges_and_corners_is_the_lowest(name):
    v = rays(name)
    x = torch.cat([v.directions, v.directions[v.faces[:, :2]].sum(1)])
    inverse = torch.linalg.inv(v.directions[v.faces].mT)
    least = torch.einsum("fkd,nd->nfk", inverse, x).amin(-1)
    index, weights = v.facet(x)
    assert torch.equal(index, (least > -1e-13).int().argmax(1))
    torch.testing.assert_close(weights[: len(v)].amax(1), torch.ones(len(v)).double(), rtol=0, atol=1e-13)


def test_facet_weights_are_differentiable():
    x = directions(3, 0, 20).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: icosphere(42).facet(x).weights, x)


@pytest.mark.parametrize("name", ["circle-5", "icosphere-642", "lat-lon-5x5"])
def test_look_ups_of_strange_shapes(name):
    v = rays(name)
    zero = torch.zeros(v.dimension)
    assert v.nearest(zero).tolist() == 0
    assert v.facet(zero).index.tolist() == 0 and v.facet(zero).weights.tolist() == zero.tolist()
    empty = torch.zeros(0, 4, v.dimension)
    assert v.nearest(empty).shape == v.facet(empty).index.shape == (0, 4)
    x = directions(v.dimension, 1, 70000).float()
    if not v.sectors:
        assert torch.equal(v.nearest(x[:2000]), (x[:2000].double() @ v.directions.T).argmax(1))
    assert torch.equal(v.nearest(x.reshape(70, 1000, -1)), v.nearest(x).reshape(70, 1000))
    assert torch.equal(v.nearest(x), v.nearest(x.double()))
    assert torch.equal(v.facet(x).index, v.facet(x.double()).index)
    assert v.facet(x).weights.dtype == torch.float32


def test_look_ups_refuse():
    v = icosphere(12)
    with pytest.raises(TypeError, match=r"directions must be a float32 or float64 tensor, got torch\.int64"):
        v.nearest(torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 3\), got \(5, 2\)"):
        v.facet(torch.ones(5, 2))
    with pytest.raises(ValueError, match="got 1 of 6 values NaN or infinite"):
        v.nearest(torch.tensor([[1.0, 0, 0], [0, math.nan, 0]]))


def test_names():
    for name in SETS:
        assert rays(name) is rays(name)
    assert rays("circle-36") is circle(36)
    assert rays("cube-sphere-4") is cube_sphere(4) and rays("fibonacci-96") is fibonacci(96)
    assert circle(np.int64(36)) == circle(36) and lat_lon(np.int32(5), 5) == lat_lon(5, 5)
    assert icosphere(12) != icosphere(42) and copy.deepcopy(icosphere(12)) == icosphere(12)
    assert len({icosphere(12), copy.deepcopy(icosphere(12))}) == 1
    bad = ("icosphere", "icosphere-43", "icosphere-42 ", "circle-2", "fibonacci-3", "cube-sphere-0", "lat-lon-1x5")
    for name in (*bad, "lat-lon-5x2", "lat-lon-5", "", None):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            rays(name)
