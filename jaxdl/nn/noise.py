"""Random numbers for each example from its own key, made for speed: all of them in one fused loop.

`jax.random` under `vmap` spends on XLA:CPU about six times as long: it keeps one of Threefry's two output words, however
few bits are wanted, and runs its rounds in a loop of small kernels. In `row_...` both words are used, as two or four numbers;
`fold_in`, `split`, `uniform`, `normal` and `permutation` give the bits of their namesakes in `jax.random`.

Shapes: `B` examples.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.nn.stored import stored

Array = jax.Array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
LEVELS = 65536.0  # of 16 bits
_LOWEST = -1.0 + 2.0**-24  # the float32 after -1


def threefry(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw 2011): two random words for each counter.

    Args:
      key: two uint32 arrays.
      counter: two uint32 arrays, broadcast against those of the key.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = (y << jnp.uint32(rotation)) | (y >> jnp.uint32(32 - rotation))
            y = x ^ y
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


def fold_in(keys: Array, numbers: Array | int) -> Array:
    """`jax.random.fold_in` of each key and number, bit for bit; shapes broadcast.

    Args:
      keys: typed keys of JAX's default kind.
      numbers: int32 or uint32.
    """
    data, number = jax.random.key_data(keys), jnp.asarray(numbers).astype(jnp.uint32)
    return _keys(threefry((data[..., 0], data[..., 1]), (jnp.zeros_like(number), number)))


def split(keys: Array, count: int) -> Array:
    """`jax.random.split` of each key, bit for bit: [..., count] keys of [...].

    Args:
      keys: typed keys of JAX's default kind; used up.
      count: fewer than 2^32.
    """
    return _keys(_counted(keys, count))


def uniform(keys: Array, count: int, low: float = 0.0, high: float = 1.0) -> Array:
    """`jax.random.uniform` of shape (count,) for each key, bit for bit: [..., count] float32 of keys [...], used up."""
    x, y = _counted(keys, count)
    unit = lax.bitcast_convert_type(((x ^ y) >> jnp.uint32(9)) | jnp.uint32(0x3F800000), jnp.float32) - 1.0
    return jnp.maximum(jnp.float32(low), unit * jnp.float32(high - low) + jnp.float32(low))


def normal(keys: Array, count: int) -> Array:
    """`jax.random.normal` of shape (count,) for each key, bit for bit: [..., count] float32 of keys [...], used up."""
    return jnp.float32(math.sqrt(2.0)) * lax.erf_inv(uniform(keys, count, _LOWEST, 1.0))


def permutation(keys: Array, count: int) -> Array:
    """`jax.random.permutation` of 0, ..., count - 1 for each key, bit for bit: [..., count] int32 of keys [...], used up.

    More than 1,024 numbers are sorted more than once, by `jax.random` itself.
    """
    if count > 1024:
        flat = jax.vmap(lambda key: jax.random.permutation(key, count))(keys.reshape(-1))
        return flat.reshape(*keys.shape, count).astype(jnp.int32)
    x, y = _counted(split(keys, 2)[..., 1], count)
    numbers = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), x.shape)
    return lax.sort_key_val(x ^ y, numbers, dimension=-1)[1]


def _counted(keys: Array, count: int) -> tuple[Array, Array]:
    """Two words [..., count] for each key and counter, as `jax.random` uses them (`jax_threefry_partitionable`)."""
    data, counter = jax.random.key_data(keys), jnp.arange(count, dtype=jnp.uint32)
    return threefry((data[..., :1], data[..., 1:2]), (jnp.zeros_like(counter), counter))


def _keys(words: tuple[Array, Array]) -> Array:
    return jax.random.wrap_key_data(jnp.stack(words, axis=-1))


def row_bits(keys: Array, shape: Sequence[int], dtype: type = jnp.uint32) -> Array:
    """Random bits [B, *shape], those of row i from keys[i] alone.

    Args:
      keys: [B] typed keys of JAX's default kind; used up.
      shape: of one example.
      dtype: uint32 or uint16.

    Raises:
      ValueError: another dtype.
    """
    if dtype not in (jnp.uint32, jnp.uint16):
        raise ValueError(f"random bits come as uint32 or uint16, not {dtype}")
    data = jax.random.key_data(keys)
    size = math.prod(shape)
    parts = 2 if dtype == jnp.uint32 else 4
    counter = jnp.arange(-(-size // parts), dtype=jnp.uint32)[None]
    words: tuple[Array, ...] = threefry((data[:, :1], data[:, 1:2]), (counter, jnp.zeros_like(counter)))
    if dtype == jnp.uint16:
        words = tuple(part.astype(jnp.uint16) for word in words for part in (word, word >> jnp.uint32(16)))
    return jnp.concatenate(words, axis=1)[:, :size].reshape(keys.shape[0], *shape)


def row_uniform(keys: Array, shape: Sequence[int]) -> Array:
    """Uniform float32 in [0, 1), multiples of 2^-24.

    Args:
      keys: [B] typed keys of JAX's default kind; used up.
      shape: of one example.

    Returns:
      [B, *shape], row i from keys[i] alone.
    """
    return (row_bits(keys, shape) >> jnp.uint32(8)).astype(jnp.float32) * jnp.float32(2.0**-24)


def row_gumbel(keys: Array, shape: Sequence[int]) -> Array:
    """Standard Gumbel noise -log(-log u) with u uniform in (0, 1).

    Args:
      keys: [B] typed keys of JAX's default kind; used up.
      shape: of one example.

    Returns:
      [B, *shape] float32, row i from keys[i] alone.
    """
    # odd multiples of 2^-24: never 0, never 1
    u = ((row_bits(keys, shape) >> jnp.uint32(9)).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-23)
    return -jnp.log(-jnp.log(u))


def row_below(keys: Array, shape: Sequence[int], probabilities: Array | float) -> Array:
    """True with `probabilities` rounded to multiples of 2^-16, bool [B, *shape]: where `row_bits` of 16 are below them.

    Args:
      keys: [B] typed keys of JAX's default kind; used up.
      shape: of one example.
      probabilities: in [0, 1], a scalar or [B, *shape].
    """
    data, size = jax.random.key_data(keys), math.prod(shape)
    quarter = -(-size // 4)
    counter = jnp.arange(quarter, dtype=jnp.uint32)[None]
    levels = jnp.round(lax.stop_gradient(jnp.asarray(probabilities, jnp.float32)) * LEVELS).astype(jnp.uint32)
    if levels.ndim:
        levels = jnp.pad(levels.reshape(-1, size), ((0, 0), (0, 4 * quarter - size)))
        parts = [levels[:, i * quarter : (i + 1) * quarter] for i in range(4)]
    else:
        parts = [levels] * 4

    def decided(_: Array) -> Array:
        x, y = threefry((data[:, :1], data[:, 1:2]), (counter, jnp.zeros_like(counter)))
        numbers = (x & jnp.uint32(0xFFFF), x >> jnp.uint32(16), y & jnp.uint32(0xFFFF), y >> jnp.uint32(16))
        bits = [
            jnp.where(n < level, jnp.uint32(1 << i), jnp.uint32(0))
            for i, (n, level) in enumerate(zip(numbers, parts, strict=True))
        ]
        return (bits[0] | bits[1] | bits[2] | bits[3]).astype(jnp.uint8)

    # four decisions in a byte: XLA:CPU computes the rounds anew for each of four parts of one array
    packed = stored(decided, lax.bitcast_convert_type(data, jnp.float32))
    whole = jnp.concatenate([(packed & jnp.uint8(1 << i)) != 0 for i in range(4)], axis=1)
    return whole[:, :size].reshape(keys.shape[0], *shape)


def row_bernoulli(keys: Array, probabilities: Array) -> Array:
    """Ones with `probabilities` rounded to multiples of 2^-16, else zeros; see `row_below`. Gradients do not pass.

    Args:
      keys: [B] typed keys of JAX's default kind; used up.
      probabilities: [B, ...] in [0, 1].

    Returns:
      [B, ...] in the dtype of the probabilities, row i from keys[i] alone.
    """
    return row_below(keys, probabilities.shape[1:], probabilities).astype(probabilities.dtype)
