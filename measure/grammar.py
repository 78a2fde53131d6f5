"""The small grammar of sweeps: recipe text in which a knob may have several values.

    value        = alternative { "|" alternative }
    alternative  = number ".." number [ "/" step ]      both ends belong to it; without a step, whole numbers
                 | anything that a recipe may have there

``ab-cache:every=2..5,order=1|2`` are eight recipes, ``teacache:threshold=0.1..0.3/0.05`` five. Knobs that are free
text (a mask) are taken as they are, in quotes where a recipe needs them. Several knobs, and several accelerators
joined by ``+``, give every combination.
"""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import Field, fields
from decimal import Decimal
from typing import Any

from ..accelerators import ACCELERATORS, knob_texts, knobs, quoted, read, recipe_parts
from ..accelerators.knobs import checked
from ..pipelines import InputError, KnobError, nearest

MOST_RECIPES = 10_000
LONGEST = 100  # text of a number, a range or a choice
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_RANGE = re.compile(rf"\s*({_NUMBER}?)\s*\.\.\s*({_NUMBER}?)\s*(?:/\s*(.*?)\s*)?")


def expand(text: str) -> list[str]:
    """Return the recipe texts that a text with ranges means, the first knob outermost.

    >>> expand("ab-cache:every=2..3,order=1|2 + guidance-interval")[:2]
    ['ab-cache:every=2,order=1 + guidance-interval', 'ab-cache:every=2,order=2 + guidance-interval']
    >>> expand("teacache:threshold=0.1..0.3/0.1")
    ['teacache:threshold=0.1', 'teacache:threshold=0.2', 'teacache:threshold=0.3']

    Raises:
        KnobError: an unknown accelerator or knob, a range that is none, or a value outside its knob's own range. A
            combination that only together makes no sense is not refused here: it becomes a cell that says why.
    """
    parts = [_parts(part) for part in recipe_parts(text)]
    count = math.prod(map(len, parts))
    if count > MOST_RECIPES:
        raise KnobError(f"{text!r} means {count} recipes; at most {MOST_RECIPES} are taken: give larger steps")
    return [" + ".join(chosen) for chosen in itertools.product(*parts)]


def numbers(name: str, text: str) -> list[int]:
    """Read whole numbers separated by commas, ranges among them.

    >>> numbers("--seeds", "0,4..6,10..20/5")
    [0, 4, 5, 6, 10, 15, 20]

    Raises:
        InputError: something is no whole number.
    """
    found = []
    for part in text.split(","):
        for one in _alternative(name, part.strip()):
            if not re.fullmatch(r"[+-]?\d+", one):
                raise InputError(f"{name} is {one!r}, not a whole number (write several as 0,1,2 or 0..7)")
            found.append(int(one))
    return found


def _parts(text: str) -> list[str]:
    """Return every way to write one accelerator."""
    name, settings = knob_texts(text)
    cls = ACCELERATORS[name]
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    choices = []
    for key, value in settings:
        if key not in known:
            raise KnobError(f"{cls.name} has no knob {key!r}; {nearest(key, known)}")
        choices.append([f"{key}={quoted(one)}" for one in _values(cls, known[key], value)])
    count = math.prod(map(len, choices))
    if count > MOST_RECIPES:
        raise KnobError(f"{text!r} means {count} recipes; at most {MOST_RECIPES} are taken: give larger steps")
    return [f"{cls.name}:{','.join(chosen)}" if chosen else cls.name for chosen in itertools.product(*choices)]


def _values(cls: Any, f: Field[Any], text: str) -> list[str]:
    default, spec = knobs(cls)[f.name]
    free = isinstance(default, str) and not spec.choices
    where = f"{cls.name}: {f.name}"
    found = [text] if free else [one for part in text.split("|") for one in _alternative(where, part.strip())]
    for one in found:
        checked(cls.__name__, f, read(f, one))
    return list(dict.fromkeys(found))


def _alternative(where: str, text: str) -> Iterator[str]:
    if not text:
        raise KnobError(f"{where} has an empty value; write for example 2|3|4")
    if len(text) > LONGEST:
        raise KnobError(
            f"{where} has a value of {len(text)} characters; no number or choice needs more than {LONGEST}"
        )
    if ".." not in text:
        yield text
        return
    whole = _RANGE.fullmatch(text)
    low, high, step = whole.groups() if whole else ("", "", None)
    if not low or not high:
        raise KnobError(f"{where} is {text!r}, which is no range; write for example 2..5, or 0.1..0.3/0.05")
    if step is None and not (low + high).lstrip("+-").replace("-", "").replace("+", "").isdigit():
        raise KnobError(f"{where} is {text!r}, a range of fractions without a step; write for example {text}/0.05")
    if step is not None and not (re.fullmatch(_NUMBER, step) and Decimal(step) > 0):
        raise KnobError(
            f"{where} is {text!r}, with a step that is no number above 0; write for example {low}..{high}/2"
        )
    begin, end, stride = Decimal(low), Decimal(high), Decimal(step or 1)
    if begin > end:
        raise KnobError(f"{where} is {text!r}, a range that ends before it begins; write {high}..{low}")
    count = int((end - begin) / stride) + 1
    if count > MOST_RECIPES:
        raise KnobError(f"{where} is {text!r}, which is {count} values; at most {MOST_RECIPES} are taken")
    for nth in range(count):
        value = format((begin + nth * stride).normalize(), "f")
        yield value
