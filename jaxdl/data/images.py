"""A person's own picture, of any size and mode, as an array like those of the data set."""

import warnings
from typing import Any

import numpy as np

from jaxdl.errors import UserError


def read_image(path: Any, height: int, width: int, channels: int, *, light_on_dark: bool = False) -> np.ndarray:
    """Reads a picture, fits it into height x width (aspect kept, padded with its border's colour) and fixes its channels.

    Reads grey, colour, palette, transparent, bilevel, 16-bit and float pictures; the first frame of an animation; turned
    as its EXIF data say. Transparent parts become white, or black under light ink.

    Args:
      path: the file.
      height: pixels.
      width: pixels.
      channels: 1 (grey) or 3 (RGB).
      light_on_dark: the data set shows light things on a dark ground, as MNIST does: a picture whose border is brighter
        than middle grey, such as ink on paper, is inverted.

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
    pixels = _fit(pixels, height, width, ground)
    return 255 - pixels if light_on_dark and ground.mean() > 127 else pixels


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
        raise UserError(f"{path} is a folder, not an image file") from error
    except PermissionError as error:
        raise UserError(f"{path} may not be read") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"{path} has too many pixels; make it smaller first") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image file of a known kind") from error
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
    from PIL import Image

    if pixels.shape[:2] == (height, width):
        return pixels
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    inner = (max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale)))
    source = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    resized = np.asarray(source.resize(inner[::-1], Image.Resampling.BILINEAR), np.uint8).reshape(*inner, -1)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    result = np.broadcast_to(ground, (height, width, pixels.shape[-1])).copy()
    result[top : top + inner[0], left : left + inner[1]] = resized
    return result
