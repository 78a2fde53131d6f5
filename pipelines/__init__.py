"""How a diffusers pipeline is put together, how to load one, and how to stand between its parts for a while."""

from .errors import (
    Cancelled,
    DeadheatError,
    IncompatibleError,
    InputError,
    KnobError,
    LoadError,
    PresetError,
    UnsupportedError,
    nearest,
)
from .families import FAMILIES, Family, Latents, Stack, denoisers, family
from .patch import patched, preserved
from .places import Bypass, around_low_resolution, around_modules, around_stack
from .run import Action, Report, Run, Step, tensor_bytes
from .stage import Around, Call, Link, Network, SolverStep, Stage, staged

__all__ = [
    "FAMILIES",
    "Action",
    "Around",
    "Bypass",
    "Call",
    "Cancelled",
    "DeadheatError",
    "Family",
    "IncompatibleError",
    "InputError",
    "KnobError",
    "Latents",
    "Link",
    "LoadError",
    "Network",
    "PresetError",
    "Report",
    "Run",
    "SolverStep",
    "Stack",
    "Stage",
    "Step",
    "UnsupportedError",
    "around_low_resolution",
    "around_modules",
    "around_stack",
    "denoisers",
    "family",
    "nearest",
    "patched",
    "preserved",
    "staged",
    "tensor_bytes",
]
