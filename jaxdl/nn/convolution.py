"""Convolution whose gradients stay fast inside `lax.fori_loop` and `lax.scan` on CPU.

XLA:CPU rewrites a convolution into the form of its fast kernel only in the entry computation. Inside a loop body the
convolution for the weight gradient that automatic differentiation makes runs as a naive loop, 30 times slower. So
`convolution` has its own vector-Jacobian product:

- with stride 1 the gradient by the kernel is a matrix product of x unfolded along the last spatial axis, [N, kw·C], and g
  unfolded along the others, [N, kh·O]. The unfolded arrays grow by kw and by kh instead of kh·kw; they are made for a part
  of the batch at a time, which stays in the cache. With few taps and channels the gradient by the input is a product of
  the same unfolded g and the kernel;
- else the gradient by the input is again a convolution in NHWC/HWIO form: kernel flipped, input and output channels
  exchanged, the stride as dilation of the input;
- with a larger stride, or arrays too large to unfold, the gradient by the kernel is a convolution with the channels as
  batch and the batch as channels.

Accelerators get the plain convolution for both.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxdl.nn.unfolding import fold_last, in_parts, number_of_parts, taps, unfold_last, unfold_leading
from jaxdl.target import ANY, cpu_threads, target_platform

Array = jax.Array
Padding = str | int | Sequence[int | tuple[int, int]]
Pads = tuple[tuple[int, int], ...]
Ints = tuple[int, ...]

# Unfolded arrays above this many elements (256 MB in float32) would cost more than the matrix product saves.
_LARGEST_UNFOLDED = 1 << 26
# Unfolded arrays of this many elements (4 MB) stay in the cache until they are multiplied: the products of the kernel
# gradients of a ResNet-20 take 57 in the place of 88 ms, with copies and unfolding 70 for 111 (one core, jax 0.10.2).
_CACHED_UNFOLDED = 1 << 20
# XLA:CPU has a fast kernel (YNNPACK's) for convolutions with this many channels on one side; jax 0.10.
_FAST_CHANNELS = 32
# Up to so many taps along the last axis and so many channels, the gradient by the input is faster as a product with what
# the kernel's gradient unfolds than as a convolution: both gradients take 17 to 24 % less time with 3x3 and 16 to 64 channels
# (two Intel cores, jax 0.10.2, which runs the convolution on one of them; on 0.11.2, which uses both, 15 % less to 2 % more).
# With 256 channels and where the batch has no parts they took longer.
_FEW_TAPS, _FEW_CHANNELS = 3, 64
# On maps this small a convolution costs many times its arithmetic: 4.5 ms against 0.3 for the product of its windows
# (64 maps of 4x4, kernel 5x5, 16 to 32 channels; jax 0.10.2).
_FEW_POSITIONS = 16
# columns that XLA:GPU sums at full speed
_WIDE = 96
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

    Reverse mode works to any order. Do not count on forward mode (`jax.jvp`, `jax.jacfwd`, `jax.hessian`): JAX has
    none for a function with its own vector-Jacobian product. Use `jax.jacrev(jax.grad(f))` for Hessians.

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
    if groups > 1 or target_platform() == ANY:
        return _plain(x, kernel, strides, pads, (1,) * rank, dilation, groups)
    windows = math.prod(_output_sizes(x, kernel, strides, pads, (1,) * rank, dilation)) * math.prod(kernel.shape[:-2])
    if x.shape[-1] == 1 and 0 < x.shape[0] * windows <= _LARGEST_UNFOLDED:
        geometry: dict[str, Any] = {"strides": strides, "pads": pads, "dilation": dilation}
        product = functools.partial(_convolve_one_channel, **geometry)
        plain = functools.partial(_plain, inflation=(1,) * rank, **geometry)
        return lax.platform_dependent(x, kernel, cpu=product, default=plain)
    positions = math.prod(_output_sizes(x, kernel, strides, pads, (1,) * rank, dilation))
    if 0 < positions <= _FEW_POSITIONS and min(x.size, kernel.size) > 0:
        geometry = {"strides": strides, "pads": pads, "dilation": dilation}
        product = functools.partial(_convolve_few_positions, **geometry)
        plain = functools.partial(_plain, inflation=(1,) * rank, **geometry)
        return lax.platform_dependent(x, kernel, cpu=product, default=plain)
    return _convolve(x, kernel, strides, pads, (1,) * rank, dilation)


def per_axis(value: int | Sequence[int], rank: int, name: str) -> Ints:
    """One positive int for each of `rank` spatial axes, from one for all or one each.

    Raises:
      ValueError: another number of them, or one below 1; names `name`.
    """
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank or any(v < 1 for v in values):
        raise ValueError(f"{name} must be one positive int or {rank} of them, got {value}")
    return values


def explicit_padding(padding: Padding, sizes: Ints, kernel: Ints, strides: Ints, dilation: Ints) -> Pads:
    """Padding (low, high) of each spatial axis for any of the forms that `convolution` takes.

    Raises:
      ValueError: an unknown word, or not one entry for each axis.
    """
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
    plain = functools.partial(_plain, strides=strides, pads=pads, inflation=inflation, dilation=dilation)
    width = _output_sizes(x, kernel, strides, pads, inflation, dilation)[-1]
    even = width > 0 and width % 2 == 0 and min(x.size, kernel.size) > 0
    few = _FAST_CHANNELS // 2 <= kernel.shape[-1] < _FAST_CHANNELS > kernel.shape[-2]
    # several threads run the slower kernel in no more time (jax 0.10: they share it, while the fast one has one of them)
    slow = few and cpu_threads() == 1
    if not (even and slow and kernel.shape[:-2] == (3, 3) and _is_unit((*strides, *inflation, *dilation))):
        return plain(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=functools.partial(_two_at_a_time, pads=pads), default=plain)


def _two_at_a_time(x: Array, kernel: Array, pads: Pads) -> Array:
    """Two neighbouring outputs as channels of one: stride 2 along the last spatial axis, a kernel wider by 1.

    That makes 16 output channels 32, which the fast kernel serves: 4.8 against 6.7 ms for 128 maps of 32x32 with 16
    channels, kernel 3x3, on one core, though with a third more arithmetic (4 columns where 3 are needed).
    """
    rank, outputs = len(pads), kernel.shape[-1]
    wider = [jnp.pad(kernel, (*((0, 0),) * (rank - 1), side, (0, 0), (0, 0))) for side in ((0, 1), (1, 0))]
    y = _plain(x, jnp.concatenate(wider, axis=-1), (*(1,) * (rank - 1), 2), pads, (1,) * rank, (1,) * rank)
    return y.reshape(*y.shape[:-2], 2 * y.shape[-2], outputs)


def _convolve_forward(x: Array, kernel: Array, *geometry: Any) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, *geometry), (x, kernel)


def _convolve_backward(
    strides: Ints, pads: Pads, inflation: Ints, dilation: Ints, saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    geometry: dict[str, Any] = {"strides": strides, "pads": pads, "inflation": inflation, "dilation": dilation}

    def transposed(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        by_x = jax.linear_transpose(lambda x: _plain(x, kernel, **geometry), x)(g)[0]
        return by_x, jax.linear_transpose(lambda kernel: _plain(x, kernel, **geometry), kernel)(g)[0]

    x, kernel = saved
    if min(x.size, g.size) == 0:
        return transposed(x, kernel, g)
    return lax.platform_dependent(x, kernel, g, cpu=functools.partial(_gradients, **geometry), default=transposed)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _gradients(
    x: Array, kernel: Array, g: Array, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints
) -> tuple[Array, Array]:
    """Gradients by x [B, *S, C] and by the kernel [*K, C, O] from the output's gradient g [B, *S', O]."""
    size = kernel.shape[:-2]
    # stored values, not computed again in every copy that the unfolding makes
    x, g = lax.optimization_barrier((x, g))
    unfolded = max(g.size * math.prod(size[:-1]), x.size * math.prod(inflation) * size[-1])
    least, channels = -(-unfolded // _CACHED_UNFOLDED), max(kernel.shape[-2:])
    products = _is_unit(strides) and unfolded <= _LARGEST_UNFOLDED
    narrow = channels < _FAST_CHANNELS or (size[-1] <= _FEW_TAPS and channels <= _FEW_CHANNELS)
    cached = least == 1 or number_of_parts(x.shape[0], least) > 1
    both = products and _is_unit(inflation) and narrow and cached
    by_x = product = None
    if products:
        geometry: dict[str, Any] = {"pads": pads, "inflation": inflation, "dilation": dilation}
        by_x, product = in_parts(functools.partial(_products, kernel=kernel, both=both, **geometry), x, g, least)
    if by_x is None:
        # the barrier keeps XLA from folding the transpose back into a convolution that it only runs naively
        turned = lax.optimization_barrier(jnp.swapaxes(jnp.flip(kernel, range(len(size))), -1, -2))
        back = _back_padding(x, kernel, g, strides, pads, inflation, dilation)
        by_x = _convolve(g, turned, inflation, back, strides, dilation)
    if product is None:
        return by_x, _as_convolution(x, g, size, strides, pads, inflation, dilation)
    return by_x, _from_columns(product, kernel.shape)


def _products(
    x: Array, g: Array, kernel: Array, both: bool, pads: Pads, inflation: Ints, dilation: Ints
) -> tuple[Array | None, Array]:
    """Of stride 1, by products with one unfolded g: the gradient by x [B, *S, C] if `both`, [kw·C, kh·O] with the kernel's.

    The taps of the leading axes are channels of the unfolded g. So the gradient by x is one product for all taps of the
    last axis, [N, kh·O] by [kh·O, kw·C], and the sum of its shifted parts.
    """
    rank, size = len(pads), kernel.shape[:-2]
    across = unfold_last(x, size[-1], g.shape[-2], pads[-1][0], inflation, dilation[-1])
    along = unfold_leading(g, x, size, pads, inflation, dilation)
    along = along.reshape(-1, along.shape[-1])
    by_kernel = across.reshape(-1, across.shape[-1]).T @ along
    if not both:
        return None, by_kernel
    columns = jnp.transpose(kernel, (*range(rank - 1), rank + 1, rank - 1, rank)).reshape(along.shape[-1], -1)
    windows = (along @ columns).reshape(across.shape)
    return fold_last(windows, size[-1], x.shape[-2], pads[-1][0], dilation[-1]), by_kernel


def _from_columns(product: Array, shape: Ints) -> Array:
    """[kw·C, kh·O], kh the taps of all axes but the last, as a kernel of `shape` [*K, C, O]."""
    rank = len(shape) - 2
    product = product.reshape(shape[rank - 1], shape[-2], *shape[: rank - 1], shape[-1])
    return jnp.transpose(product, (*range(2, rank + 1), 0, 1, rank + 1))


def _is_unit(steps: Ints) -> bool:
    return all(step == 1 for step in steps)


def _back_padding(
    x: Array, kernel: Array, g: Array, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints
) -> Pads:
    """Padding of g in the convolution that gives the gradient by x."""
    back = []
    for i, (lo, _) in enumerate(pads):
        span = dilation[i] * (kernel.shape[i] - 1) + 1
        x_size, g_size = inflation[i] * (x.shape[i + 1] - 1) + 1, strides[i] * (g.shape[i + 1] - 1) + 1
        before = span - lo - 1
        back.append((before, x_size + span - 1 - g_size - before))
    return tuple(back)


def _convolve_one_channel(x: Array, kernel: Array, strides: Ints, pads: Pads, dilation: Ints) -> Array:
    """As the product of all windows of x [B, *S, 1] with the kernel [*K, 1, O]; its gradients are products too."""
    rank = len(strides)
    windows = _pad(x, pads)[..., 0]
    positions = _output_sizes(x, kernel, strides, pads, (1,) * rank, dilation)
    for done, axis in enumerate(reversed(range(rank))):
        spatial, taps = done + 1 + axis, []
        for k in range(kernel.shape[axis]):
            start = k * dilation[axis]
            stop = start + strides[axis] * (positions[axis] - 1) + 1
            taps.append(lax.slice_in_dim(windows, start, stop, strides[axis], spatial))
        windows = lax.optimization_barrier(jnp.stack(taps))
    windows = windows.reshape(math.prod(kernel.shape[:-2]), -1)
    kernel = kernel.reshape(-1, kernel.shape[-1])
    y = lax.dot_general(windows, kernel, (((0,), (0,)), ((), ())))
    return y.reshape(x.shape[0], *positions, kernel.shape[-1])


def _convolve_few_positions(x: Array, kernel: Array, strides: Ints, pads: Pads, dilation: Ints) -> Array:
    """As one product of all windows [B, *S', taps·C] with the kernel; its gradients are products too."""
    size, outputs = kernel.shape[:-2], kernel.shape[-1]
    positions = _output_sizes(x, kernel, strides, pads, (1,) * len(size), dilation)
    windows = taps(_pad(x, pads), size, positions, strides, dilation)
    columns = jnp.concatenate(list(windows), axis=-1).reshape(-1, math.prod(size) * x.shape[-1])
    return (columns @ kernel.reshape(-1, outputs)).reshape(x.shape[0], *positions, outputs)


def _pad(x: Array, pads: Pads) -> Array:
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in pads), (0, 0, 0)])


def _as_convolution(
    x: Array, g: Array, size: Ints, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints
) -> Array:
    """Gradient by the kernel with channels as batch, batch as channels and g as the kernel."""
    rank = len(size)
    axes = tuple(range(1, rank + 1))
    x = lax.optimization_barrier(jnp.transpose(x, (rank + 1, *axes, 0)))
    kernel = lax.optimization_barrier(jnp.transpose(g, (*axes, 0, rank + 1)))
    fitted = []
    for i, (lo, _) in enumerate(pads):
        needed = dilation[i] * (size[i] - 1) + 1 + strides[i] * (g.shape[i + 1] - 1)
        fitted.append((lo, needed - (inflation[i] * (x.shape[i + 1] - 1) + 1) - lo))
    product = _convolve(x, kernel, dilation, tuple(fitted), inflation, strides)
    return jnp.transpose(product, (*axes, 0, rank + 1))


def _output_sizes(x: Array, kernel: Array, strides: Ints, pads: Pads, inflation: Ints, dilation: Ints) -> Ints:
    sizes = []
    for i, (lo, hi) in enumerate(pads):
        padded = inflation[i] * (x.shape[i + 1] - 1) + 1 + lo + hi
        sizes.append(max(0, (padded - dilation[i] * (kernel.shape[i] - 1) - 1) // strides[i] + 1))
    return tuple(sizes)


def _with_bias(y: Array, bias: Array) -> Array:
    """y [B, *S, O] + bias [O]. XLA:GPU sums few columns slowly, so for its gradient several positions lie side by side."""
    outputs, rows = bias.shape[0], y.size // bias.shape[0]
    side = 1
    while target_platform() == "gpu" and side * outputs < _WIDE and rows % (2 * side) == 0:
        side *= 2
    if side == 1:
        return y + bias
    return (y.reshape(-1, side * outputs) + jnp.tile(bias, side)).reshape(y.shape)


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
        y = self._convolve(x, kernel)
        return y if bias is None else _with_bias(y, bias)

    def _convolve(self, x: Array, kernel: Array) -> Array:
        return convolution(
            x, kernel, strides=self.strides, padding=self.padding, dilation=self.dilation, groups=self.groups
        )
