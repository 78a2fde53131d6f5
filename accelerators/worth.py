"""Why a cache may not pay or may harm: what all of them say alike, in reports and in the doctor."""

from typing import Any

from ..pipelines import calls_a_step, denoisers, few_step_model
from .base import Accelerator

FEW = 8
SMALL = 50e6  # parameters below which a network on a CPU spends much of its time between its layers
_STOCHASTIC = (
    "Ancestral", "SDE", "DDPM", "SASolver", "LCM", "TCD", "SCM", "CMStochastic", "UnCLIP", "CosineDPM",
)  # fmt: skip


def stochastic(scheduler: Any) -> bool:
    """Tell whether a scheduler adds fresh noise at every step.

    >>> from diffusers import DPMSolverMultistepScheduler
    >>> stochastic(DPMSolverMultistepScheduler())
    False
    >>> stochastic(DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"))
    True
    """
    by_name = any(word in type(scheduler).__name__ for word in _STOCHASTIC)
    by_kind = "sde" in str(scheduler.config.get("algorithm_type", ""))
    return by_name or by_kind or bool(scheduler.config.get("stochastic_sampling"))


def amplifies(cache: Accelerator, pipe: Any, knob: str, repeats: float) -> list[str]:
    """Return a sentence if a knob above the value with which it *repeats* continues a sampler's own noise."""
    value = getattr(cache, knob)
    if value <= repeats or is_neutral(cache) or not stochastic(pipe.scheduler):
        return []
    name = type(pipe.scheduler).__name__
    return [f"{name} adds noise at every step, which {knob} {value:g} amplifies: use {knob}={repeats:g}"]


def is_neutral(cache: Accelerator) -> bool:
    """Tell whether a cache has the knobs with which it changes nothing."""
    return all(getattr(cache, knob) == value for knob, value in cache.neutral.items())


def seldom_pays(cache: Accelerator, pipe: Any, steps: int) -> list[str]:
    """Return the reasons, as sentences; none for a cache at its neutral setting."""
    if is_neutral(cache):
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


def parameters(pipe: Any) -> int:
    """Return how many parameters the denoisers have."""
    return sum(p.numel() for network in denoisers(pipe).values() for p in network.parameters())


def saves_little(cache: Accelerator, pipe: Any) -> list[str]:
    """Return a sentence if a network is too small for a *cache* of parts of it to save much."""
    size = parameters(pipe)
    if is_neutral(cache) or size >= SMALL:
        return []
    return [
        f"a denoiser of {max(1, round(size / 1e6))} million parameters spends much of its time between its layers, "
        "where a cache of parts saves nothing: on pocket-unet 18 plain steps of 28 took less time (1.47x, 44 dB) than "
        "encoder-propagation (1.25x, 41 dB), and 11 (2.49x, 36 dB) less than deepcache (2.14x, 35 dB)"
    ]
