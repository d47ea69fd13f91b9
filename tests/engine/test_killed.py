"""Killed at random moments and resumed, a run ends as if nothing had happened."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from killed import experiment
from runs import checkpoints, files, result, train

# the bits that users get
pytestmark = pytest.mark.optimized
HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def killed(tmp_path_factory, compilation_cache):
    """What killed.py did, and its folder."""
    root = tmp_path_factory.mktemp("killed")
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compilation_cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, str(HERE / "killed.py"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), root


def test_a_killed_run_ends_like_an_undisturbed_one(killed):
    told, root = killed
    assert told["code"] == 0
    kills = [event for event in told["happened"] if event["code"] == -signal.SIGKILL]
    assert len(kills) >= 3, told
    names, texts, record, steps = files(root / "parts")
    whole_names, whole_texts, whole_record, whole_steps = files(root / "whole")
    assert (names, texts, record, steps[-1]) == (whole_names, whole_texts, whole_record, whole_steps[-1])


def test_nothing_older_than_the_newest_checkpoint_is_restored(killed):
    for event in killed[0]["happened"]:
        # a child that resumed at the very end says nothing
        assert event["resumed"] == event["durable"] or not event["resumed"], event
        assert not any("damaged" in line for line in event["said"]), event
    assert any(event["resumed"] for event in killed[0]["happened"])


def test_sigterm_saves_and_exits_with_75(killed):
    interrupted = [event for event in killed[0]["happened"] if event["signal"] == signal.SIGTERM]
    assert interrupted
    stopped = [event for event in interrupted if event["code"] == 75]
    assert stopped, interrupted
    for event in stopped:
        assert event["status"] == "interrupted"
        assert event["seconds"] < 10


def test_two_processes_give_the_same_bits(killed, tmp_path):
    train(experiment(), tmp_path)
    assert result(tmp_path) == result(killed[1] / "whole")
    assert checkpoints(tmp_path) == checkpoints(killed[1] / "whole")
