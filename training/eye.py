"""Trains the eye and the tiny CLIP on renders: what `deadheat.measure.adherence` scores pictures with."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from deadheat.measure.adherence import CELLS, Eye, Sight, judge
from deadheat.pipelines.scenes import COLOURS, PICTOGRAMS, SHAPES, Scene
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from .generator import SIDE, Layout, draw, layout, write
from .render import Renderer
from .towers import FIRST, tokens, tower

_WEIGHTS = [0.4 / len(SHAPES)] * len(SHAPES) + [0.6 / len(PICTOGRAMS)] * len(PICTOGRAMS)  # of THINGS: more shapes


class EyePart:
    """Finding things, naming grounds, and matching pictures with captions, all at once."""

    name = "eye"

    def __init__(self, renderer: Renderer, tokenizer: CLIPTokenizer) -> None:
        self.renderer, self.tokenizer = renderer, tokenizer
        net = nn.ModuleDict({"eye": Eye(embedding=int(FIRST["hidden_size"])), "text": tower(tokenizer, FIRST)})
        nn.init.constant_(net["eye"].things.bias, -5.0)  # most cells hold no thing
        net.scale = nn.Parameter(torch.tensor(2.66))
        self.net: nn.Module = net.to(renderer.device)

    def muon(self, name: str, p: nn.Parameter) -> bool:
        """None: AdamW was measured to do well here."""
        return False

    def loss(self, rng: random.Random, batch: int, done: float) -> tuple[Tensor, int]:
        """Detection, naming and contrastive losses of one batch of degraded renders."""
        scenes, captions, layouts = _lot(rng, batch, learning=True)
        pictures = degrade(self.renderer(layouts, 64), rng)
        sight: Sight = self.net["eye"](pictures)
        words = self.net["text"](tokens(self.tokenizer, captions).to(pictures.device)).text_embeds
        things = torch.stack([torch.from_numpy(one.things) for one in layouts])
        ground = torch.stack([torch.from_numpy(one.ground) for one in layouts]).to(pictures.device)
        loss = (
            _finding(sight, things, scenes)
            + functional.cross_entropy(sight.ground, _ground_names(scenes).to(pictures.device), ignore_index=-1)
            + functional.cross_entropy(sight.style, ground[:, 0].long())
            + _matching(sight.embedding, words, self.net.scale.exp())
        )
        return loss, batch

    def show(self, net: nn.Module) -> tuple[dict[str, float], Tensor]:
        """Shares right on 512 held-out renders of full size, and degraded pictures as it is trained on."""
        rng = random.Random("held out")
        scenes, captions, layouts = _lot(rng, 512)
        sights, words = [], []
        for i in range(0, 512, 64):
            pictures = self.renderer(layouts[i : i + 64], SIDE)
            sights.append(net["eye"](pictures))
            words.append(net["text"](tokens(self.tokenizer, captions[i : i + 64]).to(pictures.device)).text_embeds)
        scores = [judge(scene, _cpu(sights[i // 64]), i % 64) for i, scene in enumerate(scenes)]
        out = {}
        for name in ("objects", "colours", "positions", "ground", "score"):
            values = [v for v in (getattr(score, name) for score in scores) if v is not None]
            out[name] = sum(values) / len(values)
        hits = [_retrieved(sight.embedding, text) for sight, text in zip(sights, words, strict=True)]
        out["retrieval"] = sum(hits) / len(hits)
        return out, degrade(self.renderer(layouts[:32], 64), rng)


def export(net: nn.Module, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write `assets/pocket-eval`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {n: t.half() if t.is_floating_point() else t for n, t in net["eye"].state_dict().items()}
    save_file({n: t.contiguous().cpu() for n, t in state.items()}, folder / "eye.safetensors")
    config = {"widths": [24, 48, 96, 160], "embedding": int(FIRST["hidden_size"])}
    (folder / "eye.json").write_text(json.dumps(config) + "\n")
    text = tower(tokenizer, FIRST)
    text.load_state_dict(net["text"].state_dict())
    text.half().save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")


def degrade(pictures: Tensor, rng: random.Random) -> Tensor:
    """Blur, coarsen, shade and add noise by lot, so that an imperfect picture is no surprise."""
    if rng.random() < 0.6:
        blurred = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), "replicate"), 3, 1)
        pictures = torch.lerp(pictures, blurred, rng.uniform(0.2, 1.0))
    if rng.random() < 0.15:
        coarse = functional.avg_pool2d(pictures, 2)
        pictures = functional.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    pictures = pictures * rng.uniform(0.92, 1.08) + rng.uniform(-0.03, 0.03)
    if rng.random() < 0.5:
        pictures = pictures + rng.uniform(0.01, 0.05) * torch.randn_like(pictures)
    return pictures.clamp(0, 1)


def _lot(rng: random.Random, count: int, learning: bool = False) -> tuple[list[Scene], list[str], list[Layout]]:
    """Scenes by lot; those to learn from hold more plain shapes, which are told apart last, at more sizes."""
    scenes = [draw(rng, _WEIGHTS) if learning else draw(rng) for _ in range(count)]
    captions = [write(scene, rng) for scene in scenes]
    return scenes, captions, [layout(scene, rng, rng.uniform(0.65, 1.1) if learning else 1.0) for scene in scenes]


def _finding(sight: Sight, things: Tensor, scenes: list[Scene]) -> Tensor:
    """Where each thing's centre is (cells weighted by how wrong they are), and the colour of each shape there."""
    target = torch.zeros(sight.things.shape)
    cell = (things[:, :, 1:3] * (CELLS / SIDE)).long().clamp(0, CELLS - 1)
    colour = torch.full((len(scenes), CELLS, CELLS), -1)
    names = list(COLOURS)
    for i, scene in enumerate(scenes):
        for k, thing in enumerate(scene.things):
            x, y = cell[i, k].tolist()
            target[i, int(things[i, k, 0]), y, x] = 1
            if thing.colour:
                colour[i, y, x] = names.index(thing.colour)
    target, colour = target.to(sight.things.device), colour.to(sight.things.device)
    wrong = (target - sight.things.sigmoid()) ** 2
    found = functional.binary_cross_entropy_with_logits(sight.things, target, reduction="none") * wrong
    named = functional.cross_entropy(sight.colours, colour, ignore_index=-1, reduction="sum")
    return found.sum() / len(scenes) + named / (colour >= 0).sum().clamp(min=1)


def _ground_names(scenes: list[Scene]) -> Tensor:
    names = list(COLOURS)
    return torch.tensor([names.index(s.ground.colour) if s.ground else -1 for s in scenes])


def _matching(pictures: Tensor, words: Tensor, scale: Tensor) -> Tensor:
    logits = functional.normalize(pictures, dim=1) @ functional.normalize(words, dim=1).T * scale.clamp(max=100)
    own = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def _retrieved(pictures: Tensor, words: Tensor) -> float:
    logits = functional.normalize(pictures, dim=1) @ functional.normalize(words, dim=1).T
    return (logits.argmax(1).cpu() == torch.arange(len(logits))).float().mean().item()


def _cpu(sight: Sight) -> Sight:
    return Sight(**{name: getattr(sight, name).cpu() for name in Sight.__dataclass_fields__})
