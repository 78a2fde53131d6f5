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
from .families import FAMILIES, Family, Latents, Size, Stack, denoisers, family
from .legs import Leg, levels_of
from .load import check_name, describe, for_task, load, model_name, same_model
from .patch import patched, preserved
from .places import Bypass, around_low_resolution, around_modules, around_stack
from .pocket import ASSETS, POCKET, Model, ignored_words, known_model, models
from .resolution import Change, Resize, around_resolution, fixed_size
from .run import Action, Report, Run, Step, tensor_bytes
from .stage import Around, Call, Link, Network, SolverStep, Stage, staged
from .system import CHOICES, System, best_device
from .text_attention import around_text_attention
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
    "Change",
    "DeadheatError",
    "Family",
    "IncompatibleError",
    "InputError",
    "KnobError",
    "Latents",
    "Leg",
    "Link",
    "LoadError",
    "Model",
    "Network",
    "PresetError",
    "Report",
    "Resize",
    "Run",
    "Size",
    "SolverStep",
    "Stack",
    "Stage",
    "Step",
    "System",
    "UnsupportedError",
    "around_low_resolution",
    "around_modules",
    "around_resolution",
    "around_stack",
    "around_text_attention",
    "best_device",
    "call_arguments",
    "check_name",
    "denoisers",
    "describe",
    "family",
    "fixed_size",
    "for_task",
    "ignored_words",
    "known_model",
    "levels_of",
    "load",
    "model_name",
    "models",
    "nearest",
    "patched",
    "pictures",
    "preserved",
    "preview",
    "same_model",
    "staged",
    "tensor_bytes",
    "twin",
]
