"""Deadheat: same picture, less time. The import name; in a checkout its parts are the folders beside this one.

Public names load on first use, so that ``import deadheat`` costs nothing.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

_here = Path(__file__).parent
if not (_here / "accelerators").is_dir():  # a checkout: accelerators/, measure/, ... stand beside deadheat/
    __path__.append(str(_here.parent))

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .accelerators import ACCELERATORS
    from .measure import Comparison, Edit, EditSession, Sweep, Tuned, compare, edit, sweep, tune
    from .pipelines import (
        DeadheatError,
        IncompatibleError,
        InputError,
        KnobError,
        LoadError,
        PresetError,
        UnsupportedError,
        for_task,
        load,
    )
    from .presets import Recipe, accelerate

_HOME = {
    "ACCELERATORS": "accelerators",
    "Comparison": "measure",
    "Sweep": "measure",
    "compare": "measure",
    "sweep": "measure",
    "Tuned": "measure",
    "tune": "measure",
    "Edit": "measure",
    "EditSession": "measure",
    "edit": "measure",
    "Recipe": "presets",
    "accelerate": "presets",
    "for_task": "pipelines",
    "load": "pipelines",
    "DeadheatError": "pipelines",
    "IncompatibleError": "pipelines",
    "InputError": "pipelines",
    "KnobError": "pipelines",
    "LoadError": "pipelines",
    "PresetError": "pipelines",
    "UnsupportedError": "pipelines",
}
__all__ = [
    "ACCELERATORS",
    "Comparison",
    "DeadheatError",
    "Edit",
    "EditSession",
    "IncompatibleError",
    "InputError",
    "KnobError",
    "LoadError",
    "PresetError",
    "Recipe",
    "Sweep",
    "Tuned",
    "UnsupportedError",
    "accelerate",
    "compare",
    "edit",
    "for_task",
    "load",
    "sweep",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'deadheat' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
