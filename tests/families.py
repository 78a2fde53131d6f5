"""Ten pipelines small enough to run anywhere: the real classes of diffusers, random weights, no download.

`FAMILIES["flux"].build()` is a fresh `FluxPipeline` that has already made one picture, so that whatever a first run
leaves behind in a pipeline is there before anybody looks. What these pipelines draw is noise: they tell whether two
runs are equal and what was computed, never whether a picture is good.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKLLTXVideo,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SchedulerMixin,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor, nn

from . import encoders


@dataclass(frozen=True)
class TinyFamily:
    """How to make one of the pipelines, and how to call it.

    `guided` and `unguided` are the arguments that switch classifier-free guidance on and off. `guidance` says what it
    looks like from the denoiser: one call with a batch of pairs, or separate calls.
    """

    name: str
    make: Callable[[], DiffusionPipeline]
    entry: str  # the submodule of the denoiser that every sample passes once
    guidance: Literal["batched", "separate"] = "batched"
    guided: Mapping[str, Any] = field(default_factory=lambda: {"guidance_scale": 4.0, "negative_prompt": "blurry"})
    unguided: Mapping[str, Any] = field(default_factory=lambda: {"guidance_scale": 1.0})
    settings: Mapping[str, Any] = field(default_factory=dict)
    several: str = "num_images_per_prompt"

    def build(self, scheduler: SchedulerMixin | None = None) -> DiffusionPipeline:
        """A pipeline of its own for the caller, with this scheduler or the family's usual one."""
        pipe = copy.deepcopy(_template(self.name))
        if scheduler is not None:
            pipe.register_modules(scheduler=scheduler)
            self.call(pipe, steps=2)
        return pipe

    def call(
        self, pipe: DiffusionPipeline, steps: int = 4, seed: int = 0, copies: int = 1, **overrides: Any
    ) -> Tensor:
        """The latents of a guided run; `output_type="pt"` asks for pictures, a list of prompts for a batch."""
        options = {"prompt": "a red cube", "height": 64, "width": 64, **self.settings, **self.guided, **overrides}
        negative = options.get("negative_prompt")
        if isinstance(options["prompt"], list) and isinstance(negative, str):
            options["negative_prompt"] = [negative] * len(options["prompt"])
        options = {"output_type": "latent", "generator": torch.Generator().manual_seed(seed), **options}
        return pipe(num_inference_steps=steps, **{self.several: copies}, **options)[0]

    def denoiser(self, pipe: DiffusionPipeline) -> nn.Module:
        """The network that is called at every step."""
        return pipe.components.get("transformer") or pipe.unet

    def samples(self, steps: int, guided: bool = True, batch: int = 1) -> int:
        """How many samples the untouched pipeline sends through its denoiser."""
        return steps * batch * (2 if guided else 1)


@dataclass
class Executed:
    """What really went through a denoiser: the batch size of every call."""

    batches: list[int] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return len(self.batches)

    @property
    def samples(self) -> int:
        return sum(self.batches)


@contextmanager
def executed(family: TinyFamily, pipe: DiffusionPipeline) -> Iterator[Executed]:
    """Counts on a layer deep inside the denoiser, so that nothing put around the denoiser is believed."""
    seen = Executed()
    layer = family.denoiser(pipe).get_submodule(family.entry)
    handle = layer.register_forward_hook(lambda _, __, out: seen.batches.append(out.shape[0]))
    try:
        yield seen
    finally:
        handle.remove()


class Held:
    """What an object held; equal where the same things stand by the same names.

    It keeps them, so that no new thing can be taken for an old one.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values: dict[Any, Any] = dict(values)
        for name, value in values.items():
            if isinstance(value, dict):  # hooks, parameters, submodules
                self.values |= {(name, key): part for key, part in value.items()}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Held)
            and self.values.keys() == other.values.keys()
            and all(_same(value, other.values[name]) for name, value in self.values.items())
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return ", ".join(f"{name}: {type(value).__name__} at {id(value):#x}" for name, value in self.values.items())


SCALARS = {bool, int, float, str}
METHODS = ("forward", "__call__", "step", "set_timesteps", "scale_model_input")


def _same(value: object, other: object) -> bool:
    return value is other or (type(value) is type(other) and type(value) in SCALARS and value == other)


def leftovers(pipe: DiffusionPipeline) -> dict[str, Held]:
    """Everything that somebody could leave behind in a pipeline; equal before and after, or something was left.

    Of every module: each entry of `__dict__`, and what its dicts of hooks, parameters and submodules hold. Of the
    scheduler and the pipeline, whose state changes with every run: which entries there are, and which of them are
    functions. Of all their classes: the methods that one might be tempted to replace.
    """
    found: dict[str, Held] = {}
    classes: set[type] = set()
    for name, component in {"pipe": pipe, **pipe.components}.items():
        if isinstance(component, nn.Module):
            for path, module in component.named_modules(prefix=name):
                found[path] = Held(vars(module))
                classes |= {*type(module).__mro__}
        elif component is not None:
            calls = {k: callable(v) and not isinstance(v, Tensor) for k, v in vars(component).items()}
            found[name] = Held({k: v if calls[k] else "there" for k, v in vars(component).items()})
            classes |= {*type(component).__mro__}
    for cls in classes:
        found[str(cls)] = Held({name: vars(cls)[name] for name in METHODS if name in vars(cls)})
    return found


# ------------------------------------------------------------------------------------------------------ the pipelines


@cache
def _template(name: str) -> DiffusionPipeline:
    """One pipeline per family and session; it has run once, and nobody else ever runs or changes it."""
    family = FAMILIES[name]
    pipe = family.make()
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "default_sample_size"):
        pipe.default_sample_size = 8  # FLUX and Qwen would draw 1024 pixels where nobody names a size
    family.call(pipe, steps=2)
    return pipe


def _seeded(cls: type[nn.Module], **config: Any) -> Any:
    """A network whose weights depend on nothing but its class and configuration."""
    torch.manual_seed(0)
    return cls(**config).eval()


def _sd15() -> DiffusionPipeline:
    tokenizer = encoders.clip_tokenizer()
    unet = _seeded(
        UNet2DConditionModel,
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    return StableDiffusionPipeline(
        unet=unet,
        vae=encoders.vae(),
        text_encoder=encoders.clip_text(tokenizer),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )


def _sdxl() -> DiffusionPipeline:
    tokenizer = encoders.clip_tokenizer()
    unet = _seeded(
        UNet2DConditionModel,
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=64,  # both text encoders side by side
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,  # six numbers of size and crop, and the pooled text
    )
    return StableDiffusionXLPipeline(
        unet=unet,
        vae=encoders.vae(),
        text_encoder=encoders.clip_text(tokenizer),
        text_encoder_2=encoders.clip_text(tokenizer, projection=32, seed=1),
        tokenizer=tokenizer,
        tokenizer_2=encoders.clip_tokenizer(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )


def _pixart() -> DiffusionPipeline:
    tokenizer = encoders.t5_tokenizer()
    transformer = _seeded(
        PixArtTransformer2DModel,
        sample_size=8,
        num_layers=4,
        patch_size=2,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=32,
        in_channels=4,
        out_channels=8,  # the pipeline throws the learned sigma away
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        transformer=transformer,
        vae=encoders.vae(),
        text_encoder=encoders.t5_text(tokenizer),
        tokenizer=tokenizer,
        scheduler=DPMSolverMultistepScheduler(),
    )


def _sd3() -> DiffusionPipeline:
    clip, t5 = encoders.clip_tokenizer(), encoders.t5_tokenizer()
    transformer = _seeded(
        SD3Transformer2DModel,
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,  # T5; the two CLIPs side by side are padded up to it
        pooled_projection_dim=64,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=encoders.vae(flow=True),
        text_encoder=encoders.clip_text(clip, projection=32),
        tokenizer=clip,
        text_encoder_2=encoders.clip_text(clip, projection=32, seed=1),
        tokenizer_2=encoders.clip_tokenizer(),
        text_encoder_3=encoders.t5_text(t5, hidden=64),
        tokenizer_3=t5,
    )


def _flux() -> DiffusionPipeline:
    clip, t5 = encoders.clip_tokenizer(), encoders.t5_tokenizer()
    transformer = _seeded(
        FluxTransformer2DModel,
        patch_size=1,
        in_channels=16,  # 2 x 2 latent pixels of 4 channels
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=16,  # the sum of the axes
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        transformer=transformer,
        vae=encoders.vae(flow=True),
        text_encoder=encoders.clip_text(clip),
        tokenizer=clip,
        text_encoder_2=encoders.t5_text(t5),
        tokenizer_2=t5,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
    )


def _qwen() -> DiffusionPipeline:
    tokenizer = encoders.qwen_tokenizer()
    transformer = _seeded(
        QwenImageTransformer2DModel,
        patch_size=2,
        in_channels=16,  # 2 x 2 latent pixels of 4 channels
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,  # the sum of the axes
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    vae = _seeded(
        AutoencoderKLQwenImage,
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipe = QwenImagePipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=encoders.qwen_text(tokenizer),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )
    # its instructions are 34 tokens for its own tokenizer, and hundreds for one of bytes
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = "{}", 0
    return pipe


def _lumina2() -> DiffusionPipeline:
    tokenizer = encoders.gemma_tokenizer()
    transformer = _seeded(
        Lumina2Transformer2DModel,
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=4,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 64, 64),
        cap_feat_dim=32,
    )
    return Lumina2Pipeline(
        transformer=transformer,
        vae=encoders.vae(flow=True),
        text_encoder=encoders.gemma_text(tokenizer),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


def _wan() -> DiffusionPipeline:
    tokenizer = encoders.t5_tokenizer()
    transformer = _seeded(
        WanTransformer3DModel,
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=64,
        ffn_dim=32,
        num_layers=4,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    vae = _seeded(
        AutoencoderKLWan,
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    return WanPipeline(
        transformer=transformer,
        transformer_2=None,
        vae=vae,
        text_encoder=encoders.t5_text(tokenizer, umt5=True),
        tokenizer=tokenizer,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
    )


def _ltx() -> DiffusionPipeline:
    tokenizer = encoders.t5_tokenizer()
    transformer = _seeded(
        LTXVideoTransformer3DModel,
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=4,
        caption_channels=32,
    )
    vae = _seeded(
        AutoencoderKLLTXVideo,
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        patch_size=1,
        patch_size_t=1,
    )
    return LTXPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=encoders.t5_text(tokenizer),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


def _auraflow() -> DiffusionPipeline:
    tokenizer = encoders.t5_tokenizer()
    transformer = _seeded(
        AuraFlowTransformer2DModel,
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pos_embed_max_size=64,
    )
    return AuraFlowPipeline(
        transformer=transformer,
        vae=encoders.vae(),
        text_encoder=encoders.t5_text(tokenizer, umt5=True),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


_short = {"max_sequence_length": 16}
_videos = {"several": "num_videos_per_prompt"}

FAMILIES: dict[str, TinyFamily] = {
    family.name: family
    for family in (
        TinyFamily("sd15", _sd15, "conv_out"),
        TinyFamily("sdxl", _sdxl, "conv_out"),
        TinyFamily(
            "pixart",
            _pixart,
            "pos_embed",
            settings={**_short, "clean_caption": False, "use_resolution_binning": False},
        ),
        TinyFamily("sd3", _sd3, "pos_embed", settings=_short),
        TinyFamily(
            "flux",
            _flux,
            "x_embedder",
            guidance="separate",
            guided={"true_cfg_scale": 4.0, "negative_prompt": "blurry"},
            unguided={"true_cfg_scale": 1.0, "negative_prompt": None},
            settings=_short,
        ),
        TinyFamily(
            "qwen",
            _qwen,
            "img_in",
            guidance="separate",
            guided={"true_cfg_scale": 4.0, "negative_prompt": "blurry"},
            unguided={"true_cfg_scale": 1.0, "negative_prompt": None},
            settings=_short,
        ),
        TinyFamily(
            "lumina2",
            _lumina2,
            "x_embedder",
            guidance="separate",
            settings={"max_sequence_length": 32, "system_prompt": "draw"},
        ),
        TinyFamily(
            "wan", _wan, "patch_embedding", guidance="separate", settings={**_short, "num_frames": 9}, **_videos
        ),
        TinyFamily("ltx", _ltx, "proj_in", settings={**_short, "height": 32, "width": 32, "num_frames": 9}, **_videos),
        TinyFamily("auraflow", _auraflow, "pos_embed", settings=_short),  # stands for a family that nobody described
    )
}
