"""Restricted Boltzmann machines: energy, free energy, conditionals and Gibbs sampling as functions of parameters.

Shapes: `B` batch, `D` visible units, `H` hidden units. Parameters are a dict with

    kernel [D, H] W,  visible_bias [D] a,  hidden_bias [H] b,
    visible_offset [D] μ,  hidden_offset [H] λ   (centred machines only; else zero)

and the machine is (Smolensky 1986; centred: Montavon & Müller 2012)

    E(v, h) = −(v − μ)ᵀ W (h − λ) − aᵀ(v − μ) − bᵀ(h − λ) [+ ½ |h|² for Gaussian hidden units],  p(v, h) = exp(−E) / Z
    z = b + Wᵀ(v − μ):  p(h = 1 | v) = σ(z)  or  h | v ~ N(z, 1);  p(v = 1 | h) = σ(a + W(h − λ))
    F(v) = −log Σ_h exp(−E(v, h)) = −aᵀ(v − μ) − Σ_j [A(z_j) − λ_j z_j],  A = softplus  or  z² / 2 + ½ log 2π.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.nn.noise import row_bernoulli

Array = jax.Array
Params = Mapping[str, Array]

HIDDEN = ("binary", "gaussian")
_HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class RBM:
    """The shape of a machine; see the top of this file.

    Attributes:
      visible: D, binary units.
      hidden: H.
      kind: of the hidden units, one of `HIDDEN`; Gaussian ones have unit variance (for a linear code).

    Raises:
      ValueError: an unknown kind.
    """

    visible: int
    hidden: int
    kind: str = "binary"

    def __post_init__(self) -> None:
        if self.kind not in HIDDEN:
            raise ValueError(f"hidden units are {' or '.join(HIDDEN)}, got {self.kind!r}")

    def init(self, key: Array, scale: float = 0.01) -> dict[str, Array]:
        """Parameters to start from, without offsets.

        Args:
          key: used for the weights, N(0, scale²).
          scale: their standard deviation.

        Returns:
          "kernel" [D, H], "visible_bias" [D] and "hidden_bias" [H], float32, the biases zero.
        """
        kernel = scale * jax.random.normal(key, (self.visible, self.hidden))
        return {
            "kernel": kernel,
            "visible_bias": jnp.zeros((self.visible,)),
            "hidden_bias": jnp.zeros((self.hidden,)),
        }

    def hidden_input(self, params: Params, v: Array) -> Array:
        """z [B, H] of v [B, D]."""
        bias = params["hidden_bias"]
        if "visible_offset" in params:
            # not (v − μ) W: the product v W is then shared with what else uses it
            bias = bias - params["visible_offset"] @ params["kernel"]
        return v @ params["kernel"] + bias

    def visible_input(self, params: Params, h: Array) -> Array:
        """a + W(h − λ), [B, D], of h [B, H]."""
        bias = params["visible_bias"]
        if "hidden_offset" in params:
            bias = bias - params["kernel"] @ params["hidden_offset"]
        return h @ params["kernel"].T + bias

    def hidden_mean(self, params: Params, v: Array) -> Array:
        """E[h | v], [B, H]."""
        z = self.hidden_input(params, v)
        return z if self.kind == "gaussian" else jax.nn.sigmoid(z)

    def visible_mean(self, params: Params, h: Array) -> Array:
        """E[v | h] = p(v = 1 | h), [B, D]."""
        return jax.nn.sigmoid(self.visible_input(params, h))

    def energy(self, params: Params, v: Array, h: Array) -> Array:
        """E(v, h), [B]."""
        v_centred, h_centred = v - params.get("visible_offset", 0.0), h - params.get("hidden_offset", 0.0)
        joint = ((v_centred @ params["kernel"]) * h_centred).sum(axis=-1)
        value = -joint - v_centred @ params["visible_bias"] - h_centred @ params["hidden_bias"]
        return value + 0.5 * jnp.square(h).sum(axis=-1) if self.kind == "gaussian" else value

    def free_energy(self, params: Params, v: Array) -> Array:
        """F(v), [B]; −F is the log of the unnormalised p(v)."""
        z = self.hidden_input(params, v)
        potential = 0.5 * jnp.square(z) + _HALF_LOG_2_PI if self.kind == "gaussian" else jax.nn.softplus(z)
        if "hidden_offset" in params:
            potential = potential - params["hidden_offset"] * z
        linear = v @ params["visible_bias"]
        if "visible_offset" in params:
            linear = linear - params["visible_offset"] @ params["visible_bias"]
        return -linear - potential.sum(axis=-1)

    def sample_hidden(self, params: Params, v: Array, keys: Array) -> Array:
        """h ~ p(h | v), [B, H]; `keys` [B] hold one key for each row."""
        z = self.hidden_input(params, v)
        if self.kind == "gaussian":
            return z + jax.vmap(lambda key: jax.random.normal(key, (self.hidden,)))(keys)
        return row_bernoulli(keys, jax.nn.sigmoid(z))

    def sample_visible(self, params: Params, h: Array, keys: Array) -> Array:
        """v ~ p(v | h), [B, D]; `keys` [B]."""
        return row_bernoulli(keys, self.visible_mean(params, h))

    def gibbs(self, params: Params, h: Array, keys: Array, steps: int, mean_field: bool = False) -> tuple[Array, Array]:
        """`steps` rounds of v ~ p(v | h), h ~ p(h | v).

        Args:
          params: see the top of this file.
          h: [B, H] hidden units to start from.
          keys: [B] one key for each chain.
          steps: k >= 1.
          mean_field: v is p(v = 1 | h) rather than a sample, as in Hinton & Salakhutdinov's code.

        Returns:
          v [B, D] of the last round and h [B, H] drawn after it.
        """

        def round_(number: Array | int, chain: tuple[Array, Array]) -> tuple[Array, Array]:
            parts = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, number)))(keys)
            v = self.visible_mean(params, chain[1])
            v = v if mean_field else row_bernoulli(parts[:, 0], v)
            return v, self.sample_hidden(params, v, parts[:, 1])

        chain = round_(0, (jnp.zeros((h.shape[0], self.visible)), h))
        return chain if steps == 1 else lax.fori_loop(1, steps, round_, chain)


def recentred(params: Params, visible_offset: Array, hidden_offset: Array) -> dict[str, Array]:
    """The same distribution with other offsets: b + Wᵀ(μ' − μ) and a + W(λ' − λ) as biases (Melchior et al. 2016).

    Args:
      params: with or without offsets, see the top of this file.
      visible_offset: [D], μ'.
      hidden_offset: [H], λ'.

    Returns:
      Parameters with these offsets and the same kernel.
    """
    kernel = params["kernel"]
    down = hidden_offset - params.get("hidden_offset", 0.0)
    up = visible_offset - params.get("visible_offset", 0.0)
    return {
        "kernel": kernel,
        "visible_bias": params["visible_bias"] + kernel @ down,
        "hidden_bias": params["hidden_bias"] + up @ kernel,
        "visible_offset": visible_offset,
        "hidden_offset": hidden_offset,
    }


def uncentred(params: Params) -> dict[str, Array]:
    """The same distribution without offsets: kernel, visible_bias and hidden_bias."""
    visible, hidden = params["visible_bias"].shape, params["hidden_bias"].shape
    found = recentred(params, jnp.zeros(visible), jnp.zeros(hidden))
    return {name: found[name] for name in ("kernel", "visible_bias", "hidden_bias")}
