"""The command ``deadheat edit``: change the part of a picture that a mask shows."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._arguments import load_model, show, takes_model


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
    from .measure import to_image

    compared = None
    if arguments.repeats:
        compared = session.compare(
            files.mask, arguments.prompt, **given, repeats=arguments.repeats, watch=_progress(arguments)
        )
    made = session.edit(files.mask, arguments.prompt, **given, dense=arguments.dense, watch=_progress(arguments))
    to_image(made.image).save(out)
    data = made.to_dict() | {"picture": str(out.absolute())}
    lines = [_said(made)]
    if compared is not None:
        data["comparison"] = compared.to_dict()
        lines.append(
            f"{compared.speedup:.2f}x the speed of the dense edit; against it {_decibels(compared.inside)} inside "
            f"the mask, {_decibels(compared.outside)} outside"
        )
    lines += [f"warning: {text}" for text in made.warnings]
    return data, "\n".join([*lines, f"picture: {out.absolute()}"])


def _said(made: Any) -> str:
    if made.lane == "none":
        return "the mask is empty: the picture stays as it is"
    recorded = made.stages.get("record", 0.0)
    once = f", after {recorded:.2f} s for recording the picture, once" if recorded else ""
    why = f" ({made.reason})" if made.reason else ""
    return (
        f"{made.lane} edit{why}: {made.seconds:.2f} s{once}; {made.active:.1%} of the picture computed in "
        f"{made.calls} network calls; outside the mask every pixel is as it was"
    )


def _decibels(value: float) -> str:
    return "identical" if value == float("inf") else f"{value:.1f} dB"


class _Files:
    """The pictures that the command was given, read before a model loads."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from .measure import mask_picture, open_picture
        from .pipelines import InputError

        self.arguments = arguments
        self.image = open_picture(arguments.image, "the image").convert("RGB")
        self.mask = mask_picture(open_picture(arguments.mask, "the mask"))
        self.painted = (
            open_picture(arguments.painted, "the painted picture").convert("RGB") if arguments.painted else None
        )
        sizes = {"mask": self.mask.size} | ({"painted picture": self.painted.size} if self.painted else {})
        for name, size in sizes.items():
            if size != self.image.size:
                raise InputError(
                    f"the {name} has {size[0]} x {size[1]} pixels, the image {self.image.width} x "
                    f"{self.image.height}: both need the same size"
                )

    def session(self, pipe: Any) -> Any:
        """Return the picture as a session of edits; with --fit all pictures get the model's size."""
        from .measure import EditSession, fitted_picture, usual_size

        if self.arguments.fit:
            height, width = usual_size(pipe)
            self.image = fitted_picture(self.image, (width, height))
            self.mask = fitted_picture(self.mask, (width, height), nearest=True)
            self.painted = fitted_picture(self.painted, (width, height)) if self.painted else None
        return EditSession(
            pipe,
            self.image,
            prompt=self.arguments.before,
            negative=self.arguments.negative,
            steps=self.arguments.steps,
            guidance=self.arguments.guidance,
            seed=self.arguments.seed,
        )


def _check(arguments: argparse.Namespace) -> None:
    from .measure import check_edit, check_inputs
    from .pipelines import check_name

    check_name(arguments.model)
    check_edit(arguments.prompt, arguments.mode, arguments.strength, arguments.steps, arguments.guidance)
    check_inputs([arguments.prompt or "nothing"], [arguments.seed], repeats=arguments.repeats or 1)


def _out(name: str) -> Path:
    from .pipelines import InputError

    out = Path(name)
    if out.suffix.lower() != ".png":
        raise InputError(f"--out is {name}; end it in .png, for other formats change pixels outside the mask")
    if out.exists() or not out.parent.is_dir():
        why = "exists already" if out.exists() else f"cannot be written: there is no folder {out.parent}"
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
        "--mask", required=True, help="a picture of the same size, white (or opaque) where it may change"
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
    parser.add_argument("--dense", action="store_true", help="compute the whole picture, as diffusers does")
    parser.add_argument("--repeats", type=int, default=0, help="time dense and sparse so often first (default 0: no)")
    parser.add_argument("--fit", action="store_true", help="crop and scale all pictures to the model's size")
    parser.add_argument("--out", required=True, help="the new picture, a .png")
