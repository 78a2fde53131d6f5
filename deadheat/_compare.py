"""``deadheat compare``: a model as it is and accelerated, both measured."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._arguments import METRICS, load_model, prompts_of, show, size_of, takes_model, whole


def compare_command(arguments: argparse.Namespace) -> None:
    """Run a model as it is and accelerated, and measure both."""
    from .measure import check_inputs, compare, writable
    from .pipelines import check_name, known_model

    check_name(arguments.model)
    model = known_model(arguments.model)
    prompts = prompts_of(arguments, model)
    steps = arguments.steps if arguments.steps is not None else (model.steps if model else 28)
    seeds = [whole("--seeds", text) for text in arguments.seeds.split(",")]
    size = size_of(arguments.size)
    check_inputs(prompts, seeds, steps=steps, repeats=arguments.repeats, size=size, guidance=arguments.guidance,
                 metrics=arguments.metrics.split(","))  # fmt: skip
    out = writable(arguments.out) if arguments.out else None
    recipes = _recipes(arguments)
    pipe = load_model(arguments)
    result = compare(
        pipe, recipes, prompts=prompts, seeds=seeds, steps=steps, guidance=arguments.guidance,
        negative=arguments.negative, size=size, repeats=arguments.repeats, metrics=arguments.metrics.split(","),
        control=not arguments.no_control, memory=not arguments.no_memory, watch=_progress(arguments),
        baselines=None if arguments.no_cache else _cache_folder(),
    )  # fmt: skip
    saved = result.save(out) if out else None
    text = result.table() + (f"\n\nreport: {saved / 'report.html'}" if saved else "")
    show(arguments, {**result.to_dict(), "folder": str(saved) if saved else None}, text)


def _recipes(arguments: argparse.Namespace) -> list[Any]:
    """Read what can be read before a model loads: a mistyped recipe should not cost a download."""
    from .presets import Recipe, presets

    known = presets(arguments.model)  # what such a name means, the loaded model's family decides
    return [text if text in known else Recipe.of(text) for text in arguments.recipe or ["ab-cache"]]


def _progress(arguments: argparse.Namespace) -> Callable[[Any], None]:
    """Return a watcher that draws one line on the terminal; the same work on every side of the comparison."""
    shown = sys.stderr.isatty() and not arguments.json

    def watch(event: Any) -> None:
        if shown and event.step in (1, event.steps):
            text = f"{event.phase} {event.round}/{event.rounds}: {event.lane}"
            end = "\n" if event.phase == "memory" and event.round == event.rounds and event.step > 1 else ""
            sys.stderr.write(f"\r\033[K{text[:100]}{end}")
            sys.stderr.flush()

    return watch


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deadheat" / "baselines"


def takes_comparison(parser: argparse.ArgumentParser) -> None:
    """Take a model, recipes, and what to draw."""
    takes_model(parser)
    parser.add_argument("--recipe", action="append", help='accelerators: "ab-cache:every=3 + guidance-interval", a '
                        "preset's name or a TOML path; again for more lanes (default ab-cache)")  # fmt: skip
    parser.add_argument("--prompt", action="append", help="what to draw; again for more (default: the model's own)")
    parser.add_argument("--prompts-file", help="a text file, one prompt a line")
    parser.add_argument("--negative", help="what not to draw")
    parser.add_argument("--seeds", default="0", help="seeds, such as 0,1,2 (default 0)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's own)")
    parser.add_argument("--size", help="WIDTHxHEIGHT in pixels (default: the model's own)")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--metrics", default="psnr,ssim,adherence", help=METRICS)
    parser.add_argument("--out", help="folder for pictures, result.json and report.html")
    parser.add_argument("--no-control", action="store_true", help="leave out the fewer-steps control")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--no-cache", action="store_true", help="do not keep the baseline's pictures for later")
