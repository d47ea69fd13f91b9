"""Two runs compared along the way: what differs first is named, and nothing that differs in one bit passes."""

import json
import shutil

import numpy as np
import pytest
import runs
import tiny

from jaxdl.engine.checkpoint import Checkpoints
from jaxdl.engine.comparison import Alongside, compare_runs, first_array, first_row
from jaxdl.engine.folder import RunFolder


def row(step, split="train", **values):
    return {"step": step, "phase": "train", "split": split, **values}


ROWS = [row(50, loss=1.5, accuracy=0.5), row(100, loss=1.0, accuracy=0.75), row(100, "validation", loss=1.25)]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (ROWS, None),
        ([ROWS[0], row(100, loss=1.0, accuracy=0.8), ROWS[2]], "step 100, train/accuracy 0.8 there, 0.75 here"),
        ([ROWS[0], row(100, loss=1.0), ROWS[2]], "step 100, train/accuracy absent there, 0.75 here"),
        ([row(50, loss=None, accuracy=0.5), *ROWS[1:]], "step 50, train/loss None there, 1.5 here"),
        (ROWS[:2], "the row of step 100, validation, phase train is only here"),
        ([*ROWS, ROWS[0]], "the row of step 50, train, phase train is only there"),
        ([ROWS[0], row(75, loss=1.0)], "the row of step 75, train, phase train there is one of step 100, train, "),
    ],
)
def test_the_first_row_that_differs_is_named(there, said):
    found = first_row(there, ROWS)
    assert found == said or (said and found.startswith(said))


def test_the_first_array_is_a_parameter_and_every_bit_counts():
    names = ("sums/loss", "best/model/params/a", "state/nets/model/opt/a", "state/nets/model/params/b", "state/step")
    there = {name: np.array([1.0, np.nan, 0.0], np.float32) for name in names}
    assert first_array(there, {name: array.copy() for name, array in there.items()}) is None
    here = {name: array + np.float32(0.25) for name, array in there.items()}
    assert first_array(there, here) == "nets/model/params/b (max |difference| 0.25; 5 of 5 arrays differ)"
    for other in (np.array([1.0, np.nan, -0.0], np.float32), there["sums/loss"].astype(np.float64)):
        assert first_array(there, {**there, "sums/loss": other}).startswith("sums/loss (")
    assert "only there; 1 of 5" in first_array(there, {name: there[name] for name in names if name != "state/step"})


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same tiny run twice."""
    root = tmp_path_factory.mktemp("pair")
    for name in ("there", "here"):
        runs.train(tiny.regression(), root / name)
    return root


@pytest.fixture
def there(pair, tmp_path):
    """A copy of one of them to tamper with."""
    shutil.copytree(pair / "there", tmp_path / "there")
    return tmp_path / "there"


def compared(there, pair):
    return compare_runs(RunFolder(there), RunFolder(pair / "here"))


def test_equal_runs_are_equal_at_every_checkpoint(there, pair):
    found = compared(there, pair)
    assert (found.differing, found.lines, found.steps) == ((), (), (50, 60))


def test_one_bit_of_one_array_is_found(there, pair):
    saved = Checkpoints(there / "checkpoints")
    arrays, about = saved.load(50)
    name = "state/nets/model/params/w"
    arrays[name] = np.array(arrays[name])
    arrays[name].view(np.uint32)[0, 1] ^= 1
    saved.save(50, arrays, {name: about[name] for name in ("seeds", "position")})
    found = compared(there, pair)
    assert found.differing == ("checkpoint 50",)
    assert found.lines[0].startswith("first array that differs at step 50: nets/model/params/w (max |difference| ")


def test_a_damaged_checkpoint_is_no_equal_one(there, pair):
    largest = max((there / "checkpoints" / "60").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(largest.read_bytes()[:-1] + b"\0\0")
    found = compared(there, pair)
    assert found.differing == ("checkpoint 60",)
    assert "checkpoint 60 cannot be compared" in found.lines[0]


def test_a_position_and_a_leaf_that_were_changed_are_named(there, pair):
    saved = Checkpoints(there / "checkpoints")
    arrays, about = saved.load(60)
    about["position"]["best_step"] = [7]
    saved.save(60, arrays, {name: about[name] for name in ("seeds", "position")})
    config = json.loads((there / "config.json").read_text())
    (there / "config.json").write_text(json.dumps({**config, "seed": 3}))
    found = compared(there, pair)
    assert found.differing == ("config.json", "checkpoint 60")
    assert found.lines[0] == "config.json: seed: 3 there, 0 here"
    assert "arrays equal, but best_step is [7] there" in found.lines[1]


def test_a_difference_is_said_while_training_and_once(there, pair):
    rows = (there / "metrics.jsonl").read_text().splitlines()
    second = json.loads(rows[1])
    rows[1] = json.dumps({**second, "loss": second["loss"] + 1})
    (there / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    heard = runs.Listener()
    alongside = Alongside(RunFolder(there), RunFolder(pair / "here"), heard)
    for step in (7, 14):
        alongside.update(step, 60, {}, 0.0)
    assert heard.steps == [7, 14]
    assert len(heard.lines) == 1
    assert heard.lines[0].startswith(f"it begins to differ: step {second['step']}, train/loss ")


def test_a_run_that_logged_at_other_steps_on_the_way_is_compared_without_its_training_rows(tmp_path):
    """Parameters, other rows and checkpoints still count, to the last bit."""

    def experiment(**changes):
        return tiny.regression(train=tiny.train_config(**changes))

    seldom, often = experiment(), experiment(log_every=3)
    config = {"recipe": "tiny", "train.log_every": 7}
    runs.interrupt(seldom, tmp_path / "there", 28, config=config)
    runs.train(often, tmp_path / "there", config={**config, "train.log_every": 3})
    listener = runs.Listener()
    there, here = RunFolder(tmp_path / "there"), RunFolder(tmp_path / "here")
    runs.train(often, here.path, Alongside(there, here, listener), config={**config, "train.log_every": 3})
    found = compare_runs(there, here)
    assert not found.differing and found.steps and not listener.lines
    assert found.lines == (
        "training was logged at other steps: its rows are means of other steps and are not compared",
    )
    record = json.loads((here.path / "record.json").read_text())
    record["metrics"]["test/loss"] += 1e-7
    (here.path / "record.json").write_text(json.dumps(record))
    lines = [json.loads(line) for line in (here.path / "metrics.jsonl").read_text().splitlines()]
    next(line for line in lines if line["split"] == "validation")["loss"] += 1e-7
    (here.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert compare_runs(there, here).differing == ("metrics", "metrics.jsonl")
