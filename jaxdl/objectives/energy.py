"""Learning and likelihood of energy models with binary units.

The functions of restricted Boltzmann machines take weights W [D, H], visible biases a [D] and hidden biases b [H]
without offsets (`jaxdl.models.rbm.uncentred`): E(v, h) = −vᵀWh − aᵀv − bᵀh. Shapes: `B` batch, `M` chains, `D` visible
and `H` hidden units.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
PyTree = Any

MOST_ENUMERATED = 24


def contrastive_gap(free_energy: Callable[[PyTree, Array], Array], params: PyTree, data: Array, model: Array) -> Array:
    """F(v_data) − F(v_model) with v_model held constant, [B].

    Its gradient by the parameters estimates that of −log p(v_data): with v_model drawn from the model it is unbiased,
    after k Gibbs steps from the data it is contrastive divergence (Hinton 2002), from chains that go on from update to
    update persistent contrastive divergence (Tieleman 2008).

    Args:
      free_energy: (params, v [B, D]) -> F [B].
      params: of the model.
      data: [B, D].
      model: [B, D], the chains' states.
    """
    return free_energy(params, data) - free_energy(params, lax.stop_gradient(model))


def log_partition(kernel: Array, visible_bias: Array, hidden_bias: Array, chunk: int = 4096) -> Array:
    """log Z = log Σ_h exp(bᵀh + Σ_i softplus(a_i + W_i h)) by going through all 2^H hidden states; scalar.

    Args:
      kernel: W [D, H].
      visible_bias: a [D].
      hidden_bias: b [H].
      chunk: hidden states in one product, rounded down to a power of two.

    Raises:
      ValueError: more than `MOST_ENUMERATED` hidden units.
    """
    hidden = kernel.shape[1]
    if hidden > MOST_ENUMERATED:
        raise ValueError(f"2^{hidden} hidden states are too many to go through; estimate log Z by AIS")
    chunk = 1 << (min(chunk, 2**hidden).bit_length() - 1)

    def part(start: Array) -> Array:
        h = binary_states(start + jnp.arange(chunk, dtype=jnp.uint32), hidden)
        value = h @ hidden_bias + jax.nn.softplus(visible_bias + h @ kernel.T).sum(axis=-1)
        return jax.nn.logsumexp(value)

    starts = jnp.arange(2**hidden // chunk, dtype=jnp.uint32) * chunk
    return jax.nn.logsumexp(lax.map(part, starts))


def binary_states(numbers: Array, units: int) -> Array:
    """The binary digits of `numbers` [n], the lowest first, as float32 [n, units]."""
    return ((numbers[:, None] >> jnp.arange(units, dtype=jnp.uint32)) & 1).astype(jnp.float32)


def annealed_log_partition(
    key: Array,
    kernel: Array,
    visible_bias: Array,
    hidden_bias: Array,
    base_bias: Array,
    chains: int = 100,
    temperatures: int = 1000,
) -> tuple[Array, Array]:
    """log Z by annealed importance sampling (Salakhutdinov & Murray 2008).

    p_β(v) ∝ exp(((1 − β) a₀ + β a)ᵀv) Π_j (1 + exp(β (b_j + W_jᵀv))) goes from independent pixels with biases a₀ to the
    machine. The estimate of Z is unbiased, so that of log Z is a little low on average.

    Args:
      key: for the chains.
      kernel: W [D, H].
      visible_bias: a [D].
      hidden_bias: b [H].
      base_bias: a₀ [D], for example the log odds of the pixels in the data.
      chains: M.
      temperatures: steps of β from 0 to 1, evenly spaced.

    Returns:
      log Z, and its standard error by the spread of the M weights; scalars.
    """
    annealing = _Annealing(kernel, visible_bias, hidden_bias, base_bias)
    first, rest = jax.random.split(key)
    shape = (chains, kernel.shape[0])
    v = jax.random.bernoulli(first, jax.nn.sigmoid(base_bias), shape).astype(jnp.float32)
    betas = jnp.linspace(0.0, 1.0, temperatures + 1)

    def body(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        v, log_weight = carry
        log_weight = log_weight + annealing.log_p(v, betas[i + 1]) - annealing.log_p(v, betas[i])
        return annealing.transition(jax.random.fold_in(rest, i), v, betas[i + 1]), log_weight

    _, log_weight = lax.fori_loop(0, temperatures, body, (v, jnp.zeros((chains,))))
    return _estimate(annealing.base_log_partition + log_weight)


def reverse_annealed_log_partition(
    key: Array,
    kernel: Array,
    visible_bias: Array,
    hidden_bias: Array,
    base_bias: Array,
    samples: Array,
    temperatures: int = 1000,
) -> tuple[Array, Array]:
    """log Z by annealing from samples of the machine [M, D] back to the base: a little high on average, given true samples.

    Burda, Grosse & Salakhutdinov 2015. With chains that have not mixed the samples are not the machine's, and the
    estimate may be off either way. Arguments and returns as in `annealed_log_partition`.
    """
    annealing = _Annealing(kernel, visible_bias, hidden_bias, base_bias)
    betas = jnp.linspace(1.0, 0.0, temperatures + 1)

    def body(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        v, log_weight = carry
        v = annealing.transition(jax.random.fold_in(key, i), v, betas[i])
        return v, log_weight + annealing.log_p(v, betas[i + 1]) - annealing.log_p(v, betas[i])

    start = (samples.astype(jnp.float32), jnp.zeros((samples.shape[0],)))
    _, log_weight = lax.fori_loop(0, temperatures, body, start)
    estimate, spread = _estimate(log_weight - annealing.base_log_partition)
    return -estimate, spread


class _Annealing:
    """The distributions between the base (β = 0) and the machine (β = 1)."""

    def __init__(self, kernel: Array, visible_bias: Array, hidden_bias: Array, base_bias: Array):
        self.kernel, self.visible_bias, self.hidden_bias, self.base_bias = kernel, visible_bias, hidden_bias, base_bias
        self.base_log_partition = jax.nn.softplus(base_bias).sum() + kernel.shape[1] * math.log(2.0)

    def _bias(self, beta: Array) -> Array:
        return (1.0 - beta) * self.base_bias + beta * self.visible_bias

    def log_p(self, v: Array, beta: Array) -> Array:
        """Unnormalised log p_β(v), [M]."""
        z = self.hidden_bias + v @ self.kernel
        return v @ self._bias(beta) + jax.nn.softplus(beta * z).sum(axis=-1)

    def transition(self, key: Array, v: Array, beta: Array) -> Array:
        """One round of Gibbs sampling that leaves p_β as it is."""
        up, down = jax.random.split(key)
        p = jax.nn.sigmoid(beta * (self.hidden_bias + v @ self.kernel))
        h = jax.random.bernoulli(up, p).astype(jnp.float32)
        p = jax.nn.sigmoid(self._bias(beta) + beta * (h @ self.kernel.T))
        return jax.random.bernoulli(down, p).astype(jnp.float32)


def _estimate(log_values: Array) -> tuple[Array, Array]:
    """log of the mean of exp(log_values) [M], and its standard error by the delta method."""
    count = log_values.shape[0]
    log_mean = jax.nn.logsumexp(log_values) - math.log(count)
    relative = jnp.exp(log_values - log_mean)
    return log_mean, jnp.std(relative) / math.sqrt(count)
