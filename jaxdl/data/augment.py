"""From stored pixels to what a network sees: augmentation and standardisation inside the XLA program.

Everything random is drawn per example from that example's own key, so the result does not depend on how a batch is
split over devices. Shapes: `b` rows, `H` x `W` pixels, `C` channels.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdl.data.warp import affine_matrix, affine_warp, crop_flip
from jaxdl.settings import setting

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How much training images are changed at random; all off by default."""

    shift: float = setting(0.0, "largest shift of the content in pixels, along each axis, uniform; 0: off", minimum=0.0)
    rotate: float = setting(0.0, "largest rotation in degrees, either way, uniform; 0: off", minimum=0.0, maximum=180.0)
    scale: float = setting(0.0, "size changes by a factor 1-s ... 1+s, uniform; 0: off", minimum=0.0, maximum=0.9)
    flip: bool = setting(False, "mirror left to right with probability 1/2")
    crop: int = setting(0, "pad by this many pixels of zeros, then crop at random to the old size; 0: off", minimum=0)
    contrast: float = setting(
        0.0, "distance from the image's own mean times 1-c ... 1+c, uniform; 0: off", minimum=0.0, maximum=1.0
    )
    noise: float = setting(0.0, "standard deviation of Gaussian noise, pixels in 0 ... 1; 0: off", minimum=0.0)
    cutout: int = setting(0, "side in pixels of a square set to the training mean; 0: off", minimum=0)
    mixup: float = setting(0.0, "alpha of the Beta(alpha, alpha) weight that mixes two examples; 0: off", minimum=0.0)


@dataclasses.dataclass(frozen=True)
class Transform:
    """x -> (augmented x / 255 - mean) / std; a static, hashable part of the compiled program.

    Order: crop, shift, rotation, scale, flip (one resampling); contrast; noise; standardisation; cutout; mixup.

    Mixup (Zhang et al. 2018, arXiv:1710.09412) joins rows 2i and 2i + 1 of the global batch, x_i = w_i x_i + (1 - w_i)
    x_partner with w_i ~ Beta(alpha, alpha), and adds "label_mix" [b] int32 (the partner's label) and "mix" [b] float32
    (w_i): the loss is w·loss(label) + (1 - w)·loss(label_mix). Each device needs an even number of rows.

    Attributes:
      mean: per channel (or one for all), pixels in 0 ... 1, of the training split only.
      std: likewise.
      augment: None for evaluation.
      edge: what a crop shows beyond the image, "zeros" or "mirrored" (see `crop_flip`); resampling always shows zeros.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    augment: AugmentConfig | None = None
    edge: str = "zeros"

    @property
    def plain(self) -> bool:
        """Whether images are only standardised."""
        return self.augment is None or self.augment == AugmentConfig()

    @property
    def pairs_rows(self) -> bool:
        """Whether rows 2i and 2i + 1 are mixed."""
        return self.augment is not None and self.augment.mixup > 0

    def __call__(self, batch: dict[str, Array], keys: Array) -> dict[str, Array]:
        """Replaces "image" [b, H, W, C] uint8 (or float in 0 ... 255) by float32.

        Args:
          batch: with "image"; for mixup also "label" [b] and "row" [b].
          keys: [b] random keys, one per row.
        """
        config = self.augment
        images = batch["image"] if config is None else geometric(batch["image"], keys, config, self.edge)
        if config is not None and (config.contrast or config.noise):
            # the stored image's mean: one over the warped image would make XLA:CPU compute the warp twice
            centre = batch["image"].astype(jnp.float32).mean(axis=(1, 2, 3)) / 255.0
            images = photometric(images.astype(jnp.float32) / 255.0, centre, keys, config) * 255.0
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        images = (images.astype(jnp.float32) - 255.0 * mean) / (255.0 * std)
        if config is not None and config.cutout:
            images = cutout(images, _stream(keys, 2), config.cutout)
        batch = {**batch, "image": images}
        if config is not None and config.mixup:
            batch = mixup(batch, _stream(keys, 3), config.mixup)
        return batch


@dataclasses.dataclass(frozen=True)
class Alternating(Transform):
    """`Transform` that mirrors an image in every second epoch, in the first or in the second at random.

    Two epochs then show each image both ways, where mirroring at random shows half of the images the same way twice
    (Jordan 2024, arXiv:2404.00498, section 3.5). `augment.flip` must be off.
    """

    alternates = True

    def __call__(self, batch: dict[str, Array], keys: Array) -> dict[str, Array]:
        """As `Transform`; reads "mirrored" [b] bool too, where it is there."""
        mirrored = batch.get("mirrored")
        batch = super().__call__({name: array for name, array in batch.items() if name != "mirrored"}, keys)
        if mirrored is None:
            return batch
        images = batch["image"]
        return {**batch, "image": jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)}


def geometric(images: Array, keys: Array, config: AugmentConfig, edge: str = "zeros") -> Array:
    """Crop, shift, rotation, scale and flip of images; one bilinear resampling, or none if exact.

    Args:
      images: [b, H, W, C], any real type.
      keys: [b], used for all that is drawn of a row.
      config: how much; contrast, noise, cutout and mixup are not read.
      edge: what a crop without resampling shows beyond the image, see `crop_flip`.

    Returns:
      [b, H, W, C], of the stored type if only crop and flip are on, else float32; the unit of the pixels is kept.
    """
    crop, resample = config.crop, config.shift or config.rotate or config.scale
    if not (crop or config.flip or resample):
        return images
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (7,)))(_stream(keys, 0))
    # uniform() < 1, so the floor is at most 2·crop
    offset = jnp.floor(drawn[:, :2] * (2 * crop + 1)).astype(jnp.int32) - crop
    flip = (drawn[:, 2] < 0.5) & config.flip
    if not resample:
        return crop_flip(images, offset, flip, crop, edge)
    signed = 2.0 * drawn - 1.0
    matrix = affine_matrix(jnp.deg2rad(config.rotate) * signed[:, 3], 1.0 + config.scale * signed[:, 4], flip)
    return affine_warp(images, matrix, config.shift * signed[:, 5:] + offset)


def photometric(images: Array, centre: Array, keys: Array, config: AugmentConfig) -> Array:
    """Contrast, x -> m + (1 + c u)(x - m) with u ~ U(-1, 1), then Gaussian noise.

    Args:
      images: [b, H, W, C] float32 in 0 ... 1; the result is not clipped to that range.
      centre: [b] m, the mean of each image before it was moved.
      keys: [b].
      config: `contrast` is c, `noise` the standard deviation.
    """
    if config.contrast:
        drawn = jax.vmap(lambda key: jax.random.uniform(key, minval=-1.0, maxval=1.0))(_stream(keys, 1))
        factor, mean = (1.0 + config.contrast * drawn)[:, None, None, None], centre[:, None, None, None]
        images = mean + factor * (images - mean)
    if config.noise:
        noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(_stream(keys, 4))
        images = images + config.noise * noise
    return images


def cutout(images: Array, keys: Array, side: int) -> Array:
    """Zeros a square whose centre is a uniformly drawn pixel; it may stick out (DeVries & Taylor, arXiv:1708.04552).

    Args:
      images: [b, H, W, C], already standardised, so that zero is the training mean.
      keys: [b].
      side: of the square, in pixels.
    """
    height, width = images.shape[1:3]
    centre = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, jnp.array([height, width])))(keys)
    first = centre - side // 2
    rows, columns = jnp.arange(height) - first[:, :1], jnp.arange(width) - first[:, 1:]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    return jnp.where(inside[..., None], 0.0, images)


def mixup(batch: dict[str, Array], keys: Array, alpha: float) -> dict[str, Array]:
    """Mixes each image with that of its partner row; see `Transform`. An odd last row has itself as partner.

    Args:
      batch: "image" [b, H, W, C] float32, "label" [b] and "row" [b].
      keys: [b], used for the weight of each row.
      alpha: of Beta(alpha, alpha), > 0.

    Returns:
      The batch with mixed images, "label_mix" [b], the partner's label, and "mix" [b] float32, the row's own weight.
    """
    count = batch["row"].shape[0]
    partner = jnp.minimum(jnp.arange(count) ^ 1, count - 1)
    weight = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys)
    images = batch["image"]
    source, weights = jnp.stack([jnp.arange(count), partner]), jnp.stack([weight, 1.0 - weight])

    # a loop over the two parts, because XLA:CPU would fuse all that made the images into both of them
    def add(i, mixed):
        return mixed + weights[i][:, None, None, None] * images[source[i]]

    mixed = jax.lax.fori_loop(0, 2, add, jnp.zeros_like(images))
    return {**batch, "image": mixed, "label_mix": batch["label"][partner], "mix": weight}


def _stream(keys: Array, number: int) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
