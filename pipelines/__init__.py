"""How a diffusers pipeline is put together, how to load one, and how to stand between its parts for a while."""

from .calling import call_arguments, pictures, preview
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
from .load import check_name, describe, for_task, load, model_name, same_model
from .patch import patched, preserved
from .places import Bypass, around_low_resolution, around_modules, around_stack
from .pocket import ASSETS, POCKET, Model, ignored_words, known_model, models
from .rows import Rows
from .run import Action, Report, Run, Step, packed, tensor_bytes, unpacked
from .stage import Around, Call, Link, Network, SolverStep, Stage, staged
from .system import CHOICES, System, best_device
from .tokens import Selector, around_tokens, patch_size, why_whole
from .twins import twin

__all__ = [
    "ASSETS",
    "CHOICES",
    "FAMILIES",
    "POCKET",
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
    "Model",
    "Network",
    "PresetError",
    "Report",
    "Rows",
    "Run",
    "Selector",
    "SolverStep",
    "Stack",
    "Stage",
    "Step",
    "System",
    "UnsupportedError",
    "around_low_resolution",
    "around_modules",
    "around_stack",
    "around_tokens",
    "best_device",
    "call_arguments",
    "check_name",
    "denoisers",
    "describe",
    "family",
    "for_task",
    "ignored_words",
    "known_model",
    "load",
    "model_name",
    "models",
    "nearest",
    "packed",
    "patch_size",
    "patched",
    "pictures",
    "preserved",
    "preview",
    "same_model",
    "staged",
    "tensor_bytes",
    "twin",
    "unpacked",
    "why_whole",
]
