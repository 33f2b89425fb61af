"""Settings: files and overrides to dataclasses and back, and one clear line for each mistake."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcgen.config import Settings, from_dict, parse_override, read, read_yaml, to_dict, to_yaml
from pcgen.flows import FlowConfig, SolverConfig
from pcgen.models import EncoderConfig, ObjectiveConfig, PointFlowConfig


@dataclass(frozen=True)
class Inner(Settings):
    rate: float = 2e-3
    widths: tuple[int, ...] = (8, 8)
    kind: Literal["warm", "cold"] = "warm"

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate must not be negative, got {self.rate}")


@dataclass(frozen=True)
class Outer(Settings):
    name: str = "run"
    steps: int = 10
    fast: bool = True
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = field(default_factory=Inner)
    path: str | None = None


INNERS = st.builds(
    Inner,
    rate=st.floats(0, 1e6),
    widths=st.lists(st.integers(-9, 10**6), max_size=4).map(tuple),
    kind=st.sampled_from(["warm", "cold"]),
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
OUTERS = st.builds(
    Outer,
    name=TEXTS,
    steps=st.integers(-(10**9), 10**9),
    fast=st.booleans(),
    inner=INNERS,
    other=st.none() | INNERS,
    path=st.none() | TEXTS,
)


@given(OUTERS)
def test_round_trip(tmp_path_factory, settings):
    path = tmp_path_factory.mktemp("config") / "settings.yaml"
    path.write_text(to_yaml(settings), encoding="utf-8")
    assert read(Outer, path) == settings
    assert from_dict(Outer, to_dict(settings)) == settings


@pytest.mark.parametrize(
    "settings",
    [
        PointFlowConfig(objective=ObjectiveConfig("likelihood")),
        PointFlowConfig(
            latent=8,
            encoder=EncoderConfig((4, 4), (), False),
            point_flow=FlowConfig((8,), 2, "squash", "swish", 1.5, True, "none", SolverConfig("rk4", 1e-4, 1e-9)),
            latent_flow=None,
            objective=ObjectiveConfig("likelihood", "exact", "rademacher"),
        ),
    ],
)
def test_round_trip_of_a_model(tmp_path, settings):
    (tmp_path / "model.yaml").write_text(to_yaml(settings), encoding="utf-8")
    assert read(PointFlowConfig, tmp_path / "model.yaml") == settings


def test_plain_values():
    values = to_dict(Outer(other=None))
    assert values["inner"] == {"rate": 2e-3, "widths": [8, 8], "kind": "warm"} and values["other"] is None
    assert list(values) == ["name", "steps", "fast", "inner", "other", "path"]  # in the order they are declared


def test_the_later_source_wins(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("steps: 3\ninner: {kind: cold, widths: [1, 2, 3]}\n")
    base = {"name": "base", "steps": 2, "inner": {"rate": 5.0}}
    assert read(Outer) == Outer()
    assert read(Outer, base=base).steps == 2
    settings = read(Outer, path, ["steps=4", "inner.widths=[7]", "other.rate=1"], base)
    assert settings == Outer("base", 4, inner=Inner(5.0, (7,), "cold"), other=Inner(1.0))
    assert base == {"name": "base", "steps": 2, "inner": {"rate": 5.0}}  # untouched


def test_empty_files_are_the_defaults(tmp_path):
    for text in ("", "# nothing but a comment\n"):
        (tmp_path / "empty.yaml").write_text(text)
        assert read(Outer, tmp_path / "empty.yaml") == Outer()


def test_sections_can_be_absent():
    assert from_dict(Outer, {"other": None}).other is None
    assert read(Outer, overrides=["other=null"]).other is None
    assert read(Outer, overrides=["other=null", "other.rate=1"]).other == Inner(1.0)
    assert read(Outer, overrides=["other.rate=1", "other=null"]).other is None
    model = read(PointFlowConfig, overrides=["latent_flow=null", "objective.name=likelihood"])
    assert model.latent_flow is None and model.point_flow == FlowConfig()


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "1e-03"])
def test_numbers_that_yaml_reads_as_strings(text):
    assert read(Outer, overrides=[f"inner.rate={text}"]).inner.rate == 1e-3


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1", {"a": 1}),
        ("a.b.c=[1, 2]", {"a": {"b": {"c": [1, 2]}}}),
        ("a=x=y", {"a": "x=y"}),
        ("a=", {"a": None}),
        ("a=null", {"a": None}),
        (" a = true", {"a": True}),
        ("a={b: 1}", {"a": {"b": 1}}),
    ],
)
def test_overrides(text, values):
    assert parse_override(text) == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 1}, "unknown setting 'step' (nearest: 'steps')"),
        ({"inner": {"ratte": 1}}, "unknown setting 'inner.ratte' (nearest: 'inner.rate')"),
        ({"other": {"kid": 1}}, "unknown setting 'other.kid' (nearest: 'other.kind')"),
        ({"inner": {"kind": "hot"}}, "inner.kind must be 'warm' or 'cold', got 'hot'"),
        ({"inner": {"rate": -1}}, "inner: rate must not be negative, got -1.0"),
        ({"steps": "many"}, "steps: Input should be a valid integer, unable to parse string as an integer, got 'many'"),
        ({"steps": 2.5}, "steps: Input should be a valid integer, got a number with a fractional part, got 2.5"),
        ({"fast": "perhaps"}, "fast: Input should be a valid boolean, unable to interpret input, got 'perhaps'"),
        ({"name": ["a"]}, "name: Input should be a valid string, got ['a']"),
        ({"inner": None}, "inner: Input should be a dictionary or an instance of Inner, got None"),
        ({"inner": {"widths": [1, "x"]}}, "inner.widths.1: Input should be a valid integer, unable to parse"),
        ({"inner": {"rate": "1e-x"}}, "inner.rate: Input should be a valid number, unable to parse"),
    ],
)
def test_mistakes_are_one_line(values, message):
    with pytest.raises(ValueError) as error:
        from_dict(Outer, values)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ValueError) as error:
        from_dict(Outer, {"step": 1, "inner": {"kind": "hot"}})
    assert str(error.value).count("; ") == 1
    assert "'step'" in str(error.value) and "inner.kind must be" in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "latent_flow.solver.metod=rk4",
            "unknown setting 'latent_flow.solver.metod' (nearest: 'latent_flow.solver.method')",
        ),
        ("latent_flow.norm=batch", "latent_flow.norm must be 'moving', 'frozen' or 'none', got 'batch'"),
        ("point_flow.layer=concat", "point_flow.layer must be 'concatsquash', "),
        ("point_flow.dims=[]", "point_flow: dims must be positive layer widths, got ()"),
        ("objective.name=nll", "objective.name must be 'flow_matching' or 'likelihood', got 'nll'"),
        ("latent=0", "latent must be at least 1, got 0"),
        ("point_flow.solver.steps=0", "point_flow.solver: steps must be at least 1, got 0"),
    ],
)
def test_mistakes_in_a_model(override, message):
    with pytest.raises(ValueError) as error:
        read(PointFlowConfig, overrides=["objective.name=likelihood", override])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["steps", "=1", " =1", ""])
def test_overrides_without_a_key_or_value(text):
    with pytest.raises(ValueError, match="an override reads key=value, got"):
        parse_override(text)


def test_overrides_that_are_not_yaml():
    with pytest.raises(ValueError, match=r"the value of 'a' is not readable YAML: '\[1'") as error:
        parse_override("a=[1")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: 2", "is not readable YAML"),
        (b"\xff\xfe\x00", "is not readable YAML"),
        (b"!!python/object/apply:os.system ['true']", "is not readable YAML"),
        (b"- 1\n- 2\n", "must hold a mapping of settings, it holds a list"),
        (b"just words", "must hold a mapping of settings, it holds a str"),
    ],
)
def test_files_that_hold_no_settings(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_yaml(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_no_file(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no configuration file {path}"):
            read(Outer, path)
