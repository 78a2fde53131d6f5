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
from .frames import on_frames
from .load import check_name, describe, for_task, load, model_name, same_model
from .noise import MOST_NOISE, clean, flows, noise_to_signal
from .patch import patched, preserved
from .places import Bypass, around_low_resolution, around_modules, around_stack
from .pocket import ASSETS, POCKET, Model, ignored_words, known_model, models
from .run import Action, Report, Run, Step, tensor_bytes
from .stage import PAIR, Around, Call, Link, Network, SolverStep, Stage, staged
from .system import CHOICES, System, best_device
from .twins import twin

__all__ = [
    "ASSETS",
    "CHOICES",
    "FAMILIES",
    "MOST_NOISE",
    "PAIR",
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
    "around_low_resolution",
    "around_modules",
    "around_stack",
    "best_device",
    "call_arguments",
    "check_name",
    "clean",
    "denoisers",
    "describe",
    "family",
    "flows",
    "for_task",
    "ignored_words",
    "known_model",
    "load",
    "model_name",
    "models",
    "nearest",
    "noise_to_signal",
    "on_frames",
    "patched",
    "pictures",
    "preserved",
    "preview",
    "same_model",
    "staged",
    "tensor_bytes",
    "twin",
]
