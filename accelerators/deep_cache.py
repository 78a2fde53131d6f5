"""DeepCache (Ma, Fang and Wang 2023, https://arxiv.org/abs/2312.00858)."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from ..pipelines import KnobError, Link, Stage, around_deep_layers, skip_levels
from .knobs import knob
from .schedules import periodic
from .unet_cache import Past, UNetCache


@dataclass(frozen=True)
class DeepCache(UNetCache):
    """Run the whole UNet now and then; between, only the outermost layers, on the last deep feature.

    A UNet's layers hang together by skip connections 1, 2, ... from the outside in. With U the feature that enters
    the up layer of skip connection ``depth``, and D that skip connection (equation 5 of the paper), a step i of

        i mod every == 0

    runs everything, and every other step gets concat(D(i), U(last such step)) there: down to D everything runs, and
    nothing deeper does. ``depth=1`` is the paper's branch 0, the first convolution and the last layer; ``depth`` as
    large as the first resolution is the cut of ``clockwork``. ``every=1`` computes everything. Only U is kept, where
    the published code keeps what each module gave, and finds its place by the step, where that looks for the first
    equal timestep, which two-call solvers repeat.

    >>> DeepCache(every=5).computed(12)
    (0, 5, 10)
    """

    name: ClassVar[str] = "deepcache"
    title: ClassVar[str] = "DeepCache"
    paper: ClassVar[str] = "Ma et al. 2023, arXiv:2312.00858"
    neutral: ClassVar[dict[str, Any]] = {"every": 1}
    seat: ClassVar[str] = "deep part of the UNet"

    every: int = knob(3, "run the whole UNet once in this many steps", low=1, high=20, unit="steps")
    depth: int = knob(1, "skip connections that stay alive between", low=1, high=15, unit="connections")
    order: int = knob(1, "how many past deep features predict a skipped one", low=1, high=3, unit="features")

    def computes(self, step: int, steps: int) -> bool:
        """Tell whether all of the UNet runs at *step* (from 0) of a run of so many."""
        return periodic(step, steps, self.every, warmup=0, last=0)

    def reason(self) -> str:
        return f"outermost {self.depth} of the skip connections, every {self.every}"

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        if self.depth >= (levels := skip_levels(stage.pipe)):
            raise KnobError(
                f"DeepCache.depth is {self.depth}, not between 1 and {levels - 1}: this UNet has {levels} skip "
                "connections, and with all of them alive nothing is left out; choose a smaller depth"
            )
        return around_deep_layers(stage, self.depth, self._start)

    def _start(self, link: Link) -> Past:
        return Past(self, link)
