"""Turns layouts into pictures, a batch at a time, on any device, at any size: one renderer for a CPU and a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from deadheat.pipelines.scenes import STYLES, THINGS
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .generator import SIDE, Layout
from .glyphs import ATLAS, CELL, COLUMNS

_PERIOD = 32.0  # points from one stripe, dot or line to the next
_LEVELS = 4  # the atlas, and copies of it blurred for things drawn at 1/2, 1/4 and 1/8 of their cell


class Renderer:
    """Holds the glyph atlas on a device and draws layouts."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        sheet = torch.from_numpy(np.array(Image.open(ATLAS).convert("RGBA"))).float().permute(2, 0, 1) / 255
        cells = sheet.unfold(1, CELL, CELL).unfold(2, CELL, CELL).permute(1, 2, 0, 3, 4).flatten(0, 1)[: len(THINGS)]
        cells = torch.cat([cells[:, :3] * cells[:, 3:], cells[:, 3:]], 1)
        levels = [cells]
        for level in range(1, _LEVELS):
            small = functional.avg_pool2d(cells, 2**level)
            levels.append(functional.interpolate(small, size=CELL, mode="bilinear", align_corners=False))
        self.atlas = torch.stack(levels).to(device)
        self.device = torch.device(device)
        assert sheet.shape[2] == COLUMNS * CELL

    def __call__(self, layouts: Sequence[Layout], pixels: int) -> Tensor:
        """Pictures (N, 3, pixels, pixels) with values from 0 to 1."""
        ground = torch.from_numpy(np.stack([one.ground for one in layouts]))
        things = torch.from_numpy(np.stack([one.things for one in layouts]))
        return self.draw(ground, things, pixels)

    def draw(self, ground: Tensor, things: Tensor, pixels: int) -> Tensor:
        """The same from stacked numbers, (N, 6) and (N, 3, 8), as `Layout` has them."""
        canvas = self._ground(ground, pixels)
        for slot in range(things.shape[1]):
            here = (things[:, slot, 0] >= 0).nonzero().flatten()
            if len(here):
                rows = things[here, slot].to(self.device)
                here = here.to(self.device)
                canvas[here] = self._over(canvas[here], rows, pixels)
        return canvas

    def _ground(self, ground: Tensor, pixels: int) -> Tensor:
        canvas = torch.empty(len(ground), 3, pixels, pixels, device=self.device)
        for index, style in enumerate(STYLES):
            here = (ground[:, 0].round() == index).nonzero().flatten()  # found on the CPU: no wait for the device
            if len(here):
                rows = ground[here, 1:].to(self.device)
                canvas[here.to(self.device)] = self._pattern(style, rows[:, :3, None, None], rows[:, 3:], pixels)
        return canvas

    def _pattern(self, style: str, colour: Tensor, phase: Tensor, pixels: int) -> Tensor:
        axis = (torch.arange(pixels, device=self.device) + 0.5) * (SIDE / pixels)
        brightness = colour.mean(1, keepdim=True)
        if style == "gradient":
            top = torch.where(brightness < 0.25, colour + 0.24, colour * 0.55 + 0.45)
            bottom = torch.where(brightness < 0.25, colour * 0.5, colour * 0.75)
            return torch.lerp(top, bottom, axis[:, None] / SIDE).expand(-1, -1, -1, pixels)
        pale = torch.where(brightness > 0.68, colour * 0.86, colour * 0.72 + 0.28)
        x, y = (axis + phase[:, 0:1] * _PERIOD)[:, None, :], (axis + phase[:, 1:2] * _PERIOD)[:, :, None]
        mask = (_depth(style, x, y) * (pixels / SIDE) + 0.5).clamp(0, 1)[:, None]
        return torch.lerp(colour, pale, mask).expand(-1, -1, pixels, pixels)

    def _over(self, canvas: Tensor, rows: Tensor, pixels: int) -> Tensor:
        """Blend one thing over each picture."""
        size, turn = rows[:, 3], rows[:, 4]
        level = torch.log2(CELL * SIDE / (size * pixels)).round().clamp(0, _LEVELS - 1).long()
        cells = self.atlas[level, rows[:, 0].long()]
        # grid_sample wants, for each output pixel in [-1, 1], the place in the cell, also in [-1, 1]
        cos, sin, scale = torch.cos(turn), torch.sin(turn), SIDE / size
        x, y = rows[:, 1] * (2 / SIDE) - 1, rows[:, 2] * (2 / SIDE) - 1
        matrix = torch.stack(
            [
                torch.stack([cos * scale, sin * scale, -(cos * x + sin * y) * scale], -1),
                torch.stack([-sin * scale, cos * scale, (sin * x - cos * y) * scale], -1),
            ],
            1,
        )
        grid = functional.affine_grid(matrix, [len(rows), 4, pixels, pixels], align_corners=False)
        drawn = functional.grid_sample(cells, grid, align_corners=False)
        return canvas * (1 - drawn[:, 3:]) + drawn[:, :3] * rows[:, 5:8, None, None]


def _depth(style: str, x: Tensor, y: Tensor) -> Tensor:
    """How deep (in points) each place lies inside the pattern of a style; negative outside."""
    if style == "striped":
        return ((y / _PERIOD) % 1 - 0.5).abs() * _PERIOD - _PERIOD / 4
    if style == "dotted":
        shifted = x + (torch.floor(y / _PERIOD) % 2) * (_PERIOD / 2)
        return 8.5 - torch.hypot(shifted % _PERIOD - _PERIOD / 2, y % _PERIOD - _PERIOD / 2)
    if style == "gridded":
        return 3.0 - torch.minimum((x % _PERIOD - _PERIOD / 2).abs(), (y % _PERIOD - _PERIOD / 2).abs())
    return torch.full_like(y, -math.inf)
