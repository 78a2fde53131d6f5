"""Two pipelines on one set of weights: one to stay untouched, one to stand in."""

import copy
from typing import Any

from torch import nn

from .errors import UnsupportedError
from .families import denoisers
from .load import same_model


def twin(pipe: Any) -> Any:
    """Return a second pipeline that shares every weight with *pipe*: its denoiser and scheduler are its own.

    No weight is copied; text encoders and autoencoder are the same objects.

    Raises:
        UnsupportedError: a hooked, offloaded, quantised or compiled denoiser cannot be copied faithfully.
    """
    networks = denoisers(pipe)
    for name, network in networks.items():
        if (why := _bound(network)) is not None:
            raise UnsupportedError(f"{type(pipe).__name__}.{name} cannot have a twin: {why}")
    other = copy.copy(pipe)
    for name, network in networks.items():
        shared = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
        setattr(other, name, copy.deepcopy(network, shared))
    other.scheduler = copy.deepcopy(pipe.scheduler)
    same_model(other, pipe)
    return other


def _bound(network: nn.Module) -> str | None:
    """Say what ties a network's modules to themselves, so that a copy would still run the original."""
    if hasattr(network, "_orig_mod") or getattr(network, "quantization_method", None):
        return "it is compiled or quantised"
    for module in network.modules():
        registry = vars(module).get("_diffusers_hook")
        if "forward" in vars(module) or (registry is not None and registry.hooks) or hasattr(module, "_hf_hook"):
            return "hooks of somebody else stand in it"
        if module._compiled_call_impl is not None:
            return "its blocks are compiled"
    return None
