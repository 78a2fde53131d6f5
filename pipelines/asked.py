"""What the pipeline was asked for: arguments of the call that is going on."""

import inspect
from typing import Any

from .families import family


def guidance_scale(pipe: Any) -> float:
    """Return the guidance scale of the call that is going on; 1.0, which is no guidance, where nobody gave one.

    A pipeline that keeps it as an attribute may change it on the way.
    """
    name = family(pipe).scale
    kept = getattr(pipe, "guidance_scale", None) if name == "guidance_scale" else None
    given = kept if kept is not None else asked(pipe, name)
    return 1.0 if given is None else float(given)


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
