"""A finished edit as the page shows it: plain data. Knows no gradio."""

import math
from collections.abc import Mapping
from datetime import date
from statistics import median
from typing import Any

from .desks import Desk
from .edit_settings import EditSettings
from .progress import data_url
from .view import hardware_text, psnr_text
from .words import seconds_text, size_text

FILES = {"picture": "deadheat-picture.png", "painting": "deadheat-painting.png"}  # as edit.html saves them
NOTES = {
    "speed": "Median seconds of the dense edit over those of the sparse one, wall clock, measured in turns.",
    "active": "The part of the picture for which the network ran: the painting, grown a little, in whole cells. It "
    "runs less often than in the dense edit where a recipe skips steps.",
    "control": "The dense edit with as many steps as take as long as the sparse edit: what the same time buys without "
    "any accelerator.",
    "inside": "Closeness of the sparse edit to the dense one where it was painted: same seed, same prompt.",
    "outside": "Pixels outside the mask are put back from the picture before, in both edits.",
    "memory": "What every layer computed for the picture before, kept so that its edits need not compute it again.",
}


def edit_page(done: Any, settings: EditSettings, desk: Desk) -> dict[str, Any]:
    """Return a finished edit for the page."""
    from deadheat.pipelines import describe

    before = desk.past[-2] if len(desk.past) > 1 else desk.past[-1]
    return {
        "kind": "result",
        "badge": "measured just now",
        "about": about(done, settings),
        "key": settings.key(),
        "picture": desk.past[-1].url,
        "before": before.url,
        "painted": "",
        "painting": before.painted,
        "lanes": lanes(done),
        "cards": cards(done),
        "warnings": [{"text": text, "loud": False} for text in told(done)],
        "notes": notes(done, settings),
        "snippet": snippet(settings, describe(done.pipe)["system"]),
        **desk.state(),
    }


def recorded(page: dict[str, Any], painted: str) -> dict[str, Any]:
    """Return the page as a visitor finds it before the first edit: the picture before, with what is painted on it."""
    day = date.today()
    first = {"picture": page["before"], "before": "", "painted": painted, "painting": "", "desk": ""}
    first["history"] = page["history"][:1]
    return {**page, **first, "badge": f"recorded on {day.day} {day:%B %Y}", "key": None}


def about(done: Any, settings: EditSettings) -> str:
    """Say in a line what an edit was."""
    from deadheat.measure import environment

    edit = done.kept
    how = {"prompt": "new prompt", "inpaint": "from noise", "stroke": "strokes"}[edit.mode]
    where = hardware_text(environment(done.pipe))
    skips = f", steps skipped by {edit.recipe}" if edit.recipe else ""
    return (
        f"“{edit.prompt}” · {how}, strength {edit.strength:g}, {settings.steps} steps, "
        f"guidance {settings.guidance:g}, seed {settings.seed}{skips} · {settings.model} on {where}"
    )


def told(done: Any) -> list[str]:
    """Return the sentences that stand above the pictures."""
    reason = done.kept.reason
    why = [f"The dense edit ran, not the sparse one: {reason}"] if done.kept.lane == "dense" and reason else []
    return [*why, *done.kept.warnings, *(done.compared.warnings if done.compared else [])]


def lanes(done: Any) -> list[dict[str, Any]]:
    """Return the pictures side by side: dense, sparse, plainly fewer steps, and how the first two differ."""
    from deadheat.measure import difference

    if done.compared is None:
        edit = done.kept
        return [{"name": edit.lane, "said": seconds_text(edit.seconds), "picture": data_url(edit.image)}]
    dense, sparse, control = done.compared.dense, done.compared.sparse, done.compared.control
    fewer = [] if control is None else [(f"{done.compared.control_steps} steps", "control", control)]
    gap, scale = difference(sparse.image, dense.image)
    same = scale >= 1e5
    return [
        *(
            {"name": name, "said": _seconds(done, lane), "picture": data_url(edit.image)}
            for name, lane, edit in [("dense", "dense", dense), ("sparse", "sparse", sparse), *fewer]
        ),
        {
            "name": "difference" if same else f"difference x{scale:.3g}",
            "said": "none" if same else f"at most {1 / scale:.1%}",
            "picture": data_url(gap),
            "look": "dh-gap",
        },
    ]


def _seconds(done: Any, lane: str) -> str:
    return seconds_text(median(done.compared.seconds[lane]))


def cards(done: Any) -> list[dict[str, Any]]:
    """Return the numbers."""
    return [*_speed(done), _active(done), *_inside(done), *_control(done), _outside(done), _memory(done)]


def _card(label: str, value: str, said: list[str], about: str, tone: str = "") -> dict[str, Any]:
    return {"label": label, "value": value, "said": said, "help": about, "tone": tone}


def _speed(done: Any) -> list[dict[str, Any]]:
    found = done.compared
    if found is None:
        edit = done.kept
        said = ["one run, the dense edit was not timed"] if edit.lane == "sparse" else ["the dense edit"]
        return [_card("Seconds", seconds_text(edit.seconds), said, NOTES["speed"])]
    ratios = [d / s for d, s in zip(found.seconds["dense"], found.seconds["sparse"], strict=True)]
    rounds = len(ratios)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}x over {rounds} rounds" if rounds > 1 else "one round: no spread"
    said = [f"{_seconds(done, 'sparse')} instead of {_seconds(done, 'dense')}", spread]
    tone = "good" if found.speedup > 1.05 else "warn"
    return [_card("Speed-up, measured", f"{found.speedup:.2f}x", said, NOTES["speed"], tone)]


def _active(done: Any) -> dict[str, Any]:
    edit = done.kept
    said = [f"expected {edit.expected_speedup:.1f}x"] if edit.lane == "sparse" else []
    dense = f" instead of {done.compared.dense.calls}" if done.compared and edit.lane == "sparse" else ""
    said = [f"{edit.calls} network calls{dense}", *said]
    area = float(edit.mask.float().mean())
    return _card(
        "Computed", f"{edit.active:.1%}", [f"of the picture; {area:.1%} could change", *said], NOTES["active"]
    )


def _inside(done: Any) -> list[dict[str, Any]]:
    if done.compared is None:
        return []
    value = done.compared.inside
    tone = "good" if math.isinf(value) or value >= 30 else "warn"
    return [_card("Inside the mask", psnr_text(value), ["PSNR, sparse against dense"], NOTES["inside"], tone)]


def _control(done: Any) -> list[dict[str, Any]]:
    found = done.compared
    if found is None or found.control is None:
        return []
    said = [
        f"inside the mask, {found.control_steps} plain steps",
        f"{found.control_speedup:.2f}x, {_seconds(done, 'control')}",
    ]
    return [_card("Fewer steps instead", psnr_text(found.control_inside), said, NOTES["control"])]


def _outside(done: Any) -> dict[str, Any]:
    edit = done.kept
    untouched = bool(((edit.image == edit.base).all(0) | edit.mask).all())
    value = "untouched" if untouched else "changed"
    said = ["every pixel as it was" if untouched else "pixels outside the mask moved"]
    return _card("Outside the mask", value, said, NOTES["outside"], "good" if untouched else "warn")


def _memory(done: Any) -> dict[str, Any]:
    said = "recorded before"
    if done.recorded:
        said = f"recorded now, once, in {seconds_text(done.recorded)}"
    elif not done.kept.memory:
        said = "a dense edit keeps nothing"
    return _card("Memory kept", size_text(done.kept.memory), [said], NOTES["memory"])


def notes(done: Any, settings: EditSettings) -> list[str]:
    """Say how it was measured."""
    from deadheat.measure import DEFINITIONS

    edit = done.kept
    stages = ", ".join(f"{name} {seconds_text(value)}" for name, value in edit.stages.items() if value)
    timed = [
        f"Seconds: median of {settings.rounds} interleaved rounds after a warm-up, recording apart.",
        *(["Fewer than 5 rounds: take the speed-up as a first impression."] if settings.rounds < 5 else []),
    ]
    first = f"The first edit of a picture takes the recording beforehand: here {seconds_text(done.recorded)} more."
    return [
        *(timed if done.compared else []),
        *([first] if done.recorded else []),
        f"The last edit: {edit.calls} network calls; {stages}.",
        DEFINITIONS["psnr"],
    ]


def snippet(settings: EditSettings, system: Mapping[str, Any]) -> str:
    """Return code that makes the edit, from what the page can save, on the model with these switches."""
    from deadheat.measure import load_code

    stroke = settings.mode == "stroke"
    strokes = ['painted = Image.alpha_composite(picture.convert("RGBA"), painting).convert("RGB")']
    return "\n".join(
        [
            "from PIL import Image",
            "",
            "from deadheat import EditSession, load",
            "",
            f'picture = Image.open("{FILES["picture"]}").convert("RGB")  # Show before, Save picture',
            f'painting = Image.open("{FILES["painting"]}").convert("RGBA")  # Save painting',
            *(strokes if stroke else []),
            f"pipe = {load_code(settings.model, system)}",
            "session = EditSession(",
            f"    pipe, picture, prompt={settings.shows!r}, steps={settings.steps},",
            f"    guidance={settings.guidance:g}, seed={settings.seed}, recipe={settings.recipe!r},",
            ")",
            "edit = session.edit(",
            f'    painting.getchannel("A"), {settings.prompt!r},',
            f"    mode={settings.mode!r}, strength={settings.strength:g},",
            *(["    painted=painted,"] if stroke else []),
            ")  # edit.image; outside the mask it is the picture, bit for bit",
        ]
    )
