"""Pyramid Attention Broadcast (Zhao et al. 2024, https://arxiv.org/abs/2408.12588)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ..pipelines import KnobError
from .knobs import knob
from .module_cache import ATTENTION, ModuleCache, Part, in_block


@dataclass(frozen=True)
class PyramidAttentionBroadcast(ModuleCache):
    """Reuse attention outputs in the middle of the run; cross attention, which changes least, for longest.

    Between ``start`` and ``stop`` an attention runs once in as many steps as its kind allows (section 3.2 of the
    paper), and its last output stands for the steps between. diffusers has this method too; its cache mixes the two
    branches where guidance makes two calls a step, and its window counts timesteps of 0 to 1000, where this one is in
    parts of the run. ``self_every=1, cross_every=1`` computes everything.

    >>> PyramidAttentionBroadcast().inside(0.1), PyramidAttentionBroadcast().inside(0.5)
    (False, True)
    """

    name: ClassVar[str] = "pyramid-attention-broadcast"
    title: ClassVar[str] = "Pyramid Attention Broadcast"
    paper: ClassVar[str] = "Zhao et al. 2024, arXiv:2408.12588"
    neutral: ClassVar[dict[str, Any]] = {"self_every": 1, "cross_every": 1}
    seat: ClassVar[str] = "attention and feed-forward"
    nodes: ClassVar[int] = 1  # type: ignore[misc]

    self_every: int = knob(2, "run self attention once in this many steps", low=1, high=10, unit="steps")
    cross_every: int = knob(6, "run cross attention once in this many steps", low=1, high=10, unit="steps")
    start: float = knob(0.2, "part of the run after which attention is reused", low=0.0, high=1.0, unit="of the run")
    stop: float = knob(0.9, "part of the run after which it is not", low=0.0, high=1.0, unit="of the run")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start > self.stop:
            raise KnobError(
                f"PyramidAttentionBroadcast.start is {self.start}, after stop, which is {self.stop}: swap them"
            )

    def inside(self, progress: float) -> bool:
        """Tell whether attention may be reused when this part of the run is done."""
        return self.start <= progress < self.stop

    @classmethod
    def cached(cls, name: str, module: nn.Module) -> bool:
        return in_block(name, ATTENTION)

    def computes(self, part: Part, step: int, steps: int) -> bool:
        # in SD3.5 attn2 is a second self attention; where a module does not say what it is, its name does
        cross = getattr(part.module, "is_cross_attention", part.name == "attn2")
        every = self.cross_every if cross else self.self_every
        return not self.inside(step / steps) or step % every == 0 or step >= steps - 1

    def weights_at(self, steps: list[int], where: float) -> tuple[float, ...]:
        return (1.0,)

    def reason(self) -> str:
        return "attention reused"

    def idle_because(self, steps: int) -> str:
        return f"{self} had no step of {steps} at which attention may be reused"
