"""One parser for settings: as they are typed, as YAML and JSON give them, and what it refuses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from factscope.errors import SettingError
from factscope.settings import by_owner, configured, names, owned


@dataclass(frozen=True)
class Descent:
    steps: int = 40
    stop: float = 0.05


@dataclass(frozen=True)
class Trace:
    steps: int = 1
    window: int = 10


@dataclass(frozen=True)
class Config:
    layer: int
    layers: tuple[int, ...] = (4, 5)
    swaps: tuple[str, ...] = ()
    span: tuple[int, float] = (0, 1.0)
    bound: float | None = None
    note: str | None = None
    signed: bool = False
    engine: Literal["fast", "reference"] = "fast"
    out: Path | None = None
    descent: Descent = field(default_factory=Descent)


@dataclass(frozen=True)
class Both:
    descent: Descent = field(default_factory=Descent)
    trace: Trace = field(default_factory=Trace)


TYPED = ["layer=3", "layers=0, 1;2", "swaps=A b;C", "span=2,0.5", "bound=1e-3", "note=none", "signed=yes",
         "engine=reference", "out=a/b", "stop=0.1", "descent.steps=7"]  # fmt: skip
GIVEN = {"layer": 3, "layers": [0, 1, 2], "swaps": ["A b", "C"], "span": [2, 0.5], "bound": 0.001, "note": None,
         "signed": True, "engine": "reference", "out": "a/b", "descent": {"stop": 0.1, "steps": 7.0}}  # fmt: skip


def test_typed_texts_and_a_file_s_values_make_the_same_config():
    wanted = Config(
        3, (0, 1, 2), ("A b", "C"), (2, 0.5), 1e-3, None, True, "reference", Path("a/b"), Descent(steps=7, stop=0.1)
    )
    assert configured(Config, TYPED) == configured(Config, GIVEN) == wanted
    assert isinstance(configured(Config, GIVEN).descent.steps, int)


def test_what_is_not_set_stays_as_it_was():
    base = Config(3, bound=0.5, descent=Descent(steps=7))
    assert configured(base) == base
    assert configured(base, ["stop=1", "layer=4"]) == Config(4, bound=0.5, descent=Descent(7, 1.0))
    assert configured(Config, ["note=x"], flags={"layer": 2, "bound": None}) == Config(2, note="x")
    assert configured(base, ["bound=none"]).bound is None


def test_every_setting_has_a_full_name():
    assert names(Both()) == names(Both) == ("descent.steps", "descent.stop", "trace.steps", "trace.window")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["layers"], "write key=value"),
        (["stepps=7"], r"no setting 'stepps', did you mean 'steps'\? Write one of these keys: layer, layers, .*, desc"),
        (["descent.layer=7"], "no setting 'descent.layer'"),
        (["steps=many"], "steps cannot be 'many', which is not a whole number"),
        ({"steps": 1.5}, "steps cannot be 1.5, which is not a whole number"),
        ({"steps": True}, "steps cannot be True"),
        ({"signed": 1}, "signed cannot be 1, which is not true or false"),
        ({"note": 3}, "note cannot be 3, which is not a text or none"),
        (["bound=loud"], "which is not a number or none"),
        (["layers=0,x"], "which is not a list, with commas, each a whole number"),
        (["span=1,2,3"], "which is not a list"),
        (["engine=slow"], "which is not one of fast, reference"),
        (["steps=1", "descent.steps=1"], "descent.steps is given twice"),
        (["layer=1"], "layer is given twice"),
        ({"steps": 1, "descent": {"steps": 2}}, "descent.steps is given twice"),
    ],
)
def test_what_cannot_be_read_is_named(settings, message):
    with pytest.raises(SettingError, match=message):
        configured(Config, settings, flags={"layer": 3})


def test_a_name_that_two_configs_share_must_be_said_in_full():
    with pytest.raises(SettingError, match=r"which setting is meant: descent\.steps, trace\.steps"):
        configured(Both, ["steps=1"])
    assert configured(Both, ["trace.steps=2", "window=3"]) == Both(trace=Trace(2, 3))


def test_a_setting_without_a_default_must_be_given_and_a_file_is_named():
    with pytest.raises(SettingError, match=r"run\.yaml: layer must be given"):
        configured(Config, {"steps": 1}, where="run.yaml")


def test_settings_are_sorted_by_their_owner():
    pairs = ["restrain.keep=1", "descent.steps=2", "layer=3"]
    assert owned(pairs, "restrain") == (["keep=1"], ["descent.steps=2", "layer=3"])
    assert owned({"Restrain.keep": 1, "layer": 3}, "restrain") == ({"keep": 1}, {"layer": 3})
    assert by_owner(["ft-m.steps=2", "rome.descent.steps=1", "FT-M.layer=0"]) == {
        "ft_m": ["steps=2", "layer=0"],
        "rome": ["descent.steps=1"],
    }
    with pytest.raises(SettingError, match="say whose setting it is"):
        by_owner(["layer=3"])
