import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.data.augment import AugmentConfig, Transform
from jaxdl.data.permutation import permuted_index
from jaxdl.data.source import Resident, Streamed, on_device

N, B = 37, 8
AUGMENT = AugmentConfig(crop=1, flip=True, noise=0.1, mixup=0.4)
KEY = jax.random.key(5)


def examples():
    rng = np.random.default_rng(0)
    return {"image": rng.integers(0, 256, (N, 6, 6, 1), dtype=np.uint8), "label": np.arange(N, dtype=np.int32)}


@functools.partial(jax.jit, static_argnames="shards")
def batch_in_program(source, step, key, shard=0, *, shards=1):
    return source.batch(step, key, shard, shards)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_training_batches_follow_the_order():
    source = Resident.of(examples(), B, shuffle=True)
    order = permuted_index(jax.random.fold_in(KEY, 0), np.arange(20 * B), N)
    for step in (0, 3, 4, 19):
        batch = batch_in_program(source, step, KEY)
        rows = order[step * B : (step + 1) * B]
        np.testing.assert_array_equal(batch["label"], rows)
        np.testing.assert_array_equal(batch["image"], examples()["image"][rows])
        np.testing.assert_array_equal(batch["mask"], np.ones(B, np.float32))
        np.testing.assert_array_equal(batch["row"], np.arange(B))


def test_an_epoch_shows_every_example_once_though_batches_straddle_epochs():
    source = Resident.of(examples(), B, shuffle=True)
    seen = np.concatenate([batch_in_program(source, step, KEY)["label"] for step in range(2 * N // B + 1)])
    for epoch in range(2):
        np.testing.assert_array_equal(np.sort(seen[epoch * N : (epoch + 1) * N]), np.arange(N))


def test_evaluation_counts_every_example_once():
    source = Resident.of(examples(), B, shuffle=False)
    batches = [batch_in_program(source, step, KEY) for step in range(source.num_batches + 1)]
    mask = np.concatenate([batch["mask"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    assert source.num_batches == 5
    np.testing.assert_array_equal(labels[mask > 0], np.arange(N))
    assert batches[-1]["mask"].sum() == 0


@pytest.mark.parametrize("shuffle, capacity", [(True, 1), (True, 3), (True, 5), (False, 2)])
def test_streamed_equals_resident_for_any_chunk_length(shuffle, capacity):
    transform = Transform((0.4,), (0.3,), AugmentConfig(crop=1, flip=True, contrast=0.2))
    resident = Resident.of(examples(), B, shuffle=shuffle, transform=transform)
    streamed = Streamed.of(examples(), B, shuffle=shuffle, transform=transform, capacity=capacity)
    assert resident.num_batches == streamed.num_batches
    step = 0
    while step < 7:
        count = min(capacity, 7 - step)
        staged = streamed.stage(step, count, KEY)
        for i in range(step, step + count):
            assert_same(batch_in_program(staged, i, KEY), batch_in_program(resident, i, KEY))
        step += count


def test_streaming_from_a_function_equals_streaming_from_arrays():
    arrays = examples()
    by_function = Streamed(lambda index: {k: v[index] for k, v in arrays.items()}, N, B, shuffle=True)
    assert_same(by_function.batch(3, KEY), Streamed.of(arrays, B, shuffle=True).batch(3, KEY))


def test_stages_have_one_shape_whatever_their_count():
    streamed = Streamed.of(examples(), B, shuffle=True, capacity=4)
    assert len({jax.tree.structure(streamed.stage(0, c, KEY)) for c in (1, 2, 4)}) == 1
    assert {streamed.stage(0, c, KEY).arrays["image"].shape for c in (1, 2, 4)} == {(4, B, 6, 6, 1)}
    with pytest.raises(ValueError, match="1 to 4 batches"):
        streamed.stage(0, 5, KEY)


@pytest.mark.parametrize("stream", [False, True])
def test_shards_together_are_the_global_batch(stream):
    transform = Transform((0.4,), (0.3,), AUGMENT)
    source = Resident.of(examples(), B, shuffle=True, transform=transform)
    used = Streamed.of(examples(), B, shuffle=True, transform=transform).stage(6, 1, KEY) if stream else source
    whole = batch_in_program(source, 6, KEY)
    parts = [batch_in_program(used, 6, KEY, shard, shards=4) for shard in range(4)]
    for name in whole:
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(joined, whole[name], rtol=0, atol=1e-6, err_msg=name)


def test_batches_in_a_loop_and_over_mapped_keys_equal_single_ones():
    source = Resident.of(examples(), B, shuffle=True)
    keys = jax.random.split(jax.random.key(1), 3)
    steps = jnp.arange(4)
    looped = jax.jit(lambda source: jax.lax.map(lambda s: source.batch(s, keys[0])["label"], steps))(source)
    mapped = jax.jit(jax.vmap(lambda source, key: source.batch(2, key)["label"], (None, 0)))(source, keys)
    for step in range(4):
        np.testing.assert_array_equal(looped[step], batch_in_program(source, step, keys[0])["label"])
    for i in range(3):
        np.testing.assert_array_equal(mapped[i], batch_in_program(source, 2, keys[i])["label"])
    assert len({tuple(np.asarray(row).tolist()) for row in mapped}) == 3


def test_a_batch_may_be_larger_than_the_set():
    source = Resident.of({"label": np.arange(3)}, 8, shuffle=True)
    labels = np.asarray(source.batch(0, KEY)["label"])
    np.testing.assert_array_equal(np.sort(labels[:3]), np.arange(3))
    np.testing.assert_array_equal(np.sort(labels[3:6]), np.arange(3))
    padded = Resident.of({"label": np.arange(3)}, 8, shuffle=False).batch(0, KEY)
    np.testing.assert_array_equal(padded["mask"], [1, 1, 1, 0, 0, 0, 0, 0])


def test_late_steps_do_not_overflow():
    source = Resident.of(examples(), B, shuffle=True)
    streamed = Streamed.of(examples(), B, shuffle=True)
    step = 2**31 // B + 5  # positions beyond int32
    labels = np.asarray(batch_in_program(source, step, KEY)["label"])
    assert labels.min() >= 0 and len(set(labels.tolist())) > 1
    assert_same(batch_in_program(streamed.stage(step, 1, KEY), step, KEY), batch_in_program(source, step, KEY))


def test_take_gathers_chosen_examples():
    source = Resident.of(examples(), B, shuffle=True, transform=Transform((0.5,), (0.5,)))
    batch = source.take([4, 2])
    np.testing.assert_array_equal(batch["label"], [4, 2])
    expected = (examples()["image"][[4, 2]] / 255.0 - 0.5) / 0.5
    np.testing.assert_allclose(batch["image"], expected, atol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="evenly over 3 devices"):
        Resident.of(examples(), B, shuffle=True).batch(0, KEY, 0, 3)
    with pytest.raises(ValueError, match="common length"):
        Resident.of({"a": np.zeros(3), "b": np.zeros(4)}, 2, shuffle=True)
    with pytest.raises(ValueError, match="common length"):
        Streamed.of({"a": np.zeros(0)}, 2, shuffle=True)
    mixed = Resident.of(examples(), 6, shuffle=True, transform=Transform(augment=AugmentConfig(mixup=0.2)))
    with pytest.raises(ValueError, match="even number of examples"):
        mixed.batch(0, KEY, 0, 2)


def test_data_on_the_device_are_no_view_of_the_hosts():
    values = np.arange(1 << 16, dtype=np.float32)
    values = values[(-values.ctypes.data % 64) // 4 :][: 1 << 15]  # aligned, so that it could be one
    placed = on_device(values)
    expected = values.copy()
    values[:] = -1.0
    np.testing.assert_array_equal(placed, expected)
