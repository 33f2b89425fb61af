"""What a run refuses, and what must not happen to its checkpoints. Whole runs are in test_cli.py."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import pcgen.training.loop as loop
from pcgen.config import from_dict, read, to_dict, to_yaml
from pcgen.data.shapes import load
from pcgen.training import Diverged, RunConfig, State, Team, load_model, read_history, stages, train
from pcgen.training.checkpoint import find_checkpoint, save_checkpoint
from pcgen.training.telemetry import Telemetry
from pcgen.training.validation import comparable

TINY = [
    *("data.source=synthetic", "data.shapes=10", "data.mesh_points=300", "data.points=32", "training.batch=4"),
    *("model.latent=4", "model.encoder.widths=[8, 16]", "model.encoder.head=[8]", "training.device=cpu"),
    *("model.point_flow.dims=[8]", "model.latent_flow.dims=[8]", "training.steps=6", "training.ema=0.9"),
]
LIKELIHOOD = ["model.objective.name=likelihood", "model.sampler=null", "model.latent_sampler=null"]


def config(*words):
    return read(RunConfig, overrides=[*TINY, *words])


@pytest.fixture(scope="module")
def shapes():
    return load(config().data)


@pytest.fixture
def broken_after(monkeypatch):
    """A function that makes training spoil a weight after so many steps."""

    def spoil(steps, value=float("nan")):
        step = loop._step

        def spoiling(state, *arguments):
            step(state, *arguments)
            if state.total_steps == steps:
                with torch.no_grad():
                    state.model.point_flow.chain[1].net.layers[0].linear.weight.fill_(value)

        monkeypatch.setattr(loop, "_step", spoiling)

    return spoil


@pytest.mark.parametrize("objective", [[], LIKELIHOOD])
@pytest.mark.parametrize(
    "often", [["training.validate_every=1"], ["training.validate_every=9", "training.save_minutes=0"]]
)
def test_broken_weights_are_not_saved(broken_after, shapes, tmp_path, objective, often):
    """Spoilt by the last step of the second epoch, when no loss has shown it yet."""
    broken_after(6)
    with pytest.raises(
        Diverged, match=r"point_flow\.chain\.1\.net\.layers\.0\.linear\.weight is no longer finite at epoch 1"
    ):
        train(config(*objective, *often, "training.steps=9"), shapes, tmp_path, quiet=True)
    for name in ("last", "ema"):
        state = load_model(tmp_path / "checkpoints" / name).state_dict()
        assert all(value.isfinite().all() for value in state.values())


def test_a_solver_that_gives_up_names_the_term(broken_after, shapes, tmp_path):
    broken_after(4)
    with pytest.raises(
        Diverged, match=r"the 'points' term of the loss: the dopri5 solver gave up .* at epoch 1, step 1"
    ):
        train(config(*LIKELIHOOD), shapes, tmp_path, quiet=True)


def failing(loss):
    raise AssertionError("underflow in dt 0.0")


def overflowing(model):
    def backward(loss):
        for p in model.parameters():
            p.grad = torch.full_like(p, 1e30)

    return backward


def one_nan(model):
    def backward(loss):
        loss.backward()
        model.point_flow.chain[1].net.layers[1].shift.weight.grad[0, 0] = float("nan")

    return backward


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (lambda model: failing, "the gradient's solve gave up at epoch 0, step 0: underflow"),
        (one_nan, r"the gradient of point_flow\.chain\.1\.net\.layers\.1\.shift\.weight became nan"),
        (overflowing, "the gradient of all weights together became inf at epoch 0, step 0"),
    ],
)
def test_gradients_that_fail_are_told(shapes, backward, message):
    settings, task = config(), loop.task_of(config(), shapes)
    state = State(settings, task.build_model())
    state.new_optimizer(stages(settings, lambda batch: 3)[0])
    team = Team("cpu")
    team.accelerator = SimpleNamespace(backward=backward(state.model))
    stage = stages(settings, lambda batch: 3)[0]
    with pytest.raises(Diverged, match=message):
        loop._step(state, stage, next(task.batches(stage, 0, 0, (0, 1))), task, team, None)


def test_a_prior_stage_needs_a_latent_flow():
    tiny = [word for word in TINY if "latent_flow" not in word]
    for words in (["training.prior_steps=1"], ["training.prior_epochs=1"]):
        with pytest.raises(ValueError, match=r"train model.latent_flow, which is null"):
            read(RunConfig, overrides=[*tiny, "model.latent_flow=null", *words])


def test_an_autoencoder_by_likelihood_has_no_untrained_prior():
    words = ["model.encoder.variational=false", *LIKELIHOOD]
    settings = config(*words)
    assert settings.model.latent_flow is None and from_dict(RunConfig, to_dict(settings)) == settings
    assert config(*words, "training.prior_steps=1").model.latent_flow is not None
    assert config("model.encoder.variational=false").model.latent_flow is not None  # matching trains it all along


def test_moving_average_is_that_of_the_weights():
    """Of a parameter that is n at step n, with the decay's rise at the start."""
    settings = config("training.ema=0.5")
    model = nn.BatchNorm1d(1)
    average, want = State(settings, model).ema, 1.0
    for n in range(1, 30):
        with torch.no_grad():
            model.weight.fill_(n)
            model.num_batches_tracked.fill_(n)
        average.update(model)
        decay = min(0.5, (1 + n) / (10 + n))
        want = decay * want + (1 - decay) * n
    assert average.state["weight"].item() == pytest.approx(want, rel=1e-6)
    assert average.state["num_batches_tracked"].item() == 29


def test_the_moving_average_stays_on_its_device(shapes, tmp_path):
    """What is read from the disk to the CPU is copied into the tensors that stand beside the weights."""
    settings = config("training.steps=3")
    train(settings, shapes, tmp_path, quiet=True)
    state = State(settings, loop.build_model(settings, shapes))
    before = dict(state.ema.state)
    state.restore(tmp_path, stages(settings, lambda batch: 3))
    assert state.ema.updates == 3 and all(state.ema.state[name] is value for name, value in before.items())


def test_one_whole_checkpoint_at_every_moment(shapes, tmp_path, monkeypatch):
    """Stopped before any rename or removal, also when the last run was stopped between its two renames."""
    settings = config()
    weights = loop.build_model(settings, shapes).state_dict()
    save_checkpoint(tmp_path / "last.old", weights, to_yaml(settings), {})

    class Stop(Exception):
        pass

    def rename(self, target):
        assert find_checkpoint(tmp_path / "last")
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "rename", rename)
        with pytest.raises(Stop):
            save_checkpoint(tmp_path / "last", weights, to_yaml(settings), {})
    save_checkpoint(tmp_path / "last", weights, to_yaml(settings), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last"]


def test_best_is_judged_by_what_can_be_compared():
    """A falling sum of the other terms wins in the first stage, whatever the prior's does; the prior in the second."""
    first, second = stages(config("training.prior_steps=3"), lambda batch: 3)
    early = {"val/points": 0.5, "val/kl": 0.1, "val/prior": 0.7, "val/total": 1.3}
    late = {"val/points": 0.3, "val/kl": 0.1, "val/prior": 1.2, "val/total": 1.6}
    assert comparable(late, config(), first) == pytest.approx(0.4)
    assert comparable(early, config(), first) == pytest.approx(0.6)
    assert comparable(late, config(), second) == 1.2
    assert comparable(late, config(*LIKELIHOOD), first) == 1.6
    autoencoder = config(*LIKELIHOOD, "model.encoder.variational=false", "training.prior_steps=3")
    assert comparable(late, autoencoder, first) == 1.6 and comparable(late, autoencoder, second) == 1.2


def test_the_best_prior_of_an_autoencoder_is_kept(shapes, tmp_path):
    """By likelihood its loss has no term of the prior, and all its stage's epochs would look alike."""
    words = ["model.encoder.variational=false", "training.steps=1", "training.prior_steps=40", "training.lr=0.02"]
    settings = config(*LIKELIHOOD, *words, "training.validate_every=1", "training.ema=0")
    train(settings, shapes, tmp_path, quiet=True)
    told = [row["val/prior"] for row in read_history(tmp_path) if "val/prior" in row]
    best = json.loads((tmp_path / "checkpoints" / "best" / "info.json").read_text())
    assert len(set(told[1:])) == len(told) - 1 and best["validation_loss"] == min(told[1:]) < told[1] - 0.1


def test_evaluations_per_solve_are_told(shapes, tmp_path):
    """By likelihood, of both flows, forward and (by the adjoint) backward: in the history and in TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["model.point_flow.norm=moving", "training.steps=20", "training.batch=2", "training.validate_every=99"]
    solver = [f"model.{flow}.solver={{method: rk4, steps: 2, adjoint: true}}" for flow in ("point_flow", "latent_flow")]
    train(config(*LIKELIHOOD, *words, *solver), shapes, tmp_path, quiet=True)
    row = read_history(tmp_path)[0]
    assert row["evaluations/points"] == row["evaluations/prior"] == 8  # four stages of two steps
    assert row["evaluations/points_backward"] > 0
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert board.Scalars("evaluations/points")[0].value == 8


def test_history_has_means_over_the_steps_that_had_a_term(tmp_path):
    telemetry = Telemetry(tmp_path, total=4, done=0, every=4, quiet=True)
    for step in range(4):
        telemetry.step(step + 1, 0, 0.0, {"train/prior": step, **({"train/points": 2.0} if step < 2 else {})})
    telemetry.close()
    (row,) = read_history(tmp_path)
    assert row["train/points"] == 2.0 and row["train/prior"] == 1.5


def test_the_first_stage_can_be_lengthened_until_the_priors_has_begun(shapes, tmp_path):
    """The place of a run is told by its epoch, which another end of the first stage would put into another stage."""
    words = ["training.steps=6", "training.prior_steps=6", "training.validate_every=1"]
    cut = tmp_path / "cut"

    def stop(model, state):
        if state.epoch == stop.after:
            raise KeyboardInterrupt

    stop.after = 3  # in the middle of the prior's stage
    with pytest.raises(KeyboardInterrupt):
        train(config(*words), shapes, cut, on_validation=stop, quiet=True)
    for steps in (3, 9, 12, 30):
        with pytest.raises(ValueError, match=r"its prior's stage began after epoch 2, and training\.steps"):
            train(config(*words, f"training.steps={steps}"), shapes, cut, resume=True, quiet=True)
    train(config(*words, "training.prior_steps=9"), shapes, cut, resume=True, quiet=True)
    assert read_history(cut)[-1]["step"] == 6 + 9
    with pytest.raises(ValueError, match="began after epoch 2"):  # at its end as well
        train(config(*words, "training.steps=9"), shapes, cut, resume=True, quiet=True)

    stop.after, early = 1, tmp_path / "early"
    with pytest.raises(KeyboardInterrupt):
        train(config(*words), shapes, early, on_validation=stop, quiet=True)
    train(config(*words, "training.steps=9"), shapes, early, resume=True, quiet=True)
    assert read_history(early)[-1]["step"] == 9 + 6


def test_what_the_priors_stage_trains_moves_its_norms(shapes, tmp_path):
    """An autoencoder's latent flow meets its first codes there; the encoder's statistics stay."""
    words = [*LIKELIHOOD, "model.encoder.variational=false", "training.ema=0", "model.latent_flow.norm=moving"]
    words += ["model.point_flow.norm=moving", "training.steps=3"]
    one = train(config(*words, "training.prior_steps=3"), shapes, tmp_path / "one", quiet=True).state_dict()
    more = train(config(*words, "training.prior_steps=9"), shapes, tmp_path / "more", quiet=True).state_dict()
    moved = {name.split(".")[0] for name in one if "running" in name and not torch.equal(one[name], more[name])}
    assert moved == {"latent_flow"} and one["latent_flow.chain.0.running_mean"].any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.betas=[2, 2]"], "betas must be at least 0 and below 1, got 2 and 2"),
        (["training.weight_decay=-1"], "weight_decay must be finite and not negative"),
        (["training.weight_decay=.nan"], "weight_decay must be finite and not negative"),
        (["training.warmup=-5"], "warmup must be finite and not negative, got -5"),
        (["training.save_minutes=.inf"], "save_minutes must be finite and not negative, got inf"),
        (["training.lr=.inf"], "lr and clip must be positive"),
        (["model.point_flow.time_length=.inf"], "time_length must be positive and finite, got inf"),
    ],
)
def test_settings_that_no_optimiser_takes_are_told_before_anything_is_read(words, message):
    with pytest.raises(ValueError, match=message):
        config(*words)
