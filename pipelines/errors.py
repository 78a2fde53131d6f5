"""What can go wrong. Every message names the thing, the value and the way out.

DeadheatError
├── UnsupportedError     this accelerator or switch cannot work with this pipeline
├── IncompatibleError    two accelerators that cannot stand in one recipe
├── KnobError            an unknown accelerator or knob, or a value outside its range
├── LoadError            a model that cannot be loaded
├── PresetError          a preset or recipe file that cannot be read
├── InputError           a prompt, seed, step count, size or folder that cannot be used
└── Cancelled            somebody pressed Stop
"""

import difflib
from collections.abc import Iterable


class DeadheatError(Exception):
    """The root of everything that Deadheat raises on purpose."""


class UnsupportedError(DeadheatError):
    """An accelerator or a system switch cannot work with this pipeline."""


class IncompatibleError(DeadheatError):
    """Two accelerators of one recipe cannot work together."""


class KnobError(DeadheatError):
    """An accelerator, a knob, or a knob's value is not known."""


class LoadError(DeadheatError):
    """A model cannot be loaded."""


class PresetError(DeadheatError):
    """A preset cannot be found or read."""


class InputError(DeadheatError):
    """A prompt, a seed, a number of steps, a size or a folder cannot be used."""


class Cancelled(DeadheatError):
    """The run was stopped on purpose."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, as the end of an error message.

    >>> nearest("ab-cash", ["ab-cache", "guidance-interval"])
    'did you mean ab-cache?'
    >>> nearest("zzz", ["b", "a"])
    'known: a, b'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
