"""Convolution whose gradients stay fast inside `lax.fori_loop` and `lax.scan` on CPU.

XLA:CPU rewrites a convolution into the form of its fast kernel only in the entry computation. Inside a loop body the
convolution for the weight gradient that automatic differentiation makes runs as a naive loop, 30 times slower. So
`convolution` has its own vector-Jacobian product:

- the gradient by the input is again a convolution in NHWC/HWIO form: kernel flipped, input and output channels
  exchanged, the stride as dilation of the input;
- the gradient by the kernel is one matrix product. With stride 1 it is the product of x unfolded along the last
  spatial axis, [N, kw·C], and g unfolded along the others, [N, kh·O]: the unfolded arrays grow by kw and by kh instead
  of kh·kw. With a larger stride x alone is unfolded, which costs little because there are few output positions.

Accelerators get the plain convolution for both.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Array = jax.Array
Padding = str | int | Sequence[int | tuple[int, int]]
Pads = tuple[tuple[int, int], ...]
Ints = tuple[int, ...]

# Unfolded arrays above this many elements (256 MB in float32) would cost more than the matrix product saves.
_LARGEST_UNFOLDED = 1 << 26
_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def convolution(
    x: Array,
    kernel: Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Array:
    """Cross-correlates x with a kernel: y[b, i, o] = Σ_{k, c} x[b, i·stride + k·dilation − pad, c] · kernel[k, c, o].

    B batch, S spatial axes (1, 2 or 3 of them), C input channels, O output channels. The size of each spatial axis
    becomes ⌊(M + P_low + P_high − dilation·(K − 1) − 1) / stride⌋ + 1.

    Reverse mode works to any order. With groups = 1 there is no forward mode (`jax.jvp`, `jax.jacfwd`,
    `jax.hessian`), because JAX has none for a function with its own vector-Jacobian product: use
    `jax.jacrev(jax.grad(f))` for Hessians.

    Args:
      x: [B, *S, C].
      kernel: [*K, C // groups, O], one size for each spatial axis.
      strides: step between output positions, one for all axes or one each.
      padding: "SAME" (output size ⌈M / stride⌉), "VALID" (none), an int for all sides, or for each axis an int or
        a pair (low, high).
      dilation: distance between kernel taps.
      groups: output channels fall into this many groups, each of which sees C // groups input channels.

    Returns:
      [B, *S', O].

    Raises:
      ValueError: for an unknown padding, wrong numbers of axes, or channels that do not fit.
    """
    rank = x.ndim - 2
    if rank not in _LAYOUTS:
        raise ValueError(f"convolution needs x of shape [B, 1 to 3 spatial axes, C], got {x.shape}")
    if kernel.ndim != x.ndim:
        raise ValueError(f"convolution of {x.shape} needs a kernel with {rank} spatial axes, got shape {kernel.shape}")
    if x.shape[-1] != kernel.shape[-2] * groups or kernel.shape[-1] % groups:
        raise ValueError(
            f"channels do not fit: x {x.shape}, kernel {kernel.shape}, groups {groups}; the kernel must be "
            f"[..., {x.shape[-1]} / groups, a multiple of groups]"
        )
    strides, dilation = per_axis(strides, rank, "strides"), per_axis(dilation, rank, "dilation")
    pads = explicit_padding(padding, x.shape[1:-1], kernel.shape[:-2], strides, dilation)
    if groups > 1:
        return _plain(x, kernel, strides, pads, (1,) * rank, dilation, groups)
    return _convolve(x, kernel, strides, pads, (1,) * rank, dilation)


def per_axis(value: int | Sequence[int], rank: int, name: str) -> Ints:
    """One positive int for each of `rank` spatial axes, from one for all or one each."""
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank or any(v < 1 for v in values):
        raise ValueError(f"{name} must be one positive int or {rank} of them, got {value}")
    return values


def explicit_padding(padding: Padding, sizes: Ints, kernel: Ints, strides: Ints, dilation: Ints) -> Pads:
    """Padding (low, high) of each spatial axis for any of the forms that `convolution` takes."""
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "VALID"):
            raise ValueError(f"padding must be SAME, VALID or ints, got {padding!r}")
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        return tuple((int(lo), int(hi)) for lo, hi in lax.padtype_to_pads(sizes, spans, strides, padding.upper()))
    if isinstance(padding, int):
        return ((padding, padding),) * len(sizes)
    pairs = tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in padding)
    if len(pairs) != len(sizes):
        raise ValueError(f"padding must name {len(sizes)} spatial axes, got {padding}")
    return pairs


def _plain(
    x: Array, kernel: Array, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints, groups: int = 1
) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        lhs_dilation=inflation,
        rhs_dilation=dilation,
        dimension_numbers=_LAYOUTS[x.ndim - 2],
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _convolve(x: Array, kernel: Array, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints) -> Array:
    """The convolution of x, with inflation − 1 zeros between its elements, with a dilated kernel."""
    if x.shape[-1] == 1 and _unfolded_size(x, kernel, strides, pads, inflation, dilation) <= _LARGEST_UNFOLDED:
        geometry: dict[str, Any] = {"strides": strides, "pads": pads, "inflation": inflation, "dilation": dilation}
        product = functools.partial(_unfolded_product, **geometry)
        return lax.platform_dependent(x, kernel, cpu=product, default=functools.partial(_plain, **geometry))
    return _plain(x, kernel, strides, pads, inflation, dilation)


def _convolve_forward(x: Array, kernel: Array, *geometry: Any) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, *geometry), (x, kernel)


def _convolve_backward(
    strides: Ints, pads: Pads, inflation: Ints, dilation: Ints, saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    rank = len(strides)
    turned = jnp.swapaxes(jnp.flip(kernel, range(rank)), -1, -2)
    # the barrier keeps XLA from folding the transpose back into a convolution that it only runs naively
    turned = lax.optimization_barrier(turned)
    back = []
    for i, (lo, _) in enumerate(pads):
        span = dilation[i] * (kernel.shape[i] - 1) + 1
        x_size, g_size = inflation[i] * (x.shape[i + 1] - 1) + 1, strides[i] * (g.shape[i + 1] - 1) + 1
        before = span - lo - 1
        back.append((before, x_size + span - 1 - g_size - before))
    gradient_by_x = _convolve(g, turned, inflation, tuple(back), strides, dilation)
    gradient_by_kernel = _gradient_by_kernel(x, g, kernel.shape[:-2], strides, pads, inflation, dilation)
    return gradient_by_x, gradient_by_kernel


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _gradient_by_kernel(
    x: Array, g: Array, size: Ints, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints
) -> Array:
    """Gradient [*K, C, O] by the kernel from x [B, *S, C] and the output's gradient g [B, *S', O]."""
    geometry: dict[str, Any] = {"strides": strides, "pads": pads, "inflation": inflation, "dilation": dilation}

    def transposed(x: Array, g: Array) -> Array:
        zeros = jnp.zeros((*size, x.shape[-1], g.shape[-1]), x.dtype)
        return jax.linear_transpose(lambda kernel: _plain(x, kernel, **geometry), zeros)(g)[0]

    if min(x.size, g.size) == 0:
        return transposed(x, g)
    if all(s == 1 for s in strides):
        largest = max(g.size * math.prod(size[:-1]), x.size * math.prod(inflation) * size[-1])
        product: Callable[..., Array] = functools.partial(_split_unfolding, size=size, **geometry)
    else:
        largest = g.size // g.shape[-1] * math.prod(size) * x.shape[-1]
        product = functools.partial(_full_unfolding, size=size, **geometry)
    if largest > _LARGEST_UNFOLDED:
        product = functools.partial(_as_convolution, size=size, **geometry)
    return lax.platform_dependent(x, g, cpu=product, default=transposed)


def _pad(x: Array, pads: Pads, inflation: Ints) -> Array:
    config = [(0, 0, 0), *((lo, hi, step - 1) for (lo, hi), step in zip(pads, inflation, strict=True)), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _split_unfolding(
    x: Array, g: Array, *, size: Ints, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints
) -> Array:
    rank, inputs, outputs = len(size), x.shape[-1], g.shape[-1]
    inner = (0, 0, 0)
    # a sum of padded copies that do not overlap: XLA:CPU makes one vectorised loop of it, where it branches on every
    # element of a concatenation (4 against 18 ms for [128, 32, 32, 16])
    x, g = lax.optimization_barrier((x, g))
    inflated = [step * (n - 1) + 1 for step, n in zip(inflation, x.shape[1:-1], strict=True)]
    left = jnp.zeros((), x.dtype)
    for j in range(size[-1]):
        low = pads[-1][0] - j * dilation[-1]
        across = (low, g.shape[-2] - inflated[-1] - low, inflation[-1] - 1)
        along = [(0, 0, step - 1) for step in inflation[:-1]]
        channels = (j * inputs, (size[-1] - 1 - j) * inputs, 0)
        left = left + lax.pad(x, jnp.zeros((), x.dtype), (inner, *along, across, channels))
    taps = list(itertools.product(*(range(k) for k in size[:-1])))
    right = jnp.zeros((), g.dtype)
    for t, tap in enumerate(taps):
        # row r of g meets row r + tap·dilation − low of x
        lows = [i * d - lo for i, d, (lo, _) in zip(tap, dilation[:-1], pads[:-1], strict=True)]
        along = [(lo, inflated[i] - g.shape[i + 1] - lo, 0) for i, lo in enumerate(lows)]
        channels = (t * outputs, (len(taps) - 1 - t) * outputs, 0)
        right = right + lax.pad(g, jnp.zeros((), g.dtype), (inner, *along, inner, channels))
    left, right = lax.optimization_barrier((left, right))
    product = left.reshape(-1, size[-1] * inputs).T @ right.reshape(-1, len(taps) * outputs)
    product = product.reshape(size[-1], inputs, *size[:-1], outputs)
    return jnp.transpose(product, (*range(2, rank + 1), 0, 1, rank + 1))


def _unfold(x: Array, size: Ints, positions: Ints, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints) -> Array:
    """The window under each output position: [B, *S', prod(K)·C], taps in row-major order, channels innermost."""
    x = _pad(x, pads, inflation)
    taps = []
    for tap in itertools.product(*(range(k) for k in size)):
        start = [t * d for t, d in zip(tap, dilation, strict=True)]
        stop = [a + s * (n - 1) + 1 for a, s, n in zip(start, strides, positions, strict=True)]
        taps.append(lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1)))
    return lax.optimization_barrier(jnp.concatenate(taps, -1))


def _full_unfolding(
    x: Array, g: Array, *, size: Ints, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints
) -> Array:
    windows = _unfold(x, size, g.shape[1:-1], strides, pads, inflation, dilation)
    product = windows.reshape(-1, windows.shape[-1]).T @ g.reshape(-1, g.shape[-1])
    return product.reshape(*size, x.shape[-1], g.shape[-1])


def _unfolded_product(x: Array, kernel: Array, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints) -> Array:
    positions = _output_sizes(x, kernel, strides, pads, inflation, dilation)
    windows = _unfold(x, kernel.shape[:-2], positions, strides, pads, inflation, dilation)
    return windows @ kernel.reshape(-1, kernel.shape[-1])


def _as_convolution(
    x: Array, g: Array, *, size: Ints, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints
) -> Array:
    """Channels as batch, batch as channels, g as the kernel: needs no memory for windows, 2 to 4 times slower."""
    rank = len(size)
    axes = tuple(range(1, rank + 1))
    x = lax.optimization_barrier(jnp.transpose(x, (rank + 1, *axes, 0)))
    kernel = lax.optimization_barrier(jnp.transpose(g, (*axes, 0, rank + 1)))
    fitted = []
    for i, (lo, _) in enumerate(pads):
        needed = dilation[i] * (size[i] - 1) + 1 + strides[i] * (g.shape[i + 1] - 1)
        fitted.append((lo, needed - (inflation[i] * (x.shape[i + 1] - 1) + 1) - lo))
    product = _plain(x, kernel, dilation, tuple(fitted), inflation, strides)
    return jnp.transpose(product, (*axes, 0, rank + 1))


def _output_sizes(x: Array, kernel: Array, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints) -> Ints:
    sizes = []
    for i, (lo, hi) in enumerate(pads):
        padded = inflation[i] * (x.shape[i + 1] - 1) + 1 + lo + hi
        sizes.append(max(0, (padded - dilation[i] * (kernel.shape[i] - 1) - 1) // strides[i] + 1))
    return tuple(sizes)


def _unfolded_size(x: Array, kernel: Array, *geometry: Any) -> int:
    return x.shape[0] * math.prod(_output_sizes(x, kernel, *geometry)) * math.prod(kernel.shape[:-1])


class Conv(nn.Module):
    """Convolution layer with a kernel [*K, C // groups, features] and, unless a batch norm follows, a bias [features].

    Parameters: prod(K)·C/groups·features + features.

    Attributes:
      features: number of output channels, F.
      kernel_size: K, one size for each spatial axis (1 to 3 of them).
      strides, padding, dilation, groups: see `convolution`.
      use_bias: False before batch norm, which would take a constant away again.
      dtype: dtype of the computation; None for that of the input and the parameters.
      kernel_init: initialiser of the kernel; He et al. 2015 for rectifiers by default.
      bias_init: initialiser of the bias.
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Callable[..., Array] = nn.initializers.he_normal()
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, *S, C] to [B, *S', features]."""
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise ValueError(
                f"groups={self.groups} must divide both {x.shape[-1]} input and {self.features} output channels"
            )
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolution(
            x, kernel, strides=self.strides, padding=self.padding, dilation=self.dilation, groups=self.groups
        )
        return y if bias is None else y + bias
