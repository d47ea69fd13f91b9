"""What a model consists of: layers, shapes, parameters and operations, without computing anything."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl.nn.convolution_pool import ConvMaxPool


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer of a model.

    Attributes:
      path: names from the root, joined by "/".
      kind: the layer's class.
      output_shape: shape of its (first) output, batch included.
      parameters: how many parameters it owns itself.
      flops: floating point operations of one example's forward pass; a multiply-add is two. Layers with a kernel count
        2·(kernel size)·(output positions, before pooling) plus the bias, batch norm 2 a value, other layers one a value.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    flops: int


def example_inputs(example: Sequence[Any], batch_size: int, dtype: Any = jnp.float32) -> tuple[Any, ...]:
    """What a model is called with, as shapes and dtypes with their batch axis.

    Args:
      example: the shape of a model's one input without batch axis, or one `jax.ShapeDtypeStruct` per input.
      batch_size: B.
      dtype: of an input given by its shape.
    """
    if example and isinstance(example[0], jax.ShapeDtypeStruct):
        return tuple(jax.ShapeDtypeStruct((batch_size, *each.shape), each.dtype) for each in example)
    return (jax.ShapeDtypeStruct((batch_size, *example), dtype),)


def layer_table(model: nn.Module, x_shape: Sequence[Any], dtype: Any = jnp.float32) -> list[Row]:
    """The model's layers in the order in which they are applied.

    Modules that only hold other modules have no row. A layer applied several times has one row, its parameters
    counted once and its operations each time.

    Args:
      model: a module called as `model(x, train)`, or `model(x, y, train)` with two inputs.
      x_shape: [B, ...], the shape of the input with its batch axis, or what `example_inputs` returns.
      dtype: dtype of an input given by its shape.
    """
    inputs = example_inputs(x_shape[1:], x_shape[0], dtype) if isinstance(x_shape[0], int) else tuple(x_shape)
    calls: list[tuple[tuple[str, ...], str, dict[str, tuple[int, ...]], tuple[int, ...], int]] = []

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        outputs = call(*args, **kwargs)
        if context.method_name == "__call__":
            own = context.module.variables.get("params", {})
            own = {k: v.shape for k, v in own.items() if not isinstance(v, dict)}
            shape, window = _shape(outputs), context.module.window if isinstance(context.module, ConvMaxPool) else 1
            calls.append((context.module.path, type(context.module).__name__, own, shape, window ** (len(shape) - 2)))
        return outputs

    with nn.intercept_methods(record):
        keys = {"params": jax.random.key(0), "noise": jax.random.key(0)}
        jax.eval_shape(lambda *x: model.init(keys, *x, train=False), *inputs)
    parents = {path[:i] for path, *_ in calls for i in range(len(path))}
    rows: dict[tuple[str, ...], Row] = {}
    for path, kind, own, shape, pooled in calls:
        if path in parents and not own:
            continue
        flops = _flops(kind, own, shape, inputs[0].shape[0]) * pooled
        if path in rows:
            flops += rows[path].flops
        parameters = sum(math.prod(s) for s in own.values())
        rows[path] = Row("/".join(path), kind, shape, parameters, flops)
    return list(rows.values())


def _shape(outputs: Any) -> tuple[int, ...]:
    leaves = jax.tree.leaves(outputs)
    return tuple(leaves[0].shape) if leaves else ()


def _flops(kind: str, own: dict[str, tuple[int, ...]], shape: tuple[int, ...], batch: int) -> int:
    values = math.prod(shape) // max(batch, 1)
    if "recurrent_kernel" in own:
        return 2 * (math.prod(own["kernel"]) + math.prod(own["recurrent_kernel"])) * (values // shape[-1])
    if "kernel" in own:
        positions = values // own["kernel"][-1]
        if kind == "DoublingConv":  # at each output only a quarter of the taps meets values, the others zeros
            return (2 * math.prod(own["kernel"]) // 4 + math.prod(own.get("bias", (0,)))) * positions
        return (2 * math.prod(own["kernel"]) + math.prod(own.get("bias", (0,)))) * positions
    return values * (2 if kind == "BatchNorm" else 1)
