"""TeaCache: timestep embedding tells it's time to cache (Liu et al. 2024, https://arxiv.org/abs/2411.19108)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..pipelines import Call, Stage
from .knobs import knob
from .recollection import Memory, Rule
from .schedules import Threshold
from .stack_cache import StackCache

POLYNOMIALS: dict[str, tuple[float, ...]] = {  # coefficients that the authors published, highest power first
    "identity": (1.0, 0.0),
    "flux": (498.65, -283.78, 55.855, -3.8202, 0.26423),
    "hunyuan-video": (733.23, -401.13, 67.587, -3.1499, 0.096124),
    "ltx-video": (21.470, -12.802, 2.3128, 0.79249, 0.0096927),
    "mochi": (-3512.4, 811.68, -60.940, 2.4243, 0.0030529),
    "cogvideox-5b": (-1538.8, 843.20, -134.36, 7.9713, -0.052316),
    "open-sora": (217.55, -118.33, 26.866, -0.045936, 0.048443),
    "latte": (-2464.3, 308.04, 80.745, -4.1139, 0.1110),
    "lumina2": (393.77, -603.51, 209.10, -23.007, 0.86377),
    "hidream": (-31360.5, -712.4, 49.136, 8.2652, 0.10805),
    "cosmos": (271.16, -91.978, 2.2444, 2.0836, 0.14178),
    "wan2.1-t2v-1.3b": (-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664),
    "wan2.1-t2v-14b": (-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525),
    "wan2.1-i2v-480p": (257151.496, -35422.9917, 1402.86849, -13.5890334, 0.132517977),
    "wan2.1-i2v-720p": (8107.0546, 2133.93892, -372.934672, 16.6203073, -0.0417769401),
}


@dataclass(frozen=True)
class TeaCache(StackCache):
    """Skip the transformer blocks while their first modulated input has changed little since they last ran.

    With m_i the input of block 1 at step i, normed and modulated by the timestep, as its attention sees it (Wan: the
    embedding of the timestep alone), and P a polynomial fitted to a model,

        d_i = max(0, P(mean|m_i - m_(i-1)| / mean|m_(i-1)|)),      skip while  sum of d since the last run < threshold

    (equations 5 to 7 of the paper; some published P are negative near 0, hence the max). A skipped step adds the
    blocks' last residual to their input; order 2 continues the residual as a line along sigma. Every call of the
    guidance decides for itself. ``threshold=0`` is not applied at all.

    >>> round(TeaCache(polynomial="flux").expected(0.1), 6)
    0.206845
    """

    name: ClassVar[str] = "teacache"
    title: ClassVar[str] = "TeaCache"
    paper: ClassVar[str] = "Liu et al. 2024, arXiv:2411.19108"
    neutral: ClassVar[dict[str, Any]] = {"threshold": 0.0}

    threshold: float = knob(0.1, "expected change of the output that is still ignored", low=0.0, high=10.0)
    polynomial: str = knob(
        "identity", "from the input's change to the output's: as it is, or as published", choices=tuple(POLYNOMIALS)
    )
    warmup: int = knob(4, "first steps that always run", low=1, high=50, unit="steps")
    most: int = knob(4, "most steps skipped in a row", low=1, high=20, unit="steps")
    order: int = knob(1, "how many past residuals predict a skipped one", low=1, high=3, unit="residuals")

    def computes(self, step: int, steps: int) -> bool:
        """Tell whether the blocks run at *step* (from 0) whatever changes: warm-up, and the last step."""
        return self.threshold == 0 or step < self.warmup or step >= steps - 1

    def expected(self, change: float) -> float:
        """Return P of a relative change, not below zero."""
        total = 0.0
        for coefficient in POLYNOMIALS[self.polynomial]:
            total = total * change + coefficient
        return max(total, 0.0)  # in this order no number stays no number

    def rule(self, memory: Memory) -> Rule:
        return _Modulated(self, memory)

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        return super().attach(stage) if self.threshold else nullcontext()

    def reason(self) -> str:
        return f"change below {self.threshold:g}"

    def idle_because(self, steps: int) -> str:
        if self.threshold == 0:
            return f"{self} runs the blocks at every step"
        return f"{self} expected more change than {self.threshold:g} at every one of {steps} steps"


@dataclass
class _Modulated(Rule):
    """Adds up the change that the modulated input lets expect; each call of the guidance has a sum of its own."""

    cache: TeaCache
    memory: Memory
    schedules: dict[str, Threshold] = field(default_factory=dict)
    change: float = inf

    def see(self, call: Call, modulated: Callable[[], Tensor]) -> None:
        key, now = "+".join(call.branches), modulated()
        before = self.memory.get(key)
        self.change = inf if before is None else self.cache.expected(relative_change(now, before))
        self.memory[key] = now

    def computes(self, call: Call) -> bool:
        fresh = Threshold(self.cache.threshold, self.cache.warmup, most=self.cache.most)
        schedule = self.schedules.setdefault("+".join(call.branches), fresh)
        return schedule.computes(call.step, call.steps, self.change)


def relative_change(now: Tensor, before: Tensor) -> float:
    """Return mean|now - before| / mean|before|; infinity where there was nothing.

    >>> relative_change(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))
    0.5
    """
    size = before.abs().mean(dtype=torch.float32).item()
    return (now - before).abs().mean(dtype=torch.float32).item() / size if size else inf
