"""Crops hold the nearest points, augmentation is a similarity or stretches axes, small remnants are unannotated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcgen.data.scenes import make_scene
from pcgen.data.scenes.augmentation import Augmentation, AugmentationConfig, augmented, draw_augmentation
from pcgen.data.scenes.crops import CropConfig, draw_crop, held_shares, surroundings, without_small

seeds = st.integers(0, 2**32 - 1)


def cloud(seed, count=200):
    rng = np.random.default_rng(seed)
    normals = rng.standard_normal((count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    instance = rng.integers(-1, 6, count)
    return make_scene(rng.uniform(-3, 3, (count, 3)), instance=instance, features={"normals": normals})


@given(seeds, st.floats(0.1, 5.0), st.integers(1, 250), st.sampled_from([None, "x", "y", "z"]))
def test_surroundings_are_the_nearest_within_the_radius(seed, radius, most, column):
    points = cloud(seed).points
    rows = surroundings(points, points[0], radius, most, column)
    axes = [axis for axis in range(3) if "xyz"[axis] != column]
    distance = np.linalg.norm((points - points[0])[:, axes], axis=1)
    inside = np.flatnonzero(distance <= radius)
    assert (np.diff(rows) > 0).all() and len(rows) == min(most, len(inside))
    left_out = np.setdiff1d(inside, rows)
    assert set(rows) <= set(inside)
    assert not len(left_out) or distance[rows].max() <= distance[left_out].min()


def test_crops_are_about_objects_as_often_as_asked_and_small_ones_as_often_as_large():
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    scene = make_scene(np.random.default_rng(0).uniform(0, 1, (1000, 3)), instance=labels)
    rng, about = np.random.default_rng(1), []
    for _ in range(600):
        middle = draw_crop(scene, CropConfig(radius=1e-6, on_objects=0.8), rng).middle
        about.append(labels[np.flatnonzero((scene.points == middle).all(1))[0]])
    counts = np.bincount(about)
    assert counts[1] / 600 == pytest.approx(0.4 + 0.2 * 0.09, abs=0.06)
    assert counts[2] / 600 == pytest.approx(0.4 + 0.2 * 0.01, abs=0.06)


@given(seeds, st.sampled_from("xyz"), st.sampled_from(["none", "horizontal", "all"]), st.booleans())
def test_augmentation_is_a_similarity_that_keeps_what_is_up(seed, up, mirror, rotate):
    config = AugmentationConfig(rotate=rotate, mirror=mirror, scale=(0.5, 2.0))
    linear = draw_augmentation(config, np.random.default_rng(seed), up).linear
    factor = np.cbrt(abs(np.linalg.det(linear)))
    axis = "xyz".index(up)
    assert 0.5 <= factor <= 2.0 and np.allclose(linear @ linear.T, factor**2 * np.eye(3))
    assert np.allclose(abs(linear[axis]), factor * np.eye(3)[axis])
    assert mirror == "all" or linear[axis, axis] > 0
    assert mirror != "none" or np.linalg.det(linear) > 0


@given(seeds, st.sampled_from("xyz"), st.floats(1.0, 3.0))
def test_stretching_keeps_what_is_up_and_walls_square(seed, up, stretch):
    config = AugmentationConfig(scale=(1.0, 1.0), stretch=stretch)
    linear = draw_augmentation(config, np.random.default_rng(seed), up).linear
    square, axis = linear.T @ linear, "xyz".index(up)
    assert np.allclose(square, np.diag(np.diag(square)))  # the axes of the scene are as perpendicular as before
    factors = np.sqrt(np.diag(square))
    assert (factors <= stretch + 1e-9).all() and (factors >= 1 / stretch - 1e-9).all()
    assert np.allclose(abs(linear[axis]), factors[axis] * np.eye(3)[axis])
    plain = draw_augmentation(AugmentationConfig(scale=(1.0, 1.0)), np.random.default_rng(seed), up).linear
    assert np.allclose(linear, plain * factors)


@given(seeds, st.sampled_from([1.0, 2.0]))
def test_points_and_normals_are_moved_together(seed, stretch):
    scene, rng = cloud(seed), np.random.default_rng(seed)
    how = draw_augmentation(AugmentationConfig(mirror="all", scale=(0.5, 2.0), stretch=stretch), rng)
    moved = augmented(scene, how, rng)
    assert np.allclose(moved.points, scene.points @ how.linear.T)
    assert np.array_equal(moved.instance, scene.instance)
    normals = scene.features["normals"]
    across = np.cross(normals, rng.standard_normal(3))  # in the plane that each normal stands for
    assert np.allclose(((across @ how.linear.T) * moved.features["normals"]).sum(1), 0, atol=1e-5)
    assert (((normals @ how.linear.T) * moved.features["normals"]).sum(1) > 0).all()  # and on the same side of it
    assert np.allclose(np.linalg.norm(moved.features["normals"], axis=1), 1, atol=1e-6)


def test_thinning_and_jitter_are_as_large_as_asked():
    scene = cloud(0, 20_000)
    thin = augmented(scene, Augmentation(np.eye(3), 0.25, 0.0), np.random.default_rng(0))
    assert len(thin) == 5000 and {*map(tuple, thin.points)} <= {*map(tuple, scene.points)}
    moved = augmented(scene, Augmentation(np.eye(3), 1.0, 0.1), np.random.default_rng(0))
    assert (moved.points - scene.points).std() == pytest.approx(0.1, rel=0.02)


@given(seeds, st.integers(1, 200))
def test_what_a_crop_holds_of_each_object(seed, most):
    scene = cloud(seed)
    rows = surroundings(scene.points, scene.points[0], most=most)
    part = scene.take(rows)
    shares = held_shares(part, scene)
    for name, share in zip(part.instance_ids, shares):
        whole = scene.instance_ids[scene.instance - 1] == name
        whole &= scene.instance > 0
        assert share == whole[rows].sum() / whole.sum()
    assert len(shares) == part.instances


@given(seeds, st.integers(1, 60))
def test_small_instances_are_unannotated_and_others_stay(seed, least):
    scene = cloud(seed)
    kept = without_small(scene, least)
    for i, name in enumerate(scene.instance_ids, start=1):
        rows = scene.instance == i
        if rows.sum() < least:
            assert (kept.instance[rows] == -1).all()
        else:
            assert (kept.instance_ids[kept.instance[rows] - 1] == name).all()
    others = scene.instance <= 0
    assert np.array_equal(kept.instance[others], scene.instance[others])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (lambda: CropConfig(radius=0.0), "radius"),
        (lambda: CropConfig(on_objects=1.5), "1.5"),
        (lambda: CropConfig(whole=-0.1), "-0.1"),
        (lambda: AugmentationConfig(stretch=0.5), "at least 1, got 0.5"),
        (lambda: AugmentationConfig(scale=(1.2, 0.8)), "in order"),
        (lambda: AugmentationConfig(thin=1.0), "shares"),
        (lambda: AugmentationConfig(mirror="yes"), "'yes'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        settings()
