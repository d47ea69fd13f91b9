"""A person's own picture, of any size and mode, as an array like those of the data set."""

import warnings
from typing import Any

import numpy as np

from jaxdl.errors import UserError


def read_image(
    path: Any, height: int, width: int, channels: int, *, light_on_dark: bool = False, margin: float | None = None
) -> np.ndarray:
    """Reads a picture and fits it into height x width, with its aspect kept and padded with its border's colour.

    Reads grey, colour, palette, transparent, bilevel, 16-bit and float pictures, and the first frame of an animation,
    turned as its EXIF data say. Transparent parts become white, or black under light ink. A picture that has the right
    size already is not resized.

    Args:
      path: the file.
      height: pixels.
      width: pixels.
      channels: 1 (grey) or 3 (RGB).
      light_on_dark: the data set shows light things on a dark ground, as MNIST does: a picture whose border is brighter
        than middle grey, such as ink on paper, is inverted.
      margin: with `light_on_dark`, a picture of another size is cut to the ink, which is placed with its centre of mass
        in the middle, leaving this part of the sides free, and stretched to full contrast; MNIST was made so, with 1/7.

    Returns:
      [height, width, channels] uint8.

    Raises:
      UserError: the file is missing, no image, or damaged.
    """
    picture = _open(path)
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), np.uint8).reshape(
        picture.height, picture.width, channels
    )
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, axis=0).astype(np.uint8)
    if light_on_dark and ground.mean() > 127:
        pixels, ground = 255 - pixels, 255 - ground
    if pixels.shape[:2] == (height, width):
        return pixels
    if light_on_dark and margin is not None:
        return _centred_ink(pixels, height, width, ground, margin)
    return _fit(pixels, height, width, ground)


def _centred_ink(pixels: np.ndarray, height: int, width: int, ground: np.ndarray, margin: float) -> np.ndarray:
    light = np.maximum(pixels.astype(np.int32) - ground, 0)
    ink = light.max(axis=-1) > light.max() / 2
    if not ink.any():
        return _fit(pixels, height, width, ground)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    cut = light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inner = (max(1, round(height * (1 - 2 * margin))), max(1, round(width * (1 - 2 * margin))))
    small = _resized(cut.astype(np.uint8), inner).astype(np.float64)
    small = np.rint(small * (255.0 / max(small.max(), 1.0))).astype(np.uint8)
    weight = small.sum(axis=-1) / max(small.sum(), 1)
    result = np.zeros((height, width, pixels.shape[-1]), np.uint8)
    corner = []
    for axis, side in enumerate((height, width)):
        centre = weight.sum(axis=1 - axis) @ np.arange(small.shape[axis])
        corner.append(int(np.clip(round((side - 1) / 2 - centre), 0, side - small.shape[axis])))
    result[corner[0] : corner[0] + small.shape[0], corner[1] : corner[1] + small.shape[1]] = small
    return result


def _open(path: Any) -> Any:
    """A PIL image of mode L or RGB."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that does not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                file.load()
                return _plain(ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, not an image file: give a file in it") from error
    except PermissionError as error:
        raise UserError(f"{path} may not be read") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"{path} has too many pixels; make it smaller first") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"{path} is not an image file of a known kind: give a PNG, JPEG, GIF, BMP, TIFF or WebP file"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow raises at damaged files
        raise UserError(f"{path} is a damaged image file: {error}") from error


def _plain(picture: Any) -> Any:
    from PIL import Image

    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, np.float64)
        # 16 bits unless the values say otherwise; Pillow's own conversion would clip them to 255
        full = 1.0 if values.max() <= 1.0 else 255.0 if values.max() <= 255.0 else max(65535.0, values.max())
        return Image.fromarray(np.rint(np.clip(values / full, 0.0, 1.0) * 255.0).astype(np.uint8))
    if "transparency" in picture.info or picture.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        picture = picture.convert("RGBA")
        colour, alpha = np.asarray(picture.convert("L"), np.float64), np.asarray(picture.getchannel("A"), np.float64)
        # only light ink on nothing would vanish on white
        light = alpha.min() < 128 and alpha.sum() > 0 and (colour * alpha).sum() > 200.0 * alpha.sum()
        ground = Image.new("RGBA", picture.size, (0, 0, 0, 255) if light else (255, 255, 255, 255))
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture if picture.mode in ("L", "RGB") else picture.convert("L" if picture.mode == "1" else "RGB")


def _fit(pixels: np.ndarray, height: int, width: int, ground: np.ndarray) -> np.ndarray:
    small = _resized(pixels, (height, width))
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    result = np.broadcast_to(ground, (height, width, pixels.shape[-1])).copy()
    result[top : top + small.shape[0], left : left + small.shape[1]] = small
    return result


def _resized(pixels: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """`pixels` as large as fits into `box` (height, width) with the aspect kept."""
    from PIL import Image

    scale = min(box[0] / pixels.shape[0], box[1] / pixels.shape[1])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    source = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(source.resize((width, height), Image.Resampling.BILINEAR), np.uint8).reshape(height, width, -1)
