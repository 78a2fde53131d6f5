"""Attention in blocks: image tokens in the order of a curve, cut into blocks; each block of queries reads a few.

Two ways to compute the same: gathered key blocks, which needs no kernel and is fastest on a CPU, and a block mask for
flex_attention, which CUDA compiles into one kernel.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention

from ..pipelines import Grid, SelfAttention, area
from .curves import hilbert_order

IN_CACHE = 4 << 20  # bytes of gathered keys and values at a time: more leave the processor's cache


class Blocks(NamedTuple):
    """How the image tokens of a grid are cut into blocks.

    Attributes:
        tokens: (blocks, size), the number of each token; the last block is filled up with its last token.
        place: (image tokens,), where in ``tokens`` each token stands.
        touching: (blocks, blocks), whether any token of the one is, or borders on, a token of the other.
    """

    tokens: Tensor
    place: Tensor
    touching: Tensor

    @property
    def filling(self) -> int:
        """How many tokens of the last block only fill it up."""
        return self.tokens.numel() - len(self.place)


def cut(grid: Grid, size: int, device: torch.device) -> Blocks:
    """Cut a grid into blocks of *size* tokens along a Hilbert curve."""
    order = hilbert_order(*grid)
    tokens = pad(order, (0, -len(order) % size), value=int(order[-1])).view(-1, size)
    place = order.argsort()
    block = (place // size).view(grid)
    touching = torch.eye(len(tokens), dtype=torch.bool)
    for here, there in _neighbours(block):
        touching[here, there] = touching[there, here] = True
    return Blocks(tokens.to(device), place.to(device), touching.to(device))


def _neighbours(block: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for half of the 26 directions, the blocks of all pairs of tokens that lie next to each other."""
    for shift in range(14, 27):  # the other half is the same pairs, seen from the other side
        here, there = block, block
        for axis, step in enumerate((shift // 9 - 1, shift // 3 % 3 - 1, shift % 3 - 1)):
            long = block.shape[axis] - abs(step)
            here = here.narrow(axis, max(-step, 0), max(long, 0))
            there = there.narrow(axis, max(step, 0), max(long, 0))
        yield here.flatten(), there.flatten()


def in_blocks(x: Tensor, blocks: Blocks, first: int) -> Tensor:
    """Return the image tokens of a sequence, (batch, heads, blocks, size, channels)."""
    return x.index_select(2, blocks.tokens.flatten() + first).unflatten(2, blocks.tokens.shape)


def importance(asked: SelfAttention, blocks: Blocks) -> Tensor:
    """Return how much each query block looks at each key block, by their means: (batch, heads, blocks, blocks).

    Rows sum to 1.
    """
    query, key = (_means(in_blocks(x, blocks, asked.first), blocks.filling) for x in (asked.query, asked.key))
    return torch.softmax((query.float() @ key.float().mT) * asked.scale, dim=-1)


def _means(x: Tensor, filling: int) -> Tensor:
    means = x.mean(dim=3)
    means[:, :, -1] = x[:, :, -1, : x.shape[3] - filling].mean(dim=2)
    return means


def best(looks: Tensor, count: int, mass: float) -> Tensor:
    """Tell which key blocks are kept: the *count* most important, and more until they hold more than *mass*."""
    share, order = looks.sort(dim=-1, descending=True, stable=True)
    before = share.cumsum(-1) - share
    rank = torch.arange(looks.shape[-1], device=looks.device)
    kept = (rank < count) | (before <= mass) if mass < 1 else torch.ones_like(order, dtype=torch.bool)
    return torch.zeros_like(kept).scatter(-1, order, kept)


def carved(asked: SelfAttention, blocks: Blocks, kept: Tensor) -> Tensor:
    """Return attention in which image queries see the *kept* image blocks and all text, text queries everything.

    *kept* is (batch, heads, blocks, blocks), and keeps at least one block for each query block.
    """
    key = asked.key
    if key.is_cuda and flex_works(key.device, key.dtype, blocks.tokens.shape[1], key.shape[3]):
        image = flexed(asked, blocks, kept, _compiled())
    else:
        image = gathered(asked, blocks, kept)
    behind = asked.first + asked.tokens
    parts = [
        scaled_dot_product_attention(text, key, asked.value, scale=asked.scale)
        for text in (asked.query[:, :, : asked.first], asked.query[:, :, behind:])
    ]
    return torch.cat([parts[0], image, parts[1]], dim=2)


# ------------------------------------------------------------------------------------------------ gathered key blocks


def gathered(asked: SelfAttention, blocks: Blocks, kept: Tensor) -> Tensor:
    """Compute the image queries by copying the keys and values that each block of them sees side by side.

    Query blocks that see equally many keys go together, so that nothing is padded and nothing masked.
    """
    batch, heads, length, channels = asked.key.shape
    query = in_blocks(asked.query, blocks, asked.first).flatten(0, 2)
    key, value = (x.reshape(-1, channels) for x in (asked.key, asked.value))
    sees = kept.flatten(0, 2)
    out = torch.empty_like(query)
    text = _text(asked, length)
    room = IN_CACHE // (2 * channels * key.element_size())
    for rows, number in _equal(sees, blocks, room):
        chosen = sees[rows].nonzero()[:, 1].view(len(rows), -1)
        image = blocks.tokens[chosen].flatten(1)[:, :number] + asked.first  # the filling is last of all
        seen = torch.cat([text.expand(len(rows), -1), image], dim=1)
        seen = (seen + (rows // kept.shape[2] * length)[:, None]).flatten()
        out[rows] = scaled_dot_product_attention(
            query[rows].unsqueeze(1),
            key.index_select(0, seen).view(len(rows), 1, -1, channels),
            value.index_select(0, seen).view(len(rows), 1, -1, channels),
            scale=asked.scale,
        ).squeeze(1)
    return out.view(batch, heads, -1, channels).index_select(2, blocks.place)


def _text(asked: SelfAttention, length: int) -> Tensor:
    everything = torch.arange(length, device=asked.key.device)
    return torch.cat([everything[: asked.first], everything[asked.first + asked.tokens :]])


def _equal(sees: Tensor, blocks: Blocks, room: int) -> Iterator[tuple[Tensor, int]]:
    """Yield rows that see equally many image tokens, with that number; at most *room* tokens at a time."""
    numbers = sees.sum(-1) * blocks.tokens.shape[1] - sees[:, -1] * blocks.filling
    order = numbers.argsort(stable=True)
    each, counts = numbers[order].unique_consecutive(return_counts=True)
    for number, count in zip(each.tolist(), counts.tolist(), strict=True):
        rows, order = order[:count], order[count:]
        for some in rows.split(max(1, room // number)):
            yield some, number


# ---------------------------------------------------------------------------------------- block mask of flex_attention


def flexed(asked: SelfAttention, blocks: Blocks, kept: Tensor, flex: Callable[..., Tensor]) -> Tensor:
    """Compute the image queries with *flex*, a compiled ``flex_attention``; text stands behind in its own blocks."""
    size = blocks.tokens.shape[1]
    image, everything = blocks.tokens.numel(), asked.key.shape[2]
    text = _text(asked, everything)
    filling = -len(text) % size
    query = in_blocks(asked.query, blocks, asked.first).flatten(2, 3)
    key, value = (
        torch.cat([in_blocks(x, blocks, asked.first).flatten(2, 3), pad(x[:, :, text], (0, 0, 0, filling))], dim=2)
        for x in (asked.key, asked.value)
    )
    sees = pad(kept, (0, (len(text) + filling) // size), value=True)
    filled = torch.zeros(sees.shape[-1], dtype=torch.bool, device=sees.device)  # blocks that hold filling
    filled[-1] = filling > 0
    filled[kept.shape[-1] - 1] = blocks.filling > 0  # after the line above: without text it is the last block
    mask = BlockMask.from_kv_blocks(
        *_listed(sees & filled),
        *_listed(sees & ~filled),
        BLOCK_SIZE=size,
        mask_mod=_seen(sees, size, (image - blocks.filling, image, image + len(text))),
        seq_lengths=(image, key.shape[2]),
    )
    out = flex(query, key, value, block_mask=mask, scale=asked.scale)
    return out.index_select(2, blocks.place)


def _listed(sees: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks each row sees, and which, these first."""
    which = sees.to(torch.int32).argsort(dim=-1, descending=True, stable=True)
    return sees.sum(-1, dtype=torch.int32), which.to(torch.int32)


def _seen(sees: Tensor, size: int, ends: tuple[int, int, int]) -> Callable[..., Tensor]:
    """Return the mask token by token: blocks that are seen, without what only fills up the image and the text."""
    image, text, end = ends

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        real = (key < image) | ((key >= text) & (key < end))
        return real & sees[batch, head, query // size, key // size]

    return mask


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False)
    return compiled


@functools.cache
def flex_works(device: torch.device, dtype: torch.dtype, size: int, channels: int) -> bool:
    """Tell whether this device compiles a block mask of this size and computes the right thing: really tries it."""
    grid = (1, 2, size + size // 2)  # the last block is not full
    chance = torch.Generator().manual_seed(0)  # its own: the pipeline's noise must not depend on a probe
    query, key, value = torch.randn(3, 1, 1, area(grid), channels, generator=chance).to(device, dtype)
    blocks = cut(grid, size, device)
    kept = torch.ones(1, 1, len(blocks.tokens), len(blocks.tokens), dtype=torch.bool, device=device)
    kept[..., 0, -1] = False
    asked = SelfAttention(query, key, value, channels**-0.5, grid)
    try:
        error = (flexed(asked, blocks, kept, _compiled()) - gathered(asked, blocks, kept)).abs().max()
    except (RuntimeError, ValueError, AssertionError, NotImplementedError):  # what compilers and missing tools raise
        return False
    return bool(error < 0.05)
