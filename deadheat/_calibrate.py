"""``deadheat calibrate``: which steps a model can do without, as a preset."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._arguments import load_model, new_preset, show, takes_model


def calibrate_command(arguments: argparse.Namespace) -> None:
    """Measure which steps a model can do without, and write a preset."""
    from .measure import check_inputs
    from .pipelines import check_name, known_model

    check_name(arguments.model)
    model = known_model(arguments.model)
    prompts = arguments.prompt or (list(model.prompts) if model else [])
    check_inputs(prompts, [arguments.seed], steps=arguments.steps, guidance=arguments.guidance)
    budget = "" if arguments.method == "magcache" else f"-{arguments.calls}"
    out = new_preset(arguments.out or f"{Path(arguments.model).name}-{arguments.method}{budget}.toml")
    recipe = _calibrated(arguments, prompts)
    out.write_text(recipe.to_toml(), encoding="utf-8")
    data = {"recipe": str(recipe), "about": recipe.about, "preset": str(out.absolute())}
    show(arguments, data, f"{recipe}\n{recipe.about}\npreset: {out.absolute()}")


def _calibrated(arguments: argparse.Namespace, prompts: list[str]) -> Any:
    from .measure import calibrate, calibrate_magnitudes, fit_cache

    pipe = load_model(arguments)
    same = {"steps": arguments.steps, "guidance": arguments.guidance, "seed": arguments.seed}
    if arguments.method == "magcache":
        return calibrate_magnitudes(pipe, prompts, **same)
    if arguments.method == "auto":
        return fit_cache(pipe, prompts, **same, calls=arguments.calls, longest=arguments.longest,
                         watch=_gaps(arguments, "prompt"))  # fmt: skip
    return calibrate(pipe, prompts, **same, calls=arguments.calls, order=arguments.order, place=arguments.place,
                     longest=arguments.longest, watch=_gaps(arguments))  # fmt: skip


def _gaps(arguments: argparse.Namespace, what: str = "gap") -> Callable[[int, int], None]:
    shown = sys.stderr.isatty() and not arguments.json

    def watch(done: int, of: int) -> None:
        if shown:
            sys.stderr.write(f"\r\033[K{what} {done}/{of}" + "\n" * (done == of))
            sys.stderr.flush()

    return watch


def takes_calibration(parser: argparse.ArgumentParser) -> None:
    """Take a method, a model, and a number of calls."""
    parser.add_argument("method", choices=["auto", "lemica", "magcache"], help="auto: a fitted cache, from one run")
    takes_model(parser)
    parser.add_argument("--steps", type=int, default=28, help="denoising steps (default 28)")
    parser.add_argument("--calls", type=int, default=12, help="auto, lemica: how many of them to compute (12)")
    parser.add_argument("--order", type=int, default=2, help="lemica: past outputs that predict a skipped one (2)")
    parser.add_argument(
        "--place",
        choices=["output", "stack", "deep", "modules"],
        default="output",
        help="lemica: what a skip replaces",
    )
    parser.add_argument("--longest", type=int, default=6, help="auto, lemica: longest way between computed steps")
    parser.add_argument("--prompt", action="append", help="what to draw; again for more (default: the model's own)")
    parser.add_argument("--seed", type=int, default=1000, help="of the noise; another than you compare with")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's own)")
    parser.add_argument("--out", help="the preset's file (default: MODEL-METHOD.toml)")
