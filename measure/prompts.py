"""Prompts to measure with where nobody gives any: scenes for the pocket models, a wide mix for all others."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..pipelines import known_model, model_name
from ..pipelines.scenes import ANCHORS, COLOURS, PICTOGRAMS, SHAPES, STYLES

MOST = (24, 16, 64)  # to calibrate, to probe, held out
ENOUGH = 12  # with fewer prompts, what is held out are other seeds of the same ones
_SIDES = ("left of", "right of", "above", "below", "beside")
_SUBJECTS = (
    "a red fox", "an old fisherman", "a glass teapot", "a steam locomotive", "two children with kites",
    "a snow leopard", "a bowl of ramen", "a brick lighthouse", "a jazz trio", "a wooden rowing boat", "an astronaut",
    "a bicycle", "a field of tulips", "a desert caravan", "a cathedral", "a market stall", "a hummingbird",
    "a robot", "a woman in a yellow raincoat", "a sleeping cat", "a vintage car", "a waterfall", "a chess board",
    "a street sign", "a slice of cake", "a flock of geese", "a mountain hut", "a violin", "a crowded tram",
)  # fmt: skip
_PLACES = (
    "at dawn", "in heavy rain", "under a starry sky", "on a city square", "in a quiet forest", "beside a frozen lake",
    "in a sunlit kitchen", "on a stony beach", "in thick fog", "in front of a white wall", "among autumn leaves",
)  # fmt: skip
_LOOKS = (
    "photograph, 35 mm", "oil painting", "watercolour", "pencil drawing", "close-up, shallow depth of field",
    "wide shot, golden hour", "woodcut print", "studio light", "isometric illustration",
)  # fmt: skip

Cell = tuple[str, int]


@dataclass(frozen=True)
class Course:
    """What is drawn for what: prompts with seeds, and nothing twice.

    Attributes:
        calibrate: to record runs that a fitted cache learns from.
        probe: for the race.
        held_out: for what is claimed in the end.
        note: a remark for the reader; "" if there is none.
    """

    calibrate: tuple[Cell, ...]
    probe: tuple[Cell, ...]
    held_out: tuple[Cell, ...]
    note: str = ""


def course(pipe: Any, prompts: Sequence[str] | None = None, seed: int = 0) -> Course:
    """Deal prompts out: those given, else as many as are wanted."""
    if not prompts:
        model = known_model(model_name(pipe))
        write = scenes if model is not None and model.pocket else mixed
        dealt = [(prompt, seed) for prompt in write(sum(MOST), seed)]
        return Course(tuple(dealt[: MOST[0]]), tuple(dealt[MOST[0] : -MOST[2]]), tuple(dealt[-MOST[2] :]))
    prompts = list(dict.fromkeys(prompts))  # a prompt that is there twice would be held out of nothing
    if len(prompts) < ENOUGH:
        note = f"{len(prompts)} prompts are few: what is held out are other seeds of the same prompts"
        parts, seeds = (prompts, prompts, prompts), (seed, seed + 1000, seed + 2000)
    else:
        given, note, seeds = list(prompts), "", (seed, seed, seed)
        parts = (given[0::4], given[1::4], [*given[2::4], *given[3::4]])
    first, second, third = (_repeated(*one) for one in zip(parts, MOST, seeds, strict=True))
    return Course(first, second, third, note)


def _repeated(prompts: Sequence[str], most: int, seed: int) -> tuple[Cell, ...]:
    return tuple((prompts[nth % len(prompts)], seed + nth // len(prompts)) for nth in range(most))


def scenes(count: int, seed: int = 0) -> list[str]:
    """Write captions of the pocket world, the same for the same seed.

    >>> scenes(1)[0] == scenes(2)[0]
    True
    """
    rng = random.Random(f"scenes {seed}")
    found: list[str] = []
    while len(found) < count:
        ground, style = rng.choice(list(COLOURS)), rng.choices(STYLES, (32, 20, 18, 15, 15))[0]
        many = rng.choices((1, 2, 3), (40, 45, 15))[0]
        kinds = rng.sample(PICTOGRAMS, many) if rng.random() < 0.6 else [*rng.sample(PICTOGRAMS, many - 1),
                                                                        rng.choice(SHAPES)]  # fmt: skip
        things = [_article(_thing(kind, ground, many, rng)) for kind in kinds]
        where = f" at the {rng.choice(list(ANCHORS))}" if many == 1 and rng.random() < 0.2 else ""
        side = f" {rng.choice(_SIDES)} " if many > 1 else where
        ground = f"{style} {ground}" if style != "flat" else ground
        caption = f"{things[0]}{side}{' and '.join(things[1:])} on {_article(ground)} background"
        if caption not in found:
            found.append(caption)
    return found


def _thing(kind: str, ground: str, many: int, rng: random.Random) -> str:
    colour = f"{rng.choice([c for c in COLOURS if c != ground])} " if kind in SHAPES else ""
    size = rng.choice(("", "", "large ", "small ")) if many < 3 else ""
    return f"{size}{colour}{kind}"


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def mixed(count: int, seed: int = 0) -> list[str]:
    """Write prompts for models of the wide world, the same for the same seed.

    >>> len(set(mixed(100)))
    100
    """
    rng = random.Random(f"mixed {seed}")
    found: list[str] = []
    while len(found) < count:
        prompt = f"{rng.choice(_SUBJECTS)} {rng.choice(_PLACES)}, {rng.choice(_LOOKS)}"
        if prompt not in found:
            found.append(prompt)
    return found
