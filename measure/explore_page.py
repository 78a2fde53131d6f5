"""What the explorer shows of a sweep and of a comparison alike: families, labels, and how a page is put together."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..accelerators import ACCELERATORS, FewerSteps, recipe_parts
from ..pipelines import DeadheatError
from ..presets import Recipe
from .metrics import DEFINITIONS, LESS_IS_BETTER, OWN, TOGETHER
from .plan import PLAIN
from .snippet import snippet

PLAIN_FAMILY, MIXED, UNKNOWN = "no accelerator", "combined", "other"
FAMILIES = {
    "denoiser output": "step caching",
    "block stack": "block caching",
    "deep part of the UNet": "block caching",
    "attention and feed-forward": "layer caching",
    "guidance": "guidance",
    "image tokens": "fewer tokens",
    "image tokens in attention": "fewer tokens",
    "text tokens in attention": "fewer tokens",
    "resolution of the latents": "resolution",
    "number of steps": "fewer steps",
}
UNITS = {"psnr": "dB", "adherence": "%"}
LABELS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms-ssim": "MS-SSIM",
    "detail": "detail",
    "latent": "latent distance",
    "adherence": "adherence",
    "lpips": "LPIPS",
    "clip": "CLIPScore",
    "image-reward": "ImageReward",
    "frechet": "Fréchet distance",
}
ASKS = dict.fromkeys((*OWN, *TOGETHER), "Good picture?")

Row = dict[str, Any]


def family(recipe: str) -> str:
    """Return to which family of accelerators a recipe belongs.

    >>> family("ab-cache:every=3"), family("ab-cache + guidance-interval"), family("plain")
    ('step caching', 'combined', 'no accelerator')
    """
    if recipe == PLAIN:
        return PLAIN_FAMILY
    seats = (getattr(ACCELERATORS.get(part.partition(":")[0].strip()), "seat", "") for part in recipe_parts(recipe))
    found = {FAMILIES.get(seat, UNKNOWN) for seat in seats}
    return found.pop() if len(found) == 1 else MIXED


def hardware_text(environment: Mapping[str, Any]) -> str:
    """Name the hardware in a few words."""
    hardware, threads = environment["hardware"], environment["pipeline"]["threads"]
    return str(hardware["gpu"] or f"{hardware['processor']}, {many_text(threads, 'thread')}")


def many_text(count: int, what: str) -> str:
    """Write a number of things.

    >>> many_text(1, "picture"), many_text(2, "picture")
    ('1 picture', '2 pictures')
    """
    return f"{count} {what}{'s' * (count != 1)}"


def _plain(value: float | None) -> str:
    return "of the model" if value is None else f"{value:g}"


def whole_page(
    found: Mapping[str, Any], pictures: str, shown: Sequence[tuple[str, int]], points: list[Row], notes: list[str]
) -> Row:
    """Put together what belongs to a sweep (its header) or a comparison (its result)."""
    s, day = found["settings"], datetime.fromisoformat(found["created"])
    listed = s["steps"] if isinstance(s["steps"], list) else [s["steps"]]
    steps = ", ".join(map(str, listed))
    what = f"{s['model']} · {steps} steps, guidance {_plain(s['guidance'])} · {pictures}"
    about = f"{what} · {hardware_text(found['environment'])}"
    kinds = [metric for metric in s["metrics"] if any(point["scores"].get(metric) for point in points)]
    named = {point["family"] for point in points}
    order = [PLAIN_FAMILY, *dict.fromkeys([*FAMILIES.values()]), MIXED, UNKNOWN]
    return {
        "kind": "explore",
        "badge": f"measured on {day.day} {day:%B %Y}",
        "about": about,
        "metrics": [_metric(name) for name in kinds],
        "families": [name for name in order if name in named],
        "prompts": [{"prompt": prompt, "seed": seed} for prompt, seed in shown],
        "points": points,
        "notes": notes,
    }


def _metric(name: str) -> Row:
    return {
        "name": name,
        "label": LABELS.get(name, name),
        "unit": UNITS.get(name, ""),
        "less": name in LESS_IS_BETTER,
        "asks": ASKS.get(name, "Same picture?"),
        "about": DEFINITIONS.get(name, ""),
    }


def head_row(recipe: str, role: str, title: str, steps: int) -> Row:
    """Return what names a point."""
    control = recipe.partition("steps=")[2] or FewerSteps().steps  # text leaves the default out
    names = {"baseline": "as it is", "control": f"only {control} steps"}
    named = names.get(role, title if title != recipe else recipe)
    at = {"id": f"{recipe} @{steps}", "recipe": recipe, "role": role, "name": named, "steps": steps}
    return {**at, "family": family(recipe)}


def short_number(value: float | None) -> float | None:
    """Return a number as a page needs it."""
    return None if value is None else round(value, 4)


def score_row(mean: float | None, worst: float, prompt: str, cells: int) -> Row:
    """Return a score; what is infinite is written as null, and "identical" says so."""
    infinite = [value is None or math.isinf(value) for value in (mean, worst)]
    return {
        "mean": None if infinite[0] else short_number(mean),
        "worst": None if infinite[1] else short_number(worst),
        "identical": infinite[0],
        "prompt": prompt if cells > 1 else "",
    }


def code_row(model: str, recipe: str, **call: Any) -> Row:
    """Return the snippet and the TOML of a recipe; empty where this version does not know it."""
    if recipe == PLAIN:
        return {"snippet": snippet(model, PLAIN, **call), "toml": ""}
    try:
        known = Recipe.parse(recipe)
    except DeadheatError:
        return {"snippet": "", "toml": ""}
    return {"snippet": snippet(model, recipe, **call), "toml": known.to_toml()}


def rounds_text(repeats: int) -> str:
    """Say how seconds were measured."""
    rounds = f"{repeats} round{'s' * (repeats > 1)} interleaved with the baseline"
    few = "" if repeats >= 5 else " Fewer than 5 rounds: take the speed-up as a first impression."
    return f"Seconds: median wall clock of one picture, text encoding and decoding included; {rounds}.{few}"


def note_texts(metrics: Sequence[str], unavailable: Mapping[str, str], environment: Mapping[str, Any]) -> list[str]:
    """Say what the numbers mean, which are missing, and where they were measured."""
    versions = environment["versions"]
    stamp = f"{hardware_text(environment)}; torch {versions['torch']}, diffusers {versions['diffusers']}."
    measured = [DEFINITIONS[name] for name in metrics if name not in unavailable and name in DEFINITIONS]
    speed = "Speed-up: the baseline's seconds over its own, from the same rounds. Never a ratio of steps or calls."
    return [speed, *measured, *(f"{name}: not available: {why}." for name, why in unavailable.items()), stamp]
