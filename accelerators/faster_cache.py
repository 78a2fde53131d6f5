"""FasterCache (Lv et al. 2024, https://arxiv.org/abs/2410.19355)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from ..pipelines import Call, KnobError, Link, Stage, on_frames
from .guidance import Guide, Halves, Memory
from .knobs import knob
from .module_cache import ATTENTION, ModuleCache, Part, in_block
from .schedules import due
from .spectrum import slow_part
from .worth import amplifies


@dataclass(frozen=True)
class FasterCache(ModuleCache):
    """Continue attention outputs over skipped steps, and rebuild the unconditional branch from the conditional one.

    Between ``start`` and ``stop``, with a_t and a_s the last two outputs of an attention, made two steps apart, the
    step after t gets

        a = a_t + (a_t - a_s) w,

    (the paper's dynamic feature reuse; at other distances the difference is scaled to theirs, so that ``weight=0.5``
    always continues a line and ``weight=0`` repeats). And with c and u the two branches of guidance, L and H the low
    and the high frequencies of u - c when both were last computed,

        u = c + w_L L + w_H H,    w_L = boost in the first half of the window, w_H = boost in the second, else 1

    (CFG-Cache, equation 11). In diffusers' version boosts multiply from skip to skip, and windows count timesteps of 0
    to 1000; here a boost acts once, and windows are in parts of the run. Where a call does not tell how its tokens
    form a picture, boosts are left out. The paper rebuilds 4 branches of 5 and boosts by 1.2; on pocket-dit (28 steps)
    every third cost 4 dB less than every fifth, for 8 of 176 calls, and a boost of 1.1 cost half a dB: hence the
    defaults. ``every=1, uncond_every=1`` computes everything.

    >>> FasterCache(weight=0.5).weights_at([4, 6], 7)
    (-0.5, 1.5)
    """

    name: ClassVar[str] = "faster-cache"
    title: ClassVar[str] = "FasterCache"
    paper: ClassVar[str] = "Lv et al. 2024, arXiv:2410.19355"
    neutral: ClassVar[dict[str, Any]] = {"every": 1, "uncond_every": 1}
    seat: ClassVar[str] = "attention and feed-forward"
    behind: ClassVar[frozenset[str]] = frozenset({"denoiser output"})
    nodes: ClassVar[int] = 2  # type: ignore[misc]

    every: int = knob(2, "run attention once in this many steps", low=1, high=10, unit="steps")
    weight: float = knob(0.5, "how far the last change goes on: 0 repeats, 0.5 is a line", low=0.0, high=1.0)
    uncond_every: int = knob(3, "run the unconditional branch once in this many steps", low=1, high=10, unit="steps")
    boost: float = knob(1.0, "weight of the frequencies that matter at the time", low=1.0, high=1.5)
    start: float = knob(0.3, "part of the run after which anything is skipped", low=0.0, high=1.0, unit="of the run")
    stop: float = knob(1.0, "part of the run after which nothing is", low=0.0, high=1.0, unit="of the run")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start > self.stop:
            raise KnobError(f"FasterCache.start is {self.start}, after stop, which is {self.stop}: swap them")

    def runs(self, step: int, steps: int, every: int) -> bool:
        """Tell whether what runs *every* so many steps inside the window runs at *step*."""
        return not self.start <= step / steps < self.stop or step % every == 0 or step >= steps - 1

    def boosts(self, progress: float) -> tuple[float, float]:
        """Return the weights of low and of high frequencies when this part of the run is done.

        >>> FasterCache(boost=1.1, start=0.2).boosts(0.3), FasterCache(boost=1.1, start=0.2).boosts(0.9)
        ((1.1, 1.0), (1.0, 1.1))
        """
        return (self.boost, 1.0) if progress < (self.start + self.stop) / 2 else (1.0, self.boost)

    @classmethod
    def cached(cls, name: str, module: nn.Module) -> bool:
        return in_block(name, ATTENTION)

    def computes(self, part: Part, step: int, steps: int) -> bool:
        return self.runs(step, steps, self.every)

    def weights_at(self, steps: list[int], where: float) -> tuple[float, ...]:
        if len(steps) == 1:
            return (1.0,)
        before, last = steps
        change = 2 * self.weight * (where - last) / (last - before)
        return (-change, 1 + change)

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        with ExitStack() as stack:
            if self.uncond_every > 1:
                stack.enter_context(stage.around_denoiser(partial(Halves, _Branches(self), stage)))
            stack.enter_context(super().attach(stage))
            yield

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        said = super().cautions(pipe, steps)
        return [*said, *(amplifies(self, pipe, "weight", 0) if self.every > 1 else [])]

    def reason(self) -> str:
        return f"attention continued, every {self.every}"

    def idle_because(self, steps: int) -> str:
        return f"{self} had no step of {steps} at which attention or a branch of guidance may be skipped"


@dataclass(frozen=True)
class _Branches:
    """How guidance is spent less on: the unconditional branch is rebuilt from the conditional one."""

    cache: FasterCache
    continues: ClassVar[bool] = True

    def guide(self, stage: Stage, link: Link, memory: Memory) -> Guide:
        return _Gap(stage, link, memory, self.cache)

    def reason(self) -> str:
        return "unconditional branch rebuilt from the conditional one"

    def __str__(self) -> str:
        return str(self.cache)


@dataclass
class _Gap(Guide):
    """What separated the branches when both last ran; the transform is linear, so it is split once, then."""

    cache: FasterCache
    ran: int = -1

    def both(self, call: Call) -> bool:
        every = self.cache.uncond_every
        return not self.memory or due(self.ran, call.step, lambda step: self.cache.runs(step, call.steps, every))

    def learn(self, call: Call, uncond: Tensor, cond: Tensor) -> None:
        self.ran = call.step
        self.memory["all"] = gap = uncond - cond
        self.memory.pop("low", None)
        if (low := on_frames(call, self.stage.family.latents, gap, slow_part)) is not None:
            self.memory["low"] = low

    def instead(self, call: Call, cond: Tensor) -> Tensor:
        low, high = self.cache.boosts(call.progress)
        if "low" not in self.memory or low == high == 1:
            return cond + self.memory["all"]
        return cond + high * self.memory["all"] + (low - high) * self.memory["low"]
