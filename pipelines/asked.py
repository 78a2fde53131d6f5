"""What the pipeline was asked for: arguments of the call that is going on."""

import inspect
from typing import Any

from torch import Tensor

from .families import family


def guidance_scale(pipe: Any) -> float:
    """Return the guidance scale of the call that is going on; 1.0, which is no guidance, where nobody gave one.

    A pipeline that keeps it as an attribute may change it on the way. Lumina 2 guides up to the part of the run that
    it was told; the scale that Qwen-Image has by default counts only against a negative prompt.
    """
    if asked(pipe, "do_classifier_free_truncation"):
        return 1.0
    name = family(pipe).scale
    kept = getattr(pipe, "guidance_scale", None) if name == "guidance_scale" else None
    given = kept if kept is not None else asked(pipe, name)
    if name == "true_cfg_scale" and all(asked(pipe, f"negative_prompt{part}") is None for part in ("", "_embeds")):
        usual = inspect.signature(type(pipe).__call__).parameters[name].default
        given = None if given == usual else given
    return 1.0 if given is None else float(given)


def keeps_length(pipe: Any) -> bool:
    """Tell whether the call that is going on gives the guided prediction the length of the conditional one."""
    return family(pipe).keeps_length and asked(pipe, "cfg_normalization") is not False


def combined(uncond: Tensor, cond: Tensor, scale: float | Tensor, as_long: bool) -> Tensor:
    """Return u + w (c - u), where *as_long* says so along the last dimension as long as c."""
    guided = uncond + scale * (cond - uncond)
    return guided * (cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)) if as_long else guided


def asked(pipe: Any, name: str) -> Any:
    """Return an argument of the call of *pipe* that is going on, or None.

    Read in the frame of the call: some pipelines keep such things in local variables only (PixArt, FLUX), and
    ``__call__``, which is looked up on the class, cannot be changed for one object.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is pipe:
            return frame.f_locals.get(name)
        frame = frame.f_back
    return None
