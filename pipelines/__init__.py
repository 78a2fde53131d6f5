"""How a diffusers pipeline is put together, how to load one, and how to stand between its parts for a while."""

from .adapter_files import base_of, load_adapter, marks, misfit, save_adapter, shipped
from .adapters import (
    KINDS,
    Adapter,
    AdapterShape,
    Now,
    Told,
    adapter_shape,
    inserted,
    the_network,
    why_no_adapter,
)
from .asked import asked, combined, guidance_scale, keeps_length
from .attention import (
    ImageTokens,
    SelfAttention,
    around_attention,
    around_image_tokens,
    unseen_attention,
    unseen_modules,
    why_compiled,
)
from .block_stack import Onlooker, around_stack, why_no_stack
from .boxes import Box, Sides, boxes_around
from .call import MIXED, PAIR, Around, Call, Link, Network, SolverStep
from .calling import call_arguments, check_size, picture, pictures, preview
from .codec import Codec, Decoded
from .errors import (
    Cancelled,
    DeadheatError,
    IncompatibleError,
    InputError,
    KnobError,
    LoadError,
    PresetError,
    UnsupportedError,
    nearest,
)
from .families import FAMILIES, Family, Latents, Size, Stack, denoisers, family
from .few_steps import calls_a_step, few_step_model
from .frames import extent, on_frames
from .grids import Grid, area, token_grids, usual_tokens
from .legs import Leg, levels_of
from .load import check_name, describe, for_task, hub_id, load, model_name, same_model
from .noise import MOST_NOISE, clean, flows, noise_to_signal
from .patch import exchanged, patched, preserved
from .places import Bypass, around_modules
from .pocket import ASSETS, POCKET, Model, ignored_words, known_model, models
from .prompts import Prompts, hearing_prompts, unread_prompts
from .recording import DTYPES, Trace, UNetRecording
from .resolution import Change, Resize, around_resolution, fixed_size
from .rows import Rows
from .run import Action, Report, Run, Step, packed, tensor_bytes, unpacked
from .solver import Level, Walk, around_steps, levels, unsolved
from .some_tokens import (
    Recorded,
    SomeTokens,
    around_cross_attention,
    around_some_tokens,
    crosses,
    no_crossing,
    on_device,
    whole_modules,
)
from .stage import Stage, staged
from .system import CHOICES, System, best_device
from .text_attention import around_text_attention
from .token_modules import RunTokens, around_token_modules, no_token_modules, on_grid, on_tokens, put
from .token_recording import TokenRecording, TokenTrace
from .tokens import Selector, around_tokens, patch_size, why_whole
from .twins import twin
from .typed import is_folder, is_unicode
from .undo import Undo
from .unet import around_deep_layers, around_low_resolution, skip_levels, unlike_unet
from .unet_encoder import around_control, around_encoder
from .window_frames import Frame, Notes
from .windows import Windows, travels, unwindowed

__all__ = [
    "ASSETS",
    "CHOICES",
    "DTYPES",
    "FAMILIES",
    "KINDS",
    "MIXED",
    "MOST_NOISE",
    "PAIR",
    "POCKET",
    "Action",
    "Adapter",
    "AdapterShape",
    "Around",
    "Box",
    "Bypass",
    "Call",
    "Cancelled",
    "Change",
    "Codec",
    "DeadheatError",
    "Decoded",
    "Family",
    "Frame",
    "Grid",
    "ImageTokens",
    "IncompatibleError",
    "InputError",
    "KnobError",
    "Latents",
    "Leg",
    "Level",
    "Link",
    "LoadError",
    "Model",
    "Network",
    "Notes",
    "Now",
    "Onlooker",
    "PresetError",
    "Prompts",
    "Recorded",
    "Report",
    "Resize",
    "Rows",
    "Run",
    "RunTokens",
    "Selector",
    "SelfAttention",
    "Sides",
    "Size",
    "SolverStep",
    "SomeTokens",
    "Stack",
    "Stage",
    "Step",
    "System",
    "TokenRecording",
    "TokenTrace",
    "Told",
    "Trace",
    "UNetRecording",
    "Undo",
    "UnsupportedError",
    "Walk",
    "Windows",
    "adapter_shape",
    "area",
    "around_attention",
    "around_control",
    "around_cross_attention",
    "around_deep_layers",
    "around_encoder",
    "around_image_tokens",
    "around_low_resolution",
    "around_modules",
    "around_resolution",
    "around_some_tokens",
    "around_stack",
    "around_steps",
    "around_text_attention",
    "around_token_modules",
    "around_tokens",
    "asked",
    "base_of",
    "best_device",
    "boxes_around",
    "call_arguments",
    "calls_a_step",
    "check_name",
    "check_size",
    "clean",
    "combined",
    "crosses",
    "denoisers",
    "describe",
    "exchanged",
    "extent",
    "family",
    "few_step_model",
    "fixed_size",
    "flows",
    "for_task",
    "guidance_scale",
    "hearing_prompts",
    "hub_id",
    "ignored_words",
    "inserted",
    "is_folder",
    "is_unicode",
    "keeps_length",
    "known_model",
    "levels",
    "levels_of",
    "load",
    "load_adapter",
    "marks",
    "misfit",
    "model_name",
    "models",
    "nearest",
    "no_crossing",
    "no_token_modules",
    "noise_to_signal",
    "on_device",
    "on_frames",
    "on_grid",
    "on_tokens",
    "packed",
    "patch_size",
    "patched",
    "picture",
    "pictures",
    "preserved",
    "preview",
    "put",
    "same_model",
    "save_adapter",
    "shipped",
    "skip_levels",
    "staged",
    "tensor_bytes",
    "the_network",
    "token_grids",
    "travels",
    "twin",
    "unlike_unet",
    "unpacked",
    "unread_prompts",
    "unseen_attention",
    "unseen_modules",
    "unsolved",
    "unwindowed",
    "usual_tokens",
    "whole_modules",
    "why_compiled",
    "why_no_adapter",
    "why_no_stack",
    "why_whole",
]
