"""Which regions of the picture were computed, as pictures."""

import base64
import io
import math
from typing import Any

import torch
from torch import Tensor

from ..pipelines import unpacked
from .result import to_image

DARK, LIGHT = (torch.tensor(colour).view(3, 1, 1) / 255 for colour in ((30, 41, 59), (249, 115, 22)))


def region_maps(steps: list[dict[str, Any]]) -> list[Tensor]:
    """Return for each step which image tokens ran, (rows, columns) in [0, 1], averaged over frames.

    Empty where all ran at every step, and where the grid changed on the way.
    """
    grids = {tuple(step["grid"]) for step in steps if step.get("active")}
    if len(grids) != 1:
        return []
    (grid,) = grids
    maps = []
    for step in steps:
        tokens = math.prod(grid)
        ran = unpacked(step["active"], tokens) if step["active"] else [step["calls"] > 0] * tokens
        maps.append(torch.tensor(ran).view(grid).float().mean(0))
    return maps


def regions_html(steps: list[dict[str, Any]]) -> str:
    """Return the maps of all steps, and their sum, as a row of pictures; "" if there is nothing to show."""
    maps = region_maps(steps)
    if not maps:
        return ""
    share = torch.stack(maps).mean(0)
    low, high = float(share.min()), float(share.max())
    tiles = "".join(_tile(one, f"step {nth}: {one.mean():.0%} of the tokens") for nth, one in enumerate(maps, 1))
    whole = _tile((share - low) / max(high - low, 1e-6), f"all steps: {low:.0%} (dark) to {high:.0%} of them")
    said = f"Regions computed, step by step; last, how often: from {low:.0%} (dark) to {high:.0%} of the steps"
    return f'<div class="legend">{said}</div><div class="regions">{tiles}<b></b>{whole}</div>'


def _tile(values: Tensor, said: str) -> str:
    return f'<img src="{data_uri(DARK + (LIGHT - DARK) * values)}" alt="{said}" title="{said}">'


def data_uri(picture: Tensor) -> str:
    """Return a picture, (3, H, W) in [0, 1], as a PNG inside a URI."""
    file = io.BytesIO()
    to_image(picture).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
