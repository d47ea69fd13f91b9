"""Affine warps and crops of image batches inside the XLA program.

Shapes: `B` images of `H` x `W` pixels and `C` channels. Pixel (y, x) has its centre at coordinates (y, x); rotation and
scale are about the image's centre ((H - 1) / 2, (W - 1) / 2). What lies outside an image is zero.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def affine_matrix(angle: Array, scale: Array, flip: Array) -> Array:
    """Matrices [B, 2, 2] that map an output offset (y, x) from the centre to the input offset.

    A = R(angle)^-1 / scale, its second row negated where flipped: the content is mirrored first, then rotated
    counter-clockwise (as seen with y pointing down) by `angle`, then enlarged by `scale`.

    Args:
      angle: [B] radians.
      scale: [B] factors > 0; 2 makes things twice as large.
      flip: [B] bool, mirror left to right.
    """
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    sign = jnp.where(flip, -1.0, 1.0)
    return jnp.stack([jnp.stack([cos, sin], -1), jnp.stack([-sin * sign, cos * sign], -1)], -2)


def affine_warp(images: Array, matrix: Array, shift: Array) -> Array:
    """Resamples each image with bilinear interpolation: out(p) = in(A (p - c - shift) + c), c the image's centre.

    The same as `scipy.ndimage.affine_transform(order=1, mode="grid-constant")`.

    Args:
      images: [B, H, W, C], any real type.
      matrix: [B, 2, 2], from output offset to input offset, (y, x).
      shift: [B, 2] pixels (y, x) by which the content moves.

    Returns:
      [B, H, W, C] float32.
    """
    count, height, width, channels = images.shape
    out_y = jnp.arange(height, dtype=jnp.float32)[None, :, None] - (height - 1) / 2 - shift[:, 0, None, None]
    out_x = jnp.arange(width, dtype=jnp.float32)[None, None, :] - (width - 1) / 2 - shift[:, 1, None, None]
    a = matrix[:, :, :, None, None]
    in_y = a[:, 0, 0] * out_y + a[:, 0, 1] * out_x + (height - 1) / 2
    in_x = a[:, 1, 0] * out_y + a[:, 1, 1] * out_x + (width - 1) / 2

    # a border of zeros: positions beyond it are moved onto it, so that no gather needs a bounds check
    in_y, in_x = jnp.clip(in_y, -1.0, height), jnp.clip(in_x, -1.0, width)
    top, left = jnp.floor(in_y), jnp.floor(in_x)
    weight_y, weight_x = (in_y - top)[..., None], (in_x - left)[..., None]
    padded = jnp.pad(images, ((0, 0), (1, 2), (1, 2), (0, 0))).astype(jnp.float32)
    stride = width + 3
    corner = (top.astype(jnp.int32) + 1) * stride + left.astype(jnp.int32) + 1
    corner = corner + jnp.arange(count, dtype=jnp.int32)[:, None, None] * ((height + 3) * stride)
    flat = padded.reshape(-1, channels)

    def pixel(offset: int) -> Array:
        return flat.at[corner + offset].get(mode="promise_in_bounds")

    upper = (1 - weight_x) * pixel(0) + weight_x * pixel(1)
    lower = (1 - weight_x) * pixel(stride) + weight_x * pixel(stride + 1)
    return (1 - weight_y) * upper + weight_y * lower


def crop_flip(images: Array, shift: Array, flip: Array, padding: int, edge: str = "zeros") -> Array:
    """Shifts by whole pixels, then mirrors left to right where asked; exact, and ten times cheaper than a warp.

    Args:
      images: [B, H, W, C], any type, kept.
      shift: [B, 2] int32 (y, x) in [-padding, padding], by which the content moves before the mirroring.
      flip: [B] bool.
      padding: pixels around the image; static.
      edge: what they show: "zeros", or "mirrored", the image itself, its outermost pixels not repeated.
    """
    height, width, channels = images.shape[1:]
    mode = {"zeros": "constant", "mirrored": "reflect"}[edge]
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode) if padding else images

    def crop(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (padding - offset[0], padding - offset[1], 0), (height, width, channels))

    cropped = jax.vmap(crop)(padded, shift) if padding else padded
    return jnp.where(flip[:, None, None, None], cropped[:, :, ::-1], cropped)
