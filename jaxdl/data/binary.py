"""Images of zeros and ones."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdl.data.augment import Transform

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Threshold(Transform):
    """As `Transform`, and then one where a pixel is above `threshold`, zero elsewhere.

    Attributes:
      threshold: in the unit of the transformed pixels, in 0 ... 1 unless they are standardised.
    """

    threshold: float = 0.5

    def __call__(self, batch: dict[str, Array], keys: Array) -> dict[str, Array]:
        """Replaces "image" [b, H, W, C] uint8 by float32 zeros and ones; see `Transform`."""
        batch = super().__call__(batch, keys)
        return {**batch, "image": (batch["image"] > self.threshold).astype(jnp.float32)}
