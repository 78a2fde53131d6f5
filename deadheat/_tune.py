"""``deadheat tune``: the fastest setting that holds a quality, or the best within a time."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ._arguments import load_model, new_preset, prompts_of, show, size_of, takes_model


def takes_search(parser: argparse.ArgumentParser) -> None:
    """Take a model and what is wanted of it."""
    takes_model(parser)
    parser.add_argument("--floor", action="append", help="quality to hold in the mean, as psnr=30; adherence=-1: at "
                        "most 1 point (percent) below the baseline's own; again for more")  # fmt: skip
    parser.add_argument("--budget", help="seconds that a picture may take, as 2.5s")
    parser.add_argument("--prompt", action="append", help="what to draw; again for more (default: a mix)")
    parser.add_argument("--prompts", "--prompts-file", dest="prompts_file", help="a text file, one prompt a line; "
                        "of 12 or more, half are held out")  # fmt: skip
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's own)")
    parser.add_argument("--negative", help="what not to draw")
    parser.add_argument("--size", help="WIDTHxHEIGHT in pixels (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    parser.add_argument("--time", default="10min", help="when the best so far is the answer (default 10min)")
    parser.add_argument("--out", help="the preset's file (default: MODEL-tuned.toml)")


def tune_command(arguments: argparse.Namespace) -> int:
    """Search, write the preset, and say what was found."""
    from .measure import tune
    from .measure.goal import Goal, check_limit, read_floor, read_seconds
    from .pipelines import check_name

    check_name(arguments.model)
    floor = read_floor(arguments.floor or [])
    budget = read_seconds(arguments.budget) if arguments.budget else None
    limit = read_seconds(arguments.time)
    Goal(floor, budget)  # a slip should not cost a download
    check_limit(limit)
    own = arguments.prompt or arguments.prompts_file
    prompts, size, out = prompts_of(arguments, None) if own else None, size_of(arguments.size), _preset(arguments)
    found = tune(
        load_model(arguments), floor=floor, budget=budget, prompts=prompts, steps=arguments.steps, limit=limit,
        guidance=arguments.guidance, negative=arguments.negative, size=size, seed=arguments.seed,
        watch=_progress(arguments),
    )  # fmt: skip
    saved = found.save(out).absolute() if found.best else None
    text = f"{found.text()}\n\n{found.snippet()}" + (f"\npreset: {saved}" if saved else "")
    data = {**found.to_dict(), "snippet": found.snippet(), "preset": str(saved) if saved else None}
    show(arguments, data, text)
    return 1 if found.stopped == "it was stopped" else 0


def _preset(arguments: argparse.Namespace) -> Path:
    return new_preset(arguments.out or f"{Path(arguments.model).name}-tuned.toml")


def _progress(arguments: argparse.Namespace) -> Callable[[str, float], None]:
    """Return a watcher that keeps one line on a terminal."""
    shown = sys.stderr.isatty() and not arguments.json

    def watch(text: str, over: float) -> None:
        if shown:
            sys.stderr.write(f"\r\033[K{over:4.0%} {text[:90]}")
            sys.stderr.flush()

    return watch
