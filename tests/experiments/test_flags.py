"""Flags from dataclasses: types, ranges, error lines, and the way to config.json and back."""

import dataclasses
import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from experiments.flags import config_from_flags, config_from_leaves, define_flags, leaves, option, walk
from jaxdl.settings import setting


def load_stub() -> Any:
    path = Path(__file__).parent / "stub_recipes" / "line.py"
    spec = importlib.util.spec_from_file_location("line_for_flags", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses looks its module up
    spec.loader.exec_module(module)
    return module


line = load_stub()


def parse(*words: str, config: Any = line.Config) -> Any:
    values = flags.FlagValues()
    define_flags(config, values)
    values(["program", *words])
    return config_from_flags(config, values)


def test_defaults_survive():
    assert parse() == line.Config()


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--train.steps=7"], "train.steps", 7),
        (["--train.steps", "7"], "train.steps", 7),
        (["--optimizer.learning_rate=3e-4"], "optimizer.learning_rate", 3e-4),
        (["--optimizer.learning_rate=2"], "optimizer.learning_rate", 2.0),
        (["--optimizer.name=sgd"], "optimizer.name", "sgd"),
        (["--optimizer.nesterov"], "optimizer.nesterov", True),
        (["--optimizer.nesterov=true"], "optimizer.nesterov", True),
        (["--optimizer.nesterov=FALSE"], "optimizer.nesterov", False),
        (["--optimizer.nesterov", "--nooptimizer.nesterov"], "optimizer.nesterov", False),
        (["--optimizer.clip_norm=1"], "optimizer.clip_norm", 1.0),
        (["--optimizer.clip_norm=1", "--optimizer.clip_norm=none"], "optimizer.clip_norm", None),
        (["--optimizer.temperature=inf"], "optimizer.temperature", math.inf),
        (["--model.features=64,128"], "model.features", (64, 128)),
        (["--model.features=(64, 128,)"], "model.features", (64, 128)),
        (["--model.features="], "model.features", ()),
        (["--model.rates=0.1,1"], "model.rates", (0.1, 1.0)),
        (["--model.layers=dense,conv"], "model.layers", ("dense", "conv")),
        (["--note= a=b, c "], "note", " a=b, c "),
        (["--train.steps=7", "--train.steps=8"], "train.steps", 8),
    ],
)
def test_values_have_their_type(words, name, value):
    got = leaves(parse(*words))[name]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--train.steps=1.5", "expected an integer >= 1"),
        ("--train.steps=1e3", "expected an integer >= 1"),
        ("--train.steps=0", "expected an integer >= 1"),
        ("--train.steps=", "expected an integer >= 1"),
        ("--optimizer.learning_rate=fast", "expected a number >= 0"),
        ("--optimizer.learning_rate=-1e-3", "expected a number >= 0"),
        ("--optimizer.learning_rate=nan", "finite"),
        ("--optimizer.learning_rate=inf", "finite"),
        ("--optimizer.temperature=-inf", "finite"),
        ("--optimizer.name=adma", "one of: sgd, momentum, adam; did you mean adam?"),
        ("--optimizer.nesterov=maybe", "expected true or false"),
        ("--model.features=64,0", "comma-separated integers >= 1"),
        ("--model.features=64;128", "comma-separated integers >= 1"),
        ("--model.rates=0.5,1.01", "0 to 1"),
        ("--model.layers=dense,lstm", "dense, conv"),
    ],
)
def test_wrong_values_say_what_was_expected(word, expected):
    with pytest.raises(flags.IllegalFlagValueError) as error:
        parse(word)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@given(
    steps=st.integers(1, 10**9),
    rate=st.floats(0, 1e300),
    nesterov=st.booleans(),
    clip=st.none() | st.floats(0, 1e300),
    features=st.lists(st.integers(1, 4096)).map(tuple),
    rates=st.lists(st.floats(0, 1)).map(tuple),
    note=st.text(),
)
def test_a_configuration_survives_json_and_the_command_line(steps, rate, nesterov, clip, features, rates, note):
    config = line.Config(
        note=note,
        optimizer=line.Optimizer("sgd", rate, nesterov, clip),
        model=line.Model(features, rates, ("conv", "dense")),
        train=line.Train(steps),
    )
    assert config_from_leaves(line.Config, json.loads(json.dumps(leaves(config)))) == config
    values = flags.FlagValues()
    define_flags(config, values)
    if "\n" not in note:
        assert parse(*[values[name].serialize() for name in leaves(config) if values[name].value is not None]) == config


def test_flags_keep_the_variants_other_values():
    wide = line.VARIANTS["wide"]
    assert parse("--train.steps=5", config=wide) == dataclasses.replace(wide, train=line.Train(steps=5))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"train.stepz": 3}, "unknown setting train.stepz; did you mean train.steps?"),
        ({"train.steps": 3.0}, "expected an integer"),
        ({"train.steps": True}, "expected an integer"),
        ({"train.steps": "3"}, "expected an integer"),
        ({"train.steps": None}, "expected an integer"),
        ({"optimizer.nesterov": 1}, "expected true or false"),
        ({"model.features": 64}, "comma-separated integers"),
        ({"model.features": [64, "a"]}, "comma-separated integers"),
        ({"optimizer.name": "lion"}, "one of"),
    ],
)
def test_leaves_of_the_wrong_type_are_refused(values, expected):
    with pytest.raises(ValueError, match="setting") as error:
        config_from_leaves(line.Config, values)
    assert expected in str(error.value)


def test_whole_numbers_pass_for_floats():
    rate = config_from_leaves(line.Config, {"optimizer.learning_rate": 1}).optimizer.learning_rate
    assert rate == 1.0
    assert type(rate) is float


def test_repeated_flags_add_up():
    @dataclasses.dataclass(frozen=True)
    class Options:
        grid: tuple[str, ...] = option((), "settings to try", repeated=True)

    assert parse("--grid=a=1,2", "--grid=b=3", config=Options).grid == ("a=1,2", "b=3")
    assert parse(config=Options).grid == ()


def test_mistakes_in_a_configuration_are_named():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        table: dict = setting({}.get("x"), "no such type")

    @dataclasses.dataclass(frozen=True)
    class Low:
        steps: int = setting(0, "below its own minimum", minimum=1)

    with pytest.raises(TypeError, match=r"Odd\.table"):
        list(walk(Odd))
    with pytest.raises(TypeError, match="default of steps"):
        define_flags(Low, flags.FlagValues())
    values = flags.FlagValues()
    define_flags(line.Config, values)
    with pytest.raises(TypeError, match="defined twice"):
        define_flags(line.Config, values)
