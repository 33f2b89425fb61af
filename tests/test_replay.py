"""Recorded solves give what the solves give; on a GPU where there is one, elsewhere by a recording made by hand."""

import pytest
import torch
from torch.testing import assert_close

from pcgen.flows import Flow, FlowConfig, Replayed, SolverConfig
from pcgen.flows.replay import cuda_graph
from pcgen.models import EncoderConfig, PointFlow, PointFlowConfig, inference

FIXED = ("euler", "midpoint", "rk4", "ab2")


class ByHand:
    """Records as CUDA does: what is replayed reads the same places, and writes to the same place."""

    def __init__(self, error=0.0):
        self.recorded, self.replays, self.error = [], 0, error

    def __call__(self, function, inputs):
        self.recorded.append(tuple(tuple(x.shape) for x in inputs))
        out = torch.full_like(function(*inputs), torch.nan)  # recorded, not carried out

        def replay():
            self.replays += 1
            out.copy_(function(*inputs) + self.error)

        return replay, out


@pytest.fixture(params=["by hand", *(["cuda"] if torch.cuda.is_available() else [])])
def how(request):
    """(device, what records)."""
    return ("cpu", ByHand()) if request.param == "by hand" else ("cuda", cuda_graph)


def flow(method, device, precision="float32"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Flow(
            3, 4, FlowConfig((64, 64), frequencies=2, solver=SolverConfig(method, steps=5, precision=precision))
        )
        for parameter in made.parameters():
            if parameter.dim() == 2:
                parameter.data *= 3
    return made.eval().to(device)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", FIXED)
@torch.no_grad()
def test_every_call_gives_the_solve(how, method, precision):
    device, record = how
    made = flow(method, device, precision)
    replayed = Replayed(lambda y, z: made.from_prior(y, z).x, record)
    for seed, (shapes, points) in enumerate([(2, 200), (1, 7), (2, 200), (2, 200), (1, 7), (1, 7), (2, 200)]):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randn(shapes, points, 3, generator=generator).to(device)
        z = torch.randn(shapes, 4, generator=generator).to(device)
        assert_close(replayed(y, z), made.from_prior(y, z).x, atol=1e-5 if precision == "float32" else 1e-2, rtol=0)
    if isinstance(record, ByHand):
        assert record.recorded == [((2, 200, 3), (2, 4)), ((1, 7, 3), (1, 4))]
        assert record.replays == 2 + 3  # two that were checked, and the calls after the second of each size


def test_other_types_and_sizes_are_recorded_apart():
    record = ByHand()
    replayed = Replayed(lambda x: x + 1, record)
    inputs = [torch.zeros(2), torch.zeros(3), torch.zeros(2, dtype=torch.float64), torch.zeros(2, 1)]
    for _ in range(3):
        for x in inputs:
            assert torch.equal(replayed(x), x + 1) and replayed(x).dtype == x.dtype
    assert len(record.recorded) == 4


def test_a_recording_that_is_wrong_is_given_up():
    record = ByHand(error=0.01)
    replayed = Replayed(lambda x: 2 * x, record)
    x = torch.ones(3)
    assert torch.equal(replayed(x), 2 * x)
    with pytest.warns(RuntimeWarning, match=r"no CUDA graph, all goes on step by step: it is off by 0\.01"):
        assert torch.equal(replayed(x), 2 * x)
    for size in (3, 4, 4, 4):
        assert torch.equal(replayed(torch.ones(size)), 2 * torch.ones(size))
    assert len(record.recorded) == 1


def test_a_recording_that_fails_is_given_up():
    def fails(function, inputs):
        raise RuntimeError("operation not permitted when stream is capturing")

    replayed = Replayed(torch.sin, fails)
    x = torch.ones(3)
    replayed(x)
    with pytest.warns(RuntimeWarning, match="step by step: operation not permitted"):
        assert torch.equal(replayed(x), x.sin())
    assert torch.equal(replayed(x), x.sin())


def small():
    flow = {"norm": "frozen", "train_time": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PointFlow(
            PointFlowConfig(
                latent=4,
                encoder=EncoderConfig((8, 16), (8,)),
                point_flow=FlowConfig((16,), **flow),
                latent_flow=FlowConfig((16,), **flow),
                sampler=SolverConfig("ab2", steps=4),
            ),
            mean=[1.0, 2.0, 3.0],
            scale=2.0,
        ).eval()


@pytest.mark.parametrize("double", [False, True])
def test_samples_are_the_same(how, double, monkeypatch):
    """Of whole solves and of the last, smaller one; a large cloud's parts too."""
    device, record = how
    model = small().to(device)
    model = model.double() if double else model
    monkeypatch.setattr(inference, "POINTS_PER_SOLVE", 64)
    carrier = inference._carrier

    def on(device):
        monkeypatch.setattr(
            inference, "_carrier", lambda model, solver, _: carrier(model, solver, torch.device(device))
        )

    for shapes, points in ((23, 20), (2, 64 * 5 + 7)):
        on("cpu")
        want = model.sample(shapes, points, 3).points
        on("cuda")
        monkeypatch.setattr(inference, "Replayed", lambda function: Replayed(function, record))
        assert_close(model.sample(shapes, points, 3).points, want, atol=1e-5, rtol=0)
    if isinstance(record, ByHand):
        # Three clouds a solve, two in the last one; then parts of 64 points, and the 7 that are left.
        assert record.recorded == [((3, 20, 3), (3, 4)), ((1, 64, 3), (1, 4)), ((1, 7, 3), (1, 4))]
        assert record.replays == (7 - 1) + (10 - 1) + (2 - 1)


def test_what_chooses_its_steps_is_not_recorded(monkeypatch):
    monkeypatch.setattr(inference, "Replayed", lambda function: pytest.fail("recorded"))
    inference._carrier(small(), SolverConfig("dopri5"), torch.device("cuda"))
    inference._carrier(small(), SolverConfig("ab2"), torch.device("cpu"))
