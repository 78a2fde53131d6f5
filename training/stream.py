"""An endless stream of latents with captions, for the denoisers."""

from __future__ import annotations

import random
from collections import defaultdict

import torch
from deadheat.pipelines.scenes import THINGS, Scene
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from .autoencoder import encode
from .generator import draw, layout, write
from .render import Renderer
from .towers import tokens

_DROPPED = 0.1  # captions left out, for guidance
_LEARNT_LAST = {"circle": 6.0, "square": 6.0, "cross": 6.0, "heart": 6.0} | dict.fromkeys(
    ("triangle", "ring", "moon", "star", "octopus", "robot", "cat"), 2.5
)
_WEIGHTS = [_LEARNT_LAST.get(what, 1.0) for what in THINGS]  # outlines above all: a blob has most of a circle


class Stream:
    """Renders and encodes scenes as they are needed.

    Where rendering and encoding are slow, only a part of each batch is new and the rest comes from a pool of earlier
    scenes, each under a caption worded anew.
    """

    def __init__(
        self, renderer: Renderer, vae: AutoencoderKL, tokenizer: CLIPTokenizer, fresh: float = 1.0, pool: int = 6000
    ) -> None:
        self.renderer, self.tokenizer, self.fresh, self.pool = renderer, tokenizer, fresh, pool
        self.vae = vae.to(renderer.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self._past: dict[int, list[tuple[Scene, Tensor]]] = defaultdict(list)

    def __call__(self, rng: random.Random, batch: int, pixels: int) -> tuple[Tensor, Tensor]:
        """Latents (N, C, h, w) and token ids (N, L)."""
        past = self._past[pixels]
        new = batch if len(past) < min(512, self.pool) else max(1, round(batch * self.fresh))
        old = [past[rng.randrange(len(past))] for _ in range(batch - new)]
        both = self._render(rng, new, pixels) + old
        if self.fresh < 1:
            past.extend(both[:new])
            del past[: max(0, len(past) - self.pool)]
        captions = ["" if rng.random() < _DROPPED else write(scene, rng) for scene, _ in both]
        latents = torch.stack([z for _, z in both]).float()
        return latents, tokens(self.tokenizer, captions).to(latents.device)

    @torch.no_grad()
    def _render(self, rng: random.Random, count: int, pixels: int) -> list[tuple[Scene, Tensor]]:
        scenes = [draw(rng, _WEIGHTS) for _ in range(count)]
        pictures = self.renderer([layout(scene, rng) for scene in scenes], pixels) * 2 - 1
        latents = encode(self.vae, pictures.to(memory_format=torch.channels_last))
        return list(zip(scenes, latents.half(), strict=True))
