"""What every recipe must do, because it runs on the one engine: a new recipe is covered by being there.

Where a recipe's own network takes seconds, the smoke run is one of a smaller network (`laws.SMALL`).
"""

import functools
import json
import os
import pathlib
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws

from experiments import cli, recipe_files, train
from jaxdl.engine import fit
from jaxdl.engine.executables import Executables
from jaxdl.engine.signals import Interrupted
from jaxdl.engine.watcher import Silent

# a quarter of airbench's width compiles in half the time
RECIPES = [name if name != "airbench_cifar10" else f"{name}:small" for name in recipe_files.names()]
# with two values of code there is a manifold in the report
RECIPES += [name for name in laws.recipes() if name.endswith(":2d")]
# nothing in them is random but the order of the examples, which does not change their result
ALIKE = ("pca", "perceptron_nand")
SEED = 1


class Stop(Silent):
    """Sends this process SIGTERM at the first update at or after a step."""

    def __init__(self, at):
        self.at = at

    def update(self, step, total, metrics, items_per_second):
        if self.at is not None and step >= self.at:
            self.at = None
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module", params=RECIPES)
def smoke(request, tmp_path_factory):
    """What `train --smoke` said of a recipe and left behind, what it trained and the programs it compiled."""
    if why := laws.missing(request.param):
        pytest.skip(why)
    place, programs, seen = tmp_path_factory.mktemp("smoke"), Executables(), {}

    def with_programs(experiment, leaves, options, watcher):
        seen.update(experiment=experiment, leaves=leaves)
        return trained(experiment, leaves, options, watcher, programs)

    trained, flags = fit.fit, [f"--recipe={request.param}", "--smoke", f"--seed={SEED}", *laws.small(request.param)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("TFDS_DATA_DIR", str(laws.SHARED))
        patch.setattr(fit, "fit", with_programs)
        said = _Said(patch)
        assert cli.execute(train.main, train.BINARY, ["program", *flags]) == 0, said.text()
    folder = pathlib.Path("runs/smoke") / request.param.replace(":", "-")
    made = SimpleNamespace(recipe=request.param, place=place, folder=folder, said=said.text(), **seen)
    made.again = functools.partial(laws.train, made, executables=programs)
    return made


class _Said:
    """Both streams; a fixture of a module cannot ask for `capsys`."""

    def __init__(self, patch):
        import io

        self.stream = io.StringIO()
        patch.setattr(sys, "stdout", self.stream)
        patch.setattr(sys, "stderr", self.stream)

    def text(self):
        return self.stream.getvalue()


@pytest.mark.timeout(400)
def test_every_recipe_runs_in_a_few_steps_and_leaves_a_whole_run_folder(smoke):
    folder = smoke.place / smoke.folder
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "done" and record["recipe"] == smoke.recipe
    assert record["metrics"] and all(np.isfinite(v) for v in record["metrics"].values())
    page = (folder / "report.html").read_text()
    assert page.count("<h2") >= 3 and list((folder / "plots").glob("*.png"))
    assert str(smoke.folder / "report.html") in smoke.said


@pytest.mark.timeout(400)
def test_repeats_resumes_and_is_the_same_among_seeds(smoke, tmp_path):
    """Compiled quickly, as all tests are; programs as users run them are in test_recipes_killed.py."""
    once = laws.result(smoke.place / smoke.folder)
    with pytest.raises(Interrupted):
        smoke.again(tmp_path / "interrupted", Stop(2), seed=SEED)
    smoke.again(tmp_path / "interrupted", seed=SEED)
    assert laws.result(tmp_path / "interrupted") == once
    smoke.again(tmp_path / "seeds", seed=0, seeds=2, seeds_mode="loop")
    assert laws.result(tmp_path / "seeds" / f"seed{SEED}") == once
    other = laws.result(tmp_path / "seeds" / "seed0")[0]
    assert (other["params_digest"] == once[0]["params_digest"]) == (smoke.recipe in ALIKE)
