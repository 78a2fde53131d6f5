"""A sweep or a comparison as the explorer shows it: plain data, for the app's page and for the static one alike."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .cells import Sweep
from .explore_page import (
    Row,
    code_row,
    head_row,
    many_text,
    note_texts,
    rounds_text,
    score_row,
    short_number,
    whole_page,
)
from .metrics import LESS_IS_BETTER, mean_score
from .points import Point, SweepCell

STEADY = 1.25  # the slowest baseline over the fastest, on a machine with nothing else to do

Look = Callable[[str], str | None]


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
    notes = [rounds_text(s["repeats"]), *note_texts(s["metrics"], sweep.unavailable, sweep.environment)]
    page = whole_page(head, f"{many_text(len(shown), 'picture')} a setting", shown, points, notes)
    return {**page, "unsteady": _unsteady(sweep.cells)}


def explore_comparison(result: Mapping[str, Any], look: Look) -> Row:
    """Return a comparison, as ``Comparison.to_dict`` writes it, for the explorer."""
    s, lanes = result["settings"], result["lanes"]
    shown = [(cell["prompt"], cell["seed"]) for cell in lanes[0]["cells"]]
    points = [_lane_point(result, lane, look) for lane in lanes]
    notes = [rounds_text(s["repeats"]), *note_texts(s["metrics"], result["unavailable"], result["environment"])]
    return whole_page(result, f"{many_text(len(shown), 'picture')} a lane", shown, points, notes)


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
        metric: score_row(p.mean, p.worst, by_id[p.worst_cell].prompt, p.cells)
        for metric, p in zip(s["metrics"], same, strict=False)
        if p.worst is not None and p.worst_cell is not None
    }
    code = {name: s[name] for name in ("guidance", "negative", "size")}
    code |= _loaded(sweep.environment)
    return {
        **head_row(point.recipe, point.role, sweep.title(point.recipe), point.steps),
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
        **code_row(sweep.model, point.recipe, prompt=first.prompt, seed=first.seed, steps=point.steps, **code),
    }


def _loaded(environment: Mapping[str, Any]) -> Row:
    """Return how the model was loaded, for the code."""
    return {name: environment["pipeline"][name] for name in ("system", "revision")}


def _times(point: Point, cells: Sequence[SweepCell]) -> Row:
    """Return seconds and speed-up with their spread: over the cells, or where there is one only, over its rounds."""
    seconds, speedup = (point.seconds_low, point.seconds_high), (point.speedup_low, point.speedup_high)
    if len(cells) == 1:
        ratios = [a / b for a, b in zip(cells[0].baseline_seconds, cells[0].seconds, strict=False)]
        seconds, speedup = (min(cells[0].seconds), max(cells[0].seconds)), (min(ratios), max(ratios))
    return {
        "seconds": short_number(point.seconds),
        "seconds_range": [short_number(value) for value in seconds],
        "speedup": short_number(point.speedup),
        "speedup_range": [short_number(value) for value in speedup],
        "spread": "pictures" if len(cells) > 1 else "rounds",
    }


def _shown(cell: SweepCell | None) -> Row:
    if cell is None:
        return {}
    finite = {k: short_number(v) for k, v in cell.scores.items() if v is not None and math.isfinite(v)}
    return {**finite, "identical": cell.identical}


def _lane_point(result: Mapping[str, Any], lane: Mapping[str, Any], look: Look) -> Row:
    s = result["settings"]
    cells = lane["cells"]
    low, high = lane["speedup_range"] or (lane["speedup"], lane["speedup"])
    scores = {metric: found for metric in s["metrics"] if (found := _lane_score(cells, metric)) is not None}
    code = {name: s[name] for name in ("steps", "guidance", "negative", "size")}
    code |= _loaded(result["environment"])
    finite = [{k: short_number(v) for k, v in cell["scores"].items() if v is not None} for cell in cells]
    return {
        **head_row(lane["recipe"], lane["role"], lane["name"], s["steps"]),
        "seconds": short_number(lane["median"]),
        "seconds_range": [short_number(min(lane["seconds"])), short_number(max(lane["seconds"]))],
        "speedup": short_number(lane["speedup"]),
        "speedup_range": [short_number(low), short_number(high)],
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
        **code_row(s["model"], lane["recipe"], prompt=cells[0]["prompt"], seed=cells[0]["seed"], **code),
    }


def _lane_score(cells: Sequence[Mapping[str, Any]], metric: str) -> Row | None:
    """Return mean and worst of a metric over the cells of a lane."""
    same = [(math.inf, cell["prompt"]) for cell in cells if metric == "psnr" and cell["identical"]]
    finite = [(value, cell["prompt"]) for cell in cells if (value := cell["scores"].get(metric)) is not None]
    if not (found := [*finite, *same]):
        return None
    worst, prompt = (max if metric in LESS_IS_BETTER else min)(found)
    return score_row(mean_score((value for value, _ in found), metric), worst, prompt, len(cells))
