"""A comparison as text and as one self-contained page."""

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from .metrics import DEFINITIONS, difference
from .regions import data_uri, regions_html
from .result import Comparison, Lane

STYLE = Path(__file__).with_name("report.css")
KINDS = {"computed": "computed", "partial": "partial", "reused": "skipped", "extrapolated": "skipped"}
NUMBERS = {
    "seconds": "Seconds: median wall clock of one picture, text encoding and decoding included, all lanes interleaved "
    "in one process after a warm-up, device synchronised.",
    "speed-up": "Speed-up: median seconds of the baseline over median seconds of the lane; in brackets the smallest "
    "and largest round. Never a ratio of steps, calls or FLOPs.",
    "calls": "Calls: samples that went through the denoiser, counted; a guidance pair counts 2.",
    "memory": "Memory: most bytes of a run on top of what was there before, and how much of it accelerators hold.",
    "control": "Fewer-steps control: the plain pipeline at the number of steps whose seconds are closest to, not "
    "above, the variant's.",
}


def strip_kind(action: str) -> str:
    """Return how a step is drawn: computed, partial or skipped."""
    return KINDS[action]


def score_text(value: float | None, metric: str) -> str:
    """Write a score with its unit.

    >>> score_text(math.inf, "psnr"), score_text(41.26, "psnr"), score_text(None, "ssim")
    ('identical', '41.3 dB', '–')
    """
    if value is None:
        return "–"
    if math.isinf(value):
        return "identical"
    return {"psnr": f"{value:.1f} dB", "adherence": f"{value:.0%}", "clip": f"{value:.1f}"}.get(metric, f"{value:.3f}")


def bytes_text(count: int | None) -> str:
    """Write a number of bytes.

    >>> bytes_text(3 * 2**20), bytes_text(None)
    ('3.0 MiB', '–')
    """
    if count is None:
        return "–"
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def speedup_text(lane: Lane) -> str:
    """Write the speed-up with its spread."""
    if lane.role == "baseline" or lane.speedup is None:
        return "1.00×"
    low, high = lane.speedup_range or (lane.speedup, lane.speedup)
    return f"{lane.speedup:.2f}× ({low:.2f}–{high:.2f})"


def rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of the table, one row a lane."""
    metrics = comparison.settings["metrics"]
    heads = ["lane", "seconds", "speed-up", "calls"]
    heads += [head for m in metrics for head in ((f"{m} mean", "worst") if m != "adherence" else (m,))]
    heads += ["memory", "held"]
    made = []
    for lane in comparison.lanes:
        row = [
            lane.name if lane.role != "control" else f"  {lane.name}, plain",
            f"{lane.median:.3f}",
            speedup_text(lane),
        ]
        row.append(f"{lane.calls}/{comparison.baseline.calls}")
        for metric in metrics:
            worst = lane.worst(metric)
            row.append(score_text(lane.mean(metric), metric))
            if metric != "adherence":
                row.append(score_text(worst[0] if worst else None, metric))
        made.append([*row, bytes_text(lane.peak_bytes), bytes_text(lane.cache_bytes)])
    return heads, made


def text_table(comparison: Comparison) -> str:
    """Return the comparison as aligned text, with notes and warnings below."""
    lines = aligned(*rows(comparison))
    repeats, cells = comparison.settings["repeats"], len(comparison.baseline.cells)
    lines += [
        "",
        f"median of {repeats} interleaved rounds, {cells} prompt-and-seed pairs, {hardware_text(comparison)}",
    ]
    lines += [f"{metric}: not available: {why}" for metric, why in comparison.unavailable.items()]
    lines += [f"note: {text}" for text in ignored_text(comparison)]
    lines += [f"note: {lane.name}: {lane.note}" for lane in comparison.lanes if lane.note]
    lines += [f"WARNING: {lane.name}: {text}" for lane in comparison.lanes for text in warned(comparison, lane)]
    return "\n".join(lines)


def aligned(heads: list[str], body: list[list[str]]) -> list[str]:
    """Return the lines of a table, its first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [heads, *body]) for i in range(len(heads))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [heads, ["-" * w for w in widths], *body]
    ]


def ignored_text(comparison: Comparison) -> list[str]:
    """Say which words of the prompts the model does not know; empty if it knows all."""
    words = comparison.settings.get("ignored_words")
    return [f"{comparison.settings['model']} does not know, and ignores: {', '.join(words)}"] if words else []


def warned(comparison: Comparison, lane: Lane) -> list[str]:
    """Return what must be said beside a lane's numbers; of a variant also whether plainly fewer steps do better."""
    better = comparison.better_control(lane) if lane.role == "variant" else None
    if better is None:
        return lane.warnings
    apart = " instead of ".join(score_text(one.mean("psnr"), "psnr") for one in (better, lane))
    return [
        *lane.warnings,
        f"plainly fewer steps do better here: {better.name} took no longer, and is closer ({apart})",
    ]


def hardware_text(comparison: Comparison) -> str:
    """Say in one line on what it was measured."""
    hardware, pipe = comparison.environment["hardware"], comparison.environment["pipeline"]
    machine = hardware["gpu"] or f"{hardware['processor']}, {pipe['threads']} threads"
    return f"{machine}, {pipe['dtype']}"


def html_report(comparison: Comparison) -> str:
    """Return the comparison as one page that opens offline: pictures, styles and numbers are all inside."""
    s = comparison.settings
    head = (
        f"{s['model']}: {s['steps']} steps, guidance {s['guidance']}, {len(comparison.baseline.cells)} pictures a lane"
    )
    sections = "".join(_variant(comparison, lane) for lane in comparison.variants)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Deadheat: {escape(s["model"])}</title><style>{STYLE.read_text(encoding="utf-8")}</style></head><body><main>
<h1>Same picture, less time</h1><p class="sub">{escape(head)} · {escape(comparison.created)} ·
{escape(hardware_text(comparison))}</p>
{_warnings(comparison)}
{_table(comparison)}
{sections}
<h2>What the numbers mean</h2><ul>{items([*NUMBERS.values(), *(DEFINITIONS[m] for m in s["metrics"])])}
{items(f"{m}: not available: {why}" for m, why in comparison.unavailable.items())}
{items(ignored_text(comparison))}</ul>
<h2>Where it was measured</h2>{facts(comparison.environment, comparison.settings)}
</main></body></html>
"""


def items(texts: Iterable[str]) -> str:
    """Return texts as items of an HTML list."""
    return "".join(f"<li>{escape(text)}</li>" for text in texts)


def _warnings(comparison: Comparison) -> str:
    said = [
        f"{lane.name}: {text}"
        for lane in comparison.lanes
        for text in [*warned(comparison, lane), *([lane.note] if lane.note else [])]
    ]
    return f'<ul class="warn">{items(said)}</ul>' if said else ""


def _table(comparison: Comparison) -> str:
    heads, body = rows(comparison)
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    lines = "".join(
        f'<tr class="{lane.role}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for lane, row in zip(comparison.lanes, body, strict=True)
    )
    return f'<div class="wide"><table><tr>{top}</tr>{lines}</table></div>'


def _variant(comparison: Comparison, lane: Lane) -> str:
    control = comparison.control_for(lane)
    cells = range(len(lane.cells))
    worst = min(cells, key=lambda i: _or(lane.cells[i].scores.get("psnr"), math.inf))
    shown = [("first prompt", 0)] + ([("worst prompt", worst)] if worst else [])
    figures = "".join(_pictures(comparison, lane, control, label, at) for label, at in shown)
    stages = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in lane.stages.items())
    return f"""<section><h2>{escape(lane.name)}</h2><p class="sub">{escape(lane.recipe)} · {escape(speedup_text(lane))}
· {escape(stages)}</p>{figures}{_strip(lane)}
<details><summary>Code</summary><pre>{escape(comparison.snippet(lane))}</pre></details></section>"""


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _pictures(comparison: Comparison, lane: Lane, control: Lane | None, label: str, at: int) -> str:
    truth = comparison.baseline.cells[at]
    gap, scale = difference(lane.cells[at].picture, truth.picture)
    shown = [("as it is", truth.picture), (lane.name, lane.cells[at].picture)]
    shown += [(f"difference ×{scale:.1f}" if gap.max() > 0 else "no difference", gap)]
    shown += [(f"{control.name}, plain", control.cells[at].picture)] if control else []
    figures = "".join(
        f'<figure><img src="{data_uri(picture)}" alt="{escape(name)}"><figcaption>{escape(name)}</figcaption></figure>'
        for name, picture in shown
    )
    score = ", ".join(f"{m} {score_text(v, m)}" for m, v in lane.cells[at].scores.items())
    said = f"<b>{label}</b>: “{escape(truth.prompt)}”, seed {truth.seed} · {escape(score)}"
    return f'<p>{said}</p><div class="row">{figures}</div>'


def _strip(lane: Lane) -> str:
    cells = "".join(
        f'<i class="{KINDS[s["action"]]}" title="step {s["index"] + 1}: {s["action"]}'
        f'{escape(", " + s["reason"]) if s["reason"] else ""}; {s["calls"]} of {s["asked"]} calls"></i>'
        for s in lane.steps
    )
    counts = {a: sum(s["action"] == a for s in lane.steps) for a in KINDS}
    legend = " ".join(f'<span class="{KINDS[a]}">{n} {a}</span>' for a, n in counts.items() if n)
    legend += f"<span>{lane.calls} of {lane.asked} calls</span>"
    return f'<div class="legend">{legend}</div><div class="strip">{cells}</div>{regions_html(lane.steps)}'


def facts(environment: dict[str, Any], settings: dict[str, Any]) -> str:
    """Return hardware, versions, pipeline, switches and seeds as an HTML table."""
    shown = {**environment["hardware"], **environment["versions"]}
    shown |= {k: v for k, v in environment["pipeline"].items() if k != "system"}
    shown |= environment["pipeline"]["system"]
    shown |= {"prompts": len(settings["prompts"]), "seeds": settings["seeds"]}
    rows_ = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in shown.items())
    return f'<div class="wide"><table class="facts">{rows_}</table></div>'
