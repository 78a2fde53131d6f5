"""What leaves a cache little to gain: models distilled to a few steps, and solvers that ask twice a step."""

import re
from typing import Any

from .families import denoisers
from .load import model_name

_DISTILLED = re.compile(r"turbo|schnell|lightning|lcm|hyper-?sd|dmd|\d-?steps?\b", re.IGNORECASE)


def few_step_model(pipe: Any) -> bool:
    """Tell whether a model is distilled to a few steps: it takes the guidance scale as LCM does, or its name says so.

    Files hold no other trace of it: turbo and schnell models have the configuration of their teachers.
    """
    networks = denoisers(pipe).values()
    takes_scale = any(getattr(network.config, "time_cond_proj_dim", None) is not None for network in networks)
    return takes_scale or bool(_DISTILLED.search(model_name(pipe)))


def calls_a_step(scheduler: Any) -> int:
    """Return how often a scheduler asks the network a step.

    >>> from diffusers import HeunDiscreteScheduler
    >>> calls_a_step(HeunDiscreteScheduler())
    2
    """
    return int(getattr(scheduler, "order", 1))
