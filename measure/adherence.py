"""Does a picture of the pocket world show what its prompt asks for? Answered by a small network that finds things.

The network (a few MB in `assets/pocket-eval`) was trained on rendered scenes only: it finds the things of
`deadheat.pipelines.scenes`, their colours and places, and names the ground. A second head and a text tower make it a
tiny CLIP, for prompts and pictures that need no parsing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..pipelines.scenes import ANCHORS, COLOURS, RELATIONS, STYLES, THINGS, Scene, parse

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "pocket-eval"
SIDE = 64  # what the network looks at; pictures of other sizes are brought to it
CELLS = 8
SEEN = 0.25  # below this probability a thing does not count as there


@dataclass(frozen=True)
class Adherence:
    """How much of what a prompt asks for is in its picture, each as a share of what was asked; None: nothing was.

    Attributes:
        objects: things found.
        colours: colours right, of shapes and of the ground.
        positions: places and relations right; things not found count as wrong.
        ground: 1.0 if the ground's style is right, else 0.0.
        score: all checks that were right, of all checks.
    """

    objects: float | None
    colours: float | None
    positions: float | None
    ground: float | None
    score: float


@dataclass(frozen=True)
class Sight:
    """What the network sees in pictures: logits, and features for distances.

    Attributes:
        things: (N, things, 8, 8), where the centre of each thing is.
        colours: (N, colours, 8, 8), of the shape centred there.
        ground: (N, colours), style: (N, styles).
        embedding: (N, E), to compare with the text tower's; not normalised.
        features: (N, F), for Fréchet distances.
    """

    things: Tensor
    colours: Tensor
    ground: Tensor
    style: Tensor
    embedding: Tensor
    features: Tensor


class Eye(nn.Module):
    """A small convolutional network with five heads."""

    def __init__(self, widths: Sequence[int] = (24, 48, 96, 160), embedding: int = 96) -> None:
        super().__init__()
        a, b, c, d = widths
        self.trunk = nn.Sequential(
            _block(3, a), _block(a, b, 2), _block(b, b), _block(b, c, 2), _block(c, c), _block(c, d, 2), _block(d, d)
        )
        self.things = nn.Conv2d(d, len(THINGS), 1)
        self.colours = nn.Conv2d(d, len(COLOURS), 1)
        self.wide = _block(d, d, 2)
        self.ground = nn.Linear(2 * d, len(COLOURS))
        self.style = nn.Linear(2 * d, len(STYLES))
        self.embedding = nn.Sequential(nn.Linear(16 * d, 256), nn.SiLU(), nn.Linear(256, embedding))

    def forward(self, pictures: Tensor) -> Sight:
        """Look at pictures (N, 3, H, W) with values from 0 to 1."""
        cells = self.trunk(to_side(pictures) * 2 - 1)
        wide = self.wide(cells)
        features = torch.cat([cells.mean((2, 3)), wide.amax((2, 3))], 1)
        return Sight(
            things=self.things(cells),
            colours=self.colours(cells),
            ground=self.ground(features),
            style=self.style(features),
            embedding=self.embedding(wide.flatten(1)),
            features=features,
        )


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


def to_side(pictures: Tensor) -> Tensor:
    """Bring pictures to the side length the network looks at."""
    if pictures.shape[-2:] == (SIDE, SIDE):
        return pictures
    return functional.interpolate(pictures, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def adherence(prompts: Sequence[str], images: Tensor) -> list[Adherence | None]:
    """Score pictures (N, 3, H, W), 0 to 1, against their prompts; None where a prompt is no scene of ours."""
    scenes = [parse(prompt) for prompt in prompts]
    sight = look(images)
    return [judge(scene, sight, i) if scene is not None else None for i, scene in enumerate(scenes)]


def clip_scores(prompts: Sequence[str], images: Tensor) -> list[float]:
    """Cosine between picture and prompt in the tiny CLIP's space, for every pair."""
    text, tokenizer = _text_tower()
    tokens = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode():
        words = text(tokens).text_embeds
    return functional.cosine_similarity(look(images).embedding, words).tolist()


def look(images: Tensor) -> Sight:
    """What the network sees, in batches small enough for any machine."""
    with torch.inference_mode():
        parts = [_eye()(batch) for batch in images.detach().float().cpu().split(64)]
    fields = Sight.__dataclass_fields__
    return Sight(**{name: torch.cat([getattr(part, name) for part in parts]) for name in fields})


def judge(scene: Scene, sight: Sight, i: int) -> Adherence:
    """Compare one scene with what is seen in picture `i`."""
    kinds = [THINGS.index(thing.what) for thing in scene.things]
    best, cell = sight.things[i].flatten(1).max(1)
    # The things asked for must be the most visible ones: a picture that shows another thing instead fails.
    top = best.topk(len(set(kinds))).indices.tolist()
    found = [kind in top and best[kind].sigmoid().item() > SEEN for kind in kinds]
    colours = []
    for thing, kind in zip(scene.things, kinds, strict=True):
        if thing.colour:
            colours.append(_name(sight.colours[i].flatten(1)[:, cell[kind]]) == thing.colour)
    if scene.ground:
        colours.append(_name(sight.ground[i]) == scene.ground.colour)
    places = [_place(sight.things[i, kind]) for kind in kinds]
    positions = _positions(scene, kinds, places, found)
    ground = [STYLES[int(sight.style[i].argmax())] == scene.ground.style] if scene.ground else []
    checks = [found, colours, positions, ground]
    every = [check for group in checks for check in group]
    objects, coloured, placed, grounded = (sum(group) / len(group) if group else None for group in checks)
    return Adherence(objects, coloured, placed, grounded, score=sum(every) / len(every))


def _name(logits: Tensor) -> str:
    return list(COLOURS)[int(logits.argmax())]


def _place(logits: Tensor) -> tuple[float, float]:
    """The centre of a thing, both ways from -1 to 1: the best cell, refined by its neighbours."""
    heat = logits.sigmoid()
    row, column = divmod(int(heat.argmax()), CELLS)
    rows, columns = slice(max(0, row - 1), row + 2), slice(max(0, column - 1), column + 2)
    near = heat[rows, columns]
    along = (torch.arange(CELLS) + 0.5) * (2 / CELLS) - 1
    x = (near.sum(0) * along[columns]).sum() / near.sum()
    y = (near.sum(1) * along[rows]).sum() / near.sum()
    return float(x), float(y)


def _positions(scene: Scene, kinds: list[int], places: list[tuple[float, float]], found: list[bool]) -> list[bool]:
    if len(places) == 1:
        return [found[0] and _stands(scene.where, *places[0])] if scene.where else []
    a, b = RELATIONS[scene.where]
    checks = []
    for k in range(1, len(places)):
        if (a or b) and kinds[k] != kinds[0]:  # two of a kind cannot be told apart
            x, y = places[0][0] - places[k][0], places[0][1] - places[k][1]
            checks.append(found[0] and found[k] and a * x + b * y > max(0.2, abs(b * x + a * y) * 0.5))
    return checks


def _stands(where: str, x: float, y: float) -> bool:
    """Whether a thing stands in the named one of nine fields."""
    column, row = ANCHORS[where]
    return _third(x) == column and _third(y) == row


def _third(place: float) -> int:
    return 0 if abs(place) < 0.19 else 1 if place > 0 else -1


@cache
def _eye() -> Eye:
    from safetensors.torch import load_file

    eye = Eye(**json.loads((ASSETS / "eye.json").read_text()))
    eye.load_state_dict(
        {name: t.float() if t.is_floating_point() else t for name, t in load_file(ASSETS / "eye.safetensors").items()}
    )
    return eye.eval()


@cache
def _text_tower() -> tuple[Any, Any]:
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    text = CLIPTextModelWithProjection.from_pretrained(ASSETS / "text", dtype=torch.float32, local_files_only=True)
    return text.eval(), CLIPTokenizer.from_pretrained(ASSETS / "text", local_files_only=True)
