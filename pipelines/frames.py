"""The frames inside latents, also where their tokens stand in one row: the call says how far they reach."""

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor

from .call import Call
from .families import Latents, packed_sides


def extent(call: Call, latents: Latents) -> tuple[int, int, int] | None:
    """Return frames, height and width of the call's picture in latent pixels, as ``Latents.to_grid`` takes them.

    None where the call does not tell, or holds more than the picture (FLUX Kontext's reference image).
    """
    if isinstance(call.latents, list):
        return None
    shape = call.latents.shape
    sides: tuple[Any, ...] = ()
    match latents.layout:
        case "image" if len(shape) == 4:
            return (1, shape[-2], shape[-1])
        case "video" if len(shape) == 5:
            return (shape[-3], shape[-2], shape[-1])
        case "packed" if (grid := packed_sides(call.kwargs)) is not None:
            rows, columns = grid
            sides = (1, 2 * rows, 2 * columns) if rows * columns == shape[1] else ()
        case "sequence":
            told: tuple[Any, ...] = tuple(call.kwargs.get(side) for side in ("num_frames", "height", "width"))
            sides = told if all(isinstance(side, int) for side in told) and prod(told) == shape[1] else ()
    return sides or None


def on_frames(call: Call, latents: Latents, out: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Return *out* after *change*, which sees it as (B, C, frames, h, w); None where the call does not tell frames.

    Args:
        call: whose latents have the layout of *out*.
        latents: that layout.
        out: what the denoiser gave, or a part of it, of any batch size.
        change: keeps the shape.
    """
    if (sides := extent(call, latents)) is None:
        return None
    return latents.from_grid(change(latents.to_grid(out, *sides)))
