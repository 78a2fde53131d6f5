"""Which setting to take, from what was measured before. Knows no gradio."""

import json
import math
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
        InputError: nothing was measured of this model or metric, what is asked for cannot be, or nothing holds it.
    """
    from deadheat.measure.metrics import LESS_IS_BETTER

    from deadheat import InputError

    name = page["about"].partition(" · ")[0] if page else ""
    if page is None or name != model:
        raise InputError(_not_measured(model, name))
    names = [kind["name"] for kind in page["metrics"]]
    if metric not in names:
        raise InputError(f"metric is {metric!r}, which was not measured; there are {', '.join(names)}")
    _check_wish(metric, floor, budget)
    sign = -1 if metric in LESS_IS_BETTER else 1
    points = [p for p in page["points"] if p["seconds"] is not None and metric in p["scores"]]
    if budget > 0:
        fits = [p for p in points if p["seconds"] <= budget]
        chosen = max(fits, key=lambda p: (sign * _mean(p, metric), -p["seconds"]), default=None)
    else:
        holds = [p for p in points if sign * _mean(p, metric) >= sign * floor]
        chosen = min(holds, key=lambda p: p["seconds"], default=None)
    if chosen is None:
        raise InputError(_nothing_fits(points, metric, floor, budget))
    return {**_answer(chosen, metric), "measured": f"{page['badge']}: {page['about']}"}


def _check_wish(metric: str, floor: float, budget: float) -> None:
    from deadheat.measure.goal import check_floor

    from deadheat import InputError

    if not 0 <= budget < math.inf:
        raise InputError(f"budget is {budget:g}, not a number of seconds; 0 means that the floor decides")
    if budget == 0:
        check_floor(metric, floor)
        if floor < 0:
            raise InputError(f"floor is {floor:g}; give the mean {metric} that must be held, from 0")


def _not_measured(model: str, name: str) -> str:
    """Say what there is instead: presets with what is known of them, and how to measure."""
    from deadheat.pipelines import known_model
    from deadheat.presets import own_presets

    here = f"recorded is {name}" if name else "nothing is recorded here"
    said = f"nothing was measured of {model!r}: {here}."
    known = own_presets(model)
    if known:
        said += " Its presets: " + " ".join(f"{preset}: {recipe} ({recipe.about})" for preset, recipe in known.items())
    wanted = model if known or known_model(model) else "MODEL"
    return f"{said} To know it for your machine, run: deadheat tune {wanted} --floor psnr=30, or the endpoint sweep"


def _nothing_fits(points: list[Point], metric: str, floor: float, budget: float) -> str:
    from deadheat.measure.metrics import LESS_IS_BETTER
    from deadheat.measure.report import score_text

    if budget > 0:
        return f"nothing takes {budget:g} s or less; the fastest takes {min(p['seconds'] for p in points):.2f} s"
    best = (min if metric in LESS_IS_BETTER else max)(_mean(p, metric) for p in points)
    asked = score_text(floor, metric)
    return f"nothing measured has a mean {metric} of {asked}; the best has {score_text(best, metric)}"


def _mean(point: Point, metric: str) -> float:
    mean = point["scores"][metric]["mean"]
    return math.inf if mean is None else float(mean)


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
