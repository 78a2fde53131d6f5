"""``deadheat sweep``: many recipes, prompts, seeds and numbers of steps; goes on where it stopped."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._arguments import METRICS, prompts_of, show, size_of, switches_of, takes_model


def takes_sweep(parser: argparse.ArgumentParser) -> None:
    """Take what a sweep needs."""
    takes_model(parser)
    parser.add_argument("--recipe", action="append", help="accelerators, in which a knob may have several values: "
                        '"ab-cache:every=2..5,order=1|2", "teacache:threshold=0.1..0.3/0.05"; '
                        "again for more")  # fmt: skip
    parser.add_argument("--prompt", action="append", help="what to draw; again for more (default: the model's own)")
    parser.add_argument("--prompts", "--prompts-file", dest="prompts_file", help="a text file, one prompt a line")
    parser.add_argument("--negative", help="what not to draw")
    parser.add_argument("--seeds", default="0", help="seeds, such as 0,1,2 or 0..7 (default 0)")
    parser.add_argument("--steps", help="denoising steps, such as 28 or 20,28 (default: the model's own)")
    parser.add_argument("--control", help="plainly fewer steps to measure too, such as 7,14,21 (default: five)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's own)")
    parser.add_argument("--size", help="WIDTHxHEIGHT in pixels (default: the model's own)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds of every cell (default 3)")
    parser.add_argument("--metrics", default="psnr,ssim,adherence", help=METRICS)
    parser.add_argument("--out", required=True, help="folder for sweep.jsonl, pictures and report.html")
    parser.add_argument(
        "--workers", type=int, default=0, help="local processes, each with a model (default: this one)"
    )
    parser.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help="measure on a Ray cluster: the one that "
                        "RAY_ADDRESS names, or a local one, or the one at ADDRESS")  # fmt: skip


def sweep_command(arguments: argparse.Namespace) -> int:
    """Run a sweep, or go on with it; returns 1 where no recipe could be measured."""
    from .measure import numbers, sweep
    from .pipelines import Cancelled, check_name, known_model

    check_name(arguments.model)
    model = known_model(arguments.model)
    steps = numbers("--steps", arguments.steps) if arguments.steps else [model.steps if model else 28]
    ray = False if arguments.ray is None else arguments.ray or True
    try:
        found = sweep(
            arguments.model, arguments.recipe or ["ab-cache:every=2..4"], prompts=prompts_of(arguments, model),
            out=arguments.out, seeds=numbers("--seeds", arguments.seeds), steps=steps, guidance=arguments.guidance,
            negative=arguments.negative, size=size_of(arguments.size), metrics=arguments.metrics.split(","),
            repeats=arguments.repeats, control=numbers("--control", arguments.control) if arguments.control else None,
            workers=arguments.workers, ray=ray, watch=_progress(arguments), **switches_of(arguments),
        )  # fmt: skip
    except KeyboardInterrupt:
        raise Cancelled(f"stopped; what is finished lies in {arguments.out}, and the same command goes on") from None
    page = found.write_report()
    show(arguments, {**found.to_dict(), "report": str(page)}, f"{found.table()}\n\nreport: {page}")
    tried = [cell for cell in found.cells if cell.role == "variant"]
    if not tried or any(cell.error is None for cell in tried):
        return 0
    sys.stderr.write(f"deadheat: no recipe could be measured; the first failed with: {tried[0].error}\n")
    return 1


def report_sweep(arguments: argparse.Namespace) -> None:
    """Show a sweep again, as far as it is, and write its page anew."""
    from .measure import Sweep

    found = Sweep.load(Path(arguments.result).absolute())
    try:
        said = str(found.write_report())
    except OSError as error:  # the table is worth showing all the same
        said = f"report.html cannot be written: {error.strerror or error}"
    show(arguments, {**found.to_dict(), "report": said}, f"{found.table()}\n\nreport: {said}")


def report_static(arguments: argparse.Namespace) -> None:
    """Write the explorer of one or several results as plain files."""
    from .measure import static_explorer

    page = static_explorer([arguments.result, *arguments.also], arguments.static)
    show(arguments, {"explorer": str(page)}, f"explorer: {page}")


def _progress(arguments: argparse.Namespace) -> Callable[[Any], None]:
    """Return a watcher that draws one line on the terminal."""
    shown = sys.stderr.isatty() and not arguments.json

    def watch(progress: Any) -> None:
        if shown:
            left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
            failed = f", {progress.failed} failed" if progress.failed else ""
            last = f": {progress.cell.recipe}" if progress.cell else ""
            text = f"{progress.done}/{progress.total} cells{failed}{left}{last}"
            end = "\n" if progress.done == progress.total else ""
            sys.stderr.write(f"\r\033[K{text[:100]}{end}")
            sys.stderr.flush()

    return watch


def duration(seconds: float) -> str:
    """Write how long something takes.

    >>> duration(8), duration(100), duration(7400)
    ('8 s', '1 min 40 s', '2 h 03 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"
