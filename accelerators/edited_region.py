"""The part of a picture that an edit changes, as text that fits into a recipe."""

import re
from collections.abc import Sequence
from functools import cache
from math import ceil, floor

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate

from ..pipelines import Grid, KnobError, packed, unpacked

WHOLE = "0 0 1 1"
SIDE = 64  # rows and columns that a painted mask is written with, at most
_PAINTED = re.compile(r"(\d+)x(\d+) ([0-9a-f]+)")


def region_text(mask: Tensor) -> str:
    """Write a painted mask, (rows, columns), as a region: what a cell touches is inside.

    >>> region_text(torch.tensor([[0, 1], [0, 0]]))
    '2x2 4'
    """
    painted = mask.float().reshape(1, 1, *mask.shape[-2:]) > 0
    size = tuple(min(SIDE, side) for side in mask.shape[-2:])
    cells = adaptive_max_pool2d(painted.float(), size)[0, 0] > 0
    return f"{size[0]}x{size[1]} {packed(cells.flatten().tolist())}"


def check_region(owner: str, region: str) -> None:
    """Refuse a region that is none.

    Raises:
        KnobError: names the knob, the value, and how to write it.
    """
    if _PAINTED.fullmatch(region):
        rows, columns, digits = _painted(region)
        if 0 in (rows, columns) or len(digits) != -(-rows * columns // 4) or not int(digits, 16):
            raise KnobError(f"{owner}.region is {region!r}, which paints nothing, or not {rows} rows of {columns}")
        return
    for box in _boxes(region) or [[]]:
        left, top, right, bottom = box if len(box) == 4 else (1.0, 1.0, 0.0, 0.0)
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise KnobError(
                f"{owner}.region is {region!r}, not boxes of left, top, right and bottom between 0 and 1 as in "
                "'0.25 0.25 0.75 0.75', joined by ';', nor rows x columns of a painted mask as in '2x2 4'"
            )


@cache
def chosen(region: str, grid: Grid) -> tuple[int, ...]:
    """Return the tokens of *grid* that lie inside, or partly inside, of every frame.

    >>> chosen("0.5 0 1 0.5", (1, 2, 2)), chosen("2x2 4", (1, 2, 2))
    ((1,), (1,))
    """
    frames, rows, columns = grid
    inside = torch.zeros(rows, columns, dtype=torch.bool)
    if _PAINTED.fullmatch(region):
        height, width, digits = _painted(region)
        painted = torch.tensor(unpacked(digits, height * width)).view(1, 1, height, width).float()
        fine = interpolate(painted, size=(max(height, rows), max(width, columns)), mode="nearest")
        inside = adaptive_max_pool2d(fine, (rows, columns))[0, 0] > 0
    for left, top, right, bottom in () if _PAINTED.fullmatch(region) else _boxes(region):
        inside[_cells(top, bottom, rows), _cells(left, right, columns)] = True
    return tuple(inside.expand(frames, -1, -1).flatten().nonzero().flatten().tolist())


def _cells(start: float, end: float, count: int) -> slice:
    first = floor(start * count + 1e-6)
    return slice(first, max(first + 1, ceil(end * count - 1e-6)))


def _boxes(region: str) -> list[Sequence[float]]:
    try:
        return [[float(word) for word in part.split()] for part in region.split(";")]
    except ValueError:
        return []


def _painted(region: str) -> tuple[int, int, str]:
    found = _PAINTED.fullmatch(region)
    rows, columns, digits = found.groups() if found else ("0", "0", "0")
    return int(rows), int(columns), digits
