"""Guidance adapters of random weights, for the tiny pipelines that nobody trained one for."""

from pathlib import Path

import torch
from deadheat.pipelines import Adapter, adapter_shape, base_of, model_name, save_adapter
from diffusers import DiffusionPipeline

WIDTH = 8


def random_adapter(pipe: DiffusionPipeline, kind: str = "gated", zero: bool = False) -> Adapter:
    """An adapter that changes what the pipeline draws, or, fresh from the start, does not."""
    torch.manual_seed(0)
    adapter = Adapter(adapter_shape(pipe, kind, WIDTH, (1.0, 8.0)))
    if not zero:
        for residual in adapter.residuals:
            torch.nn.init.normal_(residual.out.weight, std=0.1)
    return adapter


def saved(pipe: DiffusionPipeline, folder: Path, **options) -> str:
    """Write such an adapter, and return its folder."""
    save_adapter(random_adapter(pipe, **options), folder, base_of(pipe), {})
    return str(folder)


def shelf(assets: Path, pipe: DiffusionPipeline) -> Path:
    """Where an adapter that ships for this model would lie below a folder of assets."""
    return assets / model_name(pipe).lower() / "guidance-adapter"
