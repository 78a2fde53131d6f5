"""Read pictures that people hand in: files and uploads, which may be anything."""

import base64
import binascii
import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..pipelines import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MOST_BYTES = 8 * 2**20
MOST_PIXELS = 4096 * 4096
_PREFIX = "data:image/png;base64,"


def open_picture(path: str | Path, name: str = "the picture") -> Image.Image:
    """Return the picture in a file, upright, as RGB or RGBA; its size is looked at before it is decoded.

    Raises:
        InputError: it cannot be read, is no picture, or is too large.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise InputError(f"{name} has {size / 2**20:.1f} MB; at most {MOST_BYTES // 2**20} MB are taken")
        with file.open("rb") as stream:
            return _decoded(stream, name, FORMATS)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error


def decode_picture(text: str, name: str = "the picture") -> Image.Image:
    """Return the PNG in a data URL, as RGB or RGBA.

    Raises:
        InputError: it is none, or too large.
    """
    if not isinstance(text, str) or not text.startswith(_PREFIX):
        raise InputError(f"{name} is not there; pick or paint one first")
    if len(text) > 2 * MOST_BYTES:
        raise InputError(f"{name} has more than {MOST_BYTES // 2**20} MB")
    try:
        data = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{name} is damaged: it is no PNG") from error
    return _decoded(io.BytesIO(data), name, ("PNG",))


def _decoded(stream: BinaryIO, name: str, formats: tuple[str, ...]) -> Image.Image:
    known = ", ".join(formats)
    try:
        picture = Image.open(stream, formats=formats)
        if picture.width * picture.height > MOST_PIXELS:
            raise InputError(
                f"{name} has {picture.width} x {picture.height} pixels; at most {MOST_PIXELS // 2**20} million are "
                "taken: scale it down first"
            )
        upright = eight_bits(ImageOps.exif_transpose(picture))
        return upright.convert("RGBA" if upright.mode in ("RGBA", "LA", "PA", "P") else "RGB")
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not a picture that can be read; give one of {known}") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has far more than {MOST_PIXELS // 2**20} million pixels: scale it down") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what PIL raises for damaged files
        raise InputError(f"{name} is damaged and cannot be decoded; save it again") from error


def eight_bits(picture: Image.Image) -> Image.Image:
    """Return a picture with 16 bits a pixel as one with 8; PIL by itself would cut off what is above 255.

    >>> eight_bits(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
    255
    """
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture, np.float32) / 257).round().clip(0, 255).astype(np.uint8))


def fitted(picture: Image.Image, size: tuple[int, int], nearest: bool = False) -> Image.Image:
    """Return the middle of a picture at exactly this size, (width, height); *nearest* keeps a mask's edges hard.

    >>> fitted(Image.new("RGB", (300, 200)), (128, 128)).size
    (128, 128)
    """
    if picture.size == size:
        return picture
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    return ImageOps.fit(picture, size, method=how)


def mask_picture(picture: Image.Image) -> Image.Image:
    """Return a mask's picture as gray, white where something may change: its alpha if it has some, else its light."""
    if picture.mode == "RGBA" and (alpha := picture.getchannel("A")).getextrema() != (255, 255):
        return alpha
    return eight_bits(picture).convert("L")
