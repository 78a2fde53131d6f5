"""The command line: ``deadheat ...`` or ``python -m deadheat ...``.

Exit codes: 0 done, 1 failed, 2 wrong use.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from ._arguments import METRICS
from ._arguments import load_model as _load
from ._arguments import prompts_of as _prompts
from ._arguments import show as _show
from ._arguments import size_of as _size
from ._arguments import takes_model as _takes_model
from ._arguments import whole as _whole
from ._edit import edit_command, takes_edit
from ._sweep import report_static, report_sweep, sweep_command, takes_sweep
from ._tune import takes_search, tune_command

EXAMPLES = """examples:
  deadheat compare pocket-dit --recipe "ab-cache:every=3" --recipe balanced --out out/run
  deadheat compare stabilityai/stable-diffusion-xl-base-1.0 --recipe "ab-cache" --prompt "a red fox" --device cuda
  deadheat sweep pocket-dit --recipe "ab-cache:every=2..4,order=1|2" --seeds 0..3 --out out/sweep
  deadheat accelerators ab-cache
  deadheat doctor pocket-dit
  deadheat tune pocket-dit --floor psnr=38
  deadheat report out/run
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line and name the way out."""

    def error(self, message: str) -> NoReturn:
        from .pipelines.errors import nearest

        if message.startswith("argument COMMAND: invalid choice: "):
            wrong = message.split("invalid choice: ")[1].split(" (")[0].strip("'")
            message = f"no command is called {wrong!r}; {nearest(wrong, COMMANDS)}"
        self.exit(2, f"deadheat: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from .pipelines.errors import Cancelled, DeadheatError

    try:
        return int(arguments.run(arguments) or 0)
    except DeadheatError as error:
        if arguments.json:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        print(f"deadheat: {error}", file=sys.stderr)
        return 1 if isinstance(error, Cancelled) else 2
    except KeyboardInterrupt:
        print("deadheat: stopped", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("deadheat", description="Same picture, less time: faster diffusers pipelines, honestly measured.",
                     epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--version", action="version", version=f"deadheat {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, (run, fill, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("--json", action="store_true", help="print JSON, for programs")
        fill(command)
        command.set_defaults(run=run)
    return parser


# -- models, accelerators, doctor --------------------------------------------------------------------------------


def _models(arguments: argparse.Namespace) -> None:
    from .pipelines import models

    known = models()
    data = [
        {"id": m.id, "title": m.title, "family": m.family, "about": m.about, "ships": m.pocket, "steps": m.steps,
         "guidance": m.guidance, "size": m.size, "prompts": m.prompts}
        for m in known
    ]  # fmt: skip
    width = max(len(m.id) for m in known)
    lines = [
        f"{m.id.ljust(width)}  {'ships with Deadheat' if m.pocket else 'hub'.ljust(19)}  {m.about}" for m in known
    ]
    _show(
        arguments, data, "\n".join([*lines, "", "Any other hub id or local folder of a diffusers pipeline works too."])
    )


def _accelerators(arguments: argparse.Namespace) -> None:
    from .accelerators import ACCELERATORS, knobs

    chosen = [ACCELERATORS[arguments.name]] if arguments.name else list(ACCELERATORS.values())
    data = [
        {
            "name": cls.name,
            "class": cls.__name__,
            "title": cls.title,
            "paper": cls.paper,
            "about": (cls.__doc__ or "").partition("\n")[0],
            "seat": cls.seat,
            "knobs": {name: {"default": default, **vars(knob)} for name, (default, knob) in knobs(cls).items()},
        }
        for cls in chosen
    ]
    lines = []
    for cls, row in zip(chosen, data, strict=True):
        lines += [f"{cls.name}  {row['about']}", f"    {cls.paper}"]
        for name, (default, knob) in knobs(cls).items():
            span = f"{knob.low}..{knob.high} {knob.unit}" if knob.low is not None else "|".join(knob.choices)
            lines.append(
                f"    {name}={default}".ljust(25)
                + f" {span or ('text' if isinstance(default, str) else 'true|false')}".ljust(33)
                + f" {knob.what}"
            )
    _show(arguments, data, "\n".join(lines))


def _doctor(arguments: argparse.Namespace) -> None:
    from .accelerators import ACCELERATORS
    from .pipelines import CHOICES, System, describe
    from .presets import presets

    pipe = _load(arguments)
    facts = describe(pipe)
    fits: dict[str, dict[str, Any]] = {}
    for name, cls in ACCELERATORS.items():
        why = cls.supports(pipe)
        cautions = [] if why else cls().cautions(pipe, arguments.steps)
        fits[name] = {"works": why is None, "why_not": why, "cautions": cautions}
    device = facts["device"]
    switches = {
        f"{switch}={value}": System(**{switch: value, "device": device}).refusals().get(switch)
        for switch, values in CHOICES.items()
        if switch != "dtype"
        for value in values[1:]
    }
    lines = [f"{k}: {v}" for k, v in facts.items() if k != "system" and v != ""]
    known = presets(facts["model"], facts["family"])
    lines += ["", "presets", *(f"{name}: {recipe.about}" for name, recipe in known.items()), ""]
    for name, row in fits.items():
        lines.append(
            f"{'fits  ' if row['works'] else 'not   '}{name}" + (f": {row['why_not']}" if row["why_not"] else "")
        )
        lines += [f"      caution: {text}" for text in row["cautions"]]
    lines += ["", "system switches", *(f"{'works ' if why is None else 'not   '}{name}" + (f": {why}" if why else "")
                                       for name, why in switches.items())]  # fmt: skip
    made = {name: {"recipe": str(recipe), "about": recipe.about} for name, recipe in known.items()}
    data = {"pipeline": facts, "accelerators": fits, "switches": switches, "presets": made}
    _show(arguments, data, "\n".join(lines))


# -- compare, report ---------------------------------------------------------------------------------------------


def _compare(arguments: argparse.Namespace) -> None:
    from .measure import check_inputs, compare, writable
    from .pipelines import check_name, known_model

    check_name(arguments.model)
    model = known_model(arguments.model)
    prompts = _prompts(arguments, model)
    steps = arguments.steps if arguments.steps is not None else (model.steps if model else 28)
    seeds = [_whole("--seeds", text) for text in arguments.seeds.split(",")]
    size = _size(arguments.size)
    check_inputs(prompts, seeds, steps=steps, repeats=arguments.repeats, size=size, guidance=arguments.guidance,
                 metrics=arguments.metrics.split(","))  # fmt: skip
    out = writable(arguments.out) if arguments.out else None
    recipes = _recipes(arguments)
    pipe = _load(arguments)
    result = compare(
        pipe, recipes, prompts=prompts, seeds=seeds, steps=steps, guidance=arguments.guidance,
        negative=arguments.negative, size=size, repeats=arguments.repeats, metrics=arguments.metrics.split(","),
        control=not arguments.no_control, memory=not arguments.no_memory, watch=_progress(arguments),
        baselines=None if arguments.no_cache else _cache_folder(),
    )  # fmt: skip
    saved = result.save(out) if out else None
    text = result.table() + (f"\n\nreport: {saved / 'report.html'}" if saved else "")
    _show(arguments, {**result.to_dict(), "folder": str(saved) if saved else None}, text)


def _report(arguments: argparse.Namespace) -> None:
    from .measure import Comparison, html_report, is_sweep

    if arguments.static or is_sweep(arguments.result):
        (report_static if arguments.static else report_sweep)(arguments)
        return
    result = Comparison.load(arguments.result)
    folder = Path(arguments.result)
    page = (folder if folder.is_dir() else folder.parent) / "report.html"
    if not page.exists():
        page.write_text(html_report(result), encoding="utf-8")
    _show(arguments, result.to_dict(), f"{result.table()}\n\nreport: {page.absolute()}")


def _calibrate(arguments: argparse.Namespace) -> None:
    from .measure import check_inputs
    from .pipelines import InputError, check_name, known_model

    check_name(arguments.model)
    model = known_model(arguments.model)
    prompts = arguments.prompt or (list(model.prompts) if model else [])
    check_inputs(prompts, [arguments.seed], steps=arguments.steps, guidance=arguments.guidance)
    budget = "" if arguments.method == "magcache" else f"-{arguments.calls}"
    out = Path(arguments.out or f"{Path(arguments.model).name}-{arguments.method}{budget}.toml")
    if out.exists() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        why = "exists already" if out.exists() else f"cannot be written: {out.parent} is no folder of yours"
        raise InputError(f"the preset {out} {why}; give another --out")
    recipe = _calibrated(arguments, prompts)
    out.write_text(recipe.to_toml(), encoding="utf-8")
    data = {"recipe": str(recipe), "about": recipe.about, "preset": str(out.absolute())}
    _show(arguments, data, f"{recipe}\n{recipe.about}\npreset: {out.absolute()}")


def _calibrated(arguments: argparse.Namespace, prompts: list[str]) -> Any:
    from .measure import calibrate, calibrate_magnitudes, fit_cache

    pipe = _load(arguments)
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
            print(f"\r\033[K{what} {done}/{of}", end="\n" if done == of else "", file=sys.stderr, flush=True)

    return watch


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
            print(f"\r\033[K{text[:100]}", end=end, file=sys.stderr, flush=True)

    return watch


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deadheat" / "baselines"


def _app(arguments: argparse.Namespace) -> int:
    from .app import main as open_app

    return int(open_app(["--host", arguments.host, "--port", str(arguments.port)]))


# -- what each command takes -------------------------------------------------------------------------------------


def _nothing(parser: argparse.ArgumentParser) -> None:
    pass


def _takes_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="show this one only")


def _takes_model_and_steps(parser: argparse.ArgumentParser) -> None:
    _takes_model(parser)
    parser.add_argument("--steps", type=int, default=28, help="steps that you mean to run (default 28)")


def _takes_comparison(parser: argparse.ArgumentParser) -> None:
    _takes_model(parser)
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


def _takes_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", choices=["auto", "lemica", "magcache"], help="auto: a fitted cache, from one run")
    _takes_model(parser)
    parser.add_argument("--steps", type=int, default=28, help="denoising steps (default 28)")
    parser.add_argument("--calls", type=int, default=12, help="auto, lemica: how many of them to compute (12)")
    parser.add_argument("--order", type=int, default=2, help="lemica: past outputs that predict a skipped one (2)")
    parser.add_argument("--place", choices=["output", "stack"], default="output", help="lemica: what a skip replaces")
    parser.add_argument("--longest", type=int, default=6, help="auto, lemica: longest way between computed steps")
    parser.add_argument("--prompt", action="append", help="what to draw; again for more (default: the model's own)")
    parser.add_argument("--seed", type=int, default=1000, help="of the noise; another than you compare with")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's own)")
    parser.add_argument("--out", help="the preset's file (default: MODEL-METHOD.toml)")


def _takes_result(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", help="a folder that compare or sweep wrote")
    parser.add_argument("--static", metavar="FOLDER", help="write the explorer there: chart, pictures and code, as "
                        "plain files that open from disk and from any host")  # fmt: skip
    parser.add_argument("--also", action="append", default=[], metavar="RESULT",
                        help="a further result for the explorer; again for more")  # fmt: skip


def _takes_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default 7860)")


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], Any], Callable[[argparse.ArgumentParser], None], str]] = {
    "models": (_models, _nothing, "list the models that Deadheat knows by name"),
    "accelerators": (_accelerators, _takes_name, "list the accelerators and their knobs"),
    "doctor": (_doctor, _takes_model_and_steps, "say which accelerators and switches fit a model here, and why not"),
    "compare": (_compare, _takes_comparison, "run a model as it is and accelerated, and measure both"),
    "sweep": (sweep_command, takes_sweep, "measure many recipes, prompts, seeds and steps; goes on where it stopped"),
    "edit": (edit_command, takes_edit, "change the part of a picture that a mask shows, and compute only that part"),
    "calibrate": (_calibrate, _takes_calibration, "measure which steps a model can do without; writes a preset"),
    "tune": (tune_command, takes_search, "find the fastest setting that holds a quality, or the best within a time"),
    "report": (_report, _takes_result, "show a saved comparison or sweep again"),
    "app": (_app, _takes_port, "open the app in the browser"),
}

if __name__ == "__main__":
    sys.exit(main())
