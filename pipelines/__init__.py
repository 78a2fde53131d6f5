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
from .places import Bypass, around_modules, around_stack
from .pocket import ASSETS, POCKET, Model, ignored_words, known_model, models
from .run import Action, Report, Run, Step, tensor_bytes
from .stage import Around, Call, Link, Network, SolverStep, Stage, staged
from .system import CHOICES, System, best_device
from .twins import twin
from .unet import around_deep_layers, around_low_resolution, skip_levels, unlike_unet
from .unet_encoder import around_control, around_encoder

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
    "Run",
    "SolverStep",
    "Stack",
    "Stage",
    "Step",
    "System",
    "UnsupportedError",
    "around_control",
    "around_deep_layers",
    "around_encoder",
    "around_low_resolution",
    "around_modules",
    "around_stack",
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
    "patched",
    "pictures",
    "preserved",
    "preview",
    "same_model",
    "skip_levels",
    "staged",
    "tensor_bytes",
    "twin",
    "unlike_unet",
]
