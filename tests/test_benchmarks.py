"""What the benchmarks compare must be the same computation: the original's way gives our answers."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import original_style

from pcgen.flows import SolverConfig, Trace, log_density


@pytest.fixture
def model(small_model):
    return small_model(solver=SolverConfig(atol=1e-8, rtol=1e-8))


def test_samples_are_the_same(model):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(2, model.config.latent, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    theirs, evaluations = original_style.sample(model, w, y)
    ours = model.points_from_prior(y, model.shape_from_prior(w))
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)
    assert evaluations > 0


def test_densities_are_the_same(model, monkeypatch):
    """With the same Hutchinson noise the accumulated log-density agrees, and so do gradients."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, model.config.latent, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    e = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    monkeypatch.setattr(Trace, "directions", lambda self, like: e)
    monkeypatch.setattr(original_style.torch, "randn_like", lambda like: e)
    ours = log_density(model.point_flow, x, z, Trace("hutchinson"))
    y, log_det, _ = original_style.carry(model.point_flow, x, z)
    theirs = original_style.standard_normal_log_density(y) - log_det.squeeze(-1)
    torch.testing.assert_close(theirs, ours.value, atol=1e-6, rtol=0)
    parameters = [p for p in model.point_flow.parameters() if p.requires_grad]
    for a, b in zip(
        torch.autograd.grad(ours.value.sum(), parameters), torch.autograd.grad(theirs.sum(), parameters), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()) + 1e-6, rtol=0)
