"""EasyCache, and LazyCache's rule: adaptive caching without calibration (Zhou et al. 2025, arXiv:2507.02860)."""

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..pipelines import MIXED, PAIR, Call, KnobError, combined, guidance_scale, keeps_length
from .knobs import knob
from .output_cache import PLACES, OutputCache
from .recollection import Memory, Rule
from .schedules import Threshold, read_mask, stretched


@dataclass(frozen=True)
class EasyCache(OutputCache):
    """Skip calls while the output is expected to have changed little, judged by how far the latents have moved.

    With x the latents and v the denoiser's output at steps t, and a and b the last two computed steps,

        k = mean|v_a - v_b| / mean|x_a - x_b|        (rate of change, section 3.2)
        E = sum over t since a of  k mean|x_t - x_(t-1)| / mean|v_a|

    A step is skipped while E < threshold. The conditional half of guidance decides, the other follows. What the paper
    gives a skipped step is ``fill="residual"``: v = x + (v_a - x_a) (equation 5), which depends on the sign and the
    scale of what a model predicts. ``"reuse"`` gives v_a; ``"line"`` continues v through a and b along sigma, and is
    the default because on pocket-dit it was 6 dB above the paper's fill at the same calls. With a ``mask`` its steps
    run in any case, and the threshold decides between them only (mask, then threshold). ``threshold=0`` computes
    everything.

    With ``judges="guided"`` v is the guided prediction u + w (c - u), guidance scale w: the rule that ComfyUI users
    know as LazyCache. (What it skips is the same here: both halves.) With another ``place`` v is what that part of the
    network gave, and only that part is skipped.

    >>> EasyCache(warmup=4).computes(3, 28), EasyCache(warmup=4).computes(4, 28)
    (True, False)
    """

    name: ClassVar[str] = "easy-cache"
    title: ClassVar[str] = "EasyCache"
    paper: ClassVar[str] = "Zhou et al. 2025, arXiv:2507.02860"
    neutral: ClassVar[dict[str, Any]] = {"threshold": 0.0}
    seat: ClassVar[str] = "denoiser output"
    axis: ClassVar[str] = "sigma"  # type: ignore[misc]

    threshold: float = knob(0.05, "expected relative change that is still ignored", low=0.0, high=2.0)
    warmup: int = knob(4, "first steps that always run", low=2, high=50, unit="steps")
    most: int = knob(4, "most steps skipped in a row", low=1, high=20, unit="steps")
    mask: str = knob("", "steps that run in any case, as in '0-3 6 9'; the threshold decides between them")
    of: int = knob(28, "how many steps the mask was made for", low=2, high=1000, unit="steps")
    fill: str = knob("line", "what a skipped step gets", choices=("line", "reuse", "residual"))
    place: str = knob("output", "what a skip replaces, and whose change is expected", choices=PLACES[:3])
    judges: str = knob("conditional", "which output decides: guided is LazyCache", choices=("conditional", "guided"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.masked(self.of)
        if self.fill == "residual" and self.place != "output":
            raise KnobError(f"{self}: fill=residual is the output without the latents: it needs place=output")

    @property
    def order(self) -> int:  # type: ignore[override]
        """How many past outputs predict a skipped one."""
        return 2 if self.fill == "line" else 1

    def computes(self, step: int, steps: int) -> bool:
        """Tell whether the network runs at *step* (from 0) whatever changes: warm-up, mask, and the last step."""
        return self.threshold == 0 or step < self.warmup or step >= steps - 1 or step in self.masked(steps)

    def masked(self, steps: int) -> frozenset[int]:
        """Return the steps of the mask in a run of so many."""
        return frozenset(stretched(read_mask(self.mask, self.of), self.of, steps)) if self.mask else frozenset()

    def rule(self, memory: Memory) -> Rule:
        return _Moved(self, Threshold(self.threshold, self.warmup, most=self.most), memory)

    def kept(self, call: Call, out: Tensor) -> Tensor:
        return _moved_by(out, call.latents, -1) if self.fill == "residual" else out

    def given(self, call: Call, predicted: Tensor) -> Tensor:
        return _moved_by(predicted, call.latents, 1) if self.fill == "residual" else predicted

    def reason(self) -> str:
        return f"change below {self.threshold:g}"

    def idle_because(self, steps: int) -> str:
        if self.threshold == 0:
            return f"{self} runs the network at every step"
        return f"{self} expected more change than {self.threshold:g} at every one of {steps} steps"


@dataclass
class _Moved(Rule):
    """Expects the output to change as fast, for the way the latents move, as it last did."""

    cache: EasyCache
    schedule: Threshold
    memory: Memory
    step: int = -1
    runs: bool = True
    rate: float = inf
    learnt: int = -1  # the step learnt of last

    def computes(self, call: Call) -> bool:
        if call.step != self.step:  # the first call of a step decides for the others
            x = _conditional(call, _tensor(call.latents))
            self.step, self.schedule.always = call.step, self.cache.masked(call.steps)
            self.runs = self.schedule.computes(call.step, call.steps, self._change(x))
            self.memory["latents"] = x
        return self.runs

    def _change(self, x: Tensor) -> float:
        if self.rate == inf or "output" not in self.memory:  # the branch that decides did not run with the last one
            return inf
        size = _mean(self.memory["output"])
        return self.rate * _mean(x - self.memory["latents"]) / size if size else inf

    def learn(self, call: Call, out: Tensor) -> None:
        if call.step != self.learnt:
            self.learnt = call.step
            for name in ("at", "output"):
                if name in self.memory:
                    self.memory[f"{name} before"] = self.memory.pop(name)
            for branch in PAIR:
                self.memory.pop(branch, None)
        if (v := self._judged(call, out)) is None:
            return
        x = _conditional(call, _tensor(call.latents))
        if "output before" in self.memory:
            way = _mean(x - self.memory["at before"])
            self.rate = _mean(v - self.memory["output before"]) / way if way else inf
            if self.cache.judges == "conditional":  # a guided output may still be corrected within the step
                del self.memory["at before"], self.memory["output before"]
        self.memory.update(at=x, output=v)

    def _judged(self, call: Call, out: Tensor) -> Tensor | None:
        """Return the output that decides, as far as this step has given it; None if nothing has yet."""
        if call.branches == MIXED:
            return out
        if self.cache.judges == "conditional":
            return _conditional(call, out) if "cond" in call.branches else None
        self.memory.update(zip(call.branches, out.chunk(len(call.branches)), strict=True))
        cond, uncond = self.memory.get("cond"), self.memory.get("uncond")
        if cond is None or uncond is None:
            return cond
        pipe = call.run.pipe
        return combined(uncond, cond, guidance_scale(pipe), keeps_length(pipe))


def _conditional(call: Call, batch: Tensor) -> Tensor:
    return batch.chunk(len(call.branches))[call.branches.index("cond")] if "cond" in call.branches else batch


def _mean(x: Tensor) -> float:
    return x.abs().mean(dtype=torch.float32).item()


def _tensor(latents: Any) -> Tensor:
    return torch.stack(latents) if isinstance(latents, list) else latents


def _moved_by(out: Tensor, latents: Any, sign: int) -> Tensor:
    """Add the latents to an output, where both have channels: some networks take or give more than the other."""
    x = _tensor(latents)
    shared = tuple(slice(min(a, b)) for a, b in zip(out.shape, x.shape, strict=True))
    moved = out.clone()
    moved[shared] += sign * x[shared]
    return moved
