"""Scenes in memory: no bit of a coordinate lost, labels by one convention, tiles that share out the points."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pcgen.data.scenes import Scene, crop, make_scene, scale_guess, tiles, warn_scale

finite = st.floats(-1e7, 1e7, allow_nan=False)
clouds = arrays(np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=finite)


@given(clouds, arrays(np.float64, 3, elements=st.floats(-1e8, 1e8)))
def test_coordinates_come_back_to_the_last_bit(points, place):
    points = points + place
    scene = make_scene(points)
    assert scene.points.dtype == np.float64
    np.testing.assert_array_equal(scene.coordinates, points)
    assert (scene.offset == np.trunc(scene.offset)).all()


@pytest.mark.parametrize("place", [(432100.123, 5412000.456, 80.789), (-3e6, 0, 2e6), (1e5, 1e5, 1e5)])
def test_map_coordinates_keep_their_shape_in_float32(place):
    shape = np.random.default_rng(0).uniform(0, 50, (1000, 3))
    points = shape + place
    relative = make_scene(points).points.astype(np.float32)
    exact = points - points[0]
    assert np.abs((relative - relative[0]) - exact).max() < 1e-5
    assert np.abs((points.astype(np.float32) - points.astype(np.float32)[0]) - exact).max() > 1e-3  # what is avoided


def test_an_ordinary_scan_is_not_moved():
    assert not make_scene(np.random.default_rng(0).uniform(-3, 9, (100, 3))).offset.any()


def test_labels_are_numbered_and_the_files_numbers_kept():
    instance = [70000, 0, -5, 12, 12, np.nan]
    scene = make_scene(np.ones((6, 3)), instance=instance, semantic=np.array([3, 0, -1, 2, 2, 0], np.int8))
    assert scene.instance.tolist() == [2, 0, -1, 1, 1, -1]
    assert scene.instance_ids.tolist() == [12, 70000]
    assert scene.instances == 2
    assert scene.semantic.dtype == scene.instance.dtype == np.int64


@given(arrays(np.int64, 20, elements=st.integers(-3, 9)), arrays(np.bool_, 20))
def test_taking_points_keeps_instances_without_gaps(instance, index):
    scene = make_scene(np.arange(60.0).reshape(20, 3), instance=instance)
    part = scene.take(index)
    ids = np.concatenate([[0], part.instance_ids])
    file_ids = np.where(part.instance > 0, ids[np.maximum(part.instance, 0)], part.instance)
    np.testing.assert_array_equal(file_ids, np.maximum(instance[index], -1))
    assert set(part.instance[part.instance > 0]) == set(range(1, part.instances + 1))
    np.testing.assert_array_equal(part.points, scene.points[index])


def test_unannotated_zero_and_stuff():
    points, semantic, instance = np.eye(3), [1, 0, 2], [4, 0, 5]
    scene = make_scene(points, semantic=semantic, instance=instance, classes={1: "Wall", 2: "chair"}, stuff=("wall",))
    assert scene.instance.tolist() == [0, 0, 1]
    assert scene.semantic.tolist() == [1, 0, 2]
    scene = make_scene(points, semantic=semantic, instance=instance, zero_unannotated=True)
    assert scene.instance.tolist() == [1, -1, 2]
    assert scene.semantic.tolist() == [1, -1, 2]


def test_points_that_are_not_finite_are_dropped_and_counted():
    points = np.array([[0, 0, 0], [np.nan, 1, 1], [2, 2, 2], [3, np.inf, 3]])
    scene = make_scene(
        points, instance=[1, 2, 3, 4], features={"normals": points}, attributes={"time": np.arange(4, dtype=np.uint64)}
    )
    assert (len(scene), scene.dropped) == (2, 2)
    assert scene.instance_ids.tolist() == [1, 3]
    assert scene.attributes["time"].tolist() == [0, 2]
    assert scene.attributes["time"].dtype == np.uint64


def test_what_reading_changed_is_said_in_a_line_each():
    scene = make_scene(np.array([[5e6, 1, 1], [5e6 + 1, 1, 1], [np.nan, 0, 0]]), instance=[3, 9, 1])
    assert scene.notes == (
        "1 of 3 points dropped: NaN or infinite coordinates",
        "coordinates shifted by 5000000, 0, 0",
        "2 instances renumbered from 1: the file has numbers 3 to 9",
    )
    assert make_scene(np.eye(3), instance=[1, 2, 0]).notes == ()


def test_features_are_finite():
    assert make_scene(np.eye(3), features={"normals": np.full((3, 3), np.nan)}).features["normals"].sum() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": np.zeros((0, 3))}, "no points"),
        ({"points": np.full((2, 3), np.nan)}, "none of 2 is finite"),
        ({"points": np.zeros((2, 2))}, r"\(2, 2\)"),
        ({"points": np.array([["a", "b", "c"]])}, "numbers"),
        ({"points": np.zeros((2, 3)), "instance": [1]}, "instance"),
        ({"points": np.zeros((2, 3)), "instance": [1, 0.5]}, "0.5"),
        ({"points": np.zeros((2, 3)), "semantic": ["a", "b"]}, "semantic"),
        ({"points": np.zeros((2, 3)), "features": {"colour": np.zeros((3, 3))}}, "colour"),
        ({"points": np.zeros((2, 3)), "instance": np.array([2**64 - 1, 0], np.uint64)}, "below"),
    ],
)
def test_mistakes_get_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        make_scene(**arguments)
    assert "\n" not in str(error.value)


def test_a_scene_checks_its_columns():
    with pytest.raises(ValueError, match="time"):
        Scene(np.zeros((2, 3)), np.zeros(3), attributes={"time": np.zeros(3)})
    with pytest.raises(ValueError, match=r"\(2,\)"):
        Scene(np.zeros(2), np.zeros(3))


def test_crop_takes_the_box_and_may_be_empty():
    scene = make_scene([[0, 0, 0], [1, 1, 1], [2, 2, 2]], instance=[5, 6, 7])
    part = crop(scene, (0, 0, 0), (1, np.inf, 1))
    assert part.points.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert part.instance_ids.tolist() == [5, 6]
    assert len(crop(scene, 5, 9)) == 0


# ---------------------------------------------------------------------------------------------------- tiles


@given(
    arrays(np.float64, st.tuples(st.integers(0, 60), st.just(3)), elements=st.floats(-20, 20)),
    st.floats(0.3, 50),
    st.floats(0, 8),
    st.sampled_from("xyz"),
)
def test_tiles_own_every_point_once_and_see_their_margin(points, size, overlap, up):
    across = [axis for axis in range(3) if "xyz"[axis] != up]
    owner = np.zeros(len(points), int)
    for tile in tiles(points, size, overlap, up):
        owner[tile.index[tile.owned]] += 1
        assert tile.owned.any()
        assert (np.diff(tile.index) > 0).all()
        near = points[tile.index][:, across]
        assert (near >= tile.low - overlap - 1e-9).all()
        assert (near <= tile.high + overlap + 1e-9).all()
        flat = points[:, across]
        expected = ((flat >= tile.low - overlap) & (flat <= tile.high + overlap)).all(axis=1)
        assert set(np.flatnonzero(expected)) <= set(tile.index)
    assert (owner == 1).all()


def test_tiles_of_a_grid():
    x, y = np.meshgrid(np.arange(6) + 0.5, np.arange(4) + 0.5, indexing="ij")
    points = np.stack([x.ravel(), y.ravel(), np.zeros(24)], axis=1).astype(np.float32)
    found = list(tiles(make_scene(points), size=2.0, overlap=1.0, start=(0, 0)))
    assert len(found) == 6
    assert [tile.owned.sum() for tile in found] == [4] * 6
    assert len(found[0].index) == 9
    assert found[3].low.tolist() == [2, 2]
    assert [len(tile.index) for tile in tiles(points, size=100)] == [24]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 2)), 1.0), "points"),
        ((np.zeros((2, 3)), 0.0), "size"),
        ((np.zeros((2, 3)), np.nan), "size"),
        ((np.zeros((2, 3)), 1.0, -1.0), "overlap"),
        ((np.zeros((2, 3)), 1.0, 0.0, "w"), "up"),
        ((np.array([[0, 0, 0], [np.nan, 0, 0]]), 1.0), "finite"),
        ((np.array([[0, 0, 0], [1e12, 0, 0]]), 1e-3), "too small"),
    ],
)
def test_tiles_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiles(*arguments)


# ---------------------------------------------------------------------------------------------------- units


def room(spacing, size=6.0):
    x = np.arange(0, size, spacing)
    return np.stack([*(g.ravel() for g in np.meshgrid(x, x)), np.zeros(len(x) ** 2)], axis=1)


def test_spacing_and_extent_of_a_grid():
    guess = scale_guess(np.repeat(room(0.05), 2, axis=0))  # twice the same points: the nearest elsewhere counts
    assert guess.spacing == pytest.approx(0.05)
    assert guess.extent == pytest.approx(0.98 * 6 * np.sqrt(2), rel=0.02)
    assert guess[:2] == ("metres", 1.0)


@pytest.mark.parametrize(("unit", "factor"), [("millimetres", 1e3), ("micrometres", 1e6)])
def test_a_scan_in_another_unit_is_named(unit, factor):
    scene = make_scene(room(0.05) * factor)
    with pytest.warns(UserWarning, match=rf"looks like {unit} .* multiply by {1 / factor:g} for metres"):
        assert warn_scale(scene).factor == pytest.approx(1 / factor)


def test_narrower_expectations_tell_more():
    assert scale_guess(room(0.018) * 100).unit == "metres"  # 600 wide, 1.8 apart: so is many an airborne scan
    assert scale_guess(room(0.02) * 100, extent=(2, 20), spacing=(0.005, 0.05)).unit == "centimetres"


def test_a_dense_scan_is_one_in_metres():
    dense = {"extent": (2, 200), "spacing": (0.1, 1.0)}  # of a model that has learnt from scans twice as coarse
    scene = make_scene(room(0.05))
    assert scale_guess(scene.points, **dense)[:2] == ("metres", 1.0)
    assert scale_guess(scene.points, extent=(200, 2000), spacing=(0.1, 1.0)).unit is None  # a small one is not
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_scale(scene, **dense)


def test_no_guess_where_there_is_none():
    assert scale_guess(np.ones((5, 3)))[:2] == (None, 1.0)
    assert scale_guess([[0, 0, 0]]).unit is None
    assert scale_guess([[0, 0, 0], [1e200, 0, 0]]).unit is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_scale(make_scene(np.ones((5, 3))))
    with pytest.raises(ValueError, match="points"):
        scale_guess(np.zeros((0, 3)))
