"""Every recipe trains on eight devices as on one, in jit and in pmap, and among four vmapped seeds as alone: three steps
of each phase."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws

HERE = pathlib.Path(__file__).parent
# those on MNIST and CIFAR-10 are the digits' tasks, many times larger (`recipes_on_devices.py NAME...` measures them)
NAMES = [name for name in laws.recipes(variants=False) if not name.endswith(("mnist", "cifar10"))]
TOLERANCE = 1e-5
# of the way that the parameters go. CTC adds log-probabilities of about -120 over a hundred frames; float32 has steps of
# 7.6e-6 there, and its gradient is their exponential (measured: 2.2e-4)
WAY = {"connected_digits": 5e-4}


@pytest.fixture(scope="module")
def measured():
    """What recipes_on_devices.py says, by recipe."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(laws.ROOT),
        "TFDS_DATA_DIR": str(laws.SHARED),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    names = [name for name in NAMES if not laws.missing(name)]
    command = [sys.executable, str(HERE / "recipes_on_devices.py"), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return {found["recipe"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.timeout(1600)
@pytest.mark.parametrize("way", ["jit", "pmap", "vmap"])
@pytest.mark.parametrize("recipe", NAMES)
def test_eight_devices_and_four_seeds_train_like_one(recipe, way, measured):
    if why := laws.missing(recipe):
        pytest.skip(why)
    found = measured[recipe]
    assert "error" not in found, found["error"]
    for phase in found["phases"].values():
        one, many = phase["one"], phase[way]
        assert len(one["rows"]) == len(many["rows"]) == 3
        for expected, row in zip(one["rows"], many["rows"], strict=True):
            assert set(row) == set(expected)
            for name, value in expected.items():
                assert abs(row[name] - value) <= TOLERANCE * max(1.0, abs(value)), name
        assert one["moved"] > 0
        # the way is the sum of the raw gradients, eight times as long if they were; float32 rounds each parameter at each
        # of the three updates of both runs by up to 2^-24 of its size
        share = WAY.get(recipe, TOLERANCE)
        assert many["apart"] <= share * one["moved"] + 6 * 2.0**-24 * one["length"]
