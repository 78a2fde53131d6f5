"""Records what a visitor finds before the first run of their own.

``python -m deadheat.ui.record`` is the comparison of the Compare page, ``python -m deadheat.ui.record explore`` the
sweep of the Explore page, which goes on where it was stopped; ``readme`` the picture at the top of the README.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import jobs
from .pictures import data_url
from .settings import Settings
from .view import recorded

ASSETS = Path(__file__).parent.parent / "assets" / "recorded"
SETTINGS = Settings("a fox above a mushroom on a striped teal background", repeats=5)
PROMPTS = (
    "a fox above a mushroom on a striped teal background",
    "a large panda on a gradient green background",
    "a rocket left of a house on a gradient pink background",
    "a penguin right of a tree on a striped blue background",
)
RECIPES = (
    "ab-cache:every=2..4",
    "easy-cache",
    "sada",
    "auto-9",
    "auto-13",
    "auto-16",
    "teacache:threshold=0.1|0.2",
    "magcache-13",
    "first-block-cache:threshold=0.1|0.2",
    "sea-cache",
    "layer-cache:every=2",
    "taylor-seer",
    "pyramid-attention-broadcast",
    "faster-cache",
    "token-merging",
    "region-adaptive",
    "guidance-interval:start=0,stop=0.8",
    "guidance-cutoff",
    "guidance-cache",
    "guidance-adapter",
    "guidance-adapter + ab-cache:every=2",
    "adaptive-guidance",
    "bottleneck",
    "progressive-resolution",
    "guidance-interval:start=0,stop=0.8 + ab-cache:every=2..4",
    "guidance-interval:start=0,stop=0.8 + first-block-cache:threshold=0.2",
    "guidance-interval:start=0,stop=0.8 + teacache:threshold=0.2",
)


def record_comparison() -> None:
    """Run the comparison as the page would, and write it with what the page shows of it.

    The page reads ``page.json`` alone: it stands there before torch is imported.
    """
    job = jobs.Job(SETTINGS)
    for _ in job.news():
        pass
    folder = ASSETS / "compare"
    shown = recorded(job.page(), job.result)
    job.result.save(folder)
    (folder / "report.html").unlink(missing_ok=True)  # anybody can make it again: deadheat report
    _write(folder, shown)


def record_sweep(rounds: int, prompts: int, work: Path) -> None:
    """Measure the sweep of the Explore page in a folder of its own, and write what the page shows of it."""
    from deadheat.measure import sweep
    from deadheat.measure.explore import explore_sweep

    from deadheat import load

    def watch(progress: Any) -> None:
        left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
        print(f"\r\033[K{progress.done} of {progress.total} cells{left}", end="", file=sys.stderr, flush=True)

    found = sweep(load("pocket-dit"), list(RECIPES), prompts=PROMPTS[:prompts], out=work, repeats=rounds, watch=watch)
    page = explore_sweep(found, lambda file: data_url(work / file))
    folder = ASSETS / "explore"
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, {**page, "badge": page["badge"].replace("measured", "recorded")})


def record_strip(rounds: int) -> None:
    """Draw the README's picture: as it is, accelerated, their difference, and plainly fewer steps of the same time."""
    from deadheat.measure import compare
    from deadheat.measure.result import to_image
    from deadheat.presets import presets
    from PIL import Image, ImageDraw, ImageFont

    from deadheat import load

    ours: Any = presets("pocket-dit")["balanced"].accelerators[0]
    steps = len(ours.computed(SETTINGS.steps))
    recipes = ["balanced", f"fewer-steps:steps={steps}"]
    found = compare(load("pocket-dit"), recipes, prompts=PROMPTS[:1], repeats=rounds, control=False, memory=False)
    plain, quick, fewer = found.baseline, *found.variants
    pictures = [lane.cells[0].picture for lane in (plain, quick, fewer)]
    apart = (pictures[1] - pictures[0]).abs()
    gain = 1 / max(float(apart.max()), 1e-6)
    shown = [pictures[0], pictures[1], apart * gain, pictures[2]]
    said = [
        f"as it is: {plain.median:.2f} s", f"balanced, {quick.calls} of {plain.calls} calls: {quick.median:.2f} s",
        f"their difference x{gain:.0f}", f"plain, {steps} steps: {fewer.median:.2f} s",
    ]  # fmt: skip
    side, gap = 256, 8
    strip = Image.new("RGB", (len(shown) * (side + gap) + gap, side + 44), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=15)
    for nth, (picture, text) in enumerate(zip(shown, said, strict=True)):
        left = gap + nth * (side + gap)
        strip.paste(to_image(picture).resize((side, side), Image.Resampling.BICUBIC), (left, gap))
        draw.text((left, side + 14), text, fill="#1f2937", font=font)
    strip.save(ASSETS / "readme.png", optimize=True)


def _write(folder: Path, page: dict[str, Any]) -> None:
    (folder / "page.json").write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Record one of them."""
    parser = argparse.ArgumentParser(prog="python -m deadheat.ui.record")
    parser.add_argument("what", nargs="?", choices=["compare", "explore", "readme"], default="compare")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of the sweep")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of its prompts")
    parser.add_argument("--work", type=Path, default=Path("out/explore"), help="where the sweep itself is kept")
    given = parser.parse_args(arguments)
    if given.what == "compare":
        record_comparison()
    elif given.what == "readme":
        record_strip(given.rounds)
    else:
        record_sweep(given.rounds, given.prompts, given.work)


if __name__ == "__main__":
    main()
