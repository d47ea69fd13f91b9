"""`verify` trains a run again: equal runs are equal, and what differs first is named."""

import json
import shutil

import numpy as np
import pytest

from experiments import cli, train, verify
from jaxdl.engine.checkpoint import Checkpoints


def command(module, *flags):
    return cli.execute(module.main, module.BINARY, ["program", *flags])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, compilation_cache):
    """A regression in six steps."""
    folder = tmp_path_factory.mktemp("verify") / "run"
    assert command(train, "--recipe=linear_regression", "--smoke", f"--workdir={folder}") == 0
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def test_an_equal_run_is_equal_at_every_checkpoint(finished, capsys):
    assert command(verify, f"--workdir={finished}") == 0
    said = capsys.readouterr().out
    assert "seed 0: equal" in said and "at steps 3, 6 too" in said


def test_another_setting_is_found_at_the_first_row_and_the_first_array(copy, capsys):
    config = json.loads((copy / "config.json").read_text())
    config["optimizer.learning_rate"] *= 1.5
    (copy / "config.json").write_text(json.dumps(config))
    assert command(verify, f"--workdir={copy}") == 1
    said = capsys.readouterr().out
    rows = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert "it begins to differ: step 2, train/" in said
    assert "seed 0: different in params_digest, state_digest, metrics" in said
    assert f"first difference: step {rows[0]['step']}, train/" in said
    assert "first array that differs at step 3: nets/model/params/" in said
    record = json.loads((copy / "record.json").read_text())
    for where in ("there", "here"):
        assert f"{where}: 1 x cpu ({record['program']['device_kind']})" in said
    assert f"jax {record['versions']['jax']}" in said


def test_one_changed_row_and_one_changed_array_are_named(copy, capsys):
    rows = (copy / "metrics.jsonl").read_text().splitlines()
    changed = {**json.loads(rows[1]), "loss": 0.125}
    (copy / "metrics.jsonl").write_text("\n".join([rows[0], json.dumps(changed), *rows[2:]]) + "\n")
    saved = Checkpoints(copy / "checkpoints")
    arrays, about = saved.load(3)
    name = next(name for name in sorted(arrays) if name.startswith("state/nets/model/params/"))
    arrays[name] = np.array(arrays[name])
    arrays[name].flat[0] += 0.5
    saved.save(3, arrays, {key: about[key] for key in ("seeds", "position")})
    record = json.loads((copy / "record.json").read_text())
    record["versions"]["jax"] = "0.0.1"
    (copy / "record.json").write_text(json.dumps(record))
    assert command(verify, f"--workdir={copy}") == 1
    said = capsys.readouterr().out
    assert "seed 0: different in metrics.jsonl, checkpoint 3\n" in said
    assert f"first difference: step {changed['step']}, {changed['split']}/loss 0.125 there, " in said
    assert f"first array that differs at step 3: {name.removeprefix('state/')} (max |difference| 0.5; 1 of " in said
    assert "since then: jax 0.0.1 -> " in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: {**record, "status": "interrupted"}, "is not finished (interrupted)"),
        (lambda record: {name: record[name] for name in record if name != "program"}, "has no program"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(copy, change, said, capsys):
    record = json.loads((copy / "record.json").read_text())
    (copy / "record.json").write_text(json.dumps(change(record)))
    assert command(verify, f"--workdir={copy}") == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and said in error and "\n" not in error


def test_a_run_without_a_record_is_refused(copy, capsys):
    (copy / "record.json").unlink()
    assert command(verify, f"--workdir={copy}") == 1
    assert "has no record.json" in capsys.readouterr().err
