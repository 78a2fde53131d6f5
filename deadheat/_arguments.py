"""Arguments that several commands share: the model, its switches, prompts, sizes, and how a result is shown."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

METRICS = "psnr, ssim, ms-ssim, detail, latent, adherence, lpips, clip, image-reward, frechet"
"""Those of ``measure``, written out: importing them takes seconds, and ``--help`` should not."""


def takes_model(parser: argparse.ArgumentParser) -> None:
    """Take a model, and how to load it."""
    parser.add_argument("model", help="a pocket model, a hub id, or a local folder")
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    takes_system(parser)
    parser.add_argument("--attention", help="default, native, xformers, flash, sage")
    parser.add_argument("--quantisation", help="none, fp8-storage, int8, nf4")
    parser.add_argument("--compile-blocks", action="store_true", default=None, help="torch.compile repeated blocks")
    parser.add_argument("--tiny-autoencoder", action="store_true", default=None, help="decode with a distilled one")


def takes_system(parser: argparse.ArgumentParser) -> None:
    """Take where a model runs, and in what."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    parser.add_argument("--dtype", help="float32, float16, bfloat16 (default: float32 on a CPU, bfloat16 elsewhere)")
    parser.add_argument("--memory", help="all-on-device, model-offload, group-offload, sequential-offload")


def show(arguments: argparse.Namespace, data: Any, text: str) -> None:
    """Print a result: JSON for programs, in ASCII, which every terminal and pipe takes; text for people."""
    written = json.dumps(data, indent=1, allow_nan=False) if arguments.json else text
    sys.stdout.write(written + "\n")


def load_model(arguments: argparse.Namespace) -> Any:
    """Load the model with the switches that were given."""
    from .pipelines import load

    return load(arguments.model, **switches_of(arguments))


def switches_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments for ``load`` that were given."""
    names = ("device", "dtype", "memory", "attention", "quantisation", "compile_blocks", "tiny_autoencoder")
    return {name: value for name in ("revision", *names) if (value := getattr(arguments, name)) is not None}


def prompts_of(arguments: argparse.Namespace, model: Any) -> list[str]:
    """Return the prompts that were given, or some of the model's own."""
    from .pipelines.errors import InputError

    prompts = list(arguments.prompt or [])
    if arguments.prompts_file:
        try:
            text = Path(arguments.prompts_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the prompts file {arguments.prompts_file} cannot be read: {error}") from error
        prompts += [line.strip() for line in text.splitlines() if line.strip()]
        if not prompts:
            raise InputError(f"the prompts file {arguments.prompts_file} is empty; write one prompt a line")
    if prompts:
        return prompts
    if model and model.prompts:
        return list(model.prompts[:2])
    raise InputError("there is no prompt; give --prompt or --prompts-file")


def size_of(text: str | None) -> tuple[int, int] | None:
    """Read WIDTHxHEIGHT, or one number for both."""
    if text is None:
        return None
    from .pipelines.errors import InputError

    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise InputError(f"--size is {text!r}; write it as 512x512") from None


def unwritable(out: Path) -> str:
    """Say why a new file cannot be written, as the end of a sentence, or ""."""
    try:
        if out.exists():
            return "exists already"
        if not out.parent.is_dir():
            return f"cannot be written: there is no folder {out.parent}"
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        return f"cannot be written: {error.strerror or error}"
    return ""


def new_preset(name: str) -> Path:
    """Return the path of a preset that can be written, before anything runs."""
    from .pipelines.errors import InputError

    out = Path(name)
    if out.suffix != ".toml":
        raise InputError(f"the preset {out} has to end in .toml; give another --out")
    if why := unwritable(out):
        raise InputError(f"the preset {out} {why}; give another --out")
    return out


def whole(name: str, text: str) -> int:
    """Read a whole number."""
    from .pipelines.errors import InputError

    try:
        return int(text)
    except ValueError:
        raise InputError(f"{name} is {text!r}, not a whole number (write several as 0,1,2)") from None
