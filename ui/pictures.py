"""Pictures from files, small enough for a page that shows many. Knows no gradio."""

import base64
import io
from pathlib import Path
from typing import IO

from PIL import Image

SIDE = 256  # pixels of a picture on the explorer
MOST_PIXELS = 16_000_000  # of a picture from a stranger
QUALITY = 85


def data_url(source: Path | IO[bytes], side: int = SIDE) -> str | None:
    """Return a picture as a data URL, made smaller where it is large; None if it is no picture.

    These are JPEG, for looking only: every number was taken from the picture itself.
    """
    try:
        with Image.open(source, formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # PIL calls a damaged PNG bad syntax
        return None
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
