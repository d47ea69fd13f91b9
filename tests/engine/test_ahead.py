"""Programs compiled for devices that are only described: they are those that train."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxdl.nn.halves import in_halves
from jaxdl.target import compiling_for, target_platform

HERE = pathlib.Path(__file__).parent
PARAMETERS = 4 * (1024 + 1)  # bytes


@pytest.fixture(scope="module")
def measured(compilation_cache):
    """What ahead_on_devices.py says."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_COMPILATION_CACHE_DIR": str(compilation_cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "ahead_on_devices.py")],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
@pytest.mark.parametrize("name", ["regression", "bandit"])
def test_the_program_compiled_ahead_trains_bit_for_bit_like_the_engines(name, parallel, measured):
    ahead, engine = measured[f"{name} {parallel}"]["digests"]
    assert ahead == engine


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_its_text_holds_one_gradient_per_step(parallel, measured):
    found = measured[f"regression {parallel}"]
    _, size = found["collectives"].pop("all-reduce")
    assert PARAMETERS <= size <= PARAMETERS + 64  # the gradient once, and a few sums of metrics
    # in jit each device also tells the others which of the 16 examples it would read
    assert found["collectives"] == ({"all-gather": [1, 64.0]} if parallel == "jit" else {})
    # inputs @ w and its gradient for the two rows of a device, whatever the number of steps of a chunk
    assert found["flops"] == 2 * (2 * 2 * 1024)
    assert found["donated"] >= PARAMETERS


def test_rows_that_devices_cannot_share_are_refused_in_one_line(measured):
    assert "=6 does not divide over 8 devices" in measured["refused"]


def test_code_that_takes_another_form_on_a_cpu_sees_the_platform_it_is_compiled_for():
    import jax.numpy as jnp

    traced = []

    def rows(x):
        traced.append(x.shape)
        return x

    for platform in ("tpu", target_platform()):
        with compiling_for(platform):
            assert target_platform() == platform
            in_halves(rows, jnp.zeros((4, 2)))
    assert traced[0] == (4, 2)
    assert traced[1:] == ([(2, 2), (2, 2)] if target_platform() == "cpu" else [(4, 2)])
