"""Refuse what cannot be run, before anything runs."""

import inspect
from collections.abc import Sequence
from typing import Any

from ..pipelines import InputError, KnobError, UnsupportedError, is_unicode, nearest
from .metrics import METRICS

MOST_STEPS = 1000
LONGEST_PROMPT = 2000
SEEDS = 2**63
NO_UNICODE = "which holds half a character or a byte that is no UTF-8; write it again"


def check_inputs(
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    *,
    steps: int = 28,
    repeats: int = 5,
    size: tuple[int, int] | None = None,
    guidance: float | None = None,
    metrics: Sequence[str] = (),
    negative: str | None = None,
) -> None:
    """Check what a user typed.

    Raises:
        InputError: names the value, and what it may be.
        KnobError: an unknown metric.
    """
    _check_prompts(prompts)
    if negative is not None and not isinstance(negative, str):
        raise InputError(f"negative is {negative!r}, not a text; say what not to draw, or None")
    if negative is not None and not is_unicode(negative):
        raise InputError(f"negative is {negative!r}, {NO_UNICODE}")
    _check_seeds(seeds)
    _whole("steps", steps, 1, MOST_STEPS)
    _whole("repeats", repeats, 1, 1000)
    if size is not None:
        _check_size(size)
    number = isinstance(guidance, (int, float)) and not isinstance(guidance, bool)
    if guidance is not None and not (number and 0 <= guidance <= 100):
        raise InputError(f"guidance is {guidance!r}, not a number between 0 and 100")
    _check_metrics(metrics)


def _check_seeds(seeds: Sequence[int]) -> None:
    if isinstance(seeds, (int, str)):
        raise InputError(f"seeds is {seeds!r}; give a list of seeds, such as [0]")
    if not seeds:
        raise InputError("there is no seed; give at least one, such as 0")
    for seed in seeds:
        _whole("seed", seed, 0, SEEDS - 1)


def check_draws(pipe: Any) -> None:
    """Refuse a pipeline that begins with a picture (image to image, inpainting): nobody gives it one here.

    Raises:
        UnsupportedError: it is one.
    """
    if {"image", "strength"} <= inspect.signature(type(pipe).__call__).parameters.keys():
        raise UnsupportedError(
            f"{type(pipe).__name__} begins with a picture, and a comparison draws from a prompt alone: give the "
            "pipeline that draws from text, or edit the picture with deadheat.edit"
        )


def _check_size(size: tuple[int, int]) -> None:
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise InputError(f"size is {size!r}; give (width, height) in pixels, such as (512, 512)")
    for name, value in zip(("width", "height"), size, strict=True):
        _whole(name, value, 16, 8192)  # the window of SSIM has eleven pixels
        if value % 8:
            raise InputError(f"{name} is {value}, not a multiple of 8; take {max(8, round(value / 8) * 8)}")


def _check_metrics(metrics: Sequence[str]) -> None:
    if isinstance(metrics, str):
        raise KnobError(f"metrics is one text; give a list of metrics, such as [{metrics!r}]")
    for metric in metrics:
        if metric not in METRICS:
            raise KnobError(f"no metric is called {metric!r}; {nearest(metric, METRICS)}")


def _check_prompts(prompts: Sequence[str]) -> None:
    if isinstance(prompts, str):
        raise InputError("prompts is one text; give a list of prompts")
    if not prompts:
        raise InputError("there is no prompt; give a list of prompts")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise InputError(f"a prompt is {prompt!r}, not a text; say what to draw")
        if not is_unicode(prompt):
            raise InputError(f"a prompt is {prompt!r}, {NO_UNICODE}")
        if not prompt.strip():
            raise InputError("a prompt is empty; say what to draw")
        if len(prompt) > LONGEST_PROMPT:
            raise InputError(f"a prompt has {len(prompt)} characters; at most {LONGEST_PROMPT} are taken")


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} is {value!r}, not a whole number between {low} and {high}")
