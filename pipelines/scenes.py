"""The little world the pocket models draw: its words, its scenes, and how a caption is read back into one.

A scene is one to three things on a ground. A thing is a flat shape in a named colour or a pictogram (which has the
colours of its picture). Every caption the pocket models were trained on parses back into the scene it was written
for, so how well a picture answers its prompt can be measured instead of guessed (`deadheat.measure.adherence`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 70, 66),
    "orange": (246, 156, 60),
    "yellow": (250, 218, 94),
    "green": (106, 190, 110),
    "blue": (86, 150, 236),
    "purple": (150, 104, 214),
    "pink": (246, 160, 196),
    "brown": (150, 106, 78),
    "white": (244, 244, 240),
    "gray": (140, 146, 156),
    "black": (38, 40, 52),
    "teal": (64, 182, 176),
}
SHAPES = ("circle", "square", "triangle", "ring", "cross", "heart", "moon")
PICTOGRAMS = (
    "apple",
    "balloon",
    "butterfly",
    "cactus",
    "cat",
    "donut",
    "football",
    "fox",
    "frog",
    "ghost",
    "house",
    "mushroom",
    "octopus",
    "panda",
    "penguin",
    "pig",
    "pizza",
    "robot",
    "rocket",
    "sailboat",
    "snowman",
    "star",
    "strawberry",
    "sunflower",
    "tree",
    "turtle",
    "umbrella",
    "watermelon",
)
THINGS = SHAPES + PICTOGRAMS
STYLES = ("flat", "gradient", "striped", "dotted", "gridded")
SIZES = ("small", "", "large")

ANCHORS: dict[str, tuple[int, int]] = {
    "middle": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
"""Where a lone thing may stand, as (column, row) from the middle, right and down positive."""

RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
    "beside": (0, 0),
}
"""On which side of the others the first thing stands; beside leaves the side open."""

_SAME = {
    "grey": "gray",
    "big": "large",
    "huge": "large",
    "little": "small",
    "tiny": "small",
    "plain": "flat",
    "center": "middle",
    "centre": "middle",
    "over": "above",
    "under": "below",
    "doughnut": "donut",
    "backdrop": "background",
    "wall": "background",
}
_PATTERNS = {"stripes": "striped", "dots": "dotted", "grid": "gridded"}
_GLUE = [
    "a",
    "an",
    "the",
    "of",
    "to",
    "in",
    "on",
    "at",
    "and",
    "next",
    "beside",
    "corner",
    "front",
    "against",
    "background",
]
WORDS = frozenset(
    [
        *COLOURS,
        *THINGS,
        *STYLES,
        *filter(None, SIZES),
        *_SAME,
        *_PATTERNS,
        *_GLUE,
        "left",
        "right",
        "top",
        "bottom",
        "middle",
        "above",
        "below",
    ]
)
"""Every word with a meaning here. The pocket models ignore all others."""


@dataclass(frozen=True)
class Thing:
    """One thing in a scene: a shape (with a colour, or None for any) or a pictogram (colour None)."""

    what: str
    colour: str | None = None
    size: str = ""


@dataclass(frozen=True)
class Ground:
    """What the things stand on."""

    colour: str
    style: str = "flat"


@dataclass(frozen=True)
class Scene:
    """One to three things, where they stand, and the ground (None: any).

    `where` names an anchor for a lone thing and a relation for several; an empty string leaves the place open.
    """

    things: tuple[Thing, ...]
    where: str = ""
    ground: Ground | None = None


def _any(names: dict[str, tuple[int, int, int]] | tuple[str, ...]) -> str:
    return "|".join(sorted(filter(None, names), key=len, reverse=True))


_THING = rf"(?:(?:an?|the) )?(?:(?:{_any(SIZES)}) )?(?:(?:{_any(COLOURS)}) )?(?:{_any(THINGS)})"
_SIDE = r"(?:(?:to|on) the )?(?:left|right) of|above|below|next to|beside|and"
_CORNER = r"(?:in|at|on) the (?:(?:top|bottom)(?: (?:left|right))?|left|right|middle)(?: corner)?"
_GROUND = (
    rf"(?:on|against|in front of) (?:an? |the )?"
    rf"(?:(?:(?:{_any(STYLES)}) )?(?:{_any(COLOURS)})(?: background| {'| '.join(_PATTERNS)})?)"
)
_OTHERS = rf"(?P<side>{_SIDE}) (?P<second>{_THING})(?: and (?P<third>{_THING}))?"
_THINGS = rf"(?P<first>{_THING})(?: (?:{_OTHERS}|(?P<corner>{_CORNER})))?"
_CAPTION = re.compile(rf"(?:{_THINGS}(?: (?P<ground>{_GROUND}))?)$")
_GROUND_FIRST = re.compile(rf"(?P<ground>{_GROUND}) {_THINGS}$")


def parse(caption: str) -> Scene | None:
    """Read a caption as a scene; words that mean nothing here are skipped; None if what is left makes no scene.

    >>> parse("A fox above a big red moon, on teal stripes").things[1]
    Thing(what='moon', colour='red', size='large')
    >>> parse("the weather was fine") is None
    True
    """
    text = " ".join(_SAME.get(word, word) for word in _words(caption) if word in WORDS)
    found = _CAPTION.match(text) or _GROUND_FIRST.match(text)
    if found is None:
        return None
    things = tuple(_thing(found[name]) for name in ("first", "second", "third") if found[name])
    if any(thing.colour and thing.what in PICTOGRAMS for thing in things):
        return None  # a pictogram has its own colours, so "a blue fox" is no scene of ours
    return Scene(things, _where(found["side"] or found["corner"] or ""), _ground(found["ground"]))


def unknown_words(prompt: str) -> list[str]:
    """The words of a prompt that the pocket models do not know, in order, each once; a hyphen parts words.

    >>> unknown_words("A majestic fox above a fox-red moon")
    ['majestic']
    """
    return list(dict.fromkeys(word for word in _words(prompt) if word not in WORDS))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def _thing(text: str) -> Thing:
    words = text.split()
    colour = next((word for word in words if word in COLOURS), None)
    size = next((word for word in words if word in SIZES), "")
    return Thing(words[-1], colour, size)


def _where(text: str) -> str:
    if text in ("and", "next to", "beside"):
        return "beside"
    return re.sub(r"^(?:in|at|to|on) the | corner$", "", text)


def _ground(text: str | None) -> Ground | None:
    if text is None:
        return None
    words = [_PATTERNS.get(word, word) for word in text.split()]
    style = next((word for word in words if word in STYLES), "flat")
    return Ground(next(word for word in words if word in COLOURS), style)
