"""A sweep as text and as one self-contained page."""

import base64
import io
import math
from html import escape
from pathlib import Path

from PIL import Image

from ..accelerators import recipe_parts
from ..pipelines import ignored_words
from .cells import Sweep
from .chart import Spot, chart
from .metrics import DEFINITIONS, LESS_IS_BETTER
from .points import Point, SweepCell
from .report import STYLE, aligned, facts, items, score_text

MOST_ROWS, MOST_COLUMNS, LARGEST = 60, 4, 256  # of the grid of pictures, and of a picture in it, in pixels
NUMBERS = (
    "Cell: one recipe with one prompt, seed and number of steps.",
    "Seconds: median wall clock of one picture, text encoding and decoding included, after a warm-up, device "
    "synchronised; over several cells the median of their medians.",
    "Speed-up: median seconds of the baseline over median seconds of the cell, from rounds in which both ran by turns "
    "in one process; over several cells the median, in brackets the worst and the best cell. Never a ratio of steps, "
    "calls or FLOPs.",
    "Calls: samples that went through the denoiser, counted, and the baseline's; a guidance pair counts 2; mean over "
    "the cells.",
    "Mean and worst: over all prompts and seeds. Same: pictures identical to the baseline's, bit for bit; in a mean "
    "of PSNR they count as 100 dB.",
    "Baseline: the untouched pipeline with the same prompt, seed and steps. Plain: the untouched pipeline with fewer "
    "steps, the control that every recipe has to beat.",
    "In the charts, bars reach from the fastest to the slowest cell, and from the mean to the worst cell; points on "
    "the upper edge are identical to the baseline.",
)


def sweep_table(sweep: Sweep) -> str:
    """Return the points of a sweep as aligned text, with failures and warnings below."""
    lines = aligned(*_rows(sweep))
    failed = sum(cell.error is not None for cell in sweep.cells)
    lines += ["", f"{len(sweep.cells)} of {sweep.planned} cells, {failed} failed; {sweep.settings['repeats']} "
              f"interleaved rounds each; {'; '.join(_machines(sweep))}"]  # fmt: skip
    lines += [f"{metric}: not available: {why}" for metric, why in sweep.unavailable.items()]
    points = sweep.points(sweep.settings["metrics"][0])
    lines += [f"FAILED: {text}" for text in _grouped(sweep, points, "errors")]
    lines += [f"WARNING: {text}" for text in _grouped(sweep, points, "warnings")]
    return "\n".join(lines)


def sweep_html(sweep: Sweep) -> str:
    """Return a sweep as one page that opens offline: charts, pictures, styles and numbers are all inside."""
    s = sweep.settings
    steps = ", ".join(map(str, s["steps"]))
    head = f"{sweep.model}: {steps} steps, guidance {s['guidance']}, {len(sweep.cells)} of {sweep.planned} cells"
    metrics = [metric for metric in s["metrics"] if metric not in sweep.unavailable]
    charts = "".join(_chart(sweep, metric, count) for count in s["steps"] for metric in metrics)
    missing = [f"{metric}: not available: {why}" for metric, why in sweep.unavailable.items()]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Deadheat: {escape(sweep.model)}</title><style>{STYLE.read_text(encoding="utf-8")}</style></head><body><main>
<h1>Same picture, less time</h1><p class="sub">{escape(head)} · {escape(sweep.created)} ·
{escape("; ".join(_machines(sweep)))}</p>
{_said(sweep)}
{charts}
{_table(sweep)}
{_grid(sweep)}
<h2>What the numbers mean</h2><ul>{items([*NUMBERS, *(DEFINITIONS[m] for m in s["metrics"]), *missing])}</ul>
<h2>Where it was measured</h2>{facts(sweep.environment, s)}
</main></body></html>
"""


def _rows(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of the table, one row a recipe and number of steps."""
    metrics = sweep.settings["metrics"]
    heads = ["recipe", "steps", "seconds", "speed-up", "calls"]
    heads += [head for metric in metrics for head in (f"{metric} mean", "worst")] + ["same", "cells", "failed"]
    by_metric = [sweep.points(metric) for metric in metrics]
    whole = {p.steps: p.calls for p in by_metric[0] if p.role == "baseline"}
    made = []
    for row in zip(*by_metric, strict=True):
        p = row[0]
        scores = [score_text(value, m) for m, q in zip(metrics, row, strict=True) for value in (q.mean, q.worst)]
        seconds = f"{p.seconds:.3f}" if p.seconds is not None else "–"
        calls = f"{p.calls:.4g}/{whole.get(p.steps, p.asked):.4g}" if p.cells else "–"
        counts = [str(p.identical), str(p.cells), str(p.failed)]
        made.append([_name(sweep, p), str(p.steps), seconds, _speedup(p), calls, *scores, *counts])
    return heads, made


def _grouped(sweep: Sweep, points: list[Point], what: str) -> list[str]:
    """Return each sentence once, with the recipes that it is about."""
    found: dict[str, list[str]] = {}
    for p in points:
        for sentence in getattr(p, what):
            found.setdefault(sentence, []).append(_name(sweep, p))
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {sentence}"
        for sentence, names in found.items()
    ]


def _name(sweep: Sweep, p: Point) -> str:
    if p.role == "baseline":
        return "baseline"
    return f"plain, {p.recipe.partition('=')[2]} steps" if p.role == "control" else sweep.title(p.recipe)


def _speedup(p: Point) -> str:
    if p.speedup is None:
        return "–"
    return f"{p.speedup:.2f}× ({p.speedup_low:.2f}–{p.speedup_high:.2f})" if p.role != "baseline" else "1.00×"


def _machines(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys(cell.machine for cell in sweep.cells if cell.machine))


def _said(sweep: Sweep) -> str:
    """Return what the reader must know before any number, as HTML."""
    texts = [] if sweep.finished else [f"not finished: {len(sweep.cells)} of {sweep.planned} cells are there"]
    words = ignored_words(sweep.model, [*sweep.settings["prompts"], sweep.settings.get("negative") or ""])
    texts += [f"{sweep.model} does not know, and ignores: {', '.join(words)}"] if words else []
    if len(_machines(sweep)) > 1 or any("workers" in machine for machine in _machines(sweep)):
        texts.append("cells ran beside each other or on several machines: compare speed-ups rather than seconds")
    points = sweep.points(sweep.settings["metrics"][0])
    texts += [f"failed: {text}" for text in _grouped(sweep, points, "errors")]
    texts += _grouped(sweep, points, "warnings")
    return f'<ul class="warn">{items(texts)}</ul>' if texts else ""


def _chart(sweep: Sweep, metric: str, steps: int) -> str:
    """Return seconds against one metric, a line a method, with plainly fewer steps beside them."""
    series: dict[str, list[Spot]] = {}
    for p in sweep.points(metric):
        if p.steps != steps or p.seconds is None or p.mean is None:
            continue
        method = " + ".join(part.partition(":")[0] for part in recipe_parts(p.recipe))
        name = {"baseline": "baseline", "control": "plain, fewer steps"}.get(p.role, method)
        low, high = p.seconds_low or p.seconds, p.seconds_high or p.seconds
        worst = p.mean if p.worst is None or math.isinf(p.mean) else p.worst
        said = f"{_name(sweep, p)}: {p.seconds:.3f} s, {metric} {score_text(p.mean, metric)}"
        series.setdefault(name, []).append(Spot(p.seconds, p.mean, (low, high), (worst, p.mean), said))
    if not series:
        return ""
    unit = f"{metric.upper()}, mean" + (", dB" if metric == "psnr" else "")
    less = metric in LESS_IS_BETTER
    title = f"{sweep.model}, {steps} steps: seconds against {metric.upper()}"
    return f'<div class="wide">{chart(series, title=title, x="seconds a picture, median", y=unit, less=less)}</div>'


def _table(sweep: Sweep) -> str:
    heads, body = _rows(sweep)
    roles = [p.role for p in sweep.points()]
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    lines = "".join(
        f'<tr class="{role}">' + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>"
        for role, row in zip(roles, body, strict=True)
    )
    return f'<div class="wide"><table><tr>{top}</tr>{lines}</table></div>'


def _grid(sweep: Sweep) -> str:
    """Return the pictures, a row a recipe, a column a prompt and seed; the same columns in every row."""
    s = sweep.settings
    pairs = [(prompt, seed) for prompt in s["prompts"] for seed in s["seeds"]][:MOST_COLUMNS]
    drawn = {(c.recipe, c.steps, c.prompt, c.seed): c for c in sweep.cells if c.picture is not None}
    points = [p for p in sweep.points(s["metrics"][0]) if p.cells]
    rows = "".join(
        f"<h3>{escape(_name(sweep, p))}, {p.steps} steps</h3>"
        f'<div class="row">{"".join(_figure(sweep, drawn.get((p.recipe, p.steps, *pair))) for pair in pairs)}</div>'
        for p in points[:MOST_ROWS]
    )
    notes = [f"shown with at most {LARGEST} pixels; in full they lie in {sweep.folder.name}/pictures"]
    notes += [f"{len(points) - MOST_ROWS} more recipes are left out here"] if len(points) > MOST_ROWS else []
    prompts = "; ".join(f"“{prompt}”, seed {seed}" for prompt, seed in pairs)
    return f'<h2>Pictures</h2><p class="sub">{escape(prompts)} · {escape(", ".join(notes))}</p>{rows}'


def _figure(sweep: Sweep, cell: SweepCell | None) -> str:
    if cell is None or cell.picture is None:
        return "<figure><figcaption>not there</figcaption></figure>"
    scores = ", ".join(f"{m} {score_text(v, m)}" for m, v in cell.scores.items())
    said = f"{cell.median:.3f} s, {cell.speedup:.2f}×, {cell.calls} of {cell.asked} calls; {scores}"
    alt = escape(f"{cell.recipe}: {cell.prompt}")
    try:
        picture = _small(sweep.folder / cell.picture)
    except OSError:  # the file came without its pictures, or they are damaged
        return f"<figure><figcaption>picture missing · {escape(said)}</figcaption></figure>"
    return f'<figure><img src="{picture}" alt="{alt}"><figcaption>{escape(said)}</figcaption></figure>'


def _small(path: Path) -> str:
    """Return a picture as a URI: as it is if it is small, else shrunk and as JPEG."""
    with Image.open(path) as image:
        small = max(image.size) <= LARGEST
        image.thumbnail((LARGEST, LARGEST))
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG" if small else "JPEG", quality=90)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
