"""Call any pipeline the same way, and read its pictures the same way."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .families import denoisers, family


def call_arguments(
    pipe: Any,
    *,
    prompt: str | list[str],
    negative: str | None = None,
    steps: int = 28,
    guidance: float | None = None,
    size: tuple[int, int] | None = None,
    seed: int | Sequence[int] = 0,
) -> dict[str, Any]:
    """Return the arguments for ``pipe(**arguments)`` that this pipeline takes.

    Args:
        pipe: a diffusers pipeline.
        prompt: what to draw; a list for a batch.
        negative: what not to draw, in every picture of a batch.
        steps: denoising steps.
        guidance: guidance scale; None leaves the pipeline's own default.
        size: (width, height) in pixels; None leaves the pipeline's own default.
        seed: seed of the noise, drawn on the CPU so that it is the same everywhere; one for each prompt of a batch
            gives each the noise that it has alone.

    Raises:
        InputError: a size that the denoiser has no places for.
    """
    if size is not None:
        check_size(pipe, *size)
    takes = inspect.signature(type(pipe).__call__).parameters
    width, height = size or (None, None)
    seeds = [seed] if isinstance(seed, int) else seed
    generators = [torch.Generator().manual_seed(one) for one in seeds]
    several = isinstance(prompt, list) and negative
    wanted = {
        "prompt": prompt,
        "negative_prompt": [negative] * len(prompt) if several else negative or None,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "width": width,
        "height": height,
        "generator": generators[0] if isinstance(seed, int) else generators,
        "output_type": "pt",
    }
    if negative and "true_cfg_scale" in takes:  # FLUX: the guidance scale is distilled in, this one is real guidance
        wanted["true_cfg_scale"] = guidance
    return {name: value for name, value in wanted.items() if name in takes and value is not None}


def check_size(pipe: Any, width: int, height: int) -> None:
    """Refuse pictures larger than a denoiser's grid of learned places (Stable Diffusion 3).

    Raises:
        InputError: names the side and the largest that there is.
    """
    if family(pipe).name != "Stable Diffusion 3":
        return
    config = next(iter(denoisers(pipe).values())).config
    most = config.pos_embed_max_size * config.patch_size * int(getattr(pipe, "vae_scale_factor", 8))
    for name, value in (("width", width), ("height", height)):
        if value > most:
            raise InputError(f"{name} is {value}, and this model draws at most {most} pixels a side: take less")


def pictures(output: Any) -> Tensor:
    """Return the pictures of a pipeline's output, (N, 3, H, W) float32 in [0, 1] on the CPU; frames count as N."""
    found = output.images if hasattr(output, "images") else output.frames
    tensor = found if isinstance(found, Tensor) else torch.as_tensor(found)
    return tensor.detach().flatten(0, -4).float().clamp(0, 1).cpu()


def picture(output: Any) -> Tensor:
    """Return what a pipeline drew for one prompt, as ``pictures``: (3, H, W), frames of a video one below another."""
    return torch.cat(list(pictures(output)), 1)


def preview(pipe: Any, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor | None:
    """Decode the latents of a step to a picture (3, H, W) in [0, 1]; None where that is too dear (video)."""
    described = family(pipe)
    if described.video or getattr(pipe, "vae", None) is None:
        return None
    factor = getattr(pipe, "vae_scale_factor", 8)
    width, height = size or (0, 0)
    config = pipe.vae.config
    with torch.no_grad():
        grid = described.latents.to_grid(latents[:1], 1, height // factor, width // factor).squeeze(2)
        shift = getattr(config, "shift_factor", None) or 0.0
        picture = pipe.vae.decode((grid / config.scaling_factor + shift).to(pipe.vae.dtype), return_dict=False)[0]
    return (picture[0].float() / 2 + 0.5).clamp(0, 1).cpu()
