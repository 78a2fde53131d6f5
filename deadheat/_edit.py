"""The command ``deadheat edit``: change the part of a picture that a mask shows."""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._arguments import load_model, show, takes_model, unwritable


def edit_command(arguments: argparse.Namespace) -> None:
    """Edit a picture, write the new one, and say what it took."""
    out = _out(arguments.out)
    files = _Files(arguments)
    _check(arguments)
    session = files.session(load_model(arguments))
    given = {"mode": arguments.mode, "strength": arguments.strength, "painted": files.painted}
    data, text = _edited(arguments, session, files, given, out)
    show(arguments, data, text)


def _edited(
    arguments: argparse.Namespace, session: Any, files: "_Files", given: dict[str, Any], out: Path
) -> tuple[dict[str, Any], str]:
    from .measure import edit_once, to_image

    asked = (files.mask, arguments.prompt)
    given |= {"watch": _progress(arguments)}
    compared = None
    if arguments.repeats and session.cover(files.mask, files.painted).lane == "sparse":
        compared = session.compare(*asked, **given, repeats=arguments.repeats)
    if compared is not None and arguments.sparse:
        made = compared.sparse
    else:
        given |= {"dense": True} if arguments.dense else {}
        made = edit_once(session, *asked, sparse=arguments.sparse, **given)
    to_image(made.image).save(out)
    data = made.to_dict() | {"picture": str(out.absolute())}
    data |= {} if compared is None else {"comparison": compared.to_dict()}
    lines = [_said(made)]
    if arguments.repeats and made.lane != "none":
        lines.append(_compared(compared, made))
    lines += [f"warning: {text}" for text in [*made.warnings, *(compared.warnings if compared else [])]]
    return data, "\n".join([*lines, f"picture: {out.absolute()}"])


def _said(made: Any) -> str:
    if made.lane == "none":
        return "the mask is empty: the picture stays as it is"
    recorded = made.stages.get("record", 0.0)
    once = f", after {recorded:.2f} s for recording the picture, once" if recorded else ""
    why = f" ({made.reason})" if made.reason else ""
    skips = f" (steps skipped by {made.recipe})" if made.recipe else ""
    return (
        f"{made.lane} edit{why}: {made.seconds:.2f} s{once}; {made.active:.1%} of the picture computed in "
        f"{made.calls} network calls{skips}; outside the mask every pixel is as it was"
    )


def _compared(compared: Any, made: Any) -> str:
    """Say how the sparse edit did against the dense one, or that there was none."""
    if compared is None or compared.sparse.lane != "sparse":
        why = made.reason if compared is None else compared.sparse.reason
        return f"nothing to compare: what ran is the dense edit; {why}"
    said = (
        f"the sparse edit has {compared.speedup:.2f}x the speed of the dense edit; against it "
        f"{_decibels(compared.inside)} inside the mask, {_decibels(compared.outside)} outside"
    )
    if compared.control is None:
        return said
    return (
        f"{said}\nplainly fewer steps instead, {compared.control_steps}: {compared.control_speedup:.2f}x, "
        f"{_decibels(compared.control_inside)} inside the mask"
    )


def _decibels(value: float) -> str:
    return "identical" if value == float("inf") else f"{value:.1f} dB"


class _Files:
    """The pictures that the command was given, read before a model loads."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from .measure import mask_picture, open_picture
        from .pipelines import InputError

        self.arguments = arguments
        self.image = open_picture(arguments.image, f"the image {arguments.image}").convert("RGB")
        if not arguments.mask and not arguments.painted:
            raise InputError("there is no mask; give --mask, or --mode stroke with --painted")
        self.mask = (
            mask_picture(open_picture(arguments.mask, f"the mask {arguments.mask}")) if arguments.mask else None
        )
        self.painted = (
            open_picture(arguments.painted, f"the painted picture {arguments.painted}").convert("RGB")
            if arguments.painted
            else None
        )
        for name, other in {"mask": self.mask, "painted picture": self.painted}.items():
            if other is not None and other.size != self.image.size:
                raise InputError(
                    f"the {name} has {other.width} x {other.height} pixels, the image {self.image.width} x "
                    f"{self.image.height}: both need the same size"
                )

    def session(self, pipe: Any) -> Any:
        """Return the picture as a session of edits; with --fit all pictures get the model's size."""
        from .measure import EditSession, fitted_picture, usual_size

        if self.arguments.fit:
            height, width = usual_size(pipe)
            self.image = fitted_picture(self.image, (width, height))
            self.mask = fitted_picture(self.mask, (width, height), nearest=True) if self.mask else None
            self.painted = fitted_picture(self.painted, (width, height)) if self.painted else None
        return EditSession(
            pipe,
            self.image,
            prompt=self.arguments.before,
            negative=self.arguments.negative,
            steps=self.arguments.steps,
            guidance=self.arguments.guidance,
            seed=self.arguments.seed,
            budget_bytes=_bytes(self.arguments.memory_budget),
            recipe=self.arguments.recipe,
        )


def _check(arguments: argparse.Namespace) -> None:
    from .measure import check_edit, check_inputs
    from .pipelines import InputError, check_name
    from .presets import Recipe, presets

    check_name(arguments.model)
    if arguments.mode == "stroke" and not arguments.painted:
        raise InputError("--mode stroke needs --painted, the picture with strokes painted on it")
    if arguments.painted and arguments.mode != "stroke":
        raise InputError("--painted is only for --mode stroke: say that too, or leave it out")
    check_edit(arguments.prompt, arguments.mode, arguments.strength, arguments.steps, arguments.guidance)
    check_inputs([arguments.prompt or "nothing"], [arguments.seed], repeats=arguments.repeats or 1)
    _bytes(arguments.memory_budget)
    if arguments.recipe.strip() and arguments.recipe not in presets(arguments.model):
        Recipe.of(arguments.recipe)  # a mistyped one should not cost a download


def _bytes(text: str) -> int:
    """Read a size of memory: a number of MiB, or one with its unit.

    >>> _bytes("512"), _bytes("1GiB"), _bytes("0.5 gib")
    (536870912, 1073741824, 536870912)
    """
    from .pipelines import InputError

    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(mib|gib)?", text.strip().lower())
    if not found or float(found[1]) > 2**30:
        raise InputError(f"--memory-budget is {text!r}; write MiB as 512, or as 512MiB or 1GiB")
    return int(float(found[1]) * (2**30 if found[2] == "gib" else 2**20))


def _out(name: str) -> Path:
    from .pipelines import InputError

    out = Path(name)
    if out.suffix.lower() != ".png":
        raise InputError(f"--out is {name}; end it in .png, for other formats change pixels outside the mask")
    if why := unwritable(out):
        raise InputError(f"the picture {out} {why}; give another --out")
    return out


def _progress(arguments: argparse.Namespace) -> Callable[[Any], None] | None:
    if arguments.json or not sys.stderr.isatty():
        return None

    def watch(event: Any) -> None:
        end = "\n" if event.step == event.steps else ""
        sys.stderr.write(f"\r\033[K{event.lane} {event.step}/{event.steps}{end}")
        sys.stderr.flush()

    return watch


def takes_edit(parser: argparse.ArgumentParser) -> None:
    """Take a model, the pictures, and what they shall become."""
    takes_model(parser)
    parser.add_argument("--image", required=True, help="the picture to edit")
    parser.add_argument(
        "--mask",
        help="a picture of the same size, white (or opaque) where it may change; mode stroke goes without: where "
        "--painted differs from --image",
    )
    parser.add_argument("--prompt", default="", help="what it shall become (default: what --before says)")
    parser.add_argument("--before", default="", help="what the picture shows")
    parser.add_argument("--negative", help="what not to draw")
    parser.add_argument(
        "--mode",
        default="prompt",
        help="prompt: draw the mask anew from what is there; inpaint: from noise alone; stroke: from --painted "
        "(default prompt)",
    )
    parser.add_argument("--painted", help="mode stroke: the picture with strokes painted on it")
    parser.add_argument("--strength", type=float, default=0.6, help="how much noise, above 0 to 1 (default 0.6)")
    parser.add_argument("--steps", type=int, default=28, help="denoising steps at strength 1 (default 28)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    lane = parser.add_mutually_exclusive_group()
    lane.add_argument("--dense", action="store_true", help="compute the whole picture, as diffusers does (default)")
    lane.add_argument(
        "--sparse",
        action="store_true",
        help="compute around the mask only; the recording it takes first does not repay itself in one edit",
    )
    parser.add_argument(
        "--memory-budget", default="1GiB", help="most memory for the recording, as 512MiB or 2GiB (default 1GiB)"
    )
    parser.add_argument(
        "--recipe",
        default="ab-cache",
        help='what skips steps of a sparse edit, accelerators of the network output; "" skips none (default ab-cache)',
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=0,
        help="time dense, sparse and plainly fewer steps so often first (default 0: no)",
    )
    parser.add_argument("--fit", action="store_true", help="crop and scale all pictures to the model's size")
    parser.add_argument("--out", required=True, help="the new picture, a .png")
