"""Every feature cache on a pocket model, interleaved in one process, with plainly fewer steps beside them.

    python -m benchmarks.caching [pocket-dit] [--prompts 32] [--repeats 5] [--out benchmarks/results]

Writes `caching-MODEL.json` (every number, with hardware and versions) and charts of seconds against PSNR and SSIM.
cache-dit's DBCache joins where it is installed (`pip install 'deadheat[peers]'`); the others need nothing more. The
prompts are held out: the fitted cache's presets were calibrated on others, with other seeds.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deadheat.accelerators import ACCELERATORS
from deadheat.measure import Comparison, Lane, Spot, chart, compare
from deadheat.presets import Recipe, presets

from deadheat import load
from training.denoisers import prompts

STEPS = 28
FEWER = (18, 16, 13, 11, 9)
RECIPES = {  # a line of the chart: its settings, from faithful to fast
    "ab-cache": ("ab-cache:every=2", "ab-cache:every=3", "ab-cache:every=4,order=1"),
    "easy-cache": ("easy-cache",),
    "sada": ("sada:start=0.2",),
    "clockwork": ("clockwork:clock=2", "clockwork:clock=4"),
    "deepcache": ("deepcache:every=2", "deepcache:every=3"),
    "encoder-propagation": ("encoder-propagation",),
    "layer-cache": ("layer-cache:every=2",),
    "taylor-seer": ("taylor-seer:every=2", "taylor-seer"),
    "pyramid-attention-broadcast": ("pyramid-attention-broadcast",),
    "faster-cache": ("faster-cache",),
    "teacache": ("teacache", "teacache:threshold=0.2"),
    "magcache": ("magcache-13",),
    "first-block-cache": ("first-block-cache", "first-block-cache:threshold=0.2"),
    "sea-cache": ("sea-cache", "sea-cache:threshold=0.5"),
    "db-cache": ("db-cache", "db-cache:threshold=0.15"),
}


def lines(pipe: Any, model: str) -> dict[str, list[Recipe]]:
    """Return what can run here: the fitted cache's presets of this model, every cache that fits it, the control."""
    known = presets(model)
    fitted = [recipe for name, recipe in known.items() if name.startswith("auto-")]
    found = {"fitted-cache": fitted} if fitted else {}
    for name, texts in RECIPES.items():
        if name in ACCELERATORS and ACCELERATORS[name].supports(pipe) is None:
            found[name] = [known[text] if text in known else Recipe.parse(text) for text in texts if text in known or
                           text.partition(":")[0] in ACCELERATORS]  # fmt: skip
    found["plain fewer steps"] = [Recipe.parse(f"fewer-steps:steps={steps}") for steps in FEWER]
    return {name: recipes for name, recipes in found.items() if recipes}


def row(line: str, lane: Lane) -> dict[str, Any]:
    """Return what the result file keeps of a lane."""
    return {
        "line": line,
        "lane": lane.name,
        "recipe": lane.recipe,
        "seconds": lane.seconds,
        "speedup": lane.speedup,
        "speedup_range": lane.speedup_range,
        "calls": lane.calls,
        "cache_bytes": lane.cache_bytes,
        "scores": {m: {"mean": lane.mean(m), "worst": (lane.worst(m) or (None,))[0]} for m in ("psnr", "ssim")},
    }


def save(result: Comparison, names: dict[str, str], model: str, out: Path) -> None:
    """Write the numbers and the charts."""
    rows = [row(names[lane.name], lane) for lane in result.variants]
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": result.environment,
        "settings": result.settings,
        "baseline_seconds": result.baseline.seconds,
        "lanes": rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"caching-{model}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for metric, unit in (("psnr", "PSNR to the 28-step picture, dB, mean"), ("ssim", "SSIM, mean")):
        series: dict[str, list[Spot]] = {}
        for lane in result.variants:
            if (mean := lane.mean(metric)) is not None:
                series.setdefault(names[lane.name], []).append(Spot(lane.median, mean))
        title = f"{model}, {STEPS} steps: seconds against {metric.upper()}"
        drawn = chart(series, title=title, x="seconds a picture, median", y=unit)
        (out / f"caching-{model}-{metric}.svg").write_text(drawn, encoding="utf-8")


def main() -> None:
    """Run the comparison and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket-dit")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    pipe = load(arguments.model)
    found = lines(pipe, arguments.model)
    names = {recipe.title or str(recipe): line for line, recipes in found.items() for recipe in recipes}
    result = compare(
        pipe, [recipe for recipes in found.values() for recipe in recipes],
        prompts=prompts(arguments.prompts, "caching benchmark"), steps=STEPS, repeats=arguments.repeats,
        metrics=("psnr", "ssim"), control=False, memory=False,
    )  # fmt: skip
    print(result.table())
    save(result, names, arguments.model, arguments.out)


if __name__ == "__main__":
    main()
