"""Trains the autoencoder: pictures to latents of an eighth of the side, and back."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from .generator import SIDE, draw, layout
from .render import Renderer

_KL = 4e-4
_SHARP = 0.5


@dataclass(frozen=True)
class AutoencoderShape:
    """Widths of the four levels, and channels of the latents."""

    widths: tuple[int, int, int, int] = (16, 32, 64, 128)
    latents: int = 8


def autoencoder(shape: AutoencoderShape) -> AutoencoderKL:
    """A fresh one, begun so that it learns fast.

    One normalisation group keeps the colour of a plain area (many groups erase it on narrow levels); every block
    starts as the identity, and every other convolution keeps its input's variance.
    """
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=shape.widths,
        layers_per_block=1,
        latent_channels=shape.latents,
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=SIDE,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            still = name.endswith("conv2")
            nn.init.normal_(module.weight, std=0.0 if still else module.weight[0].numel() ** -0.5)
            nn.init.zeros_(module.bias)
    _open_bottleneck(model, shape.latents)
    return model


@torch.no_grad()
def _open_bottleneck(model: AutoencoderKL, channels: int) -> None:
    """Start with the latents passed through and hardly any noise on them."""
    quant, post = model.quant_conv, model.post_quant_conv
    quant.weight.zero_()
    quant.weight[:channels, :channels, 0, 0] = torch.eye(channels)
    quant.weight[channels:, channels:, 0, 0] = 0.1 * torch.eye(channels)
    quant.bias[channels:] = -4
    post.weight[:, :, 0, 0] = torch.eye(channels)
    model.decoder.conv_out.weight.mul_(0.3)


class AutoencoderPart:
    """Sharp reconstruction, with latents that still make sense when shrunk to half size.

    With `decoder_only` the latents stay as they are, so denoisers already trained on them keep their worth.
    """

    name = "autoencoder"

    def __init__(self, renderer: Renderer, net: AutoencoderKL, side: int = SIDE, decoder_only: bool = False) -> None:
        self.renderer, self.side = renderer, side
        self.net: nn.Module = net.to(renderer.device, memory_format=torch.channels_last)
        if decoder_only:
            net.encoder.requires_grad_(False)
            net.quant_conv.requires_grad_(False)

    def muon(self, name: str, p: nn.Parameter) -> bool:
        """The convolutions inside, not those at either end."""
        return p.ndim == 4 and p.shape[-1] == 3 and "conv_in" not in name and "conv_out" not in name

    def loss(self, rng: random.Random, batch: int, done: float) -> tuple[Tensor, int]:
        """Differences of pixels and of edges, and a little pull of the latents towards a normal distribution."""
        pictures = self._views(rng, batch)
        posterior = self.net.encode(pictures).latent_dist
        latents = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
        if rng.random() < 0.2:
            latents, pictures = functional.avg_pool2d(latents, 2), functional.avg_pool2d(pictures, 2)
        decoded = self.net.decode(latents).sample
        pull = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        loss = (decoded - pictures).abs().mean() + _SHARP * _edge_difference(decoded, pictures) + _KL * pull
        return loss, len(pictures)

    def show(self, net: nn.Module) -> tuple[dict[str, float], Tensor]:
        """Mean PSNR over held-out scenes (whole, half size, halved latents), and originals above reconstructions."""
        rng = random.Random("held out")
        whole = self.renderer([layout(draw(rng), rng) for _ in range(96)], self.side) * 2 - 1
        half = functional.avg_pool2d(whole, 2)
        latents = encode(net, whole)
        back = decode(net, latents)
        scores = {
            "psnr": _psnr(back, whole),
            "psnr half": _psnr(decode(net, encode(net, half)), half),
            "psnr halved latents": _psnr(decode(net, functional.avg_pool2d(latents, 2)), half),
        }
        rows = [x[:32].view(4, 8, *whole.shape[1:]) for x in (whole, back)]
        return scores, torch.stack(rows, 1).flatten(0, 2) / 2 + 0.5

    def _views(self, rng: random.Random, batch: int) -> Tensor:
        """Whole scenes (a third of the time), or two small views of each: half size, and a window around a thing."""
        if rng.random() < 1 / 3:
            layouts = [layout(draw(rng), rng) for _ in range(-(-batch // 4))]
            return (self.renderer(layouts, self.side) * 2 - 1).to(memory_format=torch.channels_last)
        layouts = [layout(draw(rng), rng) for _ in range(-(-batch // 2))]
        pictures = self.renderer(layouts, self.side)
        window, scale = self.side // 2, self.side / SIDE
        views = [functional.avg_pool2d(pictures, 2)]
        for picture, one in zip(pictures, layouts, strict=True):
            thing = one.things[rng.randrange(int((one.things[:, 0] >= 0).sum()))]
            corner = [c * scale - window / 2 + rng.uniform(-0.2, 0.2) * self.side for c in thing[1:3]]
            x, y = (int(min(max(c, 0), window)) for c in corner)
            views.append(picture[None, :, y : y + window, x : x + window])
        return (torch.cat(views)[:batch] * 2 - 1).to(memory_format=torch.channels_last)


def encode(net: nn.Module, pictures: Tensor) -> Tensor:
    """Latents of pictures with values from -1 to 1."""
    return torch.cat([net.encode(x).latent_dist.mean for x in pictures.split(16)])


def decode(net: nn.Module, latents: Tensor) -> Tensor:
    """Pictures with values from -1 to 1."""
    return torch.cat([net.decode(z).sample.clamp(-1, 1) for z in latents.split(16)])


def _edge_difference(a: Tensor, b: Tensor) -> Tensor:
    d = a - b
    return (d[..., 1:, :] - d[..., :-1, :]).abs().mean() + (d[..., :, 1:] - d[..., :, :-1]).abs().mean()


def _psnr(a: Tensor, b: Tensor) -> float:
    return (10 * torch.log10(4 / ((a - b) ** 2).mean((1, 2, 3)))).mean().item()


@torch.no_grad()
def whiten(model: AutoencoderKL, renderer: Renderer, side: int = SIDE) -> None:
    """Give every latent channel mean 0 and deviation 1 over scenes; both are folded into the convolutions."""
    rng = random.Random("whiten")
    pictures = renderer([layout(draw(rng), rng) for _ in range(256)], side) * 2 - 1
    both = [encode(model, x) for x in (pictures, functional.avg_pool2d(pictures, 2))]
    values = torch.cat([z.transpose(0, 1).flatten(1) for z in both], 1)
    mean, deviation, channels = values.mean(1), values.std(1), values.shape[0]
    quant, post = model.quant_conv, model.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= deviation[None, :, None, None]
    quant.weight[:channels] /= deviation[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / deviation
    quant.bias[channels:] -= 2 * deviation.log()
