"""The command line: ``deadheat ...`` or ``python -m deadheat ...``.

Exit codes: 0 done, 1 failed, 2 wrong use.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from ._about import accelerators_command, doctor_command, models_command, takes_doctor, takes_name
from ._arguments import show, takes_system
from ._calibrate import calibrate_command, takes_calibration
from ._compare import compare_command, takes_comparison
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
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without × should not lose what was measured
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # torch's threads spin while they wait for each other: beside one busy core a picture took 60 times as long, and
    # twice as long where they soon sleep; on a quiet machine it is the same. Read when torch is imported, below.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from .pipelines.errors import Cancelled, DeadheatError, LoadError

    try:
        return int(arguments.run(arguments) or 0)
    except DeadheatError as error:
        if arguments.json:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        print(f"deadheat: {error}", file=sys.stderr)
        # a download that fails is nobody's slip
        unreachable = isinstance(error, LoadError) and isinstance(error.__cause__, OSError)
        return 1 if unreachable or isinstance(error, Cancelled) else 2
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


def _report(arguments: argparse.Namespace) -> None:
    from .measure import Comparison, html_report, is_sweep
    from .pipelines import InputError

    if arguments.also and not arguments.static:
        raise InputError("--also adds a result to the explorer: give --static FOLDER too, or leave it out")
    if arguments.static or is_sweep(arguments.result):
        (report_static if arguments.static else report_sweep)(arguments)
        return
    result = Comparison.load(arguments.result)
    folder = Path(arguments.result)
    page = (folder if folder.is_dir() else folder.parent) / "report.html"
    said = str(page.absolute())
    try:
        if not page.exists():
            page.write_text(html_report(result), encoding="utf-8")
    except OSError as error:  # the table is worth showing all the same
        said = f"{page.absolute()} cannot be written: {error.strerror or error}"
    show(arguments, result.to_dict(), f"{result.table()}\n\nreport: {said}")


def _app(arguments: argparse.Namespace) -> int:
    from .app import SYSTEM
    from .app import main as open_app

    given = [("--model", folder) for folder in arguments.model]
    given += [(f"--{name}", value) for name in SYSTEM if (value := getattr(arguments, name))]
    words = [word for pair in given for word in pair]
    return int(open_app(["--host", arguments.host, "--port", str(arguments.port), *words]))


def _nothing(parser: argparse.ArgumentParser) -> None:
    pass


def _takes_result(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", help="a folder that compare or sweep wrote")
    parser.add_argument("--static", metavar="FOLDER", help="write the explorer there: chart, pictures and code, as "
                        "plain files that open from disk and from any host")  # fmt: skip
    parser.add_argument("--also", action="append", default=[], metavar="RESULT",
                        help="a further result for the explorer; again for more")  # fmt: skip


def _takes_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default 7860)")
    parser.add_argument("--model", action="append", default=[], help="a local folder to offer too; again for more")
    takes_system(parser)


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], Any], Callable[[argparse.ArgumentParser], None], str]] = {
    "models": (models_command, _nothing, "list the models that Deadheat knows by name"),
    "accelerators": (accelerators_command, takes_name, "list the accelerators and their knobs"),
    "doctor": (
        doctor_command,
        takes_doctor,
        "say which accelerators and switches fit a model here, and why not",
    ),
    "compare": (compare_command, takes_comparison, "run a model as it is and accelerated, and measure both"),
    "sweep": (sweep_command, takes_sweep, "measure many recipes, prompts, seeds and steps; goes on where it stopped"),
    "edit": (edit_command, takes_edit, "change the part of a picture that a mask shows, and compute only that part"),
    "calibrate": (calibrate_command, takes_calibration, "measure which steps a model can do without; writes a preset"),
    "tune": (tune_command, takes_search, "find the fastest setting that holds a quality, or the best within a time"),
    "report": (_report, _takes_result, "show a saved comparison or sweep again"),
    "app": (_app, _takes_port, "open the app in the browser"),
}

if __name__ == "__main__":
    sys.exit(main())
