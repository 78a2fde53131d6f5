"""One accelerator, one file. To add one: write the file, and name its class in the list below."""

from ..pipelines import KnobError, nearest
from .ab_cache import ABCache
from .base import Accelerator, Session, attached, check
from .bottleneck import Bottleneck
from .easy_cache import EasyCache
from .fewer_steps import FewerSteps
from .first_block_cache import FirstBlockCache
from .guidance_interval import GuidanceInterval
from .knobs import Knob, knobs, read
from .lemica import LeMiCa
from .progressive_resolution import ProgressiveResolution
from .pyramid_attention_broadcast import PyramidAttentionBroadcast
from .taylor_seer import TaylorSeer


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
            EasyCache,
            TaylorSeer,
            PyramidAttentionBroadcast,
            FirstBlockCache,
            GuidanceInterval,
            Bottleneck,
            ProgressiveResolution,
            FewerSteps,
        )
    }
)

__all__ = [
    "ACCELERATORS",
    "ABCache",
    "Accelerator",
    "Bottleneck",
    "EasyCache",
    "FewerSteps",
    "FirstBlockCache",
    "GuidanceInterval",
    "Knob",
    "LeMiCa",
    "ProgressiveResolution",
    "PyramidAttentionBroadcast",
    "Session",
    "TaylorSeer",
    "attached",
    "check",
    "knobs",
    "read",
]
