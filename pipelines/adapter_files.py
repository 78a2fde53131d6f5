"""Adapters as files: weights, and beside them what they are and which denoiser they were trained for."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .adapters import KINDS, Adapter, AdapterShape, sites, the_network
from .errors import LoadError
from .families import family
from .load import model_name
from .pocket import ASSETS

WEIGHTS, ABOUT = "adapter.safetensors", "adapter.json"
_FOLDER = "guidance-adapter"
_NEAR = 0.015  # between bfloat16's rounding, 0.006 at most on the pocket models, and the smallest further training


def shipped(pipe: Any) -> Path | None:
    """Return the folder of the adapter that ships for this model, or None."""
    folder = ASSETS / model_name(pipe).lower().replace("/", "--") / _FOLDER
    return folder if (folder / WEIGHTS).is_file() else None


def base_of(pipe: Any) -> dict[str, Any]:
    """Say which denoiser this is, so that another one is recognised as another."""
    network = the_network(pipe)
    return {"model": model_name(pipe), "denoiser": type(network).__name__, "weights": marks(network)}


def unreadable(network: nn.Module) -> str | None:
    """Say why the weights cannot be compared with those that an adapter was trained for, or None if they can."""
    parameters = list(network.parameters())
    if any(p.is_meta for p in parameters):
        return (
            "sequential offload keeps its denoiser's weights away until they run, so that nobody can tell whether the "
            "adapter was trained for them: use model-offload, or attach before offloading"
        )
    coarse = {p.dtype for p in parameters if p.ndim > 1 and not (p.is_floating_point() and p.dtype.itemsize > 1)}
    if coarse or getattr(network, "quantization_method", None):
        how = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in coarse)) or "few bits"
        return (
            f"its denoiser's weights are quantised ({how}), too coarse to tell whether the adapter was trained for "
            "them: load the model without quantisation"
        )
    return None


def marks(network: nn.Module) -> list[float]:
    """Return a number for each matrix that changes with its weights, but hardly with their precision.

    It is the projection of the first weights on fixed random signs, over their length.
    """
    signs = torch.randint(0, 2, (2**16,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    found = []
    for matrix in network.parameters():
        if matrix.ndim > 1 and matrix.is_floating_point():
            flat = matrix.detach().flatten()[: len(signs)].float().cpu()
            found.append(round(float(flat @ signs[: len(flat)] / flat.norm().clamp(min=1e-12)), 5))
    return found


def save_adapter(adapter: Adapter, folder: Path, base: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    """Write an adapter trained for a denoiser described by ``base_of``; *trained* is kept for people."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in adapter.state_dict().items()}, folder / WEIGHTS)
    about = {"shape": asdict(adapter.shape), "base": dict(base), "trained": dict(trained)}
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_adapter(source: str | Path) -> tuple[Adapter, dict[str, Any]]:
    """Read an adapter from its folder or weight file; the second value says which base it fits.

    Raises:
        LoadError: there is none, or it is damaged.
    """
    about, weights = _read(source)
    adapter = Adapter(_shape(about, source))
    try:
        state = load_file(weights)
        adapter.to(next(iter(state.values())).dtype).load_state_dict(state)
        if not all(value.isfinite().all() for value in state.values()):
            raise ValueError
    except (OSError, SafetensorError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        raise LoadError(f"the weights in {weights} are damaged, or of another adapter than {ABOUT} says") from error
    return adapter.eval().requires_grad_(False), about["base"]


def misfit(pipe: Any, source: str | Path) -> str | None:
    """Say why the adapter at *source* does not belong to the denoiser of *pipe*, or None if it does.

    Raises:
        LoadError: there is no adapter.
    """
    about, _ = _read(source)
    base, network = about["base"], the_network(pipe)
    shape = _shape(about, source)
    here = f"this is {type(network).__name__} of {model_name(pipe)}"
    there = f"the adapter in {source} was trained for {base['denoiser']} of {base['model']}"
    if base["denoiser"] != type(network).__name__ or dict(shape.sites) != sites(family(pipe), network):
        return f"{there}, and {here}, which is built in another way"
    if (why := unreadable(network)) is not None:
        return why
    theirs, ours = base["weights"], marks(network)
    if len(theirs) != len(ours) or not all(abs(a - b) <= _NEAR for a, b in zip(theirs, ours, strict=True)):
        return f"{there}, and {here} with other weights: train one for these"
    return None


def _read(source: str | Path) -> tuple[dict[str, Any], Path]:
    path = Path(source)
    weights = path if path.suffix == ".safetensors" else path / WEIGHTS
    about = weights.with_name(ABOUT)
    if not (weights.is_file() and about.is_file()):
        raise LoadError(f"{source} holds no guidance adapter: it needs {WEIGHTS} and {ABOUT}, as training writes them")
    try:
        read = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LoadError(f"{about} cannot be read: {error}") from error
    base = read.get("base") if isinstance(read, dict) else None
    if not isinstance(base, dict) or not _described(base):
        raise LoadError(f"{about} does not say which denoiser the adapter was trained for")
    return read, weights


def _described(base: Mapping[str, Any]) -> bool:
    """Tell whether this is what ``base_of`` returns."""
    marks = base.get("weights")
    numbers = isinstance(marks, list) and all(isinstance(mark, float) for mark in marks)
    return numbers and isinstance(base.get("model"), str) and isinstance(base.get("denoiser"), str)


def _shape(about: Mapping[str, Any], source: str | Path) -> AdapterShape:
    try:
        shape = AdapterShape(**about["shape"])
        low, high = map(float, shape.scales)
        counts = [shape.width, shape.words, *shape.sites.values()]
        sized = all(type(count) is int and 0 < count < 2**16 for count in counts)
        if not (sized and shape.kind in KINDS and 1 <= low < high < inf and 0 < float(shape.clock) < inf):
            raise ValueError
        return replace(shape, scales=(low, high), clock=float(shape.clock))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{ABOUT} in {source} does not describe an adapter") from error
