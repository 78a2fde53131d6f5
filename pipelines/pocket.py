"""The pocket models: real diffusers pipelines small enough to ship, so that everything runs without a download."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Regex, normalizers
from torch import Tensor

from .scenes import WORDS, unknown_words

_here = Path(__file__).parents[1]
ASSETS = _here / "assets"


@dataclass(frozen=True)
class Model:
    """A model that Deadheat can load by name.

    Attributes:
        id: what to give to ``load``.
        title: name for people.
        family: name of its family.
        about: one sentence.
        steps, guidance, size: what it is usually run with; size is (width, height) in pixels.
        prompts: prompts that it answers well.
    """

    id: str
    title: str
    family: str
    about: str
    steps: int
    guidance: float
    size: tuple[int, int]
    prompts: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where a pocket model's weights lie."""
        return ASSETS / self.id

    @property
    def pocket(self) -> bool:
        return self.id in POCKET


_PROMPTS = (
    "a fox above a mushroom on a striped teal background",
    "a large panda on a gradient green background",
    "a sunflower left of a ghost on a dotted purple background",
    "a large pizza on a plain red background",
    "a penguin right of a tree on a striped blue background",
    "a rocket left of a house on a gradient pink background",
    "a large fox on a plain gray background",
    "a mushroom below a frog on a dotted yellow background",
)
POCKET: Mapping[str, Model] = MappingProxyType(
    {
        "pocket-dit": Model(
            "pocket-dit",
            "Pocket DiT",
            "Stable Diffusion 3",
            "A tiny SD3-class transformer that draws emoji scenes at 128 px; ships with Deadheat.",
            steps=28,
            guidance=4.0,
            size=(128, 128),
            prompts=_PROMPTS,
        ),
        "pocket-unet": Model(
            "pocket-unet",
            "Pocket UNet",
            "Stable Diffusion 1.x/2.x",
            "A tiny Stable Diffusion UNet in the same latents; ships with Deadheat.",
            steps=28,
            guidance=4.0,
            size=(128, 128),
            prompts=_PROMPTS,
        ),
    }
)
HUB: tuple[Model, ...] = tuple(
    Model(id, title, family, about, steps, guidance, size)
    for id, title, family, about, steps, guidance, size in (
        (
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "Stable Diffusion 1.5",
            "Stable Diffusion 1.x/2.x",
            "The classic UNet, 0.9 B parameters.",
            50,
            7.5,
            (512, 512),
        ),
        (
            "stabilityai/stable-diffusion-xl-base-1.0",
            "Stable Diffusion XL",
            "Stable Diffusion XL",
            "A larger UNet, 2.6 B parameters.",
            50,
            5.0,
            (1024, 1024),
        ),
        (
            "stabilityai/stable-diffusion-3.5-medium",
            "Stable Diffusion 3.5 Medium",
            "Stable Diffusion 3",
            "A multimodal transformer, 2.5 B parameters; licence to be accepted on its page.",
            28,
            4.5,
            (1024, 1024),
        ),
        (
            "black-forest-labs/FLUX.1-dev",
            "FLUX.1 dev",
            "FLUX.1",
            "A guidance-distilled transformer, 12 B parameters; licence to be accepted on its page.",
            28,
            3.5,
            (1024, 1024),
        ),
        (
            "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
            "PixArt Sigma",
            "PixArt",
            "A cross-attention transformer, 0.6 B parameters.",
            20,
            4.5,
            (1024, 1024),
        ),
        (
            "Alpha-VLLM/Lumina-Image-2.0",
            "Lumina Image 2.0",
            "Lumina 2",
            "A single-stream transformer, 2.6 B parameters.",
            30,
            4.0,
            (1024, 1024),
        ),
        (
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            "Wan 2.1 1.3B",
            "Wan",
            "Text to video, 1.3 B parameters.",
            50,
            5.0,
            (832, 480),
        ),
        ("Lightricks/LTX-Video", "LTX-Video", "LTX-Video", "Text to video, 2 B parameters.", 50, 3.0, (704, 480)),
    )
)


def models() -> list[Model]:
    """List the models that Deadheat knows by name: the pocket models, and one hub id a family."""
    return [*POCKET.values(), *HUB]


def known_model(id: str) -> Model | None:
    """Return what Deadheat knows of a model, or None."""
    return next((model for model in models() if model.id == id), None)


def without_t5(pipe: Any) -> None:
    """Tell a Stable Diffusion 3 pipeline that was trained without a T5 encoder to append none of its tokens.

    Without the encoder diffusers appends 256 zero tokens instead, which such a model has never seen. It is known by
    the width of its texts: that of its two CLIP encoders together, which leaves a T5's tokens no room.
    """
    if not hasattr(pipe, "text_encoder_3") or pipe.text_encoder is None or pipe.text_encoder_2 is None:
        return
    width = pipe.transformer.config.joint_attention_dim
    clip = pipe.text_encoder.config.hidden_size + pipe.text_encoder_2.config.hidden_size
    if pipe.text_encoder_3 is not None or width != clip:
        return

    def no_tokens(prompt: Any = None, num_images_per_prompt: int = 1, *_: Any, **kwargs: Any) -> Tensor:
        batch = 1 if isinstance(prompt, str) else len(prompt)
        device = kwargs.get("device") or pipe._execution_device
        return torch.zeros(batch * num_images_per_prompt, 0, width, device=device, dtype=pipe.text_encoder.dtype)

    pipe._get_t5_prompt_embeds = no_tokens


def without_unknown_words(pipe: Any) -> None:
    """Make a pocket pipeline's tokenizers leave out words that it was never trained on.

    Otherwise such a word falls into letters, which push the words that it does know out of its short context.
    """
    known = "|".join(sorted(WORDS))
    stranger = Regex(rf"(?<![a-z])(?!(?:{known})(?![a-z]))[a-z]+|[^a-z\s,.]")
    for name in ("tokenizer", "tokenizer_2"):
        if tokenizer := getattr(pipe, name, None):
            backend = tokenizer.backend_tokenizer
            backend.normalizer = normalizers.Sequence([backend.normalizer, normalizers.Replace(stranger, " ")])


def inpaintable(pipe: Any) -> None:
    """Let diffusers' inpainting take a denoiser without inpainting channels, however many its latents have.

    It knows such a denoiser only by the latent channels of the published models. The denoiser that says so is a
    shallow copy: its weights and blocks are the same objects.
    """
    for name, published in (("unet", 4), ("transformer", 16)):
        network = getattr(pipe, name, None)
        latents = getattr(getattr(pipe, "vae", None), "config", {}).get("latent_channels")
        if network is not None and network.config.get("in_channels") == latents != published:
            network = copy.copy(network)
            network.register_to_config(in_channels=published)
            setattr(pipe, name, network)


def ignored_words(model: str, prompts: Iterable[str]) -> list[str]:
    """List the words of the prompts that a pocket model leaves out, each once; empty for any other model.

    >>> ignored_words("pocket-dit", ["a majestic fox above a moon", "a majestic pig"])
    ['majestic']
    """
    if model not in POCKET:
        return []
    return list(dict.fromkeys(word for prompt in prompts for word in unknown_words(prompt)))
