"""Starts from the weights of an earlier pocket pipeline, whose vocabulary may be smaller."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


def earlier_autoencoder(folder: Path) -> AutoencoderKL:
    """Its autoencoder."""
    return AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32, local_files_only=True)


@torch.no_grad()
def adopt_dit(net: nn.ModuleDict, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Copy the transformer and both text towers; words and positions that are new keep or borrow a start."""
    earlier = SD3Transformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    net["dit"].load_state_dict(earlier.state_dict())
    for name, part, words in (("first", "text_encoder", "tokenizer"), ("second", "text_encoder_2", "tokenizer_2")):
        tower = CLIPTextModelWithProjection.from_pretrained(folder / part, dtype=torch.float32, local_files_only=True)
        known = CLIPTokenizer.from_pretrained(folder / words, local_files_only=True).get_vocab()
        _adopt_tower(net[name], tower, tokenizer.get_vocab(), known)


@torch.no_grad()
def adopt_unet(net: nn.ModuleDict, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Copy the UNet and its text tower."""
    earlier = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32, local_files_only=True)
    net["unet"].load_state_dict(earlier.state_dict())
    tower = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, local_files_only=True)
    known = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True).get_vocab()
    _adopt_tower(net["first"].text_model, tower, tokenizer.get_vocab(), known)


def _adopt_tower(mine: nn.Module, theirs: nn.Module, words: dict[str, int], known: dict[str, int]) -> None:
    state, earlier = mine.state_dict(), theirs.state_dict()
    for name, value in earlier.items():
        if name.endswith("token_embedding.weight"):
            for word, row in words.items():
                if word in known:
                    state[name][row] = value[known[word]]
        elif name.endswith("position_embedding.weight"):
            state[name][: len(value)] = value
            state[name][len(value) :] = value[-1]  # the added places hold padding in nearly every caption
        elif name in state:
            state[name].copy_(value)
