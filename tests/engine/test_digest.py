"""The digest: sha256 over the leaves sorted by key path of path, dtype, shape and little-endian C-order bytes."""

import hashlib
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.engine.digest import digest, flatten_with_names
from jaxdl.engine.state import Net, State


@pytest.mark.smoke
def test_a_small_tree_by_hand():
    tree = {
        "b": np.array([[1, 2, 3], [4, 5, 6]], np.int16),
        "a": {"kernel": np.array([1.5, -2.0], np.float32), "bias": np.float32(0.5)},
        "flags": [np.array([True, False])],
    }
    text = b"a/bias|float32|()|" + struct.pack("<f", 0.5)
    text += b"a/kernel|float32|(2,)|" + struct.pack("<2f", 1.5, -2.0)
    text += b"b|int16|(2, 3)|" + struct.pack("<6h", 1, 2, 3, 4, 5, 6)
    text += b"flags/0|bool|(2,)|" + b"\x01\x00"
    assert digest(tree) == hashlib.sha256(text).hexdigest()


@pytest.mark.smoke
def test_what_it_depends_on():
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3, np.int32)}
    same = digest(tree)
    one_bit = tree["a"].copy()
    one_bit.view(np.uint32)[1, 2] ^= 1
    different = [
        {**tree, "a": one_bit},
        {**tree, "a": tree["a"].astype(np.float64)},
        {**tree, "a": tree["a"].reshape(3, 2)},
        {**tree, "a": tree["a"].view(np.int32)},
        {"c": tree["a"], "b": tree["b"]},
        {**tree, "a": -tree["a"]},  # minus zero is another number's bits
        {"a": tree["a"]},
    ]
    assert len({digest(other) for other in different} | {same}) == len(different) + 1


def test_what_it_does_not_depend_on():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    same = digest({"a": array, "b": np.int32(1)})
    assert digest({"b": np.int32(1), "a": array}) == same
    assert digest({"a": np.asfortranarray(array), "b": np.int32(1)}) == same
    assert digest({"a": array.astype(">f4"), "b": np.array(1, ">i4")}) == same
    assert digest({"a": jnp.asarray(array), "b": jnp.int32(1)}) == same


def test_random_keys_count_as_their_data():
    key = jax.random.key(3)
    assert digest({"k": key}) == digest({"k": jax.random.key_data(key)})
    assert digest({"k": key}) != digest({"k": jax.random.key(4)})


def test_names_are_the_fields_of_a_state():
    state = State(step=np.int32(3), nets={"model": Net({"Dense_0": {"kernel": np.zeros(2)}}, opt=(np.int32(0),))})
    names = ["step", "nets/model/params/Dense_0/kernel", "nets/model/opt/0"]
    assert sorted(flatten_with_names(state)) == sorted(names)
