"""Refuse what cannot be run, before anything runs."""

from collections.abc import Sequence
from typing import Any

from ..pipelines import InputError, KnobError, nearest
from .metrics import METRICS

MOST_STEPS = 1000
LONGEST_PROMPT = 2000
SEEDS = 2**63


def check_inputs(
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    *,
    steps: int = 28,
    repeats: int = 5,
    size: tuple[int, int] | None = None,
    guidance: float | None = None,
    metrics: Sequence[str] = (),
) -> None:
    """Check what a user typed.

    Raises:
        InputError: names the value, and what it may be.
        KnobError: an unknown metric.
    """
    _check_prompts(prompts)
    if not seeds:
        raise InputError("there is no seed; give at least one, such as 0")
    for seed in seeds:
        _whole("seed", seed, 0, SEEDS - 1)
    _whole("steps", steps, 1, MOST_STEPS)
    _whole("repeats", repeats, 1, 1000)
    for name, value in zip(("width", "height"), size or (), strict=bool(size)):
        _whole(name, value, 8, 8192)
        if value % 8:
            raise InputError(f"{name} is {value}, not a multiple of 8; take {max(8, round(value / 8) * 8)}")
    if guidance is not None and not 0 <= guidance <= 100:
        raise InputError(f"guidance is {guidance}, not between 0 and 100")
    for metric in metrics:
        if metric not in METRICS:
            raise KnobError(f"no metric is called {metric!r}; {nearest(metric, METRICS)}")


def _check_prompts(prompts: Sequence[str]) -> None:
    if isinstance(prompts, str):
        raise InputError("prompts is one text; give a list of prompts")
    if not prompts or any(not str(prompt).strip() for prompt in prompts):
        raise InputError("a prompt is empty; say what to draw")
    for prompt in prompts:
        if len(prompt) > LONGEST_PROMPT:
            raise InputError(f"a prompt has {len(prompt)} characters; at most {LONGEST_PROMPT} are taken")


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} is {value!r}, not a whole number between {low} and {high}")
