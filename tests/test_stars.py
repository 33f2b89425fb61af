"""Stars: volumes against the divergence theorem and the shoelace, what lies inside against definitions and winding."""

import math

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from pcgen.geometry import inside, membership, mesh, radius, rays, volume
from pcgen.geometry.balls import balls

SETS = ["circle-3", "circle-36", "fibonacci-4", "fibonacci-96", "icosphere-42", "cube-sphere-4", "lat-lon-5x5"]
ASSEMBLIES = ["nearest", "facet", "interpolated"]
seeds = st.integers(0, 2**31 - 1)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def star(name, seed=0, count=1):
    """Rays, centres in the unit box and lengths between 0.2 and 1.2."""
    v = rays(name)
    return v, uniform(count, v.dimension, seed=seed), 0.2 + uniform(count, len(v), seed=seed + 1)


@pytest.mark.parametrize("n, share", [("icosphere-42", 0.87345), ("fibonacci-96", 0.93941), ("icosphere-162", 0.96616)])
def test_volume_of_the_unit_sphere(n, share):
    ones = torch.ones(2, len(rays(n)), dtype=torch.float64)
    ball = 4 / 3 * math.pi
    assert (volume(rays(n), ones) / ball).tolist() == pytest.approx([share, share], abs=1e-5)
    assert (volume(rays(n), ones, "cell") / ball).tolist() == pytest.approx([1, 1], abs=1e-14)


@pytest.mark.parametrize("name", SETS)
def test_triangulated_volume_is_the_mesh_s(name):
    v, centres, lengths = star(name, count=3)
    vertices, faces = mesh(v, centres, lengths)
    assert vertices.shape == (3 * len(v), v.dimension) and faces.shape == (3 * len(v.faces), v.dimension)
    for i, one in enumerate(volume(v, lengths).tolist()):
        single = mesh(v, centres[i], lengths[i])
        torch.testing.assert_close(single.vertices, vertices[i * len(v) : (i + 1) * len(v)], rtol=0, atol=0)
        if v.dimension == 2:
            x, y = single.vertices.numpy().T
            exact = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
        else:
            body = trimesh.Trimesh(*(t.numpy() for t in single), process=False)
            assert body.is_watertight and body.is_winding_consistent
            exact = body.volume
        assert one == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("kind", ["triangulated", "cell"])
@pytest.mark.parametrize("name", SETS)
def test_volume_scales_and_differentiates(name, kind):
    v, _, lengths = star(name, count=2)
    assert torch.allclose(volume(v, 3 * lengths, kind), 3**v.dimension * volume(v, lengths, kind), rtol=1e-13)
    assert volume(v, 0 * lengths, kind).tolist() == [0, 0]
    assert volume(v, lengths.float(), kind).dtype == torch.float32
    assert torch.autograd.gradcheck(lambda d: volume(v, d, kind), lengths.requires_grad_())


@pytest.mark.parametrize("assembly, kind", [("nearest", "cell"), ("facet", "triangulated")])
@pytest.mark.parametrize("name", ["circle-7", "icosphere-42", "fibonacci-96", "lat-lon-5x5"])
def test_volume_counts_what_is_inside(name, assembly, kind):
    v, _, lengths = star(name)
    points = 2.4 * uniform(40000, v.dimension, seed=3) - 1.2
    share = inside(v, torch.zeros(1, v.dimension).double(), lengths, points, assembly).double().mean().item()
    exact = volume(v, lengths, kind).item() / 2.4**v.dimension
    assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / len(points))


def by_definition(v, centre, lengths, points, assembly):
    """Inside or not, a point at a time, in NumPy."""
    directions, lengths = v.directions.numpy(), lengths.numpy()
    found = []
    for x in (points - centre).numpy():
        r = np.linalg.norm(x)
        if assembly == "nearest":
            ray = int(v.nearest(torch.from_numpy(x))) if v.sectors else np.argmax(directions @ x)
            found.append(r <= lengths[ray])
            continue
        shares = np.stack([np.linalg.solve(directions[face].T, x) for face in v.faces.numpy()])
        face = np.argmax(shares.min(1))
        share, d = shares[face], lengths[v.faces[face].numpy()]
        found.append((share / d).sum() <= 1 if assembly == "facet" else r <= (share * d).sum() / share.sum())
    return found


@pytest.mark.parametrize("assembly", ASSEMBLIES)
@pytest.mark.parametrize("name", SETS)
def test_inside_is_the_definition(name, assembly):
    v, centres, lengths = star(name, count=4)
    points = 2 * uniform(60, v.dimension, seed=2) - 0.5
    found = inside(v, centres, lengths, points, assembly)
    for row, centre, d in zip(found.tolist(), centres, lengths):
        assert row == by_definition(v, centre, d, points, assembly)


@given(seed=seeds, n=st.integers(3, 9))
def test_facets_in_the_plane_are_a_polygon(seed, n):
    """Against the even-odd rule: how many edges a horizontal line from the point crosses."""
    v, centres, lengths = star(f"circle-{n}", seed)
    points = centres + 3 * uniform(200, 2, seed=seed) - 1.5
    a, b = mesh(v, centres, lengths).vertices[v.faces].unbind(1)
    x, y = points[:, None].unbind(-1)
    spans = (a[:, 1] > y) != (b[:, 1] > y)
    crossing = a[:, 0] + (y - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    odd = (spans & (x < crossing)).sum(1) % 2 == 1
    assert torch.equal(inside(v, centres, lengths, points, "facet")[0], odd)


@pytest.mark.parametrize("assembly", ASSEMBLIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SETS)
def test_the_boundary_is_inside(name, dtype, assembly):
    v, _, lengths = star(name)
    arms = v.directions * lengths.T
    centre = torch.zeros(1, v.dimension, dtype=dtype)
    assert inside(v, centre, lengths.to(dtype), arms.to(dtype), assembly).all()
    assert not inside(v, centre, lengths.to(dtype), (arms * (1 + 1e-5)).to(dtype), assembly).any()


@pytest.mark.parametrize("assembly", ASSEMBLIES)
def test_inside_in_large_coordinates(assembly):
    v, centres, lengths = star("icosphere-42", count=5)
    points = 2 * uniform(300, 3, seed=2) - 0.5
    origin = torch.tensor([500000.0, 5.4e6, 120.0], dtype=torch.float64)
    held = inside(v, centres, lengths, points, assembly)
    assert held.any() and torch.equal(inside(v, centres + origin, lengths, points + origin, assembly), held)
    assert torch.equal(inside(v, 1e-9 * centres, 1e-9 * lengths, 1e-9 * points, assembly), held)


@pytest.mark.parametrize("assembly", ASSEMBLIES)
def test_inside_of_next_to_nothing(assembly):
    v, centres, lengths = star("icosphere-12", count=2)
    assert inside(v, centres, lengths, torch.zeros(0, 3), assembly).shape == (2, 0)
    assert inside(v, centres[:0], lengths[:0], torch.zeros(4, 3), assembly).shape == (0, 4)
    points = torch.cat([centres, centres + 1e-3])
    expected = [[True, False, False, False], [False, True, False, False]]
    assert inside(v, centres, 0 * lengths, points, assembly).tolist() == expected
    one = torch.zeros(12, dtype=torch.float64)
    one[3] = 1.0  # a single ray, which a flat or interpolated body follows only along itself
    along = v.directions[3] * torch.tensor([[0.5], [0.999999], [-0.1]])
    assert inside(v, torch.zeros(1, 3), one[None], along, "nearest").tolist() == [[True, True, False]]


def test_inside_refuses():
    v, centres, lengths = star("icosphere-12", count=2)
    points = torch.zeros(4, 3)
    bad = [
        (centres[:1], lengths, points, "nearest", "same stars"),
        (centres, lengths[:, :5], points, "nearest", r"lengths must have the shape \(\.\.\., 12\), got \(2, 5\)"),
        (centres, lengths, points[:, :2], "nearest", "points"),
        (centres[0], lengths[0], points, "nearest", "tables"),
        (centres, lengths * math.nan, points, "nearest", "lengths must be finite"),
        (centres, lengths, points / 0, "nearest", "points must be finite"),
        (centres, lengths, points, "flat", "assembly must be one of 'nearest', 'facet', 'interpolated', got 'flat'"),
    ]
    for *given_, message in bad:
        with pytest.raises(ValueError, match=message):
            inside(v, *given_)
    with pytest.raises(TypeError, match="lengths must be"):
        inside(v, centres, lengths.int(), points)


@pytest.mark.parametrize("assembly", ASSEMBLIES)
@pytest.mark.parametrize("name", ["circle-5", "icosphere-12", "lat-lon-5x5"])
def test_radius_is_where_inside_ends(name, assembly):
    v, centres, lengths = star(name, count=3)
    x = torch.randn(3, 50, v.dimension, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reach = radius(v, lengths, x, assembly)
    torch.testing.assert_close(radius(v, lengths, 1e3 * x[:1], assembly), radius(v, lengths, x[:1], assembly))
    unit = x / x.norm(dim=-1, keepdim=True)
    for scale, held in ((1 - 1e-9, True), (1 + 1e-9, False)):
        points = centres[:, None] + scale * reach[..., None] * unit
        for i in range(3):
            assert (inside(v, centres[i : i + 1], lengths[i : i + 1], points[i], assembly) == held).all()
    wrt_x = assembly != "nearest"
    inputs = lengths.requires_grad_(), x[:, :4].requires_grad_(wrt_x)
    assert torch.autograd.gradcheck(lambda d, x: radius(v, d, x, assembly), inputs)


@pytest.mark.parametrize("assembly", ASSEMBLIES)
def test_membership(assembly):
    v, centres, lengths = star("icosphere-12", count=2)
    points = 2 * uniform(30, 3, seed=2) - 0.5
    soft = membership(v, centres, lengths, points, 7.0, assembly)
    assert torch.equal(soft >= 0.5, inside(v, centres, lengths, points, assembly))
    x = points - centres[:, None]
    odds = (radius(v, lengths, x, assembly) / x.norm(dim=-1)) ** 7
    torch.testing.assert_close(soft, odds / (1 + odds))
    torch.testing.assert_close(membership(v, centres, lengths, points.expand(2, -1, -1), 7.0, assembly), soft)
    inputs = lengths.requires_grad_(), centres.requires_grad_()
    assert torch.autograd.gradcheck(lambda d, c: membership(v, c, d, points[:6], 7.0, assembly), inputs)


@pytest.mark.parametrize("assembly", ASSEMBLIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_membership_has_finite_gradients_everywhere(assembly, dtype):
    v, centres, lengths = star("icosphere-12", count=2)
    points = torch.cat([centres[:1], centres[:1] + v.directions, 1e6 * uniform(3, 3)]).to(dtype).requires_grad_()
    for d in (lengths, 0 * lengths, lengths * (uniform(2, 12, seed=9) > 0.5)):
        c, d = centres.to(dtype).requires_grad_(), d.to(dtype).requires_grad_()
        soft = membership(v, c, d, points, 10.0, assembly)
        assert ((soft >= 0) & (soft <= 1)).all()
        for gradient in torch.autograd.grad(soft.sum(), (c, d, points)):
            assert gradient.isfinite().all()
    assert membership(v, centres, lengths, centres[:1])[0] == 1
    with pytest.raises(ValueError, match="tau must be positive, got 0"):
        membership(v, centres, lengths, centres, 0)


@given(
    seed=seeds, dim=st.sampled_from([2, 3]), scale=st.sampled_from([0.0, 1e-8, 1.0, 1e8]), far=st.sampled_from([0, 1e5])
)
def test_balls_hold_their_points_once(seed, dim, scale, far):
    points = (scale * uniform(80, dim, seed=seed)).round(decimals=2 if seed % 2 else 12) + far
    centres = points[:20] if seed % 3 else scale * uniform(20, dim, seed=seed + 1) + far
    radii = (scale * uniform(20, seed=seed + 2) ** 3).round(decimals=2 if seed % 2 else 12) - (seed % 5 == 0) * 0.1
    found = torch.zeros(20, 80, dtype=torch.int64)
    for pair in balls(centres, radii, points):
        found.index_put_((pair.ball, pair.point), torch.ones_like(pair.ball), accumulate=True)
    assert torch.equal(found, ((points - centres[:, None]).norm(dim=-1) <= radii[:, None]).long())
