"""Trains the two denoisers on the same latents: a transformer as SD3 has, and a UNet as Stable Diffusion has."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from deadheat.measure.adherence import adherence
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from .generator import draw, write
from .stream import Stream
from .towers import FIRST, SECOND, tower

GUIDANCE = 4.0
STEPS = 28
_HALF_SHARE = (0.8, 0.2)  # of the steps, at half size, when training begins and ends: views four times cheaper
_SHIFT = 2.5
_TEACHERS_SHARE = 0.5  # what both still get wrong is learnt from the pictures alone


def prompts(count: int, seed: str = "held out prompts") -> list[str]:
    """Held-out captions in the commonest wording, the same on every machine."""
    rng = random.Random(seed)
    return [write(draw(rng), rng, plain=True) for _ in range(count)]


class Denoiser:
    """What both have in common: batches at two sizes, noise, and pictures drawn by the real pipeline.

    With a `teacher` (a trained denoiser of the same latents) one learns half from what that predicts: the mean of
    all pictures that may lie behind the noise, where the picture drawn by lot is only one of them. That target has
    little noise of its own, so far fewer samples do; the pictures' own half keeps the teacher's errors out.
    What has `begun` from earlier weights knows things already, and sees mostly the full size from its first step.
    """

    name: str
    net: nn.Module

    def __init__(
        self,
        net: nn.Module,
        stream: Stream,
        side: int,
        steps: int = STEPS,
        *,
        teacher: Denoiser | None = None,
        begun: bool = False,
    ) -> None:
        self.net, self.stream, self.side, self.steps = net.to(stream.renderer.device), stream, side, steps
        self.half_share = _HALF_SHARE[1:] * 2 if begun else _HALF_SHARE
        self.teacher = teacher
        if teacher is not None:
            teacher.net.eval().requires_grad_(False)

    def loss(self, rng: random.Random, batch: int, done: float) -> tuple[Tensor, int]:
        """The error of the predicted velocity at random times; what things are is learned small, and details large."""
        first, last = self.half_share
        half = rng.random() < first + (last - first) * min(1.0, done)
        count = batch * 3 if half else batch
        latents, ids = self.stream(rng, count, self.side // 2 if half else self.side)
        with torch.autocast("cuda", torch.bfloat16, enabled=latents.is_cuda):
            return self.error(latents, ids), count

    def error(self, latents: Tensor, ids: Tensor) -> Tensor:
        """The mean squared error of the prediction for noised latents (1 - level) latents + level noise."""
        level = self.levels(len(latents)).to(latents.device)[:, None, None, None]
        noise = torch.randn_like(latents)
        mixed, velocity = (1 - level) * latents + level * noise, noise - latents
        if self.teacher is not None:
            with torch.no_grad():
                velocity = velocity.lerp(self.teacher.velocity(mixed, level, ids).float(), _TEACHERS_SHARE)
        missed = self.velocity(mixed, level, ids).float() - velocity
        return (self.weight(level) * missed**2).mean()

    def levels(self, count: int) -> Tensor:
        """Noise levels by lot, from 0 (a picture) to 1 (noise)."""
        return _times(count)

    def weight(self, level: Tensor) -> Tensor | float:
        """What an error at this level counts."""
        return 1.0

    def velocity(self, mixed: Tensor, level: Tensor, ids: Tensor) -> Tensor:
        """The predicted noise - picture for mixed latents (N, C, h, w) at levels (N, 1, 1, 1)."""
        raise NotImplementedError

    def pipeline(self, net: nn.Module) -> DiffusionPipeline:
        """The diffusers pipeline around these weights."""
        raise NotImplementedError

    def show(self, net: nn.Module) -> tuple[dict[str, float], Tensor]:
        """Adherence over 32 held-out prompts, and their pictures."""
        words = prompts(32)
        pictures = generate(self.pipeline(net), words, self.side, self.steps)
        return adherence_means(words, pictures), pictures


class DitPart(Denoiser):
    """`SD3Transformer2DModel` with two text towers: a rectified flow, velocity = noise - picture."""

    name = "pocket-dit"

    def muon(self, name: str, p: nn.Parameter) -> bool:
        """Attention and feed-forward matrices."""
        return name.startswith("dit.transformer_blocks") and p.ndim == 2 and "norm1" not in name

    def velocity(self, mixed: Tensor, level: Tensor, ids: Tensor) -> Tensor:
        outputs = [self.net[name](ids, output_hidden_states=True) for name in ("first", "second")]
        return self.net["dit"](
            mixed,
            encoder_hidden_states=torch.cat([out.hidden_states[-2] for out in outputs], -1),
            pooled_projections=torch.cat([out.text_embeds for out in outputs], -1),
            timestep=level.flatten() * 1000,
            return_dict=False,
        )[0]

    def pipeline(self, net: nn.Module) -> DiffusionPipeline:
        return StableDiffusion3Pipeline(
            transformer=net["dit"],
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.5),
            vae=self.stream.vae,
            text_encoder=net["first"],
            text_encoder_2=net["second"],
            text_encoder_3=None,
            tokenizer=self.stream.tokenizer,
            tokenizer_2=self.stream.tokenizer,
            tokenizer_3=None,
        )


class UnetPart(Denoiser):
    """`UNet2DConditionModel` with the CLIP's own text tower, predicting v (Salimans & Ho 2022).

    Its schedule mixes signal s and noise n with s^2 + n^2 = 1; divided by s + n that is the mixture at level
    n / (s + n), and an error of v is one of the velocity divided by s + n.
    """

    name = "pocket-unet"
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.02,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
    )

    def muon(self, name: str, p: nn.Parameter) -> bool:
        """Matrices and convolutions inside the blocks."""
        return name.startswith(("unet.down", "unet.mid", "unet.up")) and p.ndim >= 2 and "time_emb" not in name

    def levels(self, count: int) -> Tensor:
        return self._table[self._timesteps(_times(count))]

    def weight(self, level: Tensor) -> Tensor:
        return (1 - level) ** 2 + level**2

    def velocity(self, mixed: Tensor, level: Tensor, ids: Tensor) -> Tensor:
        both = self.weight(level).rsqrt()  # s + n
        signal, spread = (1 - level) * both, level * both
        words = self.net["first"](ids).last_hidden_state
        time = self._timesteps(level.flatten().cpu()).to(mixed.device)
        v = self.net["unet"](mixed * both, time, encoder_hidden_states=words, return_dict=False)[0]
        return both * (v - (signal - spread) * mixed)

    @property
    def _table(self) -> Tensor:
        kept = self.scheduler.alphas_cumprod
        return (1 - kept).sqrt() / (kept.sqrt() + (1 - kept).sqrt())

    def _timesteps(self, level: Tensor) -> Tensor:
        """The timesteps of the schedule next to these levels (N,)."""
        return torch.searchsorted(self._table, level - 1e-6).clamp(max=len(self._table) - 1)

    def pipeline(self, net: nn.Module) -> DiffusionPipeline:
        first = net["first"]
        words = CLIPTextModel(first.config).to(first.device).eval()  # without the projection, as the pipeline wants
        words.load_state_dict(first.text_model.state_dict())
        return StableDiffusionPipeline(
            vae=self.stream.vae,
            text_encoder=words,
            tokenizer=self.stream.tokenizer,
            unet=net["unet"],
            scheduler=DDIMScheduler.from_config(self.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def dit_net(tokenizer: CLIPTokenizer, shape: dict[str, int], channels: int, latent_side: int) -> nn.ModuleDict:
    """A fresh transformer with its text towers; its blocks start as the identity, its output as zero."""
    width = shape["num_attention_heads"] * shape["attention_head_dim"]
    text = int(FIRST["hidden_size"]) + int(SECOND["hidden_size"])
    dit = SD3Transformer2DModel(
        sample_size=latent_side,
        pos_embed_max_size=latent_side,
        patch_size=1,
        in_channels=channels,
        out_channels=channels,
        joint_attention_dim=text,
        pooled_projection_dim=text,
        caption_projection_dim=width,
        qk_norm="rms_norm",
        **shape,
    )
    for name, p in dit.named_parameters():
        if name.startswith("proj_out") or ("norm" in name and "linear" in name):
            nn.init.zeros_(p)
    return nn.ModuleDict({"dit": dit, "first": tower(tokenizer, FIRST), "second": tower(tokenizer, SECOND)})


def unet_net(tokenizer: CLIPTokenizer, widths: Sequence[int], channels: int, latent_side: int) -> nn.ModuleDict:
    """A fresh UNet with a text tower; its output starts as zero."""
    attends = len(widths) - 1  # the coarsest level is too coarse to need words
    unet = UNet2DConditionModel(
        sample_size=latent_side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(widths),
        down_block_types=("CrossAttnDownBlock2D",) * attends + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attends,
        layers_per_block=2,
        cross_attention_dim=int(FIRST["hidden_size"]),
        attention_head_dim=4,
        norm_num_groups=8,
    )
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return nn.ModuleDict({"unet": unet, "first": tower(tokenizer, FIRST)})


def generate(pipe: DiffusionPipeline, words: Sequence[str], side: int, steps: int, seed: int = 0) -> Tensor:
    """Pictures (N, 3, side, side) from 0 to 1, guided, sixteen at a time."""
    pipe.set_progress_bar_config(disable=True)
    extra: dict[str, Any] = {"max_sequence_length": 0} if isinstance(pipe, StableDiffusion3Pipeline) else {}
    out = []
    for i in range(0, len(words), 16):
        batch = list(words[i : i + 16])
        noise = [torch.Generator().manual_seed(seed + i + k) for k in range(len(batch))]
        call = {"height": side, "width": side, "num_inference_steps": steps, "guidance_scale": GUIDANCE}
        out.append(pipe(batch, **call, generator=noise, output_type="pt", **extra).images.float().cpu())
    return torch.cat(out)


def adherence_means(words: Sequence[str], pictures: Tensor) -> dict[str, float]:
    """The mean of every kind of check over the pictures where it applies."""
    scores = [score for score in adherence(words, pictures) if score]
    means = {}
    for name in ("objects", "colours", "positions", "ground", "score"):
        values = [value for value in (getattr(score, name) for score in scores) if value is not None]
        means[name] = sum(values) / max(1, len(values))
    return means


def _times(count: int) -> Tensor:
    """Logit-normal times, one from each of `count` equal slices of the distribution, moved towards noise."""
    slices = (torch.arange(count) + torch.rand(count)) / count
    t = torch.special.ndtri(slices.clamp(1e-4, 1 - 1e-4)).sigmoid()[torch.randperm(count)]
    return _SHIFT * t / (1 + (_SHIFT - 1) * t)
