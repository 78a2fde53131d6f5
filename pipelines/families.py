"""How each family of diffusers pipelines is put together: one row a family, everything else reads it.

Sources: the classes of diffusers 0.42; every row is checked by a permutation test (shuffled image tokens give the
shuffled output), a record-and-replay test and a round trip of its latents.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from .errors import UnsupportedError

Guidance = Literal["batched", "separate", "unknown"]
Scope = Literal["image", "text+image", "image, text"]
Sequence = Literal["image", "image+text", "text+image"]
Modulation = Literal["norm", "linear", "table", "embedding", "none"]

Size = tuple[int, int, int]

ROPE = "image_rotary_emb"
IDS, SHAPES = "img_ids", "img_shapes"
EXTENT = ("num_frames", "height", "width")


@dataclass(frozen=True)
class Stack:
    """A list of transformer blocks that image tokens run through.

    Attributes:
        blocks: name of the ``ModuleList`` in the denoiser.
        hidden: name of the block argument that carries the image tokens, (batch, tokens, channels).
        joint: whether text tokens stand in that same sequence, before the image tokens.
        returns: index of the image tokens in the tuple that a block returns; None where it returns one tensor.
        per_token: other block arguments that are indexed by token: name -> (dimension, which tokens); "image, text" is
            a pair, of which only the first is indexed by image tokens.
        embedding: name of the block argument that carries the embedding of the timestep.
        modulation: how a block lets it act on its input. "norm": norm1 takes both; "linear": img_norm1(x) *
            (1 + scale) + shift, which img_mod makes of the embedding; "table": norm1(x) * (1 + scale) +
            shift, both from the block's scale_shift_table plus the embedding; "embedding": as "table", but caches
            look at the embedding alone; "none": not described.
        attends: names of the self-attention modules of a block, as far as it has them.
        text_last: whether the keys of joint attention hold the text tokens behind the image tokens, not before.
        text_mask: where the sequence is joint: the denoiser's argument whose rows count each sample's text tokens.
    """

    blocks: str
    hidden: str = "hidden_states"
    joint: bool = False
    returns: int | None = None
    per_token: Mapping[str, tuple[int, Scope]] = field(default_factory=lambda: MappingProxyType({}))
    embedding: str = "temb"
    modulation: Modulation = "none"
    attends: tuple[str, ...] = ("attn",)
    text_last: bool = False
    text_mask: str = ""


@dataclass(frozen=True)
class Latents:
    """How the latents that the scheduler steps are laid out.

    Attributes:
        layout: "image" (B,C,h,w); "video" (B,C,F,h,w); "packed" (B,(h/2)(w/2),4C), 2x2 patches as channels;
            "sequence" (B,F*h*w,C).
    """

    layout: Literal["image", "video", "packed", "sequence"] = "image"

    def to_grid(self, latents: Tensor, frames: int, height: int, width: int) -> Tensor:
        """Return the latents as (B, C, F, h, w); *height* and *width* are in latent pixels."""
        match self.layout:
            case "image":
                return latents.unsqueeze(2)
            case "video":
                return latents
            case "packed":
                patches = latents.view(len(latents), height // 2, width // 2, -1, 2, 2)
                return patches.permute(0, 3, 1, 4, 2, 5).reshape(len(latents), -1, 1, height, width)
            case "sequence":
                return latents.transpose(1, 2).reshape(len(latents), -1, frames, height, width)

    def from_grid(self, grid: Tensor) -> Tensor:
        """Undo :meth:`to_grid`."""
        batch, channels, _, height, width = grid.shape
        match self.layout:
            case "image":
                return grid.squeeze(2)
            case "video":
                return grid
            case "packed":
                patches = grid.view(batch, channels, height // 2, 2, width // 2, 2)
                return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, 4 * channels)
            case "sequence":
                return grid.flatten(2).transpose(1, 2)

    def tokens(self, kwargs: Mapping[str, Any], latents: Tensor, patch: tuple[int, ...]) -> tuple[int, int, int]:
        """Return frames, rows and columns of image tokens in a denoiser call with the arguments *kwargs*."""
        match self.layout:
            case "packed":
                return 1, *(packed_sides(kwargs) or (0, 0))
            case "sequence":
                return kwargs["num_frames"], kwargs["height"], kwargs["width"]
            case _:
                frames = latents.shape[2] // patch[0] if self.layout == "video" else 1
                return frames, latents.shape[-2] // patch[1], latents.shape[-1] // patch[2]

    def per_token(self, latents: Tensor, patch: tuple[int, ...]) -> Tensor:
        """Return latents as (B, tokens, latent pixels of a token, C)."""
        match self.layout:
            case "packed":
                return latents.unflatten(2, (-1, 4)).transpose(2, 3)
            case "sequence":
                return latents.unsqueeze(2)
            case _:
                grid = self.to_grid(latents, 1, *latents.shape[-2:])
                f, h, w = patch if self.layout == "video" else (1, *patch[1:])
                cells = grid.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(2, (-1, f))  # B C F f H h W w
                return cells.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4, 6).flatten(1, 3)

    def size(self, latents: Tensor, given: Mapping[str, Any]) -> Size:
        """Return (frames, height, width) in latent pixels of the latents that a denoiser gets with *given* arguments.

        Raises:
            UnsupportedError: there are more tokens than the arguments tell of.
        """
        match self.layout:
            case "image":
                return (1, *latents.shape[2:])
            case "video":
                return tuple(latents.shape[2:])
            case "packed":
                rows, columns = packed_sides(given) or (0, 0)
                frames, height, width, tokens = 1, 2 * rows, 2 * columns, rows * columns
            case "sequence":
                frames, height, width = (given[name] for name in EXTENT)
                tokens = frames * height * width
        if latents.shape[1] != tokens:
            raise UnsupportedError(f"the denoiser gets {latents.shape[1]} tokens for a picture that has {tokens}")
        return frames, height, width

    def told(self, given: Mapping[str, Any], full: Size, size: Size) -> dict[str, Any]:
        """Return the arguments that tell the denoiser of its latents' size, for *size* where *given* are for *full*.

        Places are counted as in a picture that is made at *size*.
        """
        match self.layout:
            case "packed" if SHAPES in given:
                return {SHAPES: [[(1, size[1] // 2, size[2] // 2)]] * len(given[SHAPES])}
            case "packed":
                places = given[IDS].view(full[1] // 2, full[2] // 2, -1)
                return {IDS: places[: size[1] // 2, : size[2] // 2].flatten(0, 1)}
            case "sequence":
                return dict(zip(EXTENT, size, strict=True))
        return {}


def packed_sides(given: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return rows and columns of the packed tokens that a denoiser gets with *given* arguments; None if nobody tells.

    FLUX is told the place of every token, Qwen-Image the shape of every picture.
    """
    if (shapes := given.get(SHAPES)) is not None:
        first = shapes[0][0] if isinstance(shapes[0], list) else shapes[0]
        return int(first[-2]), int(first[-1])
    if (ids := given.get(IDS)) is None:
        return None
    rows, columns = (int(last) + 1 for last in ids.reshape(-1, ids.shape[-1])[:, -2:].amax(0))
    return rows, columns


@dataclass(frozen=True)
class Family:
    """What an accelerator may need to know of a pipeline.

    Attributes:
        name: what people call it.
        guidance: "batched": unconditional and conditional half in one call, in this order; "separate": two calls a
            step, conditional first; "unknown".
        latents: layout of the latents at ``scheduler.step``.
        stacks: transformer block lists in the order they run; empty for a UNet and for an unknown family.
        unet: whether the denoiser is a UNet with ``down_blocks``, ``mid_block`` and ``up_blocks``.
        video: whether the pipeline makes frames.
        sequence: which tokens self-attention joins into one sequence, and in which order.
        final: name of the last layer that gives its output token by token.
        words: entry of the denoiser's configuration with the channels of the prompt's tokens.
        clock: what the denoiser's timestep counts up to.
        scale: the pipeline's argument with the guidance scale.
        keeps_length: whether the guided prediction is made as long as the conditional one, unless the call forbids it.
        sign: what the pipeline multiplies a prediction by for its scheduler.
    """

    name: str
    guidance: Guidance = "unknown"
    latents: Latents = field(default_factory=Latents)
    stacks: tuple[Stack, ...] = ()
    unet: bool = False
    video: bool = False
    sequence: Sequence = "image"
    final: str = "proj_out"
    words: str = "cross_attention_dim"
    clock: float = 1000.0
    scale: str = "guidance_scale"
    keeps_length: bool = False
    sign: int = 1

    @property
    def text(self) -> Literal["first", "last"] | None:
        """Where text tokens stand in the sequence that image tokens attend to; None if apart, or padded."""
        if any(stack.text_mask for stack in self.stacks) or self.sequence == "image":
            return None
        return "first" if self.sequence == "text+image" else "last"

    @property
    def known(self) -> bool:
        return bool(self.stacks) or self.unet


_SELF = ("attn1",)
_FLUX_ROPE: Mapping[str, tuple[int, Scope]] = MappingProxyType({ROPE: (0, "text+image")})

UNKNOWN = Family("unknown family")
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "SD3Transformer2DModel": Family(
            "Stable Diffusion 3",
            "batched",
            stacks=(
                Stack("transformer_blocks", returns=1, modulation="norm", attends=("attn", "attn2"), text_last=True),
            ),
            sequence="image+text",
            words="joint_attention_dim",
        ),
        "FluxTransformer2DModel": Family(
            "FLUX.1",
            "separate",
            Latents("packed"),
            (
                Stack("transformer_blocks", returns=1, per_token=_FLUX_ROPE, modulation="norm"),
                Stack("single_transformer_blocks", returns=1, per_token=_FLUX_ROPE),
            ),
            sequence="text+image",
            words="joint_attention_dim",
            clock=1.0,
            scale="true_cfg_scale",
        ),
        "QwenImageTransformer2DModel": Family(
            "Qwen-Image",
            "separate",
            Latents("packed"),
            (
                Stack(
                    "transformer_blocks",
                    returns=1,
                    per_token=MappingProxyType({ROPE: (0, "image, text")}),
                    modulation="linear",
                ),
            ),
            sequence="text+image",
            words="joint_attention_dim",
            clock=1.0,
            scale="true_cfg_scale",
            keeps_length=True,
        ),
        "PixArtTransformer2DModel": Family(
            "PixArt",
            "batched",
            stacks=(Stack("transformer_blocks", embedding="timestep", modulation="table", attends=_SELF),),
            words="caption_channels",
        ),
        "Lumina2Transformer2DModel": Family(
            "Lumina 2",
            "separate",
            stacks=(
                Stack(
                    "layers",
                    joint=True,
                    per_token=MappingProxyType({ROPE: (1, "text+image")}),
                    modulation="norm",
                    text_mask="encoder_attention_mask",
                ),
            ),
            sequence="text+image",
            final="norm_out",
            words="cap_feat_dim",
            clock=1.0,
            keeps_length=True,
            sign=-1,
        ),
        "WanTransformer3DModel": Family(
            "Wan",
            "separate",
            Latents("video"),
            (
                Stack(
                    "blocks",
                    per_token=MappingProxyType({"rotary_emb": (1, "image")}),
                    modulation="embedding",
                    attends=_SELF,
                ),
            ),
            video=True,
            words="text_dim",
        ),
        "LTXVideoTransformer3DModel": Family(
            "LTX-Video",
            "batched",
            Latents("sequence"),
            (
                Stack(
                    "transformer_blocks",
                    per_token=MappingProxyType({ROPE: (1, "image")}),
                    modulation="table",
                    attends=_SELF,
                ),
            ),
            video=True,
            words="caption_channels",
        ),
    }
)
SD = Family("Stable Diffusion 1.x/2.x", "batched", unet=True)
SDXL = Family("Stable Diffusion XL", "batched", unet=True)


def denoisers(pipe: Any) -> dict[str, nn.Module]:
    """Return the networks that *pipe* calls at its steps, by attribute name; Wan 2.2 has two.

    Raises:
        UnsupportedError: the pipeline has none.
    """
    parts = {name: getattr(pipe, name, None) for name in ("transformer", "transformer_2", "unet")}
    found = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    if not found:
        raise UnsupportedError(
            f"{type(pipe).__name__} has neither a transformer nor a unet, so there is nothing to accelerate; "
            "give Deadheat a diffusers pipeline that denoises latents step by step"
        )
    return found


def family(pipe: Any) -> Family:
    """Return the description of *pipe*'s family, or ``UNKNOWN``."""
    network = next(iter(denoisers(pipe).values()))
    while hasattr(network, "_orig_mod"):  # torch.compile's wrapper
        network = network._orig_mod
    kind = type(network).__name__
    if kind == "UNet2DConditionModel":
        return SDXL if getattr(network.config, "addition_embed_type", None) == "text_time" else SD
    return FAMILIES.get(kind, UNKNOWN)
