"""Refuse an edit that cannot be made, before anything runs; every message names the way out."""

from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..accelerators import SparseEdit, check
from ..pipelines import (
    DTYPES,
    IncompatibleError,
    InputError,
    UnsupportedError,
    denoisers,
    family,
    for_task,
    known_model,
    model_name,
    nearest,
    patch_size,
)
from ..presets import Recipe
from .inputs import check_inputs
from .picture_files import eight_bits, mask_picture

Mode = Literal["prompt", "inpaint", "stroke"]
MODES = ("prompt", "inpaint", "stroke")
OUTPUT = "denoiser output"  # the seat of accelerators that leave the inside of the network to the windows
MOST_PIXELS = 2048 * 2048
WHOLE = {"budget_bytes": (0, 2**62), "every": (1, 1000), "grow": (0, 512)}
PAINTED = 2e-2  # a channel that differs by more was painted on


def read_picture(picture: Any, cell: int, name: str = "image") -> Tensor:
    """Return a picture as (3, H, W) float32 in [0, 1].

    Raises:
        InputError: it is none, it is too large, or its sides are not multiples of *cell*.
    """
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim in (2, 3):
        picture = Image.fromarray(picture)
    if isinstance(picture, Image.Image):
        _sized(picture.width, picture.height, cell, name)
        found = torch.from_numpy(np.array(eight_bits(picture).convert("RGB"))).permute(2, 0, 1).float() / 255
    elif isinstance(picture, Tensor) and picture.is_floating_point():
        found = picture.detach().cpu().float().clone()  # what the caller does with his own stays his
        found = found[0] if found.ndim == 4 and len(found) == 1 else found
        if found.ndim != 3 or len(found) != 3:
            raise InputError(f"{name} has the shape {tuple(picture.shape)}, not (3, height, width)")
        _sized(found.shape[2], found.shape[1], cell, name)
        if not (found.isfinite().all() and found.min() >= 0 and found.max() <= 1):
            raise InputError(f"{name} has values outside [0, 1]; divide bytes by 255, or give a PIL image")
    else:
        raise InputError(
            f"{name} is a {type(picture).__name__}, not a picture: give a PIL image (PIL.Image.open reads a file), an "
            "array of bytes (H, W, 3), or a float tensor (3, H, W)"
        )
    return found


def _sized(width: int, height: int, cell: int, name: str) -> None:
    if width * height > MOST_PIXELS:
        part = (MOST_PIXELS / (width * height)) ** 0.5
        raise InputError(
            f"{name} has {width} x {height} pixels, more than {MOST_PIXELS}: scale it down to "
            f"{int(width * part) // cell * cell} x {int(height * part) // cell * cell}"
        )
    if width % cell or height % cell or not width or not height:
        wanted = f"{max(cell, round(width / cell) * cell)} x {max(cell, round(height / cell) * cell)}"
        raise InputError(
            f"{name} has {width} x {height} pixels, but this model needs multiples of {cell}: scale or crop it to "
            f"{wanted}"
        )


def read_mask(mask: Any, like: Tensor) -> Tensor:
    """Return a painted mask as (H, W) booleans on the CPU.

    Raises:
        InputError: it is none, or of another size than the picture.
    """
    if mask is None:
        raise InputError("there is no mask: paint what may change, or give a mask with True there")
    if isinstance(mask, Image.Image):
        mask = torch.from_numpy(np.array(mask_picture(mask))) > 127
    elif isinstance(mask, np.ndarray) and mask.dtype.kind in "biuf":
        mask = torch.from_numpy(mask)
    if not isinstance(mask, Tensor) or mask.is_complex():
        raise InputError(f"mask is a {type(mask).__name__}: give a PIL image, or a tensor (H, W) of booleans")
    found = mask.detach().cpu()
    if found.is_floating_point() and not found.isfinite().all():
        raise InputError("mask has values that are no numbers: give True, or 1, where something may change")
    found = found if found.dtype == torch.bool else found > 0.5
    while found.ndim > 2 and len(found) == 1:
        found = found[0]
    found = found[..., 0] if found.ndim == 3 and found.shape[2] == 1 else found
    if found.ndim != 2:
        raise InputError(f"mask has the shape {tuple(mask.shape)}, not (height, width): give one channel")
    if found.shape != like.shape[1:]:
        raise InputError(
            f"mask has the shape {tuple(found.shape)}, the picture {tuple(like.shape[1:])}: both need the same "
            "height and width"
        )
    return found


def painted_mask(mask: Any, painted: Any, picture: Tensor, cell: int) -> Any:
    """Return the mask that was given; without one, where a painted picture is another than the picture."""
    if mask is not None or painted is None:
        return mask
    found = read_picture(painted, cell, "painted")
    return (found - picture).abs().amax(0) > PAINTED if found.shape == picture.shape else mask


def check_session(negative: Any, seed: Any, store: Any, **whole: Any) -> None:
    """Check what a session is told beside its picture.

    Raises:
        InputError: names the value, and what it may be.
    """
    if not isinstance(store, str) or store not in DTYPES:
        raise InputError(f"store is {store!r}, not one of {', '.join(DTYPES)}; {nearest(str(store), DTYPES)}")
    check_inputs([" a"], [seed], negative=negative)
    for name, value in whole.items():
        low, high = WHOLE[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{name} is {value!r}, not a whole number between {low} and {high}")


def read_skips(recipe: Any, pipe: Any) -> Recipe:
    """Return the accelerators that are to skip steps of a sparse edit.

    Raises:
        KnobError, PresetError: nothing is called so.
        IncompatibleError: one that reaches into the network, where the windows are.
        UnsupportedError: one that cannot work with this pipeline.
    """
    found = Recipe() if isinstance(recipe, str) and not recipe.strip() else Recipe.of(recipe, pipe)
    for accelerator in found.accelerators:
        if accelerator.seat != OUTPUT:
            raise IncompatibleError(
                f"{accelerator} takes the {accelerator.seat}, and a sparse edit goes with what takes the {OUTPUT}: "
                "ab-cache, lemica, fitted-cache, easy-cache or sada; an empty recipe skips no step"
            )
    check(found.accelerators, pipe)
    return found


def check_edit(prompt: str, mode: str, strength: float, steps: int, guidance: float | None) -> None:
    """Check what a user typed.

    Raises:
        InputError: names the value, and what it may be.
    """
    if not isinstance(prompt, str):
        raise InputError(f"prompt is {prompt!r}, not a text; say what to draw")
    check_inputs([prompt or " a"], steps=steps, guidance=guidance)
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}, not one of {', '.join(MODES)}; {nearest(str(mode), MODES)}")
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 < strength <= 1:
        raise InputError(f"strength is {strength!r}, not above 0 and at most 1")
    if int(steps * strength) < 1:
        raise InputError(
            f"strength {strength} of {steps} steps is less than one step: take at least {1 / steps:.2f}, or more steps"
        )


def inpainting(pipe: Any) -> Any:
    """Return the same weights as a pipeline that fills a mask.

    Raises:
        UnsupportedError: there is none; names what to take.
    """
    if family(pipe).video:
        raise UnsupportedError(f"{type(pipe).__name__} makes frames; take a pipeline that makes pictures to edit one")
    try:
        return for_task(pipe, "inpainting")
    except UnsupportedError as error:
        drawing = "" if SparseEdit.supports(pipe) else " (the accelerator sparse-edit works while it draws one)"
        raise UnsupportedError(
            f"{error}, so that it cannot start from a picture{drawing}; take pocket-unet, pocket-dit, Stable "
            "Diffusion 1.x to 3.5, Stable Diffusion XL or FLUX.1"
        ) from error


def cell_of(pipe: Any) -> int:
    """Return how many pixels wide the smallest part of a picture is that the denoiser can compute."""
    per = int(getattr(pipe, "vae_scale_factor", 8))
    described = family(pipe)
    network = next(iter(denoisers(pipe).values()))
    if described.unet:
        return per
    return per * (2 if described.latents.layout == "packed" else patch_size(network)[1])


def usual_size(pipe: Any) -> tuple[int, int]:
    """Return the height and width that the pipeline draws by itself."""
    model = known_model(model_name(pipe))
    if model is not None:
        return model.size[1], model.size[0]
    side = next(iter(denoisers(pipe).values())).config.sample_size * int(getattr(pipe, "vae_scale_factor", 8))
    return side, side


def cells(mask: Tensor, cell: int, grow: int) -> Tensor:
    """Return which latent cells of *cell* pixels a painted mask, grown by so many pixels, touches.

    >>> mask = torch.zeros(8, 16, dtype=torch.bool)
    >>> mask[3, 5] = True
    >>> cells(mask, 4, 0).int().tolist(), cells(mask, 4, 2).int().tolist()
    ([[0, 1, 0, 0], [0, 0, 0, 0]], [[1, 1, 0, 0], [1, 1, 0, 0]])
    """
    found = mask[None].float()
    for sides in ((2 * grow + 1, 1), (1, 2 * grow + 1)):  # rows, then columns: as quick as it can be while one paints
        found = functional.max_pool2d(found, sides, 1, (sides[0] // 2, sides[1] // 2))
    return functional.max_pool2d(found, cell)[0] > 0


def pixels(active: Tensor, cell: int) -> Tensor:
    """Return the pixels of these cells, (H, W)."""
    return active.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
