"""Losses of a generator and a discriminator, from the discriminator's logits; Goodfellow et al. 2014 (arXiv:1406.2661).

With D(x) = σ(l) the discriminator's probability that x is real. All are finite, with finite gradients, for any finite
logit: −log σ(l) = softplus(−l) and −log(1 − σ(l)) = softplus(l).
"""

import jax

Array = jax.Array
GENERATOR_LOSSES = ("non_saturating", "minimax")


def real_loss(logits: Array, smoothing: Array | float = 0.0) -> Array:
    """−(1 − s) log D(x) − s log(1 − D(x)) for real x, [B] in nats; logits [B].

    A smoothing s > 0 makes 1 − s the target of real examples only (one-sided; Salimans et al. 2016).
    """
    return jax.nn.softplus(-logits) + smoothing * logits


def fake_loss(logits: Array) -> Array:
    """−log(1 − D(G(z))), what the discriminator pays for a sample, [B] in nats; logits [B]."""
    return jax.nn.softplus(logits)


def generator_loss(logits: Array, kind: str = "non_saturating") -> Array:
    """What the generator pays for a sample, [B] in nats; logits [B] of D(G(z)).

    non_saturating: −log D(G(z)); its gradient is large where the discriminator is sure.
    minimax: log(1 − D(G(z))), the negative of `fake_loss`; its gradient vanishes there.

    Raises:
      ValueError: for another kind.
    """
    if kind == "non_saturating":
        return jax.nn.softplus(-logits)
    if kind == "minimax":
        return -jax.nn.softplus(logits)
    raise ValueError(f"the generator's loss is one of {', '.join(GENERATOR_LOSSES)}; got {kind!r}")
