"""Tensor parallelism: Transformers on meshes of data x model train as on one device, and really are split."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws
from tensor_parallel_on_devices import MESHES, SETTINGS

from jaxdl.engine.devices import Layout
from jaxdl.engine.digest import part_name
from jaxdl.engine.options import Options, choose_layout, partition_rules
from jaxdl.engine.program import Program
from jaxdl.errors import UserError

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-5
D, V, L = 16, 94, 8
# path below "params" -> shape of the whole and of the part that each of two devices has
PARTS = {
    "embedding/embedding": [[V, D], [V // 2, D]],
    "place/embedding": [[L, D], [L, D]],
    "norm/scale": [[D], [D]],
    "norm/bias": [[D], [D]],
    "blocks_0/attention_norm/scale": [[D], [D]],
    "blocks_0/attention_norm/bias": [[D], [D]],
    "blocks_0/attention/query_key_value/kernel": [[D, 3, D], [D, 3, D // 2]],
    "blocks_0/attention/query_key_value/bias": [[3, D], [3, D // 2]],
    "blocks_0/attention/output/kernel": [[D, D], [D // 2, D]],
    "blocks_0/attention/output/bias": [[D], [D]],
    "blocks_0/feed_forward_norm/scale": [[D], [D]],
    "blocks_0/feed_forward_norm/bias": [[D], [D]],
    "blocks_0/feed_forward/hidden/kernel": [[D, 4 * D], [D, 2 * D]],
    "blocks_0/feed_forward/hidden/bias": [[4 * D], [2 * D]],
    "blocks_0/feed_forward/output/kernel": [[4 * D, D], [2 * D, D]],
    "blocks_0/feed_forward/output/bias": [[D], [D]],
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What tensor_parallel_on_devices.py says."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(laws.ROOT),
        "TFDS_DATA_DIR": str(laws.SHARED),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, str(HERE / "tensor_parallel_on_devices.py"), str(tmp_path_factory.mktemp("parallel"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("recipe", "mesh"), [(recipe, mesh) for recipe in MESHES for mesh in MESHES[recipe]])
def test_devices_that_share_layers_train_like_one(recipe, mesh, measured):
    one, many = measured[recipe]["one"], measured[recipe][mesh]
    assert len(one["rows"]) == len(many["rows"]) == 3
    for expected, row in zip(one["rows"], many["rows"], strict=True):
        assert set(row) == set(expected)
        for name, value in expected.items():
            assert abs(row[name] - value) <= TOLERANCE * max(1.0, abs(value)), name
    # the way is the sum of the raw gradients; float32 rounds each parameter at each update by up to 2^-24 of its size
    assert one["moved"] > 0.3
    assert many["apart"] <= TOLERANCE * one["moved"] + 6 * 2.0**-24 * one["length"]


def test_parameters_moments_and_averages_are_split_by_the_rules(measured):
    found = measured["checkpoint"]["shapes"]["4x2"]
    for tree in ("params", "opt/2/mu", "opt/2/nu", "ema/0"):
        parts = {name.removeprefix(f"{tree}/"): value for name, value in found.items() if name.startswith(f"{tree}/")}
        assert parts == PARTS


def test_fsdp_splits_further_over_the_data_axis(measured):
    found = measured["checkpoint"]["shapes"]["4x2 fsdp"]
    for tree in ("params", "opt/2/mu", "opt/2/nu", "ema/0"):
        # of at least 1024 elements; 94 and 8 are cut elsewhere or not at all
        assert found[f"{tree}/blocks_0/feed_forward/hidden/kernel"] == [[D, 4 * D], [D // 4, 2 * D]]
        assert found[f"{tree}/blocks_0/feed_forward/output/kernel"] == [[4 * D, D], [2 * D, D // 4]]
        assert found[f"{tree}/embedding/embedding"] == [[V, D], [V // 2, D // 4]]
        assert found[f"{tree}/blocks_0/attention/output/kernel"] == [[D, D], [D // 2, D]]


def test_a_vocabulary_that_does_not_divide_stays_whole_and_the_rest_is_split(measured):
    found = measured["checkpoint"]["shapes"]["2x4"]
    assert found["params/embedding/embedding"] == [[V, D], [V, D]]
    assert found["params/blocks_0/attention/query_key_value/kernel"] == [[D, 3, D], [D, 3, D // 4]]


def test_checkpoints_move_between_meshes_bit_for_bit(measured):
    digests = measured["checkpoint"]["digests"]
    assert len(digests) == 6
    assert len(set(digests)) == 1


def test_each_sublayer_needs_one_sum_forward_and_one_backward(measured):
    """Megatron-LM's figure 4: in each direction two all-reduces of a block's activations, and nothing is gathered."""
    activations = 16 * L * D * 4  # bytes
    assert measured["char_gpt"]["1x4"]["collectives"] == {"all-reduce": [2 * 2, 2 * 2 * activations]}
    # besides, over the data axis gradients and metrics are summed, and over a vocabulary that is split its scores
    assert set(measured["char_gpt"]["2x4"]["collectives"]) == {"all-reduce"}
    assert set(measured["checkpoint"]["collectives"]) == {"all-reduce"}


def layout(recipe, devices=8, settings=None, **options):
    """`choose_layout` on that many devices."""
    experiment = laws.session(recipe, settings).experiment
    chosen = tuple(jax.devices()[:1]) * devices
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: list(chosen))
        return choose_layout(experiment, Options("nowhere", **options), options.get("seeds") or 1)


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("char_gpt", {"model_parallel": 3, "devices": 6}, "--model_parallel=3 does not divide the 4 heads"),
        ("dates_transformer", {"model_parallel": 8}, "--model_parallel=8 does not divide the 4 heads"),
        ("char_gpt", {"model_parallel": 4, "devices": 6}, "=4 does not divide the number of devices, 6"),
        ("char_gpt", {"model_parallel": 2, "devices": 1}, "=2 does not divide the number of devices, 1"),
        ("char_gpt", {"model_parallel": 2, "parallel": "pmap"}, "use --parallel=jit"),
        ("char_gpt", {"model_parallel": 2, "seeds_mode": "shard", "seeds": 8}, "no --seeds_mode=shard"),
        ("lenet5", {"model_parallel": 2}, "the model of lenet5 has no rules for it"),
        ("char_lstm", {"model_parallel": 2}, "the model of char_lstm has no rules for it"),
        ("gan_mixture", {"model_parallel": 2}, "the model of gan_mixture has no rules for it"),
    ],
)
def test_what_cannot_be_split_is_refused_in_one_line(recipe, options, said):
    with pytest.raises(UserError) as caught:
        layout(recipe, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_batch_is_split_over_the_data_axis_alone():
    found = layout("char_gpt", model_parallel=2)
    assert (found.shards, found.model_parallel) == (4, 2)
    found.check_batch(12, "train.batch_size")
    with pytest.raises(UserError, match="train.batch_size=6 does not divide over 4 groups of 2 devices"):
        found.check_batch(6, "train.batch_size")
    assert layout("char_gpt", model_parallel=4, devices=4).shards == 1


@pytest.mark.parametrize("recipe", list(SETTINGS))
def test_no_kernel_is_copied_to_all_devices(recipe):
    """A layer that is renamed must not lose its rule."""
    experiment = laws.session(recipe, SETTINGS[recipe]).experiment
    one = Layout(devices=tuple(jax.devices()[:1]))
    params = Program(experiment.phases[0], one, 1).template.nets["model"].params
    split = dataclasses.replace(one, devices=one.devices * 2, model_parallel=2, rules=partition_rules(experiment, 2))
    found = {"/".join(map(part_name, path)): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
    whole = {name for name, leaf in found.items() if not any(split._model_axes(name, leaf.shape[1:]))}
    # the dates' scores are of an odd number of characters
    assert {name for name in whole if name.endswith("kernel")} <= {"scores/kernel"}
    assert all(
        name.endswith(("kernel", "hidden/bias", "query/bias", "key_value/bias", "embedding"))
        for name in found.keys() - whole
    )
