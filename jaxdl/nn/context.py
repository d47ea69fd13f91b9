"""What layers need to know of their batch: which rows it holds, which are padding, and where it runs."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.noise import fold_in

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class BatchContext:
    """The batch that layers are applied to; the fields are the arguments of `batch_context`."""

    rows: Array | None = None
    mask: Array | None = None
    axis: str | None = None
    dtype: Any = None


_OUTSIDE = BatchContext()
_CURRENT: contextvars.ContextVar[BatchContext] = contextvars.ContextVar("batch", default=_OUTSIDE)


def current_batch() -> BatchContext:
    """The innermost `batch_context` around the caller; an empty one outside."""
    return _CURRENT.get()


@contextlib.contextmanager
def batch_context(
    *, rows: Array | None = None, mask: Array | None = None, axis: str | None = None, dtype: Any = None
) -> Iterator[None]:
    """Tells the layers applied inside it about their batch. Enter it in the traced function, around `model.apply`.

    Args:
      rows: [B] int32, each example's number in the global batch. Dropout and noisy activations draw the noise of
        example i with `fold_in(key, rows[i])`, so that it depends neither on the number of devices nor on how the
        batch is split into micro-batches. Without it the examples are numbered from 0.
      mask: [B], 0 for padding, which batch norm leaves out of its moments. Without it every example counts.
      axis: pmap axis over which batch norm averages its moments.
      dtype: modules whose `dtype` attribute is None compute in this type; parameters stay as they are and the
        outermost module returns float32.
    """
    token = _CURRENT.set(BatchContext(rows, mask, axis, dtype))
    try:
        if dtype is None:
            yield
        else:
            with nn.intercept_methods(_compute_in(dtype)):
                yield
    finally:
        _CURRENT.reset(token)


def _compute_in(dtype: Any) -> Callable[..., Any]:
    depth = 0

    def interceptor(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        nonlocal depth
        module = context.module
        follows = hasattr(module, "dtype") and module.dtype is None
        if follows:
            # a bound module is frozen, and a clone would lose its scope
            object.__setattr__(module, "dtype", dtype)
        depth += 1
        try:
            outputs = call(*args, **kwargs)
        finally:
            depth -= 1
            if follows:
                object.__setattr__(module, "dtype", None)
        return jax.tree.map(_to_float32, outputs) if depth == 0 else outputs

    return interceptor


def _to_float32(x: Any) -> Any:
    is_float = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(jnp.float32) if is_float else x


def row_keys(key: Array, batch_size: int) -> Array:
    """One key for each of the batch's examples [B], made of `key` and the example's row in the global batch.

    Raises:
      ValueError: if the current `batch_context` numbers another count of rows than the array has.
    """
    rows = current_batch().rows
    if rows is None:
        rows = jnp.arange(batch_size, dtype=jnp.int32)
    if rows.shape != (batch_size,):
        raise ValueError(
            f"the batch context numbers {rows.shape} rows but the layer got {batch_size} examples; "
            "apply the layer to arrays whose first axis is the batch"
        )
    return fold_in(key, rows)
