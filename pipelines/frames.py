"""The frames inside a denoiser's latents: packed and flattened ones say in their call how large they are."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .families import Family


def sides(described: Family, kwargs: Mapping[str, Any], tokens: int) -> tuple[int, int, int] | None:
    """Return frames, height and width, in latent pixels, of a call with packed or flattened latents.

    None where the call does not say, or where it holds more than the picture's own tokens (a picture to start from).
    """
    match described.latents.layout:
        case "packed" if "img_ids" in kwargs:
            height, width = (int(last) + 1 for last in kwargs["img_ids"].reshape(-1, 3)[:, 1:].amax(0))
            return (1, 2 * height, 2 * width) if height * width == tokens else None
        case "sequence" if {"num_frames", "height", "width"} <= kwargs.keys():
            found = (kwargs["num_frames"], kwargs["height"], kwargs["width"])
            return found if found[0] * found[1] * found[2] == tokens else None
    return None


def on_frames(
    described: Family, kwargs: Mapping[str, Any], latents: Tensor, change: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """Return *latents* after *change*, which sees them as (B, C, frames, h, w); None where the frames are unknown."""
    if described.latents.layout in ("image", "video"):
        return change(latents)
    found = sides(described, kwargs, latents.shape[1])
    if found is None:
        return None
    return described.latents.from_grid(change(described.latents.to_grid(latents, *found)))
