"""Background shield: the training-free half of FlashEdit (Wu et al. 2025, https://arxiv.org/abs/2509.22244)."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..pipelines import Call, Link, SomeTokens, Stage, around_some_tokens, whole_modules
from .edited_region import WHOLE
from .knobs import knob
from .shield import Made, Shield


@dataclass(frozen=True)
class BackgroundShield(Shield):
    """Let self-attention run for the region that changes; the background stays the source's, and is seen as such.

    With F the tokens inside the region and B the others, at each layer's own resolution,

        K*_F, V*_F = K, V of F now,    K*_B, V*_B = K, V of B in the source,
        out_F = softmax(Q_F K*^T / sqrt(d)) V*,    out_B = out_B of the source,

    and with ``feed_forward`` (ours) the feed-forwards treat their tokens alike. The source is the same run's last
    whole step, or the batch's first picture (FlashEdit's own form; see ``source``). Give the painted mask as
    ``region_text(mask)``. ``region="0 0 1 1"`` has no background, and changes nothing; neither does ``every=1``.

    >>> BackgroundShield(region="0 0 0.5 1").region
    '0 0 0.5 1'
    """

    name: ClassVar[str] = "background-shield"
    title: ClassVar[str] = "Background shield (FlashEdit)"
    neutral: ClassVar[dict[str, Any]] = {"region": WHOLE}
    seat: ClassVar[str] = "image tokens in attention"
    excludes: ClassVar[frozenset[str]] = frozenset({"attention and feed-forward"})  # they cache what is whole

    feed_forward: bool = knob(True, "shield the feed-forwards too, not self-attention alone")

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        return whole_modules(pipe)

    def reason(self) -> str:
        return "self-attention in the region only"

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        return around_some_tokens(stage, self.feed_forward, self._start)

    def _start(self, link: Link) -> Any:
        kept: dict[Any, Made] = {}
        link.run.holds(kept)

        def around(name: str, call: Call, given: SomeTokens) -> Tensor:
            if self.region == WHOLE:
                return given.whole().out
            done = self.renewed(link, kept, (name, call, given), lambda base, who, at: given.some(at, base, who))
            return given.whole().out if done is None else done

        return around
