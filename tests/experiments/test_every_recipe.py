"""What every recipe must do, because it runs on the one engine: a new recipe is covered by being there."""

import os
import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws

from jaxdl.engine.executables import Executables
from jaxdl.engine.signals import Interrupted
from jaxdl.engine.watcher import Silent

# those on MNIST and CIFAR-10 are the same tasks as the digits' LeNet-5, many times larger
PLAIN = [name for name in laws.recipes(variants=False) if not name.endswith(("mnist", "cifar10"))]
# nothing in them is random but the order of the examples, which does not change their result
ALIKE = ("pca", "perceptron_nand")


class Stop(Silent):
    """Sends this process SIGTERM at the first update at or after a step."""

    def __init__(self, at):
        self.at = at

    def update(self, step, total, metrics, items_per_second):
        if self.at is not None and step >= self.at:
            self.at = None
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def data(monkeypatch, compilation_cache, quickly_compiled):
    """Compiled quickly; programs as users run them are in test_recipes_killed.py."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(laws.SHARED))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("recipe", PLAIN)
def test_repeats_resumes_and_is_the_same_among_seeds(recipe, tmp_path):
    if why := laws.missing(recipe):
        pytest.skip(why)
    made, programs = laws.session(recipe), Executables()
    laws.train(made, tmp_path / "once", executables=programs, seed=1)
    once = laws.result(tmp_path / "once")
    assert once[0]["status"] == "done"
    with pytest.raises(Interrupted):
        laws.train(made, tmp_path / "interrupted", Stop(2), programs, seed=1)
    laws.train(made, tmp_path / "interrupted", executables=programs, seed=1)
    assert laws.result(tmp_path / "interrupted") == once
    laws.train(made, tmp_path / "seeds", executables=programs, seed=0, seeds=4, seeds_mode="loop")
    assert laws.result(tmp_path / "seeds" / "seed1") == once
    other = laws.result(tmp_path / "seeds" / "seed0")[0]
    assert (other["params_digest"] == once[0]["params_digest"]) == (recipe in ALIKE)
