"""Noise coupled once per shape: what is kept, and the pairs that batches draw of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pcgen.data.normalise import fit
from pcgen.data.shapes import DataConfig, Shapes, ShapeSplit, batches
from pcgen.flows import FlowConfig
from pcgen.models import ObjectiveConfig, PointFlowConfig, coupled, coupled_once
from pcgen.models.noise import path_noise, point_noise
from pcgen.training import RunConfig, TrainingConfig, stages
from pcgen.training.generation import GenerationTask

ONCE = ObjectiveConfig(coupling="once", noise_draws=3)


def shapes_of(points=40, count=4, normalise="set"):
    rng = np.random.default_rng(0)
    clouds = tuple(rng.normal(size=(points + i, 3)).astype(np.float32) * (1 + i) + i for i in range(count))
    split = ShapeSplit(tuple("abcd"[:count]), ("x",) * count, clouds)
    return Shapes(split, split, split, fit(clouds, normalise), "y", (), "made")


def rows(points):
    return sorted(map(tuple, points.tolist()))


def first_batch(shapes, config, epoch=0):
    return next(batches(shapes.train, shapes.normalisation, config, batch=4, seed=1, epoch=epoch))


def test_each_draw_is_normal_noise_of_its_own_coupled_to_all_points():
    config = DataConfig()
    shapes = coupled_once(shapes_of(), config, ONCE, seed=5)
    for i, cloud in enumerate(shapes.train.clouds):
        found, free = shapes.train.noise[i], path_noise(5, i, 3, len(cloud))
        assert found.shape == (3, *cloud.shape) and found.dtype == np.float32
        x = shapes.normalisation.apply(cloud)
        for draw, drawn in zip(found, free):
            assert rows(draw) == rows(drawn)
            assert np.square(draw - x).mean() < 0.7 * np.square(drawn.numpy() - x).mean()
        assert shapes.train.noise[i] is found  # found once
    assert len(shapes.train.noise) == 4
    assert not np.isin(point_noise(5, 1, 40), path_noise(5, 0, 1, 40)).any()  # never what samples are drawn from


def test_noise_depends_on_the_seed_and_the_shapes_number_alone():
    config, shapes = DataConfig(), shapes_of()
    forwards, backwards = (coupled_once(shapes, config, ONCE, seed=5).train.noise for _ in range(2))
    for i in range(4):
        backwards[3 - i]
    assert all(np.array_equal(forwards[i], backwards[i]) for i in range(4))
    assert not np.array_equal(forwards[0], coupled_once(shapes, config, ONCE, seed=6).train.noise[0])


@pytest.mark.parametrize("normalise", ["set", "set-axis", "shape"])
def test_batches_draw_kept_pairs(normalise):
    config = DataConfig(points=64, normalise=normalise)
    plain = shapes_of(normalise=normalise)
    shapes = coupled_once(plain, config, ONCE, seed=5)
    batch, bare = first_batch(shapes, config), first_batch(plain, config)
    assert torch.equal(batch.points, bare.points) and bare.noise is None  # noise is drawn along, not in place of points
    used = set()
    for points, noise, i in zip(batch.points, batch.noise, batch.index.tolist()):
        own = normalise == "shape"
        x = (plain.train.own_normalisations[i] if own else plain.normalisation).apply(plain.train.clouds[i])
        which = torch.cdist(points.double(), torch.from_numpy(x).double()).argmin(1).numpy()
        kept = shapes.train.noise[i][:, which]  # (3, 64, 3)
        hit = (kept == noise.numpy()).all(2)
        assert hit.any(0).all()
        used |= set(hit.argmax(0))
    assert used == {0, 1, 2}  # all draws are used


def test_pairs_turn_together():
    config = DataConfig(points=64)
    shapes = coupled_once(shapes_of(), config, ONCE, seed=5)
    still, turned = first_batch(shapes, config), first_batch(shapes, replace(config, rotate=True))
    invert = shapes.normalisation.invert
    for a, b, e, f in zip(invert(still.points), invert(turned.points), still.noise, turned.noise):
        angle = torch.atan2(b[0, 0], b[0, 2]) - torch.atan2(a[0, 0], a[0, 2])  # about y
        turn = torch.polar(torch.ones(()), angle)
        for before, after in ((a, b), (e, f)):
            assert torch.equal(before[:, 1], after[:, 1])
            want = torch.complex(before[:, 2], before[:, 0]) * turn
            torch.testing.assert_close(torch.complex(after[:, 2], after[:, 0]), want, atol=1e-4, rtol=0)
        assert abs(angle) > 1e-3


def test_training_steps_get_the_pairs():
    """A run by ``coupling: once`` matches velocities on the noise that its batches bring."""
    flow = FlowConfig((8,), train_time=False, norm="frozen")
    model = PointFlowConfig(4, point_flow=flow, latent_flow=flow, objective=ONCE)
    config = RunConfig(data=DataConfig(points=16), model=model, training=TrainingConfig(batch=4))
    task = GenerationTask(config, shapes_of())
    stage = stages(task.config, task.steps)[0]
    net, batch = task.build_model().train(), next(task.batches(stage, 0, 0, (0, 1)))

    def points_term(batch):
        return task.loss(net, batch, 0, 0, stage).terms["points"]

    assert points_term(batch) == points_term(batch)
    assert points_term(batch._replace(noise=batch.noise + 10)) > 2 * points_term(batch)


@pytest.mark.parametrize("objective", [ObjectiveConfig(), ObjectiveConfig(name="likelihood", coupling="once")])
def test_other_objectives_leave_shapes_alone(objective):
    shapes = shapes_of()
    assert coupled_once(shapes, DataConfig(), objective, 0) is shapes


def test_large_clouds_are_paired_in_parts(monkeypatch):
    shapes = shapes_of(points=300)
    whole = coupled_once(shapes, DataConfig(), ONCE, 0).train.noise[0]
    monkeypatch.setattr(coupled, "MOST_POINTS", 101)
    parts = coupled_once(shapes, DataConfig(), ONCE, 0).train.noise[0]
    x = shapes.normalisation.apply(shapes.train.clouds[0])
    assert rows(whole[0]) == rows(parts[0]) and not np.array_equal(whole, parts)
    assert np.square(whole - x).mean() < np.square(parts - x).mean() < 1.5 * np.square(whole - x).mean()
