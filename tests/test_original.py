"""The original program's checkpoints: the same numbers, and no harm from files that are something else."""

import itertools
import json
import os
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from pcgen.flows import LAYERS, NONLINEARITIES
from pcgen.models import PointFlow
from pcgen.models.original import is_original

PACKS = ["pointflow_small", "pointflow_two_blocks"]
ARRAYS = ["mu", "logvar", "w", "log_pz", "y", "log_px", "z0", "x0"]


# Parity with the published program's own results.


def evaluate(model, data):
    """The model's answer to each array of a reference pack."""
    data = {k: torch.as_tensor(v).to(model.data_mean) for k, v in data.items()}
    with torch.no_grad():
        q = model.encode(data["x"])
        w, log_pz = model.shape_to_prior(data["mu"])
        y, log_px = model.points_to_prior(data["x"], data["mu"])
        z0 = model.shape_from_prior(data["w0"])
        x0 = model.points_from_prior(data["y0"], data["z0"])
    values = (q.mean, q.logvar, w, log_pz, y, log_px, z0, x0)
    return dict(zip(ARRAYS, values, strict=True))


@pytest.fixture(scope="module")
def evaluated(reference):
    """A function from pack, dtype and tolerance to the reference arrays and the model's."""
    kept = {}

    def get(pack, dtype, tolerance):
        if (pack, dtype) not in kept:
            model = PointFlow.from_original(reference(f"{pack}.pt"), atol=tolerance, rtol=tolerance).to(dtype)
            with np.load(reference(f"{pack}.npz"), allow_pickle=False) as data:
                arrays = dict(data)
            kept[pack, dtype] = arrays, evaluate(model, arrays)
        return kept[pack, dtype]

    return get


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pack", PACKS)
def test_parity(evaluated, pack, dtype, array):
    tolerance, bound = (1e-8, 1e-5) if dtype == torch.float64 else (1e-5, 1e-4)
    want, found = (arrays[array] for arrays in evaluated(pack, dtype, tolerance))
    assert found.shape == want.shape and found.dtype == dtype
    assert np.abs(found.numpy() - want).max() <= bound * np.abs(want).max()


@pytest.mark.parametrize("pack", PACKS)
def test_sizes_are_read_from_the_tensors(reference, pack):
    settings = json.loads(reference(f"{pack}.json").read_text())
    config = PointFlow.from_original(reference(f"{pack}.pt")).config
    assert config.latent == settings["zdim"] and config.encoder.variational
    for flow, dims, blocks in (
        (config.point_flow, "dims", "num_blocks"),
        (config.latent_flow, "latent_dims", "latent_num_blocks"),
    ):
        assert flow.dims == tuple(int(d) for d in settings[dims].split("-"))
        assert flow.blocks == settings.get(blocks, 1)
        assert flow.norm == "moving" and flow.train_time


# State dicts in the original's form, of every kind it can be.

Z = 5
GATES = {"concatsquash": "_hyper_gate", "concatscale": "_hyper_gate", "squash": "_hyper", "scale": "_hyper"}
SHIFTS = ("concatsquash", "concatscale", "concat_v2")


def original_state(
    *,
    layer="concatsquash",
    nonlinearity="tanh",
    variational=True,
    blocks=1,
    norm=True,
    train_time=True,
    latent_flow=True,
    module=True,
):
    """Random weights under the names and in the shapes that the original gives them."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def put(key, *shape):
        state[key] = 0.3 * torch.randn(shape, generator=generator)

    def put_norm(key, size, batch):
        for name in ("weight", "bias", "running_mean", "running_var"):
            put(f"{key}.{name}", size)
        state[f"{key}.running_var"].square_().add_(0.5)
        state[f"{key}.num_batches_tracked" if batch else f"{key}.step"] = torch.zeros(() if batch else 1)

    def put_linear(key, outputs, *inputs, bias=True):
        put(f"{key}.weight", outputs, *inputs)
        if bias:
            put(f"{key}.bias", outputs)

    encoder = "encoder.module." if module else "encoder."
    for i, (a, b) in enumerate(itertools.pairwise((3, 6, 6, 7, 8)), 1):
        put_linear(f"{encoder}conv{i}", b, a, 1)
        put_norm(f"{encoder}bn{i}", b, batch=True)
    for head in ("_m", "_v") if variational else ("",):
        for i, (a, b) in enumerate(itertools.pairwise((8, 6, 4, Z)), 1):
            put_linear(f"{encoder}fc{i}{head}", b, a)
            if i < 3:
                put_norm(f"{encoder}fc_bn{i}{head}", b, batch=True)

    def put_flow(prefix, dim, hidden, context):
        sizes = (dim, *hidden, dim)
        for k in range(blocks):
            block = f"{prefix}chain.{2 * k + 1 if norm else k}"
            if train_time:
                state[f"{block}.sqrt_end_time"] = torch.tensor(0.9)
            state[f"{block}.odefunc._num_evals"] = torch.tensor(0.0)
            net = f"{block}.odefunc.diffeq"
            for i, (a, b) in enumerate(itertools.pairwise(sizes)):
                put_linear(f"{net}.layers.{i}._layer", b, a)
                if layer in SHIFTS:
                    put_linear(f"{net}.layers.{i}._hyper_bias", b, 1 + context, bias=False)
                if layer in GATES:
                    put_linear(f"{net}.layers.{i}.{GATES[layer]}", b, 1 + context)
            if nonlinearity == "swish":
                for i in range(len(hidden)):  # one module under several names
                    state[f"{net}.activation_fns.{i}.beta"] = torch.tensor(1.3)
        for k in range(blocks + 1 if norm else 0):
            put_norm(f"{prefix}chain.{2 * k}", dim, batch=False)

    put_flow("point_cnf.module." if module else "point_cnf.", 3, (7, 6), Z)
    if latent_flow:
        put_flow("latent_cnf.module." if module else "latent_cnf.", Z, (6,), 0)
    return state


@pytest.fixture
def load(tmp_path):
    """A function that saves something as a checkpoint and loads it as a model."""

    def load(content, **options):
        torch.save(content, tmp_path / "model.pt")
        return PointFlow.from_original(tmp_path / "model.pt", **options)

    return load


def their_velocity(state, net, layer, nonlinearity, t, x, context):
    """The published formulas, on the original's tensors."""
    activation = {
        "tanh": torch.tanh,
        "relu": torch.relu,
        "softplus": F.softplus,
        "elu": F.elu,
        "swish": lambda x: x * torch.sigmoid(1.3 * x),
        "square": torch.square,
        "identity": lambda x: x,
    }[nonlinearity]
    s = torch.cat([torch.full((len(x), 1), t), context], 1)[:, None]
    count = sum(key.startswith(f"{net}.layers.") and key.endswith("._layer.weight") for key in state)
    for i in range(count):
        p = {k.removeprefix(f"{net}.layers.{i}."): v for k, v in state.items() if k.startswith(f"{net}.layers.{i}.")}
        x = x @ p["_layer.weight"].T + p["_layer.bias"]
        if layer in GATES:
            gate = s @ p[f"{GATES[layer]}.weight"].T + p[f"{GATES[layer]}.bias"]
            x = x * (gate.sigmoid() if "squash" in layer else gate)
        if layer in SHIFTS:
            x = x + s @ p["_hyper_bias.weight"].T
        if i < count - 1:
            x = activation(x)
    return x


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_and_nonlinearity(load, layer, nonlinearity):
    state = original_state(layer=layer, nonlinearity=nonlinearity, blocks=2)
    model = load(state, layer=layer, nonlinearity=nonlinearity)
    x, c = torch.randn(2, 4, 3), torch.randn(2, Z)
    z = torch.randn(2, 1, Z)
    for block in (1, 3):
        net = f"point_cnf.module.chain.{block}.odefunc.diffeq"
        want = their_velocity(state, net, layer, nonlinearity, 0.4, x, c)
        ours = model.point_flow.chain[block].net
        assert_close(ours(torch.tensor(0.4), x, ours.modulation(c)), want)
        net = f"latent_cnf.module.chain.{block}.odefunc.diffeq"
        want = their_velocity(state, net, layer, nonlinearity, 0.4, z, torch.zeros(2, 0))
        ours = model.latent_flow.chain[block].net
        assert_close(ours(torch.tensor(0.4), z, ours.modulation()), want)
    assert float(model.point_flow.chain[1].end_time.detach()) == pytest.approx(0.81)


@pytest.mark.parametrize("variational", [True, False])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("latent_flow", [True, False])
def test_sizes_of_every_kind(load, variational, norm, blocks, latent_flow):
    model = load(original_state(variational=variational, norm=norm, blocks=blocks, latent_flow=latent_flow))
    config = model.config
    assert config.latent == Z and not model.training
    assert config.encoder.widths == (6, 6, 7, 8) and config.encoder.head == (6, 4)
    assert config.encoder.variational is variational
    assert config.point_flow.dims == (7, 6) and config.point_flow.blocks == blocks
    assert config.point_flow.norm == ("moving" if norm else "none")
    assert (config.latent_flow is not None) is latent_flow
    if latent_flow:
        assert config.latent_flow.dims == (6,) and config.latent_flow.blocks == blocks
        assert model.sample(2, 4, 0).points.shape == (2, 4, 3)
    assert model.reconstruct(torch.randn(2, 6, 3), 4).shape == (2, 4, 3)


def test_encoder_is_the_published_one(load):
    state = {k.removeprefix("encoder.module."): v for k, v in original_state().items()}
    x = torch.randn(2, 9, 3)

    def norm(name, h):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return (h - mean) / torch.sqrt(var + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]

    h = x
    for i in range(1, 5):
        h = norm(f"bn{i}", h @ state[f"conv{i}.weight"][..., 0].T + state[f"conv{i}.bias"])
        h = h.relu() if i < 4 else h
    pooled = h.amax(1)
    q = load(original_state()).encode(x)
    for head, found in (("_m", q.mean), ("_v", q.logvar)):
        h = pooled
        for i in range(1, 4):
            h = h @ state[f"fc{i}{head}.weight"].T + state[f"fc{i}{head}.bias"]
            h = norm(f"fc_bn{i}{head}", h).relu() if i < 3 else h
        assert_close(found, h)


def test_an_autoencoder_reconstructs_and_does_not_sample(load):
    model = load(original_state(variational=False, latent_flow=False))
    assert model.reconstruct(torch.randn(2, 6, 3), 4, 0).shape == (2, 4, 3)
    with pytest.raises(ValueError, match="an autoencoder has no prior over shapes to sample from") as error:
        model.sample(1, 4)
    assert "\n" not in str(error.value)


def test_with_and_without_wrappers(load):
    bare, wrapped = original_state(module=False), original_state(module=True)
    outer = {f"module.{k}": v for k, v in bare.items()}
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-3, "params": [0]}]}
    training = {"epoch": 7, "model": wrapped, "optimizer": optimizer}
    want = load(wrapped).sample(2, 4, 0).points
    for content in (bare, outer, training, {"model": bare}):
        assert torch.equal(load(content).sample(2, 4, 0).points, want)


def test_end_time_where_it_was_not_trained(load):
    state = original_state(train_time=False)
    for options, end in (({}, 0.5), ({"time_length": 1.7}, 1.7)):
        model = load(state, **options)
        assert not model.config.point_flow.train_time and not model.config.latent_flow.train_time
        assert float(model.point_flow.chain[1].end_time) == pytest.approx(end)
        assert model.config.point_flow.time_length == end
    trained = load(original_state(), time_length=1.7)  # the tensors know better
    assert float(trained.point_flow.chain[1].end_time.detach()) == pytest.approx(0.81)


def test_mean_scale_and_tolerances(load):
    plain = load(original_state())
    model = load(original_state(), mean=[1.0, 2.0, 3.0], scale=0.5, atol=1e-6, rtol=1e-4)
    moved = plain.sample(2, 4, 0).points * 0.5 + torch.tensor([1.0, 2.0, 3.0])
    assert_close(model.sample(2, 4, 0).points, moved, atol=1e-3, rtol=0)
    assert (model.point_flow.solver.atol, model.point_flow.solver.rtol) == (1e-6, 1e-4)
    assert model.latent_flow.solver.atol == pytest.approx(1e-7)


def test_what_looks_like_an_original(tmp_path):
    for name in ("a.pt", "a.pth", "a.tar"):
        (tmp_path / name).touch()
        assert is_original(tmp_path / name)
    (tmp_path / "a.npy").touch()
    (tmp_path / "folder.pt").mkdir()
    assert not any(is_original(tmp_path / name) for name in ("a.npy", "folder.pt", "absent.pt"))


# Files that are something else. Each is refused in one line, and nothing in them is run.


def refuse(path, message, **options):
    with pytest.raises(ValueError, match=message) as error:
        PointFlow.from_original(path, **options)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert error.value.__context__ is None or error.value.__suppress_context__  # no page of the parser's own words


class Touch:
    """Unpickled by a reader that runs code, this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("place", ["alone", "among tensors", "in the optimizer"])
def test_code_is_refused_and_not_run(tmp_path, form, place):
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    state = original_state()
    content = {
        "alone": Touch(trace),
        "among tensors": {**state, "encoder.extra": Touch(trace)},
        "in the optimizer": {"model": state, "optimizer": Touch(trace)},
    }[place]
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    refuse(path, "refused, nothing in it was run" if form != "pickle" else "refused|not a readable checkpoint")
    assert not trace.exists()
    if form == "pickle" and place == "alone":
        pickle.loads(path.read_bytes())
        assert trace.exists()  # the file was as bad as it claims


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(tmp_path, zipped):
    path = tmp_path / "model.pt"
    torch.save(original_state(), path, _use_new_zipfile_serialization=zipped)
    PointFlow.from_original(path)
    content = path.read_bytes()
    some = torch.linspace(0, len(content) - 1, 150).long().tolist()
    for length in sorted({*range(12), *some, len(content) - 22, len(content) - 2, len(content) - 1}):
        path.write_bytes(content[:length])
        refuse(path, "is not a readable checkpoint: damaged, truncated or of another kind")


def test_flipped_bytes(tmp_path):
    """Anywhere in the pickle or the zip's directory: refused in one line, or a model all the same."""
    path = tmp_path / "model.pt"
    torch.save(original_state(latent_flow=False), path)
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(0, len(content), 150):
        damaged = content.copy()
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            PointFlow.from_original(path)
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a",
        b"weights, honestly\n" * 20,
        b"# a readme\n\nnothing here\n",
        b"\x80\x02",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        bytes(1000),
    ],
)
def test_files_of_another_kind(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    refuse(path, "is not a readable checkpoint: damaged, truncated or of another kind")


def test_no_file(tmp_path):
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint {path}"):
            PointFlow.from_original(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds no state dict"),
        ({}, "holds no state dict"),
        ({0: torch.zeros(3)}, "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        ({"model": {"epoch": 3}}, "holds no state dict"),
        ([torch.zeros(3)], "holds no state dict"),
        ({"layer.weight": torch.zeros(3)}, r"no key starts with 'encoder\.' \(found layer\.weight, …\)"),
        ({"encoder.conv1.weight": torch.zeros(3)}, r"no key starts with 'point_cnf\.'"),
    ],
)
def test_other_state_dicts(tmp_path, content, message):
    torch.save(content, tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", message)


OPTIONAL = ("step", "_num_evals", "num_batches_tracked", "sqrt_end_time")


@pytest.mark.parametrize("kind", [{}, {"variational": False, "latent_flow": False}, {"layer": "scale", "blocks": 2}])
def test_missing_keys(tmp_path, kind):
    """Without any one tensor that counts, no model."""
    state, path, layer = original_state(**kind), tmp_path / "model.pt", kind.get("layer", "concatsquash")
    for key in state:
        torch.save({k: v for k, v in state.items() if k != key}, path)
        if key.endswith(OPTIONAL):
            PointFlow.from_original(path, layer=layer)
        else:
            refuse(path, "lacks '|was not made with layer|not one consistent|lacks a layer", layer=layer)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["encoder.module.bn2.running_var", "latent_cnf.module.chain.1.sqrt_end_time"])
def test_values_that_are_not_finite(tmp_path, key, value):
    state = original_state()
    state[key].reshape(-1)[0] = value
    torch.save(state, tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", f"holds values that are not finite, in {key.replace('module.', '')}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("point_cnf.module.chain.0.running_var", torch.tensor([1.0, -1e-9, 1.0]), "holds negative variances, in point"),
        ("encoder.module.bn2.running_var", -torch.ones(6), "holds negative variances, in encoder"),
        (
            "latent_cnf.module.chain.1.sqrt_end_time",
            torch.ones(2),
            "values in .*sqrt_end_time, expected one",
        ),
        ("point_cnf.module.chain.x.weight", torch.ones(3), r"has the key point_cnf\.chain\.x, expected a number"),
    ],
)
def test_values_that_no_model_has(tmp_path, key, value, message):
    torch.save({**original_state(), key: value}, tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", message)


def test_sizes_that_contradict_each_other(tmp_path):
    state = original_state()
    state["encoder.module.conv2.weight"] = torch.zeros(6, 5, 1)
    torch.save(state, tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", "not one consistent model")


@pytest.mark.parametrize(("made", "asked"), list(itertools.permutations(LAYERS, 2)))
def test_the_wrong_layer_is_told_which_fits(tmp_path, made, asked):
    """Types with the same tensors cannot be told apart: then the numbers differ, and there is nothing to refuse."""
    torch.save(original_state(layer=made), tmp_path / "model.pt")
    twins = [{"concatsquash", "concatscale"}, {"squash", "scale"}]
    if {made, asked} in twins:
        PointFlow.from_original(tmp_path / "model.pt", layer=asked)
    else:
        refuse(tmp_path / "model.pt", f"not made with layer '{asked}': .* fit .*{made}", layer=asked)


def test_the_wrong_nonlinearity(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(original_state(), path)
    refuse(path, "lacks swish's learned β, nonlinearity 'swish' does not fit", nonlinearity="swish")
    torch.save(original_state(nonlinearity="swish"), path)
    refuse(path, "has swish's learned β, nonlinearity 'tanh' does not fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "concat"}, "layer must be one of concatsquash, .*, got 'concat'"),
        ({"nonlinearity": "gelu"}, "nonlinearity must be one of tanh, .*, got 'gelu'"),
        ({"time_length": 0.0}, "time_length must be positive and finite, got 0.0"),
        ({"time_length": -1.0}, "time_length must be positive and finite, got -1.0"),
        ({"atol": 0.0}, "tolerances must be positive"),
    ],
)
def test_wrong_arguments(load, options, message):
    with pytest.raises(ValueError, match=message) as error:
        load(original_state(train_time=False), **options)
    assert "\n" not in str(error.value)
