"""The answer of `tune` as plain data."""

import json
import statistics
from typing import TYPE_CHECKING, Any

from ..presets import Recipe
from .goal import SURE
from .metrics import OWN
from .track import Entry

if TYPE_CHECKING:
    from .tuned import Tuned

SCHEMA = "deadheat.tuning/1"


def data(tuned: "Tuned") -> dict[str, Any]:
    """Return plain JSON-able data."""
    baseline = tuned.track.baseline
    return json.loads(json.dumps({
        "schema": SCHEMA,
        "goal": {"floor": dict(tuned.goal.floor), "budget": tuned.goal.budget, "text": str(tuned.goal)},
        "answer": _row(tuned, tuned.best) if tuned.best else None,
        "claim": tuned.claim,
        "about": tuned.about,
        "baseline": {"seconds": baseline.seconds, "expected": tuned.expected(baseline), "calls": baseline.calls},
        "frontier": [entry.name for entry in tuned.frontier()],
        "entries": [_row(tuned, entry) for entry in tuned.entries],
        "left_out": tuned.space.left_out,
        "settings": tuned.settings,
        "environment": tuned.environment,
        "created": tuned.created,
        "took": tuned.seconds,
        "stopped": tuned.stopped,
        "notes": tuned.notes,
        "margin": f"a floor is held if the mean is above it by {SURE:g} standard error",
    }, default=str))  # fmt: skip


def _row(tuned: "Tuned", entry: Entry) -> dict[str, Any]:
    scores = {}
    for metric in tuned.metrics:
        mean, worst = tuned.mean(entry, metric), tuned.worst(entry, metric)
        finite = mean is not None and mean < float("inf")
        scores[metric] = {
            "mean": mean if finite else None,
            "worst": worst[0] if worst and worst[0] < float("inf") else None,
            "worst_prompt": worst[1][0] if worst else None,
            "error": tuned.error(entry, metric),
            "identical": mean == float("inf"),
        }
        if metric in OWN:
            cells = tuned.values(entry, metric)
            base = [v for cell in cells if (v := tuned.track.baseline.scores[cell].get(metric)) is not None]
            scores[metric]["baseline"] = statistics.fmean(base) if base else None
    return {
        "name": entry.name, "line": entry.line, "recipe": str(Recipe(entry.recipe.accelerators)),
        "phase": "final" if entry in tuned.finalists else "probe", "pictures": len(entry.scores),
        "expected": tuned.expected(entry), "seconds": entry.seconds, "speedup": tuned.speedup(entry),
        "calls": entry.calls, "asked": entry.asked, "scores": scores, "dropped": entry.dropped,
        "warnings": list(entry.warnings),
    }  # fmt: skip
