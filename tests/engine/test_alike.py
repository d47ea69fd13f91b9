"""What counts as built alike, and that it is never said of two objects that give different programs."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn

from jaxdl.engine import together
from jaxdl.engine.alike import alike
from jaxdl.engine.devices import Layout
from jaxdl.engine.options import Options
from jaxdl.engine.program import Program
from jaxdl.optimizers import OptimizerConfig, make_optimizer


@dataclasses.dataclass(frozen=True)
class Part:
    function: Any
    number: float = 1.0


def scaled(factor, array=None, option=1):
    def function(x, more=option):
        return x * factor + (0 if array is None else array) + more

    return function


def shifted(factor):
    return lambda x, more=1: x * factor + 0 + more


def noted(value):
    def function(x):
        return x * function.factor

    function.factor = value
    return function


def hiding(value):
    part = Part(scaled(1.0))
    object.__setattr__(part, "_hidden", value)
    return part


def recursive(factor):
    def function(n):
        return 1 if n == 0 else factor * function(n - 1)

    return function


@pytest.mark.parametrize(
    ("make", "changed"),
    [
        (lambda: scaled(2.0), lambda: scaled(3.0)),
        (lambda: scaled(2.0), lambda: scaled(2)),
        (lambda: scaled(2.0), lambda: shifted(2.0)),
        (lambda: scaled(2.0), lambda: scaled(2.0, option=5)),
        (lambda: scaled(2.0, np.arange(3.0)), lambda: scaled(2.0, np.arange(3.0) + 1)),
        (lambda: scaled(2.0, jnp.arange(3)), lambda: scaled(2.0, jnp.arange(3.0))),
        (lambda: scaled(0.0), lambda: scaled(-0.0)),
        (lambda: scaled(float("nan")), lambda: scaled(1.0)),
        (lambda: recursive(2), lambda: recursive(3)),
        (lambda: Part(scaled(1.0)), lambda: Part(scaled(1.0), 2.0)),
        (lambda: functools.partial(max, [1, 2], key=abs), lambda: functools.partial(max, [1, 3], key=abs)),
        (lambda: {"a": (1, [2]), "b": None}, lambda: {"a": (1, [2]), "c": None}),
        (lambda: jax.random.key(1), lambda: jax.random.key(2)),
        (lambda: jax.ShapeDtypeStruct((3,), np.float32), lambda: jax.ShapeDtypeStruct((4,), np.float32)),
        (lambda: nn.Dense(3), lambda: nn.Dense(4)),
        (lambda: np.array([0.0]), lambda: np.array([-0.0])),
        (lambda: jnp.asarray(1.0), lambda: jnp.asarray(1.0, jnp.float32) + jnp.float32(0)),
        (lambda: noted(1), lambda: noted(2)),
        (lambda: hiding(1), lambda: hiding(2)),
        (lambda: make_optimizer(OptimizerConfig(), 10), lambda: make_optimizer(OptimizerConfig(beta1=0.8), 10)),
        (
            lambda: make_optimizer(OptimizerConfig(l2=0.1), 10),
            lambda: make_optimizer(OptimizerConfig(l2=0.0), 10),
        ),
    ],
)
def test_equal_parts_are_alike_and_others_are_not(make, changed):
    assert alike(make(), make())
    assert not alike(make(), changed())


def test_what_lies_in_the_state_is_no_part_of_an_optimiser():
    one, other = (OptimizerConfig(learning_rate=rate, l2=l2) for rate, l2 in ((0.1, 0.2), (0.3, 0.4)))
    assert alike(make_optimizer(one, 10), make_optimizer(other, 10))


def unbound():
    """A function around a variable that is never set."""

    def function():
        return later

    if function is None:
        later = 1
    return function


def test_objects_of_an_unknown_kind_are_never_alike():
    class Unknown:
        pass

    unknown = Unknown()
    assert alike(unknown, unknown) and alike((unknown, 1), (unknown, 1))
    assert not alike(Unknown(), Unknown()) and not alike(iter([1]), iter([1]))
    masked = [np.ma.masked_array([1, 2], mask=mask) for mask in ([0, 1], [1, 0])]
    assert not alike(*masked) and not alike(unbound(), unbound())


def test_lists_that_live_shortly_are_not_taken_for_each_other():
    """Ids are used again: a pair compared before must not stand for a new one."""

    def dictionaries(last):
        # the lists of their names are made for the comparison alone
        return [*({"name": number} for number in range(300)), {last: 300}]

    assert alike(dictionaries("name"), dictionaries("name"))
    assert not alike(dictionaries("name"), dictionaries("other"))


def test_phases_that_are_alike_have_one_text_and_are_not_traced(monkeypatch):
    one, other = tiny.regression(), tiny.regression(rate=0.2)
    texts = [Program(each.phases[0], Layout(devices=tuple(jax.devices()[:1])), 1).text() for each in (one, other)]
    assert texts[0] == texts[1]
    options = Options("", seeds=2, seeds_mode="map")
    monkeypatch.setattr(Program, "text", lambda self: pytest.fail("traced"))
    assert together.share_programs(options, [one, other]) == [True, True]


def test_an_experiment_of_more_phases_shares_nothing():
    one = tiny.regression()
    longer = dataclasses.replace(one, phases=one.phases * 2)
    options = Options("", seeds=2, seeds_mode="map")
    assert together.share_programs(options, [one, longer]) == [True, False]
    assert together.share_programs(options, [longer, one]) == [True, False]
