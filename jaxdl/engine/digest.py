"""sha256 of a pytree: equal digests mean equal bits."""

import hashlib

import jax
import numpy as np


def flatten_with_names(tree) -> dict[str, np.ndarray]:
    """Leaves of `tree` as host arrays, by key path ("nets/model/params/Dense_0/kernel"); random keys as their data."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = "/".join(part_name(key) for key in path)
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaves[name] = np.asarray(leaf)
    return leaves


def digest(tree) -> str:
    """sha256 over the leaves sorted by key path: path, dtype, shape, then little-endian bytes in C order."""
    hashed = hashlib.sha256()
    for name, array in sorted(flatten_with_names(tree).items()):
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        hashed.update(f"{name}|{array.dtype.name}|{array.shape}|".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def part_name(key) -> str:
    """One part of a key path: a dictionary's key, a field's name or a position."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
