"""T-GATE: cross attention becomes inessential early (Zhang et al. 2024, https://arxiv.org/abs/2404.02747)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..pipelines import Call, Link, Stage, around_modules, crosses, denoisers, why_compiled
from ..pipelines.places import AroundModule, Inner
from .guidance import Planned
from .knobs import knob


@dataclass(frozen=True)
class TGate(Planned):
    """Listen to the prompt in the first part of the run, then freeze cross attention and stop guiding.

    At the last step before the gate the output of every cross attention is kept, the mean of the unconditional and
    the conditional branch,

        F = (CA(x_u, text_u) + CA(x_c, text_c)) / 2,

    and behind the gate F stands for it, while only the conditional branch runs (section 4 of the paper). Its reuse of
    self attention is left to pyramid-attention-broadcast, with which this composes. Without guidance there is no
    branch to leave out, and cross attention is frozen all the same. ``gate=1`` never closes.

    >>> TGate(gate=0.4).last_open(25)
    9
    """

    name: ClassVar[str] = "t-gate"
    title: ClassVar[str] = "T-GATE"
    paper: ClassVar[str] = "Zhang et al. 2024, arXiv:2404.02747"
    neutral: ClassVar[dict[str, Any]] = {"gate": 1.0}
    # it keeps what is whole
    excludes: ClassVar[frozenset[str]] = frozenset({"text tokens in attention", "image tokens"})

    gate: float = knob(0.4, "part of the run that reads the prompt", low=0.0, high=1.0, unit="of the run")

    def guides(self, progress: float) -> bool:
        return progress < self.gate

    def last_open(self, steps: int) -> int:
        """Return the last step that listens to the prompt."""
        return ceil(steps * self.gate) - 1

    @classmethod
    def cached(cls, name: str, module: nn.Module) -> bool:
        """Tell whether a module is cross attention."""
        return crosses(name, module)

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        modules = [(name, m) for network in denoisers(pipe).values() for name, m in network.named_modules()]
        if not any(cls.cached(name, module) for name, module in modules):
            return "its denoiser has no cross attention of its own: prompt and picture share one attention"
        return why_compiled(pipe) or super().supports(pipe)

    def reason(self) -> str:
        return f"cross attention as at {self.gate:g}, no guidance"

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(super().attach(stage))
            stack.enter_context(around_modules(stage, self.cached, self._gated))
            yield

    def _gated(self, link: Link) -> AroundModule:
        kept: dict[tuple[Any, ...], Tensor] = {}
        link.run.holds(kept)

        def keep(key: tuple[Any, ...], branches: tuple[str, ...], out: Tensor) -> None:
            if branches == ("uncond",):  # two calls a step, the conditional one first
                kept.update({key: (kept[key] + out) / 2} if key in kept else {})
            else:
                kept[key] = torch.stack(out.chunk(len(branches))).mean(0)

        def around(name: str, call: Call, run: Inner) -> Any:
            key = (name, call.shape)  # another shape is another past
            behind = not self.guides(call.progress)
            if behind and call.branches == ("cond",) and key in kept:
                link.note("partial", f"cross attention as at {self.gate:g}")
                return kept[key]
            out = run()
            # behind the gate still: a cache further out had the last open step, or the shape is new
            if call.step == self.last_open(call.steps) or (behind and call.branches == ("cond",)):
                keep(key, call.branches, out)
            return out

        return around
