"""One recipe of each kind, killed at random moments and resumed."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws


@pytest.fixture(scope="module")
def killed(tmp_path_factory, compilation_cache):
    """What became of the recipes that were killed."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(laws.ROOT),
        "TFDS_DATA_DIR": str(laws.SHARED),
        "JAX_COMPILATION_CACHE_DIR": str(compilation_cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, laws.__file__, str(tmp_path_factory.mktemp("killed")), *laws.KINDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("recipe", laws.KINDS)
def test_killed_with_9_it_ends_like_an_undisturbed_run(recipe, killed):
    assert killed[recipe]["codes"][0] == killed[recipe]["codes"][-1] == 0, killed[recipe]
    assert -signal.SIGKILL in killed[recipe]["codes"], killed[recipe]
    assert killed[recipe]["equal"]
