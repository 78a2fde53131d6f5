"""Metrics that need weights: each is taken from a library where weights are on this machine, and never fetches any.

A reason why a metric cannot be had is a sentence, shown as "not available: ...".
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .adherence import clip_scores, look
from .result import to_image

CLIP = "openai/clip-vit-base-patch16"
Judge = Callable[[str, Tensor], float]


class Clip:
    """CLIP from transformers, if its weights are in the local cache of the hub."""

    def __init__(self, name: str = CLIP) -> None:
        """Load it.

        Raises:
            OSError: its weights are not here.
        """
        from transformers import CLIPModel, CLIPProcessor

        self.model: Any = CLIPModel.from_pretrained(name, local_files_only=True).eval()
        self.processor: Any = CLIPProcessor.from_pretrained(name, local_files_only=True)

    def features(self, pictures: Tensor) -> Tensor:
        """Return the features of pictures (N, 3, H, W), one row each."""
        with torch.inference_mode():
            given = self.processor(images=list(pictures), do_rescale=False, return_tensors="pt")
            return _tensor(self.model.get_image_features(**given))

    def scores(self, prompts: Sequence[str], pictures: Tensor) -> list[float]:
        """Return the cosine of each picture with its prompt."""
        with torch.inference_mode():
            given = self.processor(text=list(prompts), padding=True, truncation=True, return_tensors="pt")
            words = _tensor(self.model.get_text_features(**given))
        return torch.cosine_similarity(self.features(pictures), words).tolist()


def _tensor(found: Any) -> Tensor:
    """Transformers 5 wraps projected features in an output object."""
    return found if isinstance(found, Tensor) else found.pooler_output


class PocketClip:
    """The tiny CLIP of the pocket world, which ships with Deadheat."""

    def features(self, pictures: Tensor) -> Tensor:
        """Return the features of pictures (N, 3, H, W), one row each."""
        return look(pictures).features

    def scores(self, prompts: Sequence[str], pictures: Tensor) -> list[float]:
        """Return the cosine of each picture with its prompt."""
        return clip_scores(prompts, pictures)


def load_clip(pocket: bool) -> Clip | PocketClip | str:
    """Return the CLIP that suits a model, or why there is none."""
    if pocket:
        return PocketClip()
    try:
        return Clip()
    except (OSError, ValueError, ImportError):
        return f"the weights of {CLIP} are not on this machine: fetch them with `hf download {CLIP}`"


def load_lpips() -> Callable[[Tensor, Tensor], float] | str:
    """Return LPIPS of two pictures, or why it cannot be had."""
    if importlib.util.find_spec("lpips") is None or importlib.util.find_spec("torchvision") is None:
        return "lpips and torchvision are not installed (pip install 'deadheat[quality]')"
    if not any(Path(torch.hub.get_dir(), "checkpoints").glob("alexnet-*.pth")):
        return (
            "its AlexNet weights are not on this machine: fetch them once with "
            "`python -c \"import lpips; lpips.LPIPS(net='alex')\"`"
        )
    import lpips

    network = lpips.LPIPS(net="alex", verbose=False).eval()

    def distance(picture: Tensor, reference: Tensor) -> float:
        with torch.inference_mode():
            return float(network(picture[None] * 2 - 1, reference[None] * 2 - 1))

    return distance


def load_image_reward(folder: Path | None = None) -> Judge | str:
    """Return ImageReward of a prompt and a picture, or why it cannot be had.

    Args:
        folder: where its weights lie; its own cache if None.
    """
    if importlib.util.find_spec("ImageReward") is None:
        return "image-reward is not installed (pip install image-reward)"
    folder = folder or Path.home() / ".cache" / "ImageReward"
    weights, config = folder / "ImageReward.pt", folder / "med_config.json"
    if not weights.is_file() or not config.is_file():
        return (
            f"its weights are not in {folder}: fetch them once with "
            "`python -c \"import ImageReward; ImageReward.load('ImageReward-v1.0')\"`"
        )
    try:
        model = importlib.import_module("ImageReward").load(str(weights), med_config=str(config))
    except (OSError, RuntimeError, ValueError) as error:
        return f"it cannot be loaded: {str(error).splitlines()[0]}"

    def reward(prompt: str, picture: Tensor) -> float:
        with torch.inference_mode():
            return float(model.score(prompt, to_image(picture)))

    return reward


def load_encoder(pipe: Any) -> Callable[[Tensor], Tensor] | str:
    """Return what turns a picture into latents, with the pipeline's own autoencoder, or why nothing does."""
    vae = getattr(pipe, "vae", None)
    if vae is None or getattr(vae, "encoder", None) is None:
        return "the pipeline has no autoencoder that encodes"
    if type(vae).__name__ not in ("AutoencoderKL", "AutoencoderTiny"):
        return f"{type(vae).__name__} is no autoencoder of single pictures"

    def encode(picture: Tensor) -> Tensor:
        with torch.no_grad():
            given = picture[None].to(vae.device, vae.dtype) * 2 - 1
            found = vae.encode(given, return_dict=False)[0]
        return (found.mode() if hasattr(found, "mode") else found).float().cpu()

    return encode
