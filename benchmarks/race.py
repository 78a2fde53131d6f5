"""What benchmarks share that race many settings against each other: the race, the result file, the charts."""

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from deadheat.measure import Comparison, Event, Lane, Spot, chart, compare, frechet
from deadheat.measure.adherence import look
from deadheat.presets import Recipe

from training.denoisers import prompts

from .truth import rendered

STEPS = 28
SCENES = 512  # true ones, for the Fréchet distance
FEWEST = 16  # pictures that have such a distance
CONTROL = "plain fewer steps"
UNITS = {
    "psnr": "PSNR to the 28-step picture, dB, mean",
    "ssim": "SSIM to the 28-step picture, mean",
    "adherence": "share of the prompt that is in the picture, mean",
}


def parser(description: str | None, repeats: int = 5) -> argparse.ArgumentParser:
    """Return the command line that all of them have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", nargs="?", default="pocket-dit")
    made.add_argument("--prompts", type=int, default=32)
    made.add_argument("--repeats", type=int, default=repeats)
    made.add_argument("--lanes", nargs="+", help="only these of its recipes")
    made.add_argument("--name", help="of the result files, instead of the benchmark's own")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return made


def fewer(steps: Sequence[int]) -> list[Recipe]:
    """Return the control: plainly fewer steps."""
    return [Recipe.parse(f"fewer-steps:steps={count}") for count in steps]


def race(
    pipe: Any, lines: Mapping[str, Sequence[Recipe]], arguments: argparse.Namespace, kind: str, **options: Any
) -> Comparison:
    """Run all settings of all lines interleaved on held-out prompts, print the table, write numbers and charts.

    Args:
        pipe: the pipeline.
        lines: name of a line of the chart -> its settings.
        arguments: of the command line.
        kind: what is raced; names the files and chooses the prompts.
        options: for ``compare``.
    """
    threads = torch.get_num_threads()
    if arguments.lanes:
        known = {name for recipes in lines.values() for r in recipes for name in (r.title, str(r)) if name}
        if unknown := [name for name in arguments.lanes if name not in known]:
            raise SystemExit(f"--lanes has {unknown[0]!r}, which is none of: {', '.join(sorted(known))}")
        if not arguments.name:
            raise SystemExit("--lanes needs --name: a part of the lanes would replace the file of all of them")
        lines = {
            line: [r for r in recipes if {r.title, str(r)} & {*arguments.lanes}] for line, recipes in lines.items()
        }
    names = {recipe.title or str(recipe): line for line, recipes in lines.items() for recipe in recipes}
    result = compare(
        pipe, [recipe for recipes in lines.values() for recipe in recipes],
        prompts=prompts(arguments.prompts, f"{kind} benchmark"), steps=STEPS, repeats=arguments.repeats,
        control=False, memory=False, watch=_Told(), **options,
    )  # fmt: skip
    torch.set_num_threads(threads)
    result.environment["pipeline"]["threads"] = threads  # of all that was timed
    print(result.table())
    for lane, control in beaten(result, names).items():
        print(f"plainly fewer steps are better: {control} is faster than {lane}, and closer")
    write(result, names, arguments.out / (arguments.name or f"{kind}-{arguments.model}"))
    return result


def beaten(result: Comparison, names: Mapping[str, str]) -> dict[str, str]:
    """Return the lanes to which some control is superior in both, median seconds and mean PSNR, and the best such."""
    settings = [lane for lane in result.variants if names[lane.name] != CONTROL]
    return {lane.name: better.name for lane in settings if (better := result.better_control(lane)) is not None}


class _Told:
    """Says when another phase begins: once nothing is timed any more, the machine may do other things again.

    The pictures that nobody times are drawn on one thread: a second benchmark may have the other core.
    """

    def __init__(self) -> None:
        self.phase = ""

    def __call__(self, event: Event) -> None:
        if event.phase != self.phase:
            self.phase = event.phase
            print(f"{datetime.now(UTC):%H:%M:%S} {event.phase}", flush=True)
            if event.phase == "more prompts":
                torch.set_num_threads(1)


def write(result: Comparison, names: Mapping[str, str], stem: Path) -> None:
    """Write the numbers as ``STEM.json`` and a chart for every metric."""
    metrics = [metric for metric in result.settings["metrics"] if metric not in result.unavailable]
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": result.environment,
        "settings": result.settings,
        "baseline": row("baseline", result.baseline, metrics),
        "lanes": [row(names[lane.name], lane, metrics) for lane in result.variants],
    }
    record["plainly fewer steps are better"] = beaten(result, names)
    truth = look(rendered(SCENES)).features
    for kept, lane in zip([record["baseline"], *record["lanes"]], [result.baseline, *result.variants], strict=True):
        kept["frechet"] = None  # of a few pictures it would say nothing
        if len(lane.cells) >= FEWEST:
            kept["frechet"] = frechet(look(torch.stack([cell.picture for cell in lane.cells])).features, truth)
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for metric in metrics:
        series: dict[str, list[Spot]] = {}
        for lane in result.variants:
            if (mean := lane.mean(metric)) is not None:
                series.setdefault(names[lane.name], []).append(Spot(lane.median, mean))
        title = f"{result.settings['model']}, {STEPS} steps: seconds against {metric}"
        drawn = chart(series, title=title, x="seconds a picture, median", y=UNITS.get(metric, metric))
        stem.with_name(f"{stem.name}-{metric}.svg").write_text(drawn, encoding="utf-8")


def row(line: str, lane: Lane, metrics: Sequence[str]) -> dict[str, Any]:
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
        "scores": {m: {"mean": lane.mean(m), "worst": (lane.worst(m) or (None,))[0]} for m in metrics},
    }
