"""A sweep or a comparison as the explorer shows it: plain data, for the app's page and for the static one alike."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..accelerators import ACCELERATORS
from ..pipelines import DeadheatError
from ..presets import Recipe
from .cells import Sweep
from .metrics import DEFINITIONS, LESS_IS_BETTER, OWN, TOGETHER, mean_score
from .plan import PLAIN
from .points import Point, SweepCell
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

STEADY = 1.25  # the slowest baseline over the fastest, on a machine with nothing else to do

Look = Callable[[str], str | None]
Row = dict[str, Any]


def family(recipe: str) -> str:
    """Return to which family of accelerators a recipe belongs.

    >>> family("ab-cache:every=3"), family("ab-cache + guidance-interval"), family("plain")
    ('step caching', 'combined', 'no accelerator')
    """
    if recipe == PLAIN:
        return PLAIN_FAMILY
    seats = (getattr(ACCELERATORS.get(part.partition(":")[0].strip()), "seat", "") for part in recipe.split("+"))
    found = {FAMILIES.get(seat, UNKNOWN) for seat in seats}
    return found.pop() if len(found) == 1 else MIXED


def explore_sweep(sweep: Sweep, look: Look) -> Row:
    """Return a sweep, finished or not, for the explorer.

    Args:
        sweep: what was measured.
        look: turns the file of a picture, as the sweep names it, into what an ``img`` may show; None: there is none.
    """
    s, groups = sweep.settings, _groups(sweep.cells)
    shown = list(dict.fromkeys((cell.prompt, cell.seed) for cell in sweep.cells))
    by_metric = {metric: sweep.points(metric) for metric in s["metrics"]} or {"": sweep.points()}
    points = [
        _sweep_point(sweep, same, groups[same[0].recipe, same[0].steps], shown, look)
        for same in zip(*by_metric.values(), strict=True)
    ]
    head = {"settings": {"model": sweep.model, **s}, "environment": sweep.environment, "created": sweep.created}
    notes = [_rounds(s["repeats"]), *_notes(s["metrics"], sweep.unavailable, sweep.environment)]
    page = _whole(head, f"{_many(len(shown), 'picture')} a setting", shown, points, notes)
    return {**page, "unsteady": _unsteady(sweep.cells)}


def explore_comparison(result: Mapping[str, Any], look: Look) -> Row:
    """Return a comparison, as ``Comparison.to_dict`` writes it, for the explorer."""
    s, lanes = result["settings"], result["lanes"]
    shown = [(cell["prompt"], cell["seed"]) for cell in lanes[0]["cells"]]
    points = [_lane_point(s, lane, look) for lane in lanes]
    notes = [_rounds(s["repeats"]), *_notes(s["metrics"], result["unavailable"], result["environment"])]
    return _whole(result, f"{_many(len(shown), 'picture')} a lane", shown, points, notes)


def _unsteady(cells: Iterable[SweepCell]) -> str:
    """Say so where the machine was busy with other things: then only what was measured in turns can be compared."""
    found: dict[int, list[float]] = {}
    for cell in cells:
        if cell.baseline_seconds:
            found.setdefault(cell.steps, []).append(statistics.median(cell.baseline_seconds))
    wide = [(min(times), max(times)) for times in found.values() if max(times) > STEADY * min(times)]
    if not wide:
        return ""
    low, high = wide[0]
    return (
        f"This machine was busy: the baseline took from {low:.2f} to {high:.2f} s. Seconds of different settings "
        "cannot be compared then; speed-ups can, for they were measured in turns with the baseline."
    )


def hardware_text(environment: Mapping[str, Any]) -> str:
    """Name the hardware in a few words."""
    hardware, threads = environment["hardware"], environment["pipeline"]["threads"]
    return str(hardware["gpu"] or f"{hardware['processor']}, {_many(threads, 'thread')}")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _plain(value: float | None) -> str:
    return "of the model" if value is None else f"{value:g}"


def _whole(
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


def _groups(cells: Iterable[SweepCell]) -> dict[tuple[str, int], list[SweepCell]]:
    found: dict[tuple[str, int], list[SweepCell]] = {}
    for cell in cells:
        found.setdefault((cell.recipe, cell.steps), []).append(cell)
    return found


def _sweep_point(
    sweep: Sweep, same: Sequence[Point], cells: list[SweepCell], shown: Sequence[tuple[str, int]], look: Look
) -> Row:
    point, s = same[0], sweep.settings
    by_id = {cell.id: cell for cell in cells}
    by_key = {(cell.prompt, cell.seed): cell for cell in cells if cell.error is None}
    first = next(iter(by_key.values()), cells[0])
    scores = {
        metric: _score(p.mean, p.worst, by_id[p.worst_cell].prompt, p.cells)
        for metric, p in zip(s["metrics"], same, strict=False)
        if p.worst is not None and p.worst_cell is not None
    }
    code = {"guidance": s["guidance"], "negative": s["negative"], "size": s["size"]}
    return {
        **_head(point.recipe, point.role, sweep.title(point.recipe), point.steps),
        **_times(point, list(by_key.values())),
        "scores": scores,
        "calls": point.calls,
        "asked": point.asked,
        "actions": [str(action) for action in first.actions],
        "cache": point.cache_bytes,
        "pictures": [look(c.picture) if (c := by_key.get(key)) and c.picture else None for key in shown],
        "shown": [_shown(by_key.get(key)) for key in shown],
        "warnings": list(point.warnings),
        "errors": list(point.errors),
        "cells": point.cells,
        "failed": point.failed,
        **_code(sweep.model, point.recipe, prompt=first.prompt, seed=first.seed, steps=point.steps, **code),
    }


def _head(recipe: str, role: str, title: str, steps: int) -> Row:
    control = recipe.partition("steps=")[2]
    names = {"baseline": "as it is", "control": f"only {control} steps"}
    named = names.get(role, title if title != recipe else recipe)
    at = {"id": f"{recipe} @{steps}", "recipe": recipe, "role": role, "name": named, "steps": steps}
    return {**at, "family": family(recipe)}


def _times(point: Point, cells: Sequence[SweepCell]) -> Row:
    """Return seconds and speed-up with their spread: over the cells, or where there is one only, over its rounds."""
    seconds, speedup = (point.seconds_low, point.seconds_high), (point.speedup_low, point.speedup_high)
    if len(cells) == 1:
        ratios = [a / b for a, b in zip(cells[0].baseline_seconds, cells[0].seconds, strict=False)]
        seconds, speedup = (min(cells[0].seconds), max(cells[0].seconds)), (min(ratios), max(ratios))
    return {
        "seconds": _short(point.seconds),
        "seconds_range": [_short(value) for value in seconds],
        "speedup": _short(point.speedup),
        "speedup_range": [_short(value) for value in speedup],
        "spread": "pictures" if len(cells) > 1 else "rounds",
    }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _score(mean: float | None, worst: float, prompt: str, cells: int) -> Row:
    """Return a score; what is infinite is written as null, and "identical" says so."""
    infinite = [value is None or math.isinf(value) for value in (mean, worst)]
    return {
        "mean": None if infinite[0] else _short(mean),
        "worst": None if infinite[1] else _short(worst),
        "identical": infinite[0],
        "prompt": prompt if cells > 1 else "",
    }


def _shown(cell: SweepCell | None) -> Row:
    if cell is None:
        return {}
    finite = {k: _short(v) for k, v in cell.scores.items() if v is not None and math.isfinite(v)}
    return {**finite, "identical": cell.identical}


def _code(model: str, recipe: str, **call: Any) -> Row:
    """Return the snippet and the TOML of a recipe; empty where this version does not know it."""
    if recipe == PLAIN:
        return {"snippet": snippet(model, PLAIN, **call), "toml": ""}
    try:
        known = Recipe.parse(recipe)
    except DeadheatError:
        return {"snippet": "", "toml": ""}
    return {"snippet": snippet(model, recipe, **call), "toml": known.to_toml()}


def _lane_point(s: Mapping[str, Any], lane: Mapping[str, Any], look: Look) -> Row:
    cells = lane["cells"]
    low, high = lane["speedup_range"] or (lane["speedup"], lane["speedup"])
    scores = {metric: found for metric in s["metrics"] if (found := _lane_score(cells, metric)) is not None}
    code = {name: s[name] for name in ("steps", "guidance", "negative", "size")}
    finite = [{k: _short(v) for k, v in cell["scores"].items() if v is not None} for cell in cells]
    return {
        **_head(lane["recipe"], lane["role"], lane["name"], s["steps"]),
        "seconds": _short(lane["median"]),
        "seconds_range": [_short(min(lane["seconds"])), _short(max(lane["seconds"]))],
        "speedup": _short(lane["speedup"]),
        "speedup_range": [_short(low), _short(high)],
        "spread": "rounds",
        "scores": scores,
        "calls": lane["calls"],
        "asked": lane["asked"],
        "actions": [step["action"] for step in lane["steps"]],
        "cache": lane["cache_bytes"],
        "pictures": [look(cell["picture"]) for cell in cells],
        "shown": [{**row, "identical": cell["identical"]} for row, cell in zip(finite, cells, strict=True)],
        "warnings": [*lane["warnings"], *([lane["note"]] if lane["note"] else [])],
        "errors": [],
        "cells": len(cells),
        "failed": 0,
        **_code(s["model"], lane["recipe"], prompt=cells[0]["prompt"], seed=cells[0]["seed"], **code),
    }


def _lane_score(cells: Sequence[Mapping[str, Any]], metric: str) -> Row | None:
    """Return mean and worst of a metric over the cells of a lane."""
    same = [(math.inf, cell["prompt"]) for cell in cells if metric == "psnr" and cell["identical"]]
    finite = [(value, cell["prompt"]) for cell in cells if (value := cell["scores"].get(metric)) is not None]
    if not (found := [*finite, *same]):
        return None
    worst, prompt = (max if metric in LESS_IS_BETTER else min)(found)
    return _score(mean_score((value for value, _ in found), metric), worst, prompt, len(cells))


def _rounds(repeats: int) -> str:
    rounds = f"{repeats} round{'s' * (repeats > 1)} interleaved with the baseline"
    few = "" if repeats >= 5 else " Fewer than 5 rounds: take the speed-up as a first impression."
    return f"Seconds: median wall clock of one picture, text encoding and decoding included; {rounds}.{few}"


def _notes(metrics: Sequence[str], unavailable: Mapping[str, str], environment: Mapping[str, Any]) -> list[str]:
    versions = environment["versions"]
    stamp = f"{hardware_text(environment)}; torch {versions['torch']}, diffusers {versions['diffusers']}."
    measured = [DEFINITIONS[name] for name in metrics if name not in unavailable and name in DEFINITIONS]
    speed = "Speed-up: the baseline's seconds over its own, from the same rounds. Never a ratio of steps or calls."
    return [speed, *measured, *(f"{name}: not available: {why}." for name, why in unavailable.items()), stamp]
