"""The text towers: small CLIP text encoders, as the pipelines expect them."""

from __future__ import annotations

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from .tokenizer import LENGTH

FIRST = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_act": "quick_gelu"}
SECOND = {"hidden_size": 160, "num_hidden_layers": 2, "num_attention_heads": 5, "hidden_act": "gelu"}


def tower(tokenizer: CLIPTokenizer, shape: dict[str, int | str]) -> CLIPTextModelWithProjection:
    """A fresh text encoder. CLIP's own initial spread is too timid for so small a model and so short a training."""
    width = int(shape["hidden_size"])
    config = CLIPTextConfig(
        **shape,
        vocab_size=len(tokenizer),
        intermediate_size=4 * width,
        projection_dim=width,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    model = CLIPTextModelWithProjection(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "embedding" in name:
                p.normal_(0, 0.3)
            elif p.ndim == 2:
                p.normal_(0, 0.8 * p.shape[1] ** -0.5)
    return model


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids (N, LENGTH)."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
