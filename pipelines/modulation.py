"""What the first attention of a block sees: its input, normed and modulated by the timestep."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .families import Stack


def modulated(block: nn.Module, row: Stack, given: Mapping[str, Any]) -> Tensor:
    """Return the tokens of a block's arguments *given* as its first attention will see them.

    The block does not run. Where the family does not say how, or offloading keeps the weights on another device until
    the block runs, the tokens themselves are returned.
    """
    hidden: Tensor = given[row.hidden]
    embedding = given.get(row.embedding)
    if row.modulation == "none" or embedding is None:
        return hidden
    if row.modulation == "embedding":
        return embedding
    if any(weight.device != hidden.device for weight in block.parameters()):
        return hidden
    if row.modulation == "norm":
        out = block.norm1(hidden, emb=embedding)
        return out[0] if isinstance(out, tuple) else out
    if row.modulation == "linear":
        values = block.img_mod(embedding[: len(hidden)]).unflatten(1, (1, 6, -1))
        norm = block.img_norm1
    else:
        values = block.scale_shift_table + embedding.reshape(len(hidden), -1, *block.scale_shift_table.shape[-2:])
        norm = block.norm1
    shift, scale = values[:, :, 0], values[:, :, 1]
    return norm(hidden) * (1 + scale) + shift
