"""Output distribution → output layer → cost: the last layer of a network and the loss that belongs to it.

| distribution | layer | cost: negative log-likelihood |
|---|---|---|
| Bernoulli | sigmoid | binary cross entropy |
| categorical | softmax | cross entropy |
| Gaussian | linear | squared error |
| mixture of Gaussians | mixture density | log-sum over the components |
| any other | a class given to `register_head` | its own |
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array
Init = Callable[..., Array]


class Head(nn.Module):
    """From features to the parameters of a distribution over targets.

    A subclass maps features [B, F] to parameters (an array or a dict of arrays with leading axis B) in `__call__`,
    and has two functions of these parameters that need no variables: `nll` and `mean`.
    """

    def nll(self, outputs: Any, target: Array) -> Array:
        """−log p(target | outputs) of each example in nats, [B]."""
        raise NotImplementedError

    def mean(self, outputs: Any) -> Array:
        """The distribution's expectation, [B, ...]."""
        raise NotImplementedError


_HEADS: dict[str, type[Head]] = {}


def register_head(name: str) -> Callable[[type[Head]], type[Head]]:
    """Class decorator that makes a Head available to `get_head`.

    Raises:
      ValueError: if the name is taken.
    """

    def register(head: type[Head]) -> type[Head]:
        if name in _HEADS:
            raise ValueError(f"a head called {name!r} exists already: {_HEADS[name].__name__}")
        _HEADS[name] = head
        return head

    return register


def get_head(name: str, **options: Any) -> Head:
    """The head called `name` (bernoulli, categorical, gaussian, mixture, or a registered one) with its attributes.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in _HEADS:
        raise ValueError(f"unknown head {name!r}; choose one of {', '.join(_HEADS)}")
    return _HEADS[name](**options)


def _per_example(x: Array) -> Array:
    return x.reshape(x.shape[0], -1).sum(-1)


@register_head("bernoulli")
class Bernoulli(Head):
    """Independent binary targets: outputs are logits z [B, D], p(y = 1) = σ(z), nll = Σ_d softplus(z) − yz.

    Attributes:
      dims: D.
      kernel_init: initialiser of the output layer.
      dtype: dtype of the output layer.
    """

    dims: int
    kernel_init: Init = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps features [B, F] to logits [B, D]."""
        return nn.Dense(self.dims, kernel_init=self.kernel_init, dtype=self.dtype, name="logits")(features)

    def nll(self, outputs: Array, target: Array) -> Array:
        """[B] from logits [B, D] and targets [B, D] in [0, 1]."""
        return _per_example(jax.nn.softplus(outputs) - target * outputs)

    def mean(self, outputs: Array) -> Array:
        """p(y = 1), [B, D]."""
        return jax.nn.sigmoid(outputs)


@register_head("categorical")
class Categorical(Head):
    """One of K classes: outputs are logits z [B, K], nll = logsumexp(z) − z_y.

    Attributes:
      num_classes: K.
      kernel_init: initialiser of the output layer.
      dtype: dtype of the output layer.
    """

    num_classes: int
    kernel_init: Init = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps features [B, F] to logits [B, K]."""
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype, name="logits")(features)

    def nll(self, outputs: Array, target: Array) -> Array:
        """[B] from logits [B, K] and class numbers [B]."""
        chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), target[:, None].astype(jnp.int32), axis=-1)
        return -chosen[:, 0]

    def mean(self, outputs: Array) -> Array:
        """Class probabilities, [B, K]."""
        return jax.nn.softmax(outputs)


@register_head("gaussian")
class Gaussian(Head):
    """Real targets: nll = Σ_d ½((y − μ)/s)² + log s + ½ log 2π.

    Attributes:
      dims: D.
      learn_scale: whether s is an output for each example and dimension; otherwise s = 1 and the nll is half the
        squared error plus a constant.
      kernel_init: initialiser of the output layer.
      dtype: dtype of the output layer.
    """

    dims: int
    learn_scale: bool = False
    kernel_init: Init = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Array) -> dict[str, Array]:
        """Maps features [B, F] to {"mean": [B, D], "log_scale": [B, D]}."""
        mean = nn.Dense(self.dims, kernel_init=self.kernel_init, dtype=self.dtype, name="location")(features)
        if not self.learn_scale:
            return {"mean": mean, "log_scale": jnp.zeros_like(mean)}
        log_scale = nn.Dense(self.dims, kernel_init=self.kernel_init, dtype=self.dtype, name="log_scale")(features)
        return {"mean": mean, "log_scale": log_scale}

    def nll(self, outputs: dict[str, Array], target: Array) -> Array:
        """[B] from the outputs and targets [B, D]."""
        deviation = (target - outputs["mean"]) * jnp.exp(-outputs["log_scale"])
        return _per_example(0.5 * jnp.square(deviation) + outputs["log_scale"] + 0.5 * math.log(2 * math.pi))

    def mean(self, outputs: dict[str, Array]) -> Array:
        """μ, [B, D]."""
        return outputs["mean"]


@register_head("mixture")
class Mixture(Head):
    """Mixture density network of K isotropic Gaussians; Bishop 1994.

    nll = −log Σ_k π_k N(y; μ_k, s_k² I), π = softmax(logits).

    Attributes:
      dims: D.
      components: K.
      kernel_init: initialiser of the output layers.
      dtype: dtype of the output layers.
    """

    dims: int
    components: int
    kernel_init: Init = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Array) -> dict[str, Array]:
        """Maps features [B, F] to {"logits": [B, K], "mean": [B, K, D], "log_scale": [B, K]}."""

        def dense(size: int, name: str, **options: Any) -> Array:
            return nn.Dense(size, kernel_init=self.kernel_init, dtype=self.dtype, name=name, **options)(features)

        # equal means would get equal gradients for ever: spread them by their biases
        mean = dense(self.components * self.dims, "location", bias_init=nn.initializers.normal(1.0))
        return {
            "logits": dense(self.components, "logits"),
            "mean": mean.reshape(*features.shape[:-1], self.components, self.dims),
            "log_scale": dense(self.components, "log_scale"),
        }

    def nll(self, outputs: dict[str, Array], target: Array) -> Array:
        """[B] from the outputs and targets [B, D]."""
        squared = jnp.square(target[:, None, :] - outputs["mean"]).sum(-1)
        log_scale = outputs["log_scale"]
        constant = 0.5 * self.dims * math.log(2 * math.pi)
        log_density = -0.5 * squared * jnp.exp(-2 * log_scale) - self.dims * log_scale - constant
        return -jax.nn.logsumexp(jax.nn.log_softmax(outputs["logits"]) + log_density, axis=-1)

    def mean(self, outputs: dict[str, Array]) -> Array:
        """Σ_k π_k μ_k, [B, D]."""
        return (jax.nn.softmax(outputs["logits"])[..., None] * outputs["mean"]).sum(-2)
