"""Recipes: accelerators in order, as text, as TOML files, or as presets that ship with the project."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..accelerators import Session, attached
from .recipe import Recipe, own_presets, preset_names, presets

__all__ = ["Recipe", "accelerate", "own_presets", "preset_names", "presets"]


@contextmanager
def accelerate(pipe: Any, *what: Any) -> Iterator[Session]:
    """Accelerate a diffusers pipeline for as long as the block lasts, then leave it exactly as it was.

    Args:
        pipe: any diffusers pipeline with a denoiser and a scheduler.
        *what: accelerators, outermost first; or a preset's name ("balanced"), a recipe as text
            ("ab-cache:every=3 + guidance-interval"), a TOML path, or a ``Recipe``.

    Yields:
        The session; its ``report()`` says what the last run did.

    Raises:
        UnsupportedError, IncompatibleError, KnobError, PresetError: before the pipeline is touched.
    """
    parts: Iterable[Recipe] = (Recipe.of(part, pipe) for part in what)
    with attached(pipe, *(a for recipe in parts for a in recipe.accelerators)) as session:
        yield session
