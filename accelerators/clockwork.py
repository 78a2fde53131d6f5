"""Clockwork Diffusion with the identity adaptor (Habibian et al. 2023, https://arxiv.org/abs/2312.08128)."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from ..pipelines import Link, Stage, around_low_resolution
from .knobs import knob
from .schedules import periodic
from .unet_cache import Past, UNetCache


@dataclass(frozen=True)
class Clockwork(UNetCache):
    """Run the low resolutions of a UNet only when the clock strikes; its first resolution runs at every step.

    With r the output of the last but one up block, the whole UNet runs at a step i of

        i mod clock == 0,

    and at every other step r of the last such step enters the last up block beside today's skip connections: the
    paper's identity adaptor (section 3.3), which needs no training. ``order`` 2 and more continue the last so many r
    as a polynomial in the step, which is not in the paper. ``clock=1`` computes everything. The paper also has an
    adaptor that must be trained for each model, and its owner grants no patent licence: see its repository.

    >>> Clockwork(clock=4).computed(12)
    (0, 4, 8)
    """

    name: ClassVar[str] = "clockwork"
    title: ClassVar[str] = "Clockwork"
    paper: ClassVar[str] = "Habibian et al. 2023, arXiv:2312.08128"
    neutral: ClassVar[dict[str, Any]] = {"clock": 1}
    seat: ClassVar[str] = "deep part of the UNet"

    clock: int = knob(3, "run the low resolutions once in this many steps", low=1, high=10, unit="steps")
    order: int = knob(1, "how many past low-resolution outputs predict a skipped one", low=1, high=3, unit="outputs")
    warmup: int = knob(0, "first steps that run whole", low=0, high=50, unit="steps")
    last: int = knob(0, "last steps that run whole", low=0, high=50, unit="steps")

    def computes(self, step: int, steps: int) -> bool:
        """Tell whether all of the UNet runs at *step* (from 0) of a run of so many."""
        return periodic(step, steps, self.clock, self.warmup, self.last)

    def reason(self) -> str:
        return f"low resolutions {'reused' if self.order == 1 else 'continued'}, clock {self.clock}"

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        return around_low_resolution(stage, self._start)

    def _start(self, link: Link) -> Past:
        return Past(self, link)

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        said = super().cautions(pipe, steps)
        if 8 < steps <= 20 and self.clock > 2:
            said.append(f"at {steps} steps the low resolutions move far in {self.clock}: clock=2 suits 20 and fewer")
        if steps >= 40 and 1 < self.clock < 4:
            said.append(f"{steps} steps allow a slower clock: clock=4 suits 40 and more")
        return said
