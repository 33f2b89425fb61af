"""Synthetic shapes: solids are closed and have the right volume; shapes keep their frame, labels and variety."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.stats import chisquare

from pcgen.data.synthetic import CATEGORIES, PARTS, cabinet, make_shape, sample_shape
from pcgen.data.synthetic import solids as s

SEEDS = range(24)
category_of = st.sampled_from(CATEGORIES)
seed_of = st.integers(0, 2**40)
quick = settings(deadline=None, max_examples=25, derandomize=True)


def corners(mesh):
    return np.moveaxis(mesh.vertices[mesh.faces], 1, 0)


def areas(mesh):
    a, b, c = corners(mesh)
    return np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2


def volume(mesh):
    a, b, c = corners(mesh)
    return np.einsum("fi,fi->", a, np.cross(b, c)) / 6


def polygon_area(outline):
    x, y = outline.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def open_edges(mesh):
    """Directed edges that no other triangle runs along the other way, merging corners at one place."""
    _, place = np.unique(mesh.vertices.round(9), axis=0, return_inverse=True)
    faces = place.reshape(-1)[mesh.faces]
    edges = Counter((i, j) for f in faces for i, j in zip(f, np.roll(f, -1)) if i != j)
    return {e for e, n in edges.items() if edges[e[::-1]] != n}


RING = [(1, -0.5), (2, -0.5), (2, 0.5), (1, 0.5), (1, -0.5)]
CLOSED = {
    "box": s.box([(0, 0, 0), (5, 1, 2)], (1, 2, 3)),
    "cushion": s.cushion((1, 2, 3), (1.0, 0.2, 0.8)),
    "extrude": s.extrude(s.oval((2, 1), 3), [0, 1, 2], [1, 0.5, 1]),
    "tube": s.tube([[(0, 0, 0), (0, 1, 0), (0, 2, 1)], [(3, 0, 0), (3, 1, 1), (3, 2, 1)]], [0.1, 0.2, 0.1]),
    "strut": s.strut([(0, 0, 0), (1, 1, 1)], (3, 2, 1), 0.2, 0.1),
    "ellipsoid": s.ellipsoid((1, 1, 1), (1, 2, 3)),
    "vase": s.revolve([(0, 0), (1, 0), (0.5, 1), (0, 1)], [(0, 0, 0), (4, 0, 0)], (1, 1, 0)),
    "ring": s.revolve(RING),
}


@pytest.mark.parametrize("name", CLOSED)
def test_solids_are_closed_and_face_outward(name):
    assert not open_edges(CLOSED[name])
    assert volume(CLOSED[name]) > 0


def test_volumes_of_solids():
    circle = polygon_area(s.oval((2, 2), sides=24))
    assert volume(s.box((7, 8, 9), (1, 2, 3))) == pytest.approx(6)
    assert volume(s.extrude(s.oval((2, 1), 4), [3, 5])) == pytest.approx(2 * polygon_area(s.oval((2, 1), 4)))
    assert volume(s.strut((1, 2, 3), (4, 6, 3), 0.5, sides=24)) == pytest.approx(5 * circle / 4)
    assert volume(s.strut((0, 0, 0), (0, 3, 0), 1, 0, sides=24)) == pytest.approx(circle)  # a cone: base × height / 3
    assert volume(s.ellipsoid((0, 5, 0), (1, 2, 3), 64)) == pytest.approx(8 * np.pi, rel=0.01)
    assert volume(s.revolve(RING)) == pytest.approx(circle * (4 - 1))


def test_copies_equal_single_solids():
    starts, ends = np.random.default_rng(0).normal(size=(2, 5, 3))
    together = s.strut(starts, ends, 0.1)
    apart = s.merge([s.tube(np.stack([p, q]), [0.1, 0.1], up=(1, 2, 3)) for p, q in zip(starts, ends)])
    assert together.vertices.shape == apart.vertices.shape
    assert volume(together) == pytest.approx(volume(apart))


def test_mirrored_copies_also_face_outward():
    square = np.array([(0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)])
    rings = np.stack([square, square + np.array([0, 5, 0])])
    assert volume(s.loft(np.stack([rings, rings * np.array([-1, 1, 1])]))) == pytest.approx(10)


@quick
@given(category_of, seed_of)
def test_frame_is_exact_and_meshes_are_sound(category, seed):
    shape = make_shape(category, seed)
    low, high = shape.vertices[shape.faces].min((0, 1)), shape.vertices[shape.faces].max((0, 1))
    assert np.abs(low + high).max() < 1e-12
    assert abs(np.linalg.norm(high - low) - 1) < 1e-12
    assert shape.vertices.dtype == np.float64
    assert shape.faces.dtype == shape.face_part.dtype == np.int64
    assert shape.faces.min() >= 0
    assert shape.faces.max() < len(shape.vertices)
    assert len(shape.face_part) == len(shape.faces) < 20_000
    assert 0 <= shape.face_part.min() <= shape.face_part.max() < len(PARTS[category])
    assert areas(shape).min() > 1e-12
    assert not np.isnan(shape.vertices).any()


@quick
@given(category_of, seed_of)
def test_shapes_are_mirror_images_of_themselves(category, seed):
    """All but the parts that chance or rotation place freely: x → −x maps the surface onto itself."""
    shape = make_shape(category, seed)
    one_sided = shape.parameters.get("cabinet") == "one" or shape.parameters.get("chaise", "none") != "none"
    if one_sided or category in ("lamp", "airplane"):
        return
    fixed = np.isin(shape.face_part, [i for i, p in enumerate(PARTS[category]) if p not in ("books", "doors")])
    vertices = shape.vertices[np.unique(shape.faces[fixed])]
    mirrored = vertices * (-1, 1, 1)
    assert cKDTree(vertices).query(mirrored)[0].max() < 0.03


@quick
@given(category_of, seed_of, st.integers(0, 300), st.integers(0, 300))
def test_more_points_extend_a_cloud(category, seed, few, extra):
    small, large = sample_shape(category, seed, few), sample_shape(category, seed, few + extra)
    assert small.points.dtype == np.float32
    assert small.points.shape == (few, 3)
    np.testing.assert_array_equal(large.points[:few], small.points)
    np.testing.assert_array_equal(large.part[:few], small.part)


@pytest.mark.parametrize("category", CATEGORIES)
def test_same_seed_same_shape(category):
    first, again, other = make_shape(category, 5), make_shape(category, 5), make_shape(category, 6)
    np.testing.assert_array_equal(first.vertices, again.vertices)
    assert first.parameters == again.parameters != other.parameters


@pytest.mark.parametrize("category", CATEGORIES)
def test_points_lie_on_faces_of_their_part(category):
    shape, cloud = make_shape(category, 3), sample_shape(category, 3, 40)
    a, b, c = corners(shape)
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    for point, part in zip(cloud.points.astype(float), cloud.part):
        on_plane = np.abs(np.einsum("fi,fi->f", point - a, normal)) < 1e-6
        sides = [np.einsum("fi,fi->f", np.cross(q - p, point - p), normal) for p, q in ((a, b), (b, c), (c, a))]
        assert part in shape.face_part[on_plane & (np.min(sides, axis=0) > -1e-6)]


def area_below(mesh, axis, level):
    """The exact area of every triangle on the lower side of a plane across ``axis``."""
    low, middle, high = np.sort(mesh.vertices[mesh.faces][..., axis], axis=1).T
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(
            level < middle,
            (level - low) ** 2 / ((middle - low) * (high - low)),
            1 - (high - level) ** 2 / ((high - middle) * (high - low)),
        )
    return areas(mesh) * np.where(level >= high, 1, np.where(level <= low, 0, share))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("category", CATEGORIES)
def test_sampling_is_uniform_by_area(category, axis):
    """Every part receives points in proportion to its area, in each of five slabs."""
    shape, cloud = make_shape(category, 1), sample_shape(category, 1, 20_000)
    levels = np.quantile(cloud.points[::7, axis], [0.2, 0.4, 0.6, 0.8]) + 0.00123  # not on a face
    below = np.array([np.zeros(len(shape.faces)), *(area_below(shape, axis, y) for y in levels), areas(shape)])
    parts = len(PARTS[category])
    expected = np.array([np.bincount(shape.face_part, slab, parts) for slab in np.diff(below, axis=0)])
    slab = np.searchsorted(levels, cloud.points[:, axis])
    observed = np.bincount(slab * parts + cloud.part, minlength=5 * parts).reshape(5, parts)
    expected *= len(cloud.points) / expected.sum()
    large = expected > 10
    assert observed[expected < 1e-9].sum() == 0
    assert chisquare(observed[large], expected[large] * observed[large].sum() / expected[large].sum()).pvalue > 1e-4


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_part_occurs(category):
    seen = set()
    for seed in range(60):
        seen |= {PARTS[category][i] for i in np.unique(make_shape(category, seed).face_part)}
    assert seen == set(PARTS[category])


def test_seeds_differ_and_categories_separate():
    """Another seed is farther away than another sample of the same shape, and another category farther still."""
    seeds = 12
    clouds = [sample_shape(c, seed, 2048).points for c in CATEGORIES for seed in range(seeds)]
    label = np.repeat(np.arange(len(CATEGORIES)), seeds)
    first, second = [x[:1024] for x in clouds], [x[1024:] for x in clouds]
    trees = [cKDTree(x) for x in first]
    one_way = np.array([[tree.query(x)[0].mean() for x in second] for tree in trees])
    distance = one_way + one_way.T
    same = distance.diagonal().copy()
    np.fill_diagonal(distance, np.inf)
    assert (label[distance.argmin(1)] == label).mean() > 0.95
    for k in range(len(CATEGORIES)):
        ratio = distance[np.ix_(label == k, label == k)].min(1) / same[label == k]
        assert ratio.min() > 1.02, CATEGORIES[k]
        assert np.median(ratio) > 1.1, CATEGORIES[k]


@pytest.mark.parametrize("category", CATEGORIES)
def test_structure_varies(category):
    drawn = [make_shape(category, seed).parameters for seed in range(60)]
    names = [k for k, v in drawn[0].items() if isinstance(v, str)]
    assert names
    for name in names:
        assert len({d[name] for d in drawn}) >= 2, name


def test_front_is_towards_positive_z():
    pairs = {"chair": ("back", "seat"), "sofa": ("back", "seat"), "bed": ("headboard", "bedding")}
    for category, parts in pairs.items():
        rear, front = (PARTS[category].index(part) for part in parts)
        for shape in (make_shape(category, seed) for seed in SEEDS):
            z = shape.vertices[shape.faces].mean(1)[:, 2]
            if (shape.face_part == rear).any():  # not every bed has a head board
                assert z[shape.face_part == rear].mean() < z[shape.face_part == front].mean()
    for seed in SEEDS:
        shape = make_shape("airplane", seed)
        centre = shape.vertices[shape.faces].mean(1)
        tail = shape.face_part == PARTS["airplane"].index("tail")
        assert centre[tail, 2].mean() < -0.2
        assert shape.vertices[shape.faces[tail], 1].max() == pytest.approx(shape.vertices[:, 1].max(), abs=0.02)


def test_shapes_stand_on_something():
    for category, part in (("chair", "legs"), ("table", "support"), ("car", "wheels"), ("sofa", "legs")):
        for seed in SEEDS:
            shape = make_shape(category, seed)
            low = shape.vertices[shape.faces, 1].min(1)
            standing = set(shape.face_part[low < low.min() + 1e-3])
            assert standing <= {PARTS[category].index(part), *([4] if category == "table" else [])}


@quick
@given(seed_of)
def test_cabinets_have_their_nominal_sizes(seed):
    shape = make_shape("cabinet", seed)
    drawn, metres = shape.parameters, shape.vertices * shape.diagonal
    size = np.ptp(metres[shape.faces], axis=(0, 1))
    assert size[:2] == pytest.approx([drawn["width"], drawn["height"]], abs=1e-9)
    assert drawn["depth"] - 0.03 < size[2] < drawn["depth"] + 0.04  # a handle stands out, a plinth stands back


def boxes(meshes):
    corners = np.concatenate([mesh.vertices for mesh in meshes]).reshape(-1, 8, 3)
    return corners.min(1), corners.max(1)


def overlaps(a, b):
    """(A, B): whether two boxes share more than a face."""
    (low, high), (other_low, other_high) = a, b
    return (np.minimum(high[:, None], other_high) - np.maximum(low[:, None], other_low) > 1e-9).all(-1)


def test_books_stand_on_boards_and_run_into_nothing():
    stocked = [c for c in (cabinet.draw(np.random.default_rng(seed)) for seed in range(60)) if c.books]
    assert {(c.kind, c.back) for c in stocked} >= {("bookcase", "rear"), ("bookcase", "none"), ("shop", "middle")}
    for parts in map(cabinet.build, stocked):
        books, boards = boxes(parts["books"]), boxes(parts["carcass"] + parts["shelves"])
        assert not overlaps(books, boards).any()
        assert (overlaps(books, books).sum(1) == 1).all()  # itself
        assert np.isclose(books[0][:, None, 1], boards[1][:, 1], atol=1e-9).any(1).all()


def test_mistakes_are_answered_in_one_line():
    with pytest.raises(
        ValueError, match=r"^no category 'chiar' \(nearest: 'chair'\); expected one of .*lamp, cabinet, sofa, bed$"
    ):
        make_shape("chiar", 0)
    with pytest.raises(ValueError, match=r"seed must be 0 or more, got -1"):
        make_shape("car", -1)
    with pytest.raises(TypeError, match=r"seed must be an integer, got 1\.5"):
        sample_shape("car", 1.5)
    with pytest.raises(ValueError, match=r"number of points must be 0 or more, got -3"):
        sample_shape("car", 0, -3)


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_shape("car", 0).seed = 1
