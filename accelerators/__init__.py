"""One accelerator, one file. To add one: write the file, and name its class in the list below."""

from ..pipelines import KnobError, nearest
from .ab_cache import ABCache
from .adaptive_guidance import AdaptiveGuidance
from .background_shield import BackgroundShield
from .base import Accelerator, Session, attached, check
from .bottleneck import Bottleneck
from .clockwork import Clockwork
from .db_cache import DBCache
from .deep_cache import DeepCache
from .easy_cache import EasyCache
from .edited_region import region_text
from .encoder_propagation import EncoderPropagation
from .faster_cache import FasterCache
from .fewer_steps import FewerSteps
from .first_block_cache import FirstBlockCache
from .fitted_cache import FittedCache
from .guidance_adapter import GuidanceAdapter
from .guidance_cache import GuidanceCache
from .guidance_cutoff import GuidanceCutoff
from .guidance_interval import GuidanceInterval
from .knobs import Knob, knobs, read
from .layer_cache import LayerCache
from .lemica import LeMiCa
from .magcache import MagCache
from .output_cache import OutputCache
from .progressive_resolution import ProgressiveResolution
from .pyramid_attention_broadcast import PyramidAttentionBroadcast
from .recipe_text import knob_texts, quoted, recipe_parts
from .region_adaptive import RegionAdaptive
from .sada import SADA
from .sea_cache import SeaCache
from .sparse_cross_attention import SparseCrossAttention
from .sparse_edit import SparseEdit
from .t_gate import TGate
from .taylor_seer import TaylorSeer
from .teacache import TeaCache
from .token_carving import TokenCarving
from .token_merging import TokenMerging


class _ByName(dict[str, type[Accelerator]]):
    """Accelerators by name; ``[...]`` also takes the class name, and says which name was probably meant."""

    def __missing__(self, name: str) -> type[Accelerator]:
        for cls in self.values():
            if cls.__name__.lower() == name.lower().replace("-", "").replace("_", ""):
                return cls
        raise KnobError(f"no accelerator is called {name!r}; {nearest(name, self)}")


ACCELERATORS: dict[str, type[Accelerator]] = _ByName(
    {
        cls.name: cls
        for cls in (
            ABCache,
            LeMiCa,
            FittedCache,
            EasyCache,
            SADA,
            TeaCache,
            MagCache,
            LayerCache,
            TaylorSeer,
            PyramidAttentionBroadcast,
            FasterCache,
            FirstBlockCache,
            TokenCarving,
            TokenMerging,
            BackgroundShield,
            SparseCrossAttention,
            DBCache,
            SeaCache,
            Clockwork,
            DeepCache,
            EncoderPropagation,
            RegionAdaptive,
            GuidanceAdapter,
            SparseEdit,
            GuidanceInterval,
            GuidanceCutoff,
            AdaptiveGuidance,
            GuidanceCache,
            TGate,
            Bottleneck,
            ProgressiveResolution,
            FewerSteps,
        )
    }
)

__all__ = [
    "ACCELERATORS",
    "SADA",
    "ABCache",
    "Accelerator",
    "AdaptiveGuidance",
    "BackgroundShield",
    "Bottleneck",
    "Clockwork",
    "DBCache",
    "DeepCache",
    "EasyCache",
    "EncoderPropagation",
    "FasterCache",
    "FewerSteps",
    "FirstBlockCache",
    "FittedCache",
    "GuidanceAdapter",
    "GuidanceCache",
    "GuidanceCutoff",
    "GuidanceInterval",
    "Knob",
    "LayerCache",
    "LeMiCa",
    "MagCache",
    "OutputCache",
    "ProgressiveResolution",
    "PyramidAttentionBroadcast",
    "RegionAdaptive",
    "SeaCache",
    "Session",
    "SparseCrossAttention",
    "SparseEdit",
    "TGate",
    "TaylorSeer",
    "TeaCache",
    "TokenCarving",
    "TokenMerging",
    "attached",
    "check",
    "knob_texts",
    "knobs",
    "quoted",
    "read",
    "recipe_parts",
    "region_text",
]
