"""A finished comparison as the page shows it: plain data. Knows no gradio."""

import math
from datetime import datetime
from textwrap import shorten
from typing import Any

from .progress import data_url
from .settings import Settings
from .words import NOTES, range_text, seconds_text, size_text, spread_text


def result_page(comparison: Any, settings: Settings, pictures: dict[str, dict[int, str]]) -> dict[str, Any]:
    """Return a finished comparison for the page."""
    from deadheat.measure.report import warned

    base, fast = comparison.baseline, comparison.variants[0]
    control = comparison.control_for(fast)
    height, width = base.cells[0].picture.shape[-2:]
    return {
        "kind": "result",
        "badge": "measured just now",
        "about": about(comparison, fast),
        "key": settings.key(),
        "aspect": f"{width} / {height}",
        "base": data_url(base.cells[0].picture),
        "fast": data_url(fast.cells[0].picture),
        "warnings": [
            {"text": text, "loud": text.startswith("nothing was skipped")} for text in warned(comparison, fast)
        ],
        "cards": _cards(comparison, base, fast, control),
        "small": [_difference(base, fast), *_control(control)],
        "steps": _steps(fast, pictures),
        "calls": f"{fast.calls} of {fast.asked} network calls",
        "table": _table(comparison),
        "notes": _notes(comparison),
        "snippet": comparison.snippet(fast),
    }


def recorded(page: dict[str, Any], comparison: Any) -> dict[str, Any]:
    """Mark a page as recorded, with its date; it belongs to no setting of this session."""
    day = datetime.fromisoformat(comparison.created)
    return {**page, "badge": f"recorded on {day.day} {day:%B %Y}", "key": None}


def about(comparison: Any, lane: Any) -> str:
    """Say in a line what a comparison was."""
    s, cell = comparison.settings, lane.cells[0]
    recipe = shorten(lane.name, 80, placeholder=" …")  # calibrated weights fill lines
    what = f"“{cell.prompt}” · {recipe} · {s['steps']} steps, guidance {s['guidance']:g}, seed {cell.seed}"
    return f"{what} · {s['model']} on {hardware_text(comparison.environment)}"


def hardware_text(environment: dict[str, Any]) -> str:
    """Name the hardware in a few words."""
    hardware, pipeline = environment["hardware"], environment["pipeline"]
    return hardware["gpu"] or f"{hardware['processor']}, {threads_text(pipeline['threads'])}"


def threads_text(count: int) -> str:
    """Say a number of threads."""
    return f"{count} thread{'s' * (count > 1)}"


def psnr_text(value: float | None) -> str:
    """Write a PSNR.

    >>> psnr_text(float("inf")), psnr_text(31.25), psnr_text(None)
    ('identical', '31.2 dB', '-')
    """
    if value is None:
        return "-"
    return "identical" if math.isinf(value) else f"{value:.1f} dB"


def _card(label: str, value: str, said: list[str], about: str = "", tone: str = "") -> dict[str, Any]:
    return {"label": label, "value": value, "said": said, "help": about, "tone": tone}


def _cards(comparison: Any, base: Any, fast: Any, control: Any) -> list[dict[str, Any]]:
    calls = _card("Network calls", f"{fast.calls} of {fast.asked}", ["counted, not estimated"], NOTES["calls"])
    same, good = _same(fast, control), _good(comparison, base, fast)
    return [_speed(base, fast), same, good, calls, _memory(base, fast)]


def _speed(base: Any, fast: Any) -> dict[str, Any]:
    said = [f"{seconds_text(fast.median)} instead of {seconds_text(base.median)}", spread_text(fast)]
    tone = "good" if fast.speedup > 1.05 else "warn"
    return _card("Speed-up, measured", f"{fast.speedup:.2f}x", said, NOTES["speed"], tone)


def _same(fast: Any, control: Any) -> dict[str, Any]:
    found, plain, tone = fast.mean("psnr"), None, ""
    said = [f"PSNR to the baseline; SSIM {fast.mean('ssim'):.3f}"]
    if control is not None:
        plain = control.mean("psnr")
        said.append(f"plainly fewer steps: {psnr_text(plain)}")
        tone = "good" if found > plain else "warn"
    return _card("Same picture?", psnr_text(found), said, NOTES["psnr"], tone)


def _good(comparison: Any, base: Any, fast: Any) -> dict[str, Any]:
    score, plain = fast.mean("adherence"), base.mean("adherence")
    if score is None or plain is None:
        why = comparison.unavailable.get("adherence", "the prompt names nothing that the detector knows")
        return _card("Good picture?", "-", [f"not scored: {why}"], NOTES["adherence"])
    said = [f"of the prompt found; baseline {plain:.0%}", "one picture: a rough check"]
    return _card("Good picture?", f"{score:.0%}", said, NOTES["adherence"], "warn" if score < plain - 0.01 else "")


def _memory(base: Any, fast: Any) -> dict[str, Any]:
    held = f"the accelerator holds {size_text(fast.cache_bytes)}"
    if fast.peak_bytes is None or base.peak_bytes is None:
        return _card("Extra memory", size_text(fast.cache_bytes, signed=True), [held], NOTES["memory"])
    extra = size_text(fast.peak_bytes - base.peak_bytes, signed=True)
    return _card("Extra memory", extra, [f"on a peak of {size_text(base.peak_bytes)}", held], NOTES["memory"])


def _difference(base: Any, fast: Any) -> dict[str, Any]:
    from deadheat.measure import difference

    gap, scale = difference(fast.cells[0].picture, base.cells[0].picture)
    title, said = f"Difference x{scale:.3g}", f"the strongest is {1 / scale:.1%} of the full range"
    if scale >= 1e5:
        title, said = "Difference: none", "the two are identical"
    return {"title": title, "said": said, "picture": data_url(gap), "look": "dh-gap"}


def _control(control: Any) -> list[dict[str, Any]]:
    if control is None:
        return []
    said = f"the same time on plainly fewer steps: {control.speedup:.2f}x, {psnr_text(control.mean('psnr'))}"
    return [{"title": f"Only {len(control.steps)} steps", "said": said, "picture": data_url(control.cells[0].picture)}]


def _steps(fast: Any, pictures: dict[str, dict[int, str]]) -> list[dict[str, Any]]:
    base, quick = pictures.get("baseline", {}), pictures.get("variant", {})
    return [
        {
            "action": step["action"],
            "reason": step["reason"],
            "calls": f"{step['calls']} of {step['asked']} calls",
            "sigma": f"noise level {step['sigma']:.3g}",
            "base": base.get(i, ""),
            "fast": quick.get(i, ""),
        }
        for i, step in enumerate(fast.steps)
    ]


def _table(comparison: Any) -> dict[str, Any]:
    head = ["", "speed-up", "seconds", "text · denoise · decode", "calls", "PSNR", "SSIM", "adherence", "peak memory"]
    return {"head": head, "rows": [_row(lane) for lane in comparison.lanes]}


def _row(lane: Any) -> list[str]:
    score, plain = lane.mean("adherence"), lane.role == "baseline"
    return [
        f"control: {lane.name}" if lane.role == "control" else lane.name,
        f"{lane.speedup:.2f}x",
        range_text(lane),
        " · ".join(f"{lane.stages[name]:.2f}" for name in ("text", "denoise", "decode")),
        f"{lane.calls} of {lane.asked}",
        "reference" if plain else psnr_text(lane.mean("psnr")),
        "reference" if plain else f"{lane.mean('ssim'):.4f}",
        "-" if score is None else f"{score:.0%}",
        "-" if lane.peak_bytes is None else size_text(lane.peak_bytes),
    ]


def _notes(comparison: Any) -> list[str]:
    from deadheat.measure import DEFINITIONS
    from deadheat.measure.report import ignored_text

    repeats = comparison.settings["repeats"]
    how = f"Seconds: median (smallest to largest) of {repeats} interleaved round{'s' * (repeats > 1)} after a warm-up."
    few = ["Fewer than 5 rounds: take the speed-up as a first impression."] if repeats < 5 else []
    versions = comparison.environment["versions"]
    stamp = f"{hardware_text(comparison.environment)}; torch {versions['torch']}, diffusers {versions['diffusers']}."
    measured = [DEFINITIONS[name] for name in comparison.settings["metrics"] if name not in comparison.unavailable]
    ignored = [f"{text}." for text in ignored_text(comparison)]
    return [how, *few, *ignored, *measured, *(f"{k}: {why}." for k, why in comparison.unavailable.items()), stamp]
