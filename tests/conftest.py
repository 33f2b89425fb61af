"""What several test modules share: the reference data beside the repository, and models far from the identity."""

from pathlib import Path

import pytest
import torch
from adversarial import SLOW
from hypothesis import settings

from pcgen.flows import FlowConfig, SolverConfig
from pcgen.models import EncoderConfig, ObjectiveConfig, PointFlow, PointFlowConfig

SHARED = Path(__file__).parents[1].parent / "shared"

settings.register_profile("pcgen", deadline=None, max_examples=10 if SLOW else 20, derandomize=True)
settings.load_profile("pcgen")


@pytest.fixture(scope="session")
def reference():
    """A function from a file's name to its path among other programs' results; skips where they are absent."""

    def find(name: str) -> Path:
        path = SHARED / "reference" / name
        if not path.is_file():
            pytest.skip(f"no reference data: {path} is absent")
        return path

    return find


@torch.no_grad()
def _perturb(module, seed=0, size=0.3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        module.double().eval()
        for name, tensor in module.state_dict(keep_vars=True).items():
            noise = torch.randn(tensor.shape, dtype=torch.float64)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.square())
            elif name.endswith("sqrt_end_time"):
                tensor.fill_(0.9)
            elif tensor.is_floating_point() and not name.startswith("data_"):
                tensor.add_(size * noise)
    return module


@pytest.fixture(scope="session")
def perturb():
    """A function that moves a module, in place, to where a wrong formula shows.

    A fresh flow is nearly the identity and passes anything; this one has float64 weights drawn anew from the seed,
    norms whose statistics do something, and T = 0.81.
    """
    return _perturb


@pytest.fixture
def small_model():
    """A function that builds a small perturbed PointFlow in float64; keywords replace parts of its configuration."""

    def build(seed=0, latent=4, variational=True, mean=None, scale=None, solver=None, prior=True, **objective):
        matching = objective.get("name", "likelihood") == "flow_matching"
        flow = {
            "norm": "frozen" if matching else "moving",
            "train_time": not matching,
            "solver": solver or SolverConfig("rk4", steps=4),
        }
        config = PointFlowConfig(
            latent=latent,
            encoder=EncoderConfig((8, 16), (8,), variational),
            point_flow=FlowConfig((12, 10), **flow),
            latent_flow=FlowConfig((9,), **flow) if prior else None,
            objective=ObjectiveConfig(**{"name": "likelihood", **objective}),
        )
        return _perturb(PointFlow(config, mean, scale), seed)

    return build


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors are computed faster so, and runs of several processes do not wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
