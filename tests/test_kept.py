"""The prior's stage: codes of posteriors that are kept, batches of its own, and looks at it that are spread evenly."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pcgen.config import read
from pcgen.data import load
from pcgen.data.shapes import Places, places
from pcgen.models import Posterior
from pcgen.training import RunConfig, read_history, stages, train
from pcgen.training.generation import GenerationTask
from pcgen.training.kept import CLOUDS, KeptPosteriors

TINY = [
    *("data.shapes=9", "data.points=24", "data.mesh_points=80", "training.batch=4", "training.epochs=1"),
    *("model.latent=4", "model.encoder.widths=[8, 16]", "model.encoder.head=[8]", "model.point_flow.dims=[8]"),
    *("model.latent_flow.dims=[8]", "model.objective.times=2", "model.objective.prior_draws=2", "training.ema=0.5"),
]


def config(*words):
    return read(RunConfig, overrides=[*TINY, *words])


@pytest.fixture(scope="module")
def shapes():
    return load(config().data)


def generators(count, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def task_and_model(shapes, *words):
    task = GenerationTask(config(*words), shapes)
    return task, task.build_model().eval()


def test_codes_are_draws_from_posteriors_of_the_shape(shapes):
    """Over many draws their mean and variance are those of the mixture of the kept posteriors."""
    task, model = task_and_model(shapes)
    kept = KeptPosteriors(model.encoder, shapes, task.config.data, seed=3)
    z = kept.codes([2] * 4000, generators(4000))
    mean, logvar = kept._posteriors(2)
    assert mean.shape == (CLOUDS, 4) and not torch.allclose(mean[0], mean[1])
    spread = (logvar.exp() + mean.square()).mean(0) - mean.mean(0).square()
    assert_close(z.mean(0), mean.mean(0), atol=0.06, rtol=0)  # 4 standard errors of a spread near 1
    assert_close(z.var(0), spread, atol=0, rtol=0.12)


def test_posteriors_depend_on_the_seed_and_the_shape_alone(shapes):
    task, model = task_and_model(shapes)
    one, other = (KeptPosteriors(model.encoder, shapes, task.config.data, seed) for seed in (0, 1))
    alone = KeptPosteriors(model.encoder, shapes, task.config.data, 0).codes([5], generators(1, 7))
    assert torch.equal(one.codes([3, 5], [*generators(1), *generators(1, 7)])[1:], alone)
    assert not torch.equal(other.codes([5], generators(1, 7)), alone)


def test_the_encoder_sees_each_shape_once(shapes):
    task, model = task_and_model(shapes)
    calls = []
    model.encoder.register_forward_hook(lambda module, x, out: calls.append(x[0].shape))
    kept = KeptPosteriors(model.encoder, shapes, task.config.data, 0)
    for _ in range(3):
        kept.codes([0, 1, 0], generators(3))
    assert calls == [(CLOUDS, 24, 3)] * 2


def test_an_autoencoder_has_one_code_of_each_cloud(shapes):
    task, model = task_and_model(shapes, "model.encoder.variational=false")
    kept = KeptPosteriors(model.encoder, shapes, task.config.data, 0)
    z = kept.codes([1] * 50, generators(50))
    assert {tuple(row) for row in z.tolist()} <= {tuple(row) for row in kept._posteriors(1).mean.tolist()}
    assert isinstance(kept._posteriors(1), Posterior) and kept._posteriors(1).logvar is None


@pytest.mark.parametrize(
    ("words", "keeps"),
    [
        ([], True),
        (["model.condition.kind=class"], True),
        (["data.rotate=true"], False),
        (["model.condition.kind=depth", "model.condition.resolution=8"], False),
        (["model.condition.kind=cloud"], False),
    ],
)
def test_codes_are_kept_where_visits_are_alike(shapes, words, keeps):
    task, model = task_and_model(shapes, "training.prior_epochs=1", *words)
    stage = stages(task.config, task.steps)[1]
    batch = next(task.batches(stage, 1, 0, (0, 1)))
    assert task.keeps_codes is keeps and isinstance(batch, Places) is keeps
    loss = task.loss(model, batch, 1, 0, stage)
    loss.total.backward()
    assert set(loss.terms) == {"prior"}
    assert all(p.grad is None for part in (model.encoder, model.point_flow) for p in part.parameters())
    assert all(p.grad is not None for p in model.latent_flow.chain[1].net.parameters())


def test_noise_is_not_coupled_for_the_prior(shapes):
    """Pairs of points and noise are of the point flow, which is not trained there; shapes that turn are drawn anew."""
    task, _ = task_and_model(shapes, "training.prior_epochs=1", "data.rotate=true", "model.objective.coupling=once")
    first, second = stages(task.config, task.steps)
    assert next(task.batches(first, 0, 0, (0, 1))).noise is not None
    assert next(task.batches(second, 1, 0, (0, 1))).noise is None


def test_the_stage_has_batches_of_its_own(shapes):
    task, _ = task_and_model(shapes, "training.prior_steps=5", "training.prior_batch=7")
    first, second = stages(task.config, task.steps)
    assert (first.batch, first.steps, first.last) == (4, 2, 1)  # 4 shapes, and 5, as one alone has no spread
    assert (second.batch, second.steps, second.first, second.last) == (7, 2, 1, 4)
    visits = list(task.batches(second, 1, 0, (0, 1)))
    assert [len(visit.index) for visit in visits] == [7, 2]
    assert sorted(torch.cat([visit.index for visit in visits]).tolist()) == list(range(9))


def test_places_are_those_of_batches(shapes):
    from pcgen.data.shapes import batches

    drawn = batches(shapes.train, shapes.normalisation, config().data, 4, seed=1, epoch=2, start=1, part=(1, 2))
    for visit, batch in zip(places(9, 4, seed=1, epoch=2, start=1, part=(1, 2)), drawn, strict=True):
        assert torch.equal(visit.index, batch.index) and visit[1:] == (batch.rows, batch.share)


def test_a_prior_batch_of_one_is_refused():
    with pytest.raises(ValueError, match="prior_batch must be at least 2, got 1"):
        config("training.prior_batch=1")


def test_twenty_looks_at_a_run_whatever_its_batches(shapes, tmp_path):
    """Epochs of the prior's stage are shorter: looks are spread over steps."""
    words = ["training.epochs=40", "training.prior_steps=80", "training.prior_batch=9"]
    train(config(*words), shapes, tmp_path, quiet=True)
    looked = [row["step"] for row in read_history(tmp_path) if "val/total" in row]
    assert len(looked) == 20 and np.diff(looked).max() <= 9


def test_no_more_is_encoded_than_there_are_visits(shapes):
    task, model = task_and_model(shapes, "training.prior_epochs=2")
    stage = stages(task.config, task.steps)[1]
    seen = []
    model.encoder.register_forward_hook(lambda module, x, out: seen.append(len(x[0])))
    for epoch in (1, 2):
        for step, batch in enumerate(task.batches(stage, epoch, 0, (0, 1))):
            task.loss(model, batch, epoch, step, stage)
    assert sum(seen) == 2 * len(shapes.train)
