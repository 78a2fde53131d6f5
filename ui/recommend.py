"""Which setting to take, from what was measured before. Knows no gradio."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent.parent / "assets" / "recorded" / "explore" / "page.json"
Point = dict[str, Any]


def recorded() -> dict[str, Any] | None:
    """Return the sweep that a visitor finds on the Explore page; None where none was recorded."""
    return json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.is_file() else None


def recommended(page: dict[str, Any] | None, model: str, metric: str, floor: float, budget: float) -> dict[str, Any]:
    """Return the fastest recorded setting that holds the floor, or the best within the budget where that is given.

    Raises:
        InputError: nothing was measured of this model or metric, or nothing holds what was asked for.
    """
    from deadheat import InputError

    name = page["about"].partition(" · ")[0] if page else ""
    if page is None or name != model:
        here = f"recorded is {name}" if name else "nothing is recorded here"
        raise InputError(f"nothing was measured of {model!r}: {here}; measure it yourself with sweep")
    kinds = {kind["name"]: kind for kind in page["metrics"]}
    if metric not in kinds:
        raise InputError(f"metric is {metric!r}, which was not measured; there are {', '.join(kinds)}")
    sign = -1 if kinds[metric]["less"] else 1
    points = [p for p in page["points"] if p["seconds"] is not None and metric in p["scores"]]
    chosen = _best(points, lambda p: sign * _mean(p, metric), sign * floor, budget)
    if chosen is None:
        fastest = min(p["seconds"] for p in points)
        raise InputError(f"nothing takes {budget:g} s or less; the fastest takes {fastest:.2f} s")
    return {**_answer(chosen, metric), "measured": f"{page['badge']}: {page['about']}"}


def _mean(point: Point, metric: str) -> float:
    mean = point["scores"][metric]["mean"]
    return math.inf if mean is None else float(mean)


def _best(points: Sequence[Point], good: Callable[[Point], float], floor: float, budget: float) -> Point | None:
    """Choose; the baseline holds every floor, for its picture is its own."""
    if budget > 0:
        fits = [p for p in points if p["seconds"] <= budget]
        return max(fits, key=lambda p: (good(p), -p["seconds"]), default=None)
    holds = [p for p in points if p["role"] == "baseline" or good(p) >= floor]
    return min(holds, key=lambda p: p["seconds"], default=None)


def _answer(point: Point, metric: str) -> dict[str, Any]:
    score = point["scores"].get(metric, {})
    return {
        "recipe": point["recipe"],
        "steps": point["steps"],
        "seconds": point["seconds"],
        "speedup": point["speedup"],
        "speedup_range": point["speedup_range"],
        "metric": metric,
        "mean": score.get("mean"),
        "worst": score.get("worst"),
        "identical": score.get("identical", False),
        "calls": point["calls"],
        "asked": point["asked"],
        "python": point["snippet"],
        "toml": point["toml"],
    }
