"""Writes assets/glyphs.png once, so that nobody needs the font: one 128 px cell per thing of the vocabulary.

Pictograms come from the colour bitmaps of Noto Color Emoji (SIL Open Font License 1.1); shapes are drawn in white,
to be tinted by the renderer. Run `python -m training.glyphs [FONT]` after a change of the vocabulary.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from deadheat.pipelines.scenes import PICTOGRAMS, THINGS
from PIL import Image, ImageDraw, ImageFont

CELL = 128
COLUMNS = 7
ATLAS = Path(__file__).parent.parent / "assets" / "glyphs.png"
_FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
_STRIKE = 109  # the only size of the font's bitmaps
_HEART = "\u2764"
_EMOJI = (
    "\U0001f34e\U0001f388\U0001f98b\U0001f335\U0001f431\U0001f369\u26bd\U0001f98a\U0001f438\U0001f47b\U0001f3e0\U0001f344\U0001f419\U0001f43c"
    "\U0001f427\U0001f437\U0001f355\U0001f916\U0001f680\u26f5\u26c4\u2b50\U0001f353\U0001f33b\U0001f333\U0001f422\u2602\U0001f349"
)
CHARACTERS = dict(zip(PICTOGRAMS, _EMOJI, strict=True))


def atlas(font: str = _FONT) -> Image.Image:
    """All things in the order of THINGS, row by row."""
    face = ImageFont.truetype(font, _STRIKE)
    rows = -(-len(THINGS) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for i, what in enumerate(THINGS):
        sheet.paste(_cell(what, face), (i % COLUMNS * CELL, i // COLUMNS * CELL))
    return sheet


def _cell(what: str, face: ImageFont.FreeTypeFont) -> Image.Image:
    if what in CHARACTERS:
        return _bitmap(CHARACTERS[what], face)
    if what == "heart":
        return _white(_bitmap(_HEART, face).getchannel("A"))
    scale = 8
    mask = Image.new("L", (CELL * scale, CELL * scale))
    _draw(what, ImageDraw.Draw(mask), CELL * scale)
    return _white(mask.resize((CELL, CELL), Image.Resampling.BOX))


def _bitmap(character: str, face: ImageFont.FreeTypeFont) -> Image.Image:
    page = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(page).text((12, 16), character, font=face, embedded_color=True)
    glyph = page.crop(page.getbbox())
    side = max(glyph.size) + 4  # a clear rim, so that turning and blurring never meet the cell's edge
    square = Image.new("RGBA", (side, side))
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return _premultiplied_resize(square)


def _premultiplied_resize(image: Image.Image) -> Image.Image:
    """Resize with colours weighted by coverage, else the rim takes on the colour of empty pixels."""
    pixels = np.asarray(image, np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    planes = [Image.fromarray(pixels[..., c]).resize((CELL, CELL), Image.Resampling.BICUBIC) for c in range(4)]
    out = np.stack([np.asarray(plane) for plane in planes], -1).clip(0, 1)
    out[..., :3] /= np.maximum(out[..., 3:], 1e-3)
    return Image.fromarray((out.clip(0, 1) * 255).round().astype(np.uint8))


def _white(mask: Image.Image) -> Image.Image:
    cell = Image.new("RGBA", mask.size, (255, 255, 255, 0))
    cell.putalpha(mask)
    return cell


def _draw(what: str, draw: ImageDraw.ImageDraw, side: int) -> None:
    def box(lo: float, hi: float) -> list[float]:
        return [lo * side, lo * side, hi * side, hi * side]

    if what == "circle":
        draw.ellipse(box(0.06, 0.94), fill=255)
    elif what == "square":
        draw.rectangle(box(0.12, 0.88), fill=255)
    elif what == "triangle":
        draw.polygon([(0.5 * side, 0.06 * side), (0.96 * side, 0.88 * side), (0.04 * side, 0.88 * side)], fill=255)
    elif what == "ring":
        draw.ellipse(box(0.05, 0.95), fill=255)
        draw.ellipse(box(0.28, 0.72), fill=0)
    elif what == "cross":
        draw.rectangle([0.36 * side, 0.07 * side, 0.64 * side, 0.93 * side], fill=255)
        draw.rectangle([0.07 * side, 0.36 * side, 0.93 * side, 0.64 * side], fill=255)
    elif what == "moon":
        draw.ellipse(box(0.06, 0.94), fill=255)
        draw.ellipse([0.36 * side, -0.06 * side, 1.2 * side, 0.74 * side], fill=0)


if __name__ == "__main__":
    atlas(*sys.argv[1:2]).save(ATLAS, optimize=True)
