"""Draws scenes by lot, writes their captions, and lays them out for the renderer. One seed, one sequence.

rng = random.Random(0)
scene = draw(rng)            # what
write(scene, rng)            # a caption; parse(caption) == scene
layout(scene, rng)           # where exactly, in points: the picture is 128 points wide, whatever its pixels
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from deadheat.pipelines.scenes import (
    ANCHORS,
    COLOURS,
    PICTOGRAMS,
    RELATIONS,
    SHAPES,
    STYLES,
    THINGS,
    Ground,
    Scene,
    Thing,
)

SIDE = 128
MOST = 3
_PICTOGRAMS = 0.78
_ONE = {"small": (46, 54), "": (60, 82), "large": (92, 108)}
_MANY = {"small": (40, 46), "": (48, 60), "large": (62, 72)}
_THREE = {"": (46, 54)}
_NOUNS = {"striped": "stripes", "dotted": "dots", "gridded": "grid"}
_SIZE_WORDS = {"large": ("large", "large", "large", "big", "huge"), "small": ("small", "small", "little", "tiny")}


@dataclass(frozen=True)
class Layout:
    """A scene as numbers, everything the renderer needs.

    Attributes:
        ground: style index, red, green, blue (0 to 1), and two phases (0 to 1) of the pattern.
        things: three rows of glyph index (-1: none), x, y, size (points), turn (radians), red, green, blue tint.
    """

    ground: np.ndarray
    things: np.ndarray


def draw(rng: random.Random, weights: Sequence[float] | None = None) -> Scene:
    """A scene by lot: 40 % one thing, 45 % two, 15 % three; no two of a kind, no shape in its ground's colour.

    A thing is one of `THINGS`, as often as its weight says; without weights 78 % are pictograms and 22 % shapes.
    """
    count = rng.choices((1, 2, 3), (40, 45, 15))[0]
    ground = Ground(rng.choice(list(COLOURS)), rng.choices(STYLES, (32, 20, 18, 15, 15))[0])
    kinds: list[str] = []
    while len(kinds) < count:
        if weights:  # not by default: the held-out prompts are the sequence of the other branch
            kind = rng.choices(THINGS, weights)[0]
        else:
            kind = rng.choice(PICTOGRAMS if rng.random() < _PICTOGRAMS else SHAPES)
        if kind not in kinds:
            kinds.append(kind)
    colours = [c for c in COLOURS if c != ground.colour]
    sizes = _sizes(count, rng)
    things = tuple(
        Thing(k, rng.choice(colours) if k in SHAPES else None, s) for k, s in zip(kinds, sizes, strict=True)
    )
    where = ""
    if count == 1 and not sizes[0] and rng.random() < 0.4:
        where = rng.choice(list(ANCHORS))
    elif count > 1:
        where = rng.choices(list(RELATIONS), (23, 23, 23, 23, 8 if count == 2 else 0))[0]
    return Scene(things, where, ground if rng.random() < 0.95 else None)


def _sizes(count: int, rng: random.Random) -> list[str]:
    if count == 1:
        return rng.choices(("small", "", "large"), (15, 60, 25))
    if count == 2 and rng.random() < 0.25:
        return rng.choice((["large", "small"], ["small", "large"]))
    return [""] * count


def write(scene: Scene, rng: random.Random, plain: bool = False) -> str:
    """A caption of the scene, in one of many wordings, or (plain) always in the commonest."""
    phrases = [_phrase(thing, rng, plain) for thing in scene.things]
    text = phrases[0]
    if len(phrases) > 1:
        text += f" {_relation(scene.where, rng, plain)} {' and '.join(phrases[1:])}"
    elif scene.where:
        text += f" {_anchor(scene.where, rng, plain)}"
    if scene.ground is None:
        return text
    ground = _ground(scene.ground, rng, plain)
    if not plain and rng.random() < 0.08:
        return f"{ground}, {text}"
    return f"{text} {ground}"


def _phrase(thing: Thing, rng: random.Random, plain: bool) -> str:
    size = thing.size if plain or not thing.size else rng.choice(_SIZE_WORDS[thing.size])
    words = " ".join(filter(None, (size, thing.colour, thing.what)))
    return _article(words)


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _relation(where: str, rng: random.Random, plain: bool) -> str:
    if where == "beside":
        return rng.choice(("beside", "next to", "and"))
    if plain or rng.random() < 0.7:
        return where
    return {"above": "over", "below": "under"}.get(where, f"to the {where}")


def _anchor(where: str, rng: random.Random, plain: bool) -> str:
    if where == "middle":
        return "in the middle" if plain else rng.choice(("in the middle", "in the centre"))
    if " " in where:
        return f"at the {where}" if plain or rng.random() < 0.5 else f"in the {where} corner"
    return f"{'on' if where in ('left', 'right') else 'at'} the {where}"


def _ground(ground: Ground, rng: random.Random, plain: bool) -> str:
    style = "" if ground.style == "flat" else ground.style
    wording = 0.0 if plain else rng.random()
    if wording < 0.7:
        return "on " + _article(" ".join(filter(None, (style, ground.colour, "background"))))
    if wording < 0.85 and style in _NOUNS:
        noun = _NOUNS[style]
        return f"on {ground.colour} {noun}" if noun != "grid" else f"on {_article(f'{ground.colour} grid')}"
    if wording < 0.85 and not style:
        return f"on {ground.colour}"
    return "against " + _article(" ".join(filter(None, (style, ground.colour, "backdrop"))))


def layout(scene: Scene, rng: random.Random, zoom: float = 1.0) -> Layout:
    """Exact places, sizes, turns and tints by lot. `zoom` scales the things alone."""
    things = np.zeros((MOST, 8), np.float32)
    things[:, 0] = -1
    count = len(scene.things)
    ranges = _ONE if count == 1 else _MANY if count == 2 else _THREE | {k: _MANY[k] for k in ("small", "large")}
    sizes = [rng.uniform(*ranges[thing.size]) * zoom for thing in scene.things]
    places = _alone(scene.where, sizes[0], rng) if count == 1 else _together(scene.where, sizes, rng)
    worn = {thing.colour for thing in scene.things}
    ground = scene.ground or Ground(rng.choice([c for c in COLOURS if c not in worn]), rng.choice(STYLES))
    for row, thing, size, (x, y) in zip(things, scene.things, sizes, places, strict=False):
        colour = thing.colour or rng.choice([c for c in COLOURS if c != ground.colour])
        tint = _jitter(colour, 4, rng) if thing.what in SHAPES else (1.0, 1.0, 1.0)
        row[:] = (THINGS.index(thing.what), x, y, size, rng.uniform(-0.25, 0.25), *tint)
    first = (STYLES.index(ground.style), *_jitter(ground.colour, 8, rng), rng.random(), rng.random())
    return Layout(np.array(first, np.float32), things)


def _jitter(colour: str, by: float, rng: random.Random) -> tuple[float, ...]:
    return tuple(min(1.0, max(0.0, (c + rng.uniform(-by, by)) / 255)) for c in COLOURS[colour])


def _alone(where: str, size: float, rng: random.Random) -> list[tuple[float, float]]:
    half = SIDE / 2
    if not where:
        play = min(22.0, max(4.0, half - size / 2 - 6))
        return [(half + rng.uniform(-play, play), half + rng.uniform(-play, play))]
    reach = half - size * 0.5 - 3  # as far out as it goes without touching the edge
    x, y = ((half + a * (reach - rng.uniform(0, 5)) + rng.uniform(-3, 3) * (a == 0)) for a in ANCHORS[where])
    return [(x, y)]


def _together(where: str, sizes: list[float], rng: random.Random) -> list[tuple[float, float]]:
    """The first on its side; the others opposite, side by side if they are two."""
    a, b = RELATIONS[where]
    if not a and not b:
        a = rng.choice((-1, 1))
    half, gap = SIDE / 2, rng.uniform(29, 33)
    shift = (sizes[-1] - sizes[0]) * 0.25  # the larger one needs more of the picture
    spread = [0.0] if len(sizes) == 2 else [-31.0, 31.0]
    places = [
        (
            half + a * (gap + shift) + rng.uniform(-12, 12) * (a == 0),
            half + b * (gap + shift) + rng.uniform(-12, 12) * (b == 0),
        )
    ]
    for along in spread:
        off = along + rng.uniform(-2, 2) if along else rng.uniform(-12, 12)
        places.append((half - a * (gap - shift) + off * (a == 0), half - b * (gap - shift) + off * (b == 0)))
    return places
