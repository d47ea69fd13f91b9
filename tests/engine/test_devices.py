"""One device and eight give the same training: in jit, in pmap, with split parameters, with seeds spread over devices."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

from jaxdl.engine.devices import Layout
from jaxdl.engine.loop import Trainer
from jaxdl.errors import UserError

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def measured(tmp_path_factory, compilation_cache):
    """What on_devices.py says."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_COMPILATION_CACHE_DIR": str(compilation_cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, str(HERE / "on_devices.py"), str(tmp_path_factory.mktemp("devices"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 8
    return found


def assert_close(a, b, tolerance=1e-5):
    """Equal structure; numbers within `tolerance`, absolute below one and relative above."""
    if isinstance(a, dict):
        assert set(a) == set(b)
        for name in a:
            assert_close(a[name], b[name], tolerance)
    elif isinstance(a, list) and a and isinstance(a[0], (dict, str)):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_close(left, right, tolerance)
    elif isinstance(a, str):
        assert a == b
    else:
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("way", ["jit", "pmap"])
@pytest.mark.parametrize("name", ["regression", "game", "bandit", "two_phases"])
def test_eight_devices_agree_with_one(name, way, measured):
    one, many = measured["agreement"][name]["one"], measured["agreement"][name][way]
    assert_close(one["rows"], many["rows"])
    assert_close(one["params"], many["params"])
    splits = {row["split"] for row in one["rows"]}
    assert {"train", "validation"} <= splits
    if name == "regression":
        assert all("gradient" in row for row in one["rows"] if row["split"] == "train")
        assert "test" in splits


def test_split_parameters_are_really_split(measured):
    shapes = measured["fsdp"]["shapes"]
    assert len(shapes) >= 9  # the weights and Adam's two moments, at each chunk
    for whole, part, devices in shapes:
        assert whole == [1, 1024]
        assert part == [1, 128]
        assert devices == 8


def test_split_parameters_train_like_copied_ones(measured):
    found = measured["fsdp"]["runs"]
    assert_close(found["copied"]["rows"], found["split"]["rows"], 1e-4)
    assert_close(found["one"]["rows"], found["split"]["rows"], 1e-4)
    losses = [row["loss"] for row in found["split"]["rows"] if row["split"] == "train"]
    assert losses[-1] < 0.9 * losses[0]


def test_checkpoints_move_between_layouts_bit_for_bit(measured):
    digests = measured["fsdp"]["digests"]
    assert len(digests) == 5
    assert len(set(digests)) == 1


def test_split_parameters_are_resumed(measured):
    found = measured["fsdp"]["runs"]
    assert found["resumed"]["state_digest"] == found["split"]["state_digest"]
    assert_close(found["split"]["rows"], found["moved"]["rows"], 1e-4)


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_eight_hundred_steps_end_cleanly(parallel, measured):
    found = measured["long_run"][parallel]
    assert found["status"] == "done"
    assert found["devices"] == 8
    assert found["chunks"] >= 80
    assert found["waiting"] == 1  # never a second chunk in the queue of several CPU devices
    assert found["late"] == 0  # nothing is compiled after the first chunk


@pytest.mark.parametrize(("name", "seeds"), [("regression", 4), ("two_phases", 4), ("transformer", 2)])
def test_seeds_spread_over_devices_give_the_same_bits(name, seeds, measured):
    found = measured["shard"][name]
    assert found["shard"] == found["loop"]
    assert len({run[0]["state_digest"] for run in found["shard"]}) == seeds


def test_spread_seeds_are_resumed(measured):
    assert measured["shard"]["interrupted"] == measured["shard"]["regression"]["loop"]


def test_a_convolutions_gradients_leave_each_row_on_its_device(measured):
    """Parts of the batch that were rows next to each other had all devices gather all rows and compute everything."""
    assert measured["convolution"]["collectives"] == ["all-reduce"]
    assert max(measured["convolution"]["apart"]) < 1e-5


def test_host_copies_of_split_arrays_are_whole(measured):
    assert len(measured["host_copies"]) == 5 and all(measured["host_copies"].values()), measured["host_copies"]


def test_what_cannot_be_split_is_refused(measured):
    lines = measured["refusals"]
    assert len(lines) == 4
    for line in lines[:2]:
        assert "train.batch_size=12 does not divide over 8 devices" in line
    assert "--fsdp needs --parallel=jit" in lines[2]
    assert "--seeds_mode=shard" in lines[3]
    assert not any("\n" in line for line in lines)


def test_a_later_phase_that_cannot_be_split_is_refused_at_once():
    experiment = tiny.two_phases()
    first, second = experiment.phases
    second = dataclasses.replace(second, source=second.source.replace(batch_size=12))
    experiment = dataclasses.replace(experiment, phases=(first, second))
    with pytest.raises(UserError, match="batch size of phase fine=12 does not divide over 8 devices"):
        Trainer(experiment, Layout(devices=tuple(jax.devices()[:1]) * 8))
