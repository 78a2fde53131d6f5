"""Load a pipeline: a pocket model, a hub id, a local folder, or one that is already there."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, DiffusionPipeline
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError

from .errors import KnobError, LoadError, UnsupportedError, nearest
from .families import denoisers, family
from .pocket import POCKET, inpaintable, without_t5, without_unknown_words
from .system import System, apply, load_arguments
from .typed import is_folder

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class Loaded:
    """Where a pipeline came from."""

    id: str
    revision: str
    system: System


_LOADED: "WeakKeyDictionary[Any, Loaded]" = WeakKeyDictionary()


def load(model: Any, *, revision: str | None = None, system: System | None = None, **switches: Any) -> Any:
    """Load a diffusers pipeline, ready to be called.

    Args:
        model: a pocket model's name ("pocket-dit"), a hub id ("black-forest-labs/FLUX.1-dev"), a local folder that
            ``save_pretrained`` wrote, or any ``DiffusionPipeline`` object, which is passed through.
        revision: branch, tag or commit of a hub model.
        system: system switches; or give them one by one: ``device="cuda", dtype="bfloat16", attention="xformers"``.
        **switches: fields of ``System``.

    Returns:
        The ``DiffusionPipeline``. Weights are read from safetensors only.

    Raises:
        LoadError: there is no such model, it cannot be fetched or read, or its weights are pickled.
        UnsupportedError: a system switch that does not work here.
        KnobError: an unknown switch or value.
    """
    given = _system(system, switches)
    if revision is not None and (not isinstance(model, (str, Path)) or str(model) in POCKET or is_folder(model)):
        raise LoadError(f"revision is {revision!r}, but only models of the hub have revisions: leave it out")
    if not isinstance(model, (str, Path)):
        return _passed_through(model, given)
    resolved = given.resolved()
    name = str(model)
    if name in POCKET:
        pipe = _read(POCKET[name].folder, name, _absent(POCKET[name].folder), resolved)
        without_unknown_words(pipe)
    elif name and is_folder(name):
        _check_folder(Path(name))
        pipe = _read(Path(name), name, _absent(Path(name)), resolved)
    else:
        check_name(name)
        pipe = _read(name, name, {"revision": revision} if revision else {}, resolved)
    without_t5(pipe)
    apply(pipe, resolved)
    pipe.set_progress_bar_config(disable=True)
    _LOADED[pipe] = Loaded(name, revision or _commit(pipe), resolved)
    return pipe


def check_name(name: str) -> None:
    """Refuse what can be no model, before anything is fetched.

    Raises:
        LoadError: neither a pocket model, nor a folder, nor of the form of a hub id.
    """
    if name not in POCKET and (not name.strip() or not is_folder(name)) and not hub_id(name):
        raise LoadError(
            f"no model is called {name!r}, and no folder either (a hub id has the form owner/name); "
            f"{nearest(name, POCKET)}"
        )


def hub_id(name: str) -> bool:
    """Tell whether a name has the form of a hub id.

    >>> hub_id("black-forest-labs/FLUX.1-dev"), hub_id("/tmp/model"), hub_id("./model"), hub_id("pocket-dit")
    (True, False, False, False)
    """
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def _system(system: System | None, switches: dict[str, Any]) -> System:
    known = System.__dataclass_fields__
    for name in switches:
        if name not in known:
            raise KnobError(f"load has no switch {name!r}; {nearest(name, known)}")
    return System(**{**asdict(system or System()), **switches})


def _passed_through(model: Any, system: System) -> Any:
    if not isinstance(model, DiffusionPipeline):
        raise LoadError(
            f"cannot load a {type(model).__name__}: give a pocket model ({', '.join(POCKET)}), a hub id, "
            "a local folder, or a DiffusionPipeline object"
        )
    if system != System():
        raise LoadError(
            "a pipeline object is passed through as it is; set its device, dtype and other switches on it, "
            "or give load a name"
        )
    denoisers(model)
    return model


def _check_folder(folder: Path) -> None:
    if not (folder / "model_index.json").is_file():
        raise LoadError(
            f"{folder} has no model_index.json; give a folder that pipe.save_pretrained(...) wrote"
            + (f", such as {found[0].parent}" if (found := sorted(folder.glob("*/model_index.json"))) else "")
        )
    weights = [path for path in folder.rglob("*") if path.is_file()]
    pickled = [path for path in weights if path.suffix in PICKLES]
    if pickled and not any(path.suffix == ".safetensors" for path in weights):
        raise LoadError(
            f"{folder} holds pickled weights only ({pickled[0].name}), which can run any code when opened; "
            "save it again with pipe.save_pretrained(folder), which writes safetensors"
        )


def _absent(folder: Path) -> dict[str, Any]:
    """Return the components saved as absent, such as SD3's third text encoder, which diffusers wants to be told."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return {name: None for name, kind in index.items() if kind == [None, None]}
    except (OSError, ValueError, AttributeError):  # diffusers reads it again, and says what is wrong
        return {}


@contextmanager
def _quiet(local: bool) -> Iterator[None]:
    """Leave out the progress bars of reading local files; those of downloads stay."""
    import transformers.utils.logging as transformers_logging
    from diffusers.utils import logging as diffusers_logging

    bars = [log for log in (diffusers_logging, transformers_logging) if local and log.is_progress_bar_enabled()]
    for log in bars:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in bars:
            log.enable_progress_bar()


def _read(source: str | Path, name: str, extra: dict[str, Any], system: System) -> Any:
    try:
        with _quiet(local=is_folder(source)):
            return DiffusionPipeline.from_pretrained(
                str(source), dtype=system.torch_dtype, use_safetensors=True, **load_arguments(system), **extra
            )
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise LoadError(
            f"the hub does not give out {name!r}: check the spelling; if its licence must be accepted, do so on its "
            "page and log in with `hf auth login`"
        ) from error
    except (
        OfflineModeIsEnabled,
        LocalEntryNotFoundError,
        HfHubHTTPError,
        ConnectionError,
        HFValidationError,
    ) as error:
        raise LoadError(
            f"{name!r} could not be downloaded ({_line(error)}); check the connection, or give a local folder, "
            "or pocket-dit, which needs no download"
        ) from error
    except SafetensorError as error:
        raise LoadError(f"a weight file of {name!r} is damaged ({_line(error)}); fetch or save it again") from error
    except (OSError, ValueError, AttributeError, TypeError, KeyError, ImportError, json.JSONDecodeError) as error:
        if isinstance(error, OSError) and not is_folder(source):  # diffusers' own word for "not in the cache"
            raise LoadError(
                f"{name!r} could not be downloaded ({_line(error)}); check the spelling and the connection, or give a "
                "local folder, or pocket-dit, which needs no download"
            ) from error
        raise LoadError(f"{name!r} could not be loaded: {_line(error)}") from error
    except RuntimeError as error:  # out of memory, sizes that do not fit the configuration
        raise LoadError(
            f"the weights of {name!r} do not fit its configuration or this machine: {_line(error)}"
        ) from error


def _line(error: BaseException) -> str:
    """Return the first line that says something."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _commit(pipe: Any) -> str:
    """Return the commit of a hub model from the path of its snapshot, or ""."""
    path = Path(str(getattr(pipe.config, "_name_or_path", "")))
    return path.name if path.parent.name == "snapshots" else ""


def describe(pipe: Any) -> dict[str, Any]:
    """Say what a pipeline is, in plain JSON-able data: model, revision, classes, family, dtype, device, switches."""
    known = _LOADED.get(pipe)
    network = next(iter(denoisers(pipe).values()))
    first = next(network.parameters())
    return {
        "model": model_name(pipe),
        "revision": known.revision if known else "",
        "pipeline": type(pipe).__name__,
        "denoiser": type(network).__name__,
        "family": family(pipe).name,
        "scheduler": type(pipe.scheduler).__name__,
        "parameters": sum(p.numel() for n in denoisers(pipe).values() for p in n.parameters()),
        "dtype": str(first.dtype).removeprefix("torch."),
        "device": str(first.device),
        "threads": torch.get_num_threads(),
        "system": asdict(known.system) if known else {},
    }


def model_name(pipe: Any) -> str:
    """Return the name that a pipeline was loaded by; the class name where nobody knows.

    Raises:
        UnsupportedError: a name was given where a pipeline is wanted.
    """
    if not hasattr(pipe, "config") and not isinstance(pipe, (str, Path)):
        raise UnsupportedError(
            f"pipe is {pipe!r}, not a pipeline: give a DiffusionPipeline, such as load('pocket-dit')"
        )
    if isinstance(pipe, (str, Path)):
        raise UnsupportedError(
            f"pipe is the text {str(pipe)!r}, not a pipeline: load it first, with load({str(pipe)!r})"
        )
    if known := _LOADED.get(pipe):
        return known.id
    return str(getattr(pipe.config, "_name_or_path", "") or type(pipe).__name__)


_TASKS = {"image-to-image": AutoPipelineForImage2Image, "inpainting": AutoPipelineForInpainting}


def for_task(pipe: Any, task: str) -> Any:
    """Return the same weights as a pipeline that starts from a picture.

    Args:
        pipe: a loaded text-to-image pipeline.
        task: "image-to-image" or "inpainting".

    Raises:
        KnobError: another task.
        UnsupportedError: diffusers has no such pipeline for these weights.
    """
    if task not in _TASKS:
        raise KnobError(f"no task is called {task!r}; {nearest(task, _TASKS)}")
    try:
        other = _TASKS[task].from_pipe(pipe)
    except ValueError as error:
        raise UnsupportedError(f"diffusers has no {task} pipeline for {type(pipe).__name__}") from error
    without_t5(other)  # diffusers builds the new object without what the old one was told
    if task == "inpainting":
        inpaintable(other)
    other.set_progress_bar_config(disable=True)
    same_model(other, pipe)
    return other


def same_model(copy: Any, original: Any) -> None:
    """Remember that *copy* is the same model as *original*, for ``describe`` and presets."""
    if known := _LOADED.get(original):
        _LOADED[copy] = known
