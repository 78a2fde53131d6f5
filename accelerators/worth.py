"""Why a cache may not pay: what all of them say alike, in reports and in the doctor."""

from typing import Any

from ..pipelines import calls_a_step, few_step_model
from .base import Accelerator

FEW = 8


def seldom_pays(cache: Accelerator, pipe: Any, steps: int) -> list[str]:
    """Return the reasons, as sentences; none for a cache at its neutral setting."""
    if all(getattr(cache, knob) == value for knob, value in cache.neutral.items()):
        return []
    said = []
    if steps <= FEW:
        said.append(f"{steps} steps leave little to skip: a cache seldom pays below about 10")
    if few_step_model(pipe):
        said.append("this model is distilled to a few steps, each unlike the last: plainly fewer steps serve better")
    if (calls := calls_a_step(pipe.scheduler)) > 1:
        name = type(pipe.scheduler).__name__
        said.append(f"{name} asks the network {calls} times a step: a solver that asks once saves as much by itself")
    return said
