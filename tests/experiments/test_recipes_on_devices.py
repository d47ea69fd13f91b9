"""One recipe of each kind on eight devices, by jit and by pmap, against one device."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws

NUMBERS = ("loss", "return", "reward")


@pytest.fixture(scope="module")
def devices(tmp_path_factory, compilation_cache):
    """Training rows of each recipe on one device and, under jit and pmap, on eight."""
    names = [name for name in laws.KINDS if laws.missing(name) is None]
    found = {}
    for parallel, count in (("one", 1), ("jit", 8), ("pmap", 8)):
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(laws.ROOT),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "TFDS_DATA_DIR": str(laws.SHARED),
        }
        folder = tmp_path_factory.mktemp(parallel)
        mode = "jit" if parallel == "one" else parallel
        command = [sys.executable, laws.__file__, str(folder), mode, *names]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        found[parallel] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
@pytest.mark.parametrize("recipe", laws.KINDS)
def test_eight_devices_train_as_one(recipe, parallel, devices):
    if why := laws.missing(recipe):
        pytest.skip(why)
    one, many = devices["one"][recipe], devices[parallel][recipe]
    assert not isinstance(one, str), one
    assert not isinstance(many, str), many
    assert [row["step"] for row in one] == [row["step"] for row in many]
    names = [name for name in one[0] if name.endswith(NUMBERS)] or [
        n for n in one[0] if n not in ("step", "phase", "split")
    ]
    for before, after in zip(one, many, strict=True):
        for name in names:
            assert after[name] == pytest.approx(before[name], rel=1e-5, abs=1e-5), (name, before, after)
