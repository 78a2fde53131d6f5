"""Knobs: one line each, read by range checks, sliders, the command line, presets and documentation."""

from dataclasses import Field, dataclass, field, fields
from math import isfinite
from typing import Any

from ..pipelines import KnobError, is_unicode, nearest


@dataclass(frozen=True)
class Knob:
    """What a knob is: its range or its choices, its unit, and a phrase.

    Attributes:
        low, high: smallest and largest value; None for a choice or a switch.
        choices: the values to choose from; empty for a number.
        unit: "steps", "fraction", ... or ""; "path" for text that names a file, which the app never opens.
        what: a phrase for people.
    """

    low: float | None
    high: float | None
    choices: tuple[str, ...]
    unit: str
    what: str


def knob(default: Any, what: str, *, low: Any = None, high: Any = None, unit: str = "", choices: Any = ()) -> Any:
    """Declare a dataclass field as a knob.

    A number has *low* and *high*, a word has *choices*, a switch and free text have neither.
    """
    return field(default=default, metadata={"knob": Knob(low, high, tuple(choices), unit, what)})


def knobs(accelerator: Any) -> dict[str, tuple[Any, Knob]]:
    """Return every knob of an accelerator (class or object) with its default value, in order."""
    return {f.name: (f.default, f.metadata["knob"]) for f in fields(accelerator)}


def checked(owner: str, f: Field[Any], value: Any) -> Any:
    """Return *value* as the type of the field's default, or say what is wrong with it.

    Raises:
        KnobError: wrong type or out of range; the message names the knob, the value and the range.
    """
    spec: Knob = f.metadata["knob"]
    where = f"{owner}.{f.name} is {value!r}"
    if spec.choices:
        if value not in spec.choices:
            raise KnobError(f"{where}, not one of {', '.join(spec.choices)}; {nearest(str(value), spec.choices)}")
        return value
    if isinstance(f.default, bool):
        if not isinstance(value, bool):
            raise KnobError(f"{where}, not true or false")
        return value
    if isinstance(f.default, str):
        if not isinstance(value, str) or not is_unicode(value):
            raise KnobError(f"{where}, not text")
        return value
    kind: type = type(f.default)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or (isinstance(value, float) and not (isfinite(value) and kind(value) == value)):
        raise KnobError(f"{where}, not {'a whole number' if kind is int else 'a number'}")
    if not spec.low <= value <= spec.high:
        raise KnobError(f"{where}, not between {spec.low} and {spec.high}")
    return kind(value)


def read(f: Field[Any], text: str) -> Any:
    """Turn the text of a command line into the type of a knob; text that does not fit stays text for ``checked``."""
    if f.metadata["knob"].choices:
        return text
    if isinstance(f.default, bool):
        return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(
            text.lower(), text
        )
    try:
        kind: type = type(f.default)
        return kind(text)
    except ValueError:
        return text
