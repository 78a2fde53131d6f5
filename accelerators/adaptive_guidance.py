"""Adaptive Guidance (Castillo et al. 2023, https://arxiv.org/abs/2312.12487)."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..pipelines import Call, Link, Stage, clean
from .guidance import Guide, LessGuidance, Memory
from .knobs import knob

Sums = tuple[Tensor, Tensor]
FITTED = 3  # guided steps that the line is laid through


@dataclass(frozen=True)
class AdaptiveGuidance(LessGuidance):
    """Guide until the two branches agree; from then on rebuild the unconditional one, and take it anew now and then.

    With u and c the two branches, gamma = cos(u, c), by picture, and the lowest of a batch counts. Once gamma reaches
    ``threshold`` the unconditional branch is left out to the end of the run (section 5 of the paper). The paper
    compares the predictions; the pictures that they stand for (``of="clean"``) can be compared at any noise level: two
    predictions of noise are alike at the end of a run, whatever they show.

    ``rebuild="linear"`` goes on guiding with an unconditional branch that is a linear combination of what is known,
    as in the paper's LinearAG (its coefficients come from 200 runs; here they are least squares over the last guided
    steps of this run and picture). With d = u - c, and ' for the step before,

        u = c + a d' + b (c - c').

    One step in ``again`` is then guided for real, and d with it; that is ours. ``again=0`` leaves it to the line.
    Before, from four guided steps on, one step in ``before`` is: the paper's LinearAG alternates from the first step,
    with coefficients known beforehand. ``before=1`` guides each.
    ``rebuild="none"`` takes c alone, as the paper's Adaptive Guidance and as if the guidance scale were 1; before the
    branches agree each step is then guided. ``threshold=1`` never ends guidance. The paper's threshold for
    predictions is 0.991.

    Over guidance 2, 4, 6 and 8, 96 prompts each, the defaults keep 95.7 % adherence of 96.1 on pocket-dit and 95.4 of
    94.7 on pocket-unet. Drawn one at a time (in a batch the least alike branches decide for all), 64 pictures at
    guidance 4 lost 0.8 points on pocket-dit and none on pocket-unet with ``before=1``, at 39 dB; 6.3 and 6.5 points at
    26 dB with ``before=1, again=0`` (`benchmarks/guidance.py`). Nearer to the same picture is plainly fewer steps.

    >>> str(AdaptiveGuidance(threshold=0.99, rebuild="none"))
    'adaptive-guidance:threshold=0.99,rebuild=none'
    """

    name: ClassVar[str] = "adaptive-guidance"
    title: ClassVar[str] = "Adaptive Guidance"
    paper: ClassVar[str] = "Castillo et al. 2023, arXiv:2312.12487"
    neutral: ClassVar[dict[str, Any]] = {"threshold": 1.0, "before": 1}

    threshold: float = knob(0.98, "likeness of the two branches at which guidance ends", low=0.0, high=1.0)
    of: str = knob("clean", "whose likeness: of clean pictures or of predictions", choices=("clean", "prediction"))
    rebuild: str = knob("linear", "what stands in for the unconditional branch", choices=("linear", "none"))
    before: int = knob(2, "one step in so many is guided for real before that; 1: all", low=1, high=100, unit="steps")
    again: int = knob(4, "one step in so many takes what is rebuilt anew; 0: none", low=0, high=100, unit="steps")

    @property
    def continues(self) -> bool:
        return self.rebuild == "linear"

    def guide(self, stage: Stage, link: Link, memory: Memory) -> Guide:
        return _Adaptive(stage, link, memory, self)

    def reason(self) -> str:
        agree = f"branches agree to {self.threshold:g}"
        if not self.continues:
            return f"{agree}: no more guidance"
        return f"unconditional branch rebuilt; {agree}" + (", or between two guided steps" if self.before > 1 else "")

    def likeness(self, stage: Stage, call: Call, uncond: Tensor, cond: Tensor) -> float:
        """Return gamma of the picture whose branches are least alike."""
        pair = [uncond.float(), cond.float()]
        if self.of == "clean":
            given = call.latents if isinstance(call.latents, Tensor) else torch.stack(call.latents)
            sign = stage.family.sign
            pair = [clean(stage.pipe.scheduler, call.sigma, given[-len(part) :], sign * part) for part in pair]
        return float(torch.cosine_similarity(pair[0].flatten(1), pair[1].flatten(1)).min())


@dataclass
class _Adaptive(Guide):
    method: AdaptiveGuidance
    closest: float = -1.0
    ended: bool = False
    ran: int = -1
    sums: deque[Sums] = field(default_factory=lambda: deque(maxlen=FITTED))

    def both(self, call: Call) -> bool:
        if not self._rebuilds():
            return not self.ended
        every = self.method.again if self.ended else self.method.before
        return 0 < every <= call.step - self.ran

    def learn(self, call: Call, uncond: Tensor, cond: Tensor) -> None:
        self.ran = call.step
        gamma = self.method.likeness(self.stage, call, uncond, cond)
        self.closest = max(self.closest, gamma)
        self.link.idle(f"{self.method} found the two branches {self.closest:.4f} alike at most")
        if self.method.continues:
            self._keep(cond, uncond - cond)
        known = bool(self.sums) or not self.method.continues
        self.ended = self.ended or (known and gamma >= self.method.threshold < 1)
        if self._rebuilds():
            self.memory["coefficients"] = fitted(self.sums)

    def _rebuilds(self) -> bool:
        """Tell whether a line may stand in: the branches agree, or it goes through enough guided steps."""
        return self.method.continues and (self.ended or len(self.sums) == FITTED)

    def instead(self, call: Call, cond: Tensor) -> Tensor:
        if not self.method.continues:
            return cond
        a, b = self.memory["coefficients"].to(cond).unbind(1)
        back = (-1,) + (1,) * (cond.ndim - 1)
        apart = a.view(back) * self.memory["apart"] + b.view(back) * (cond - self.memory["cond"])
        self.memory.update(apart=apart, cond=cond)
        return cond + apart

    def _keep(self, cond: Tensor, apart: Tensor) -> None:
        if "apart" in self.memory:
            self.sums.append(normal_sums(self.memory["apart"], cond - self.memory["cond"], apart))
        self.memory.update(apart=apart, cond=cond)


def normal_sums(*columns: Tensor) -> Sums:
    """Return the sums of least squares, by sample: of the products of all columns but the last, and with the last."""
    *given, wanted = (column.flatten(1).float() for column in columns)
    table = torch.stack(given, 1)
    return (table @ table.mT).cpu().double(), (table @ wanted.unsqueeze(2)).cpu().double()


def fitted(sums: deque[Sums]) -> Tensor:
    """Return the coefficients, (samples, columns); where the columns do not tell them, the smallest ones."""
    products, wanted = (torch.stack(part).sum(0) for part in zip(*sums, strict=True))
    return (torch.linalg.pinv(products, hermitian=True) @ wanted).squeeze(2)
