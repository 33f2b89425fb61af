"""Which optimiser steps which weights, and that a run goes on with what it remembers."""

import pytest
import torch
from torch import nn

import pcgen.training.loop as loop
from pcgen.config import read
from pcgen.data.shapes import load
from pcgen.training import Interrupted, RunConfig, TrainingConfig, train
from pcgen.training.optimizers import Muon, Optimizers, new_optimizer, orthogonalised


def network():
    return nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 31))


def test_muon_takes_the_matrices_between_hidden_layers():
    net = network()
    muon, adam = new_optimizer(net.parameters(), TrainingConfig(optimizer="muon")).parts
    assert isinstance(muon, Muon) and isinstance(adam, torch.optim.Adam)
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(net[2].weight)]
    taken = {id(p) for part in (muon, adam) for p in part.param_groups[0]["params"]}
    assert taken == {id(p) for p in net.parameters()}


def test_a_step_is_nearly_orthogonal_and_of_the_size_of_adams():
    """Whatever the gradient: here one that is thirty times as large along one direction as along the others."""
    net, lr = network(), 1e-2
    optimizer = new_optimizer(net.parameters(), TrainingConfig(optimizer="muon", lr=lr))
    before = net[2].weight.detach().clone()
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    net[2].weight.grad[0] *= 30
    optimizer.step()
    step = net[2].weight.detach() - before
    strengths = torch.linalg.svdvals(step)
    given = torch.linalg.svdvals(net[2].weight.grad)
    assert given[0] / given[-1] > 100 and strengths[0] / strengths[-1] < 3
    assert step.square().mean().sqrt() == pytest.approx(0.2 * lr, rel=0.3)


def test_adam_alone_where_no_matrix_is_wide():
    for settings in (TrainingConfig(), TrainingConfig(optimizer="muon")):
        assert isinstance(new_optimizer(nn.Linear(3, 300).parameters(), settings), torch.optim.Adam)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon to compare with")
@pytest.mark.parametrize("shape", [(64, 40), (40, 64), (32, 32)])
def test_steps_are_those_of_pytorchs_muon(shape):
    """Which computes in bfloat16, hence the tolerance: the steps of one matrix in ten rounds of random gradients."""
    ours, theirs = (nn.Parameter(torch.zeros(shape)) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    options = {"lr": 0.01, "weight_decay": 0.3}
    optimizers = Muon([ours], **options), torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **options)
    for _ in range(10):
        before = ours.detach().clone(), theirs.detach().clone()
        ours.grad = theirs.grad = torch.randn(shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
        steps = [p.detach() - b for p, b in zip((ours, theirs), before)]
        assert (steps[0] - steps[1]).norm() < 0.03 * steps[1].norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (1, 5), (6, 6)])
def test_orthogonalised_keeps_singular_vectors(shape, dtype):
    """U S Vᵀ becomes U S′ Vᵀ with S′ near one; the sign of the matrix goes through, its scale does not."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    found = orthogonalised(matrix)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.t() @ found @ vt.t()
    assert found.dtype == dtype and (inner - inner.diag().diag()).abs().max() < 1e-4
    assert ((inner.diag() > 0.6) & (inner.diag() < 1.3)).all()
    torch.testing.assert_close(orthogonalised(-1e3 * matrix), -found, rtol=1e-3, atol=1e-4)


def test_a_gradient_of_zeros_moves_nothing():
    assert not orthogonalised(torch.zeros(40, 33)).any()


def test_another_optimiser_than_the_saved_ones_is_refused():
    parts = [torch.optim.SGD(network().parameters(), 0.1) for _ in range(2)]
    with pytest.raises(ValueError):
        Optimizers(*parts).load_state_dict(Optimizers(parts[0]).state_dict())


def test_an_interrupted_run_ends_where_the_other_does(tmp_path, monkeypatch):
    words = ["data.source=synthetic", "data.shapes=10", "data.mesh_points=300", "data.points=64", "training.batch=4"]
    words += ["model.latent=32", "model.encoder.widths=[32, 32]", "model.encoder.head=[32]", "training.steps=6"]
    words += ["model.point_flow.dims=[32, 32]", "model.latent_flow.dims=[32, 32]", "training.prior_steps=3"]
    config = read(RunConfig, overrides=[*words, "training.optimizer=muon", "training.lr=1e-2", "training.device=cpu"])
    shapes, step = load(config.data), loop._step
    whole = train(config, shapes, tmp_path / "whole", quiet=True).state_dict()
    for stop in (2, 7):  # in the first stage, and in the prior's

        def stopping(state, stage, batch, task, team, telemetry, stop=stop):
            step(state, stage, batch, task, team, telemetry)
            team._asked = state.total_steps == stop

        monkeypatch.setattr(loop, "_step", stopping)
        with pytest.raises(Interrupted):
            train(config, shapes, tmp_path / str(stop), quiet=True)
        monkeypatch.setattr(loop, "_step", step)
        resumed = train(config, shapes, tmp_path / str(stop), resume=True, quiet=True).state_dict()
        assert all(torch.equal(resumed[name], value) for name, value in whole.items())
