"""Tokenizers, text encoders and an autoencoder of a few kilobytes, for tests/families.py."""

import string
from typing import Any

import torch
from diffusers import AutoencoderKL
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

_LETTERS = string.ascii_letters + string.digits + string.punctuation
_SPACE = "\u2581"  # how sentence pieces write it


def clip_tokenizer() -> CLIPTokenizer:
    """One token per byte, and one per byte that ends a word."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    """One token per character; the first three are where T5 expects them."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), (_SPACE, -2.0), *((letter, -3.0) for letter in _LETTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def gemma_tokenizer() -> GemmaTokenizer:
    """One token per byte, and one per character."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{b:02X}>" for b in range(256)), _SPACE, *_LETTERS]
    return GemmaTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=256)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """One token per byte."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet())]
    return Qwen2Tokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=256)


def clip_text(tokenizer: PreTrainedTokenizerBase, projection: int | None = None, seed: int = 0) -> nn.Module:
    """CLIP's text tower, 32 wide."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=projection or 32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _seeded(CLIPTextModelWithProjection if projection else CLIPTextModel, config, seed)


def t5_text(tokenizer: PreTrainedTokenizerBase, hidden: int = 32, umt5: bool = False) -> nn.Module:
    """The encoder half of T5 or UMT5."""
    config = (UMT5Config if umt5 else T5Config)(
        vocab_size=len(tokenizer),
        d_model=hidden,
        d_kv=8,
        d_ff=2 * hidden,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return _seeded(UMT5EncoderModel if umt5 else T5EncoderModel, config)


def gemma_text(tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """Gemma 2 without its head."""
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
    )
    return _seeded(Gemma2Model, config)


def qwen_text(tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """Qwen 2.5 VL, which nobody shows a picture."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    special = {"image_token_id": 0, "video_token_id": 0, "vision_start_token_id": 0, "vision_end_token_id": 0}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **special)
    return _seeded(Qwen2_5_VLForConditionalGeneration, config)


def vae(flow: bool = False) -> AutoencoderKL:
    """Four latent channels, an eighth of the size; with `flow` scaled and shifted as flow-matching models want it."""
    extra: dict[str, Any] = {"shift_factor": 0.0609, "scaling_factor": 1.5035} if flow else {}
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
        use_quant_conv=not flow,
        use_post_quant_conv=not flow,
        **extra,
    ).eval()


def _seeded(cls: type[nn.Module], config: Any, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return cls(config).eval()  # T5 and its kin start in training mode, with dropout
