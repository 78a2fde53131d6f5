"""What methods that spend less on guidance share: run the pair, or the conditional half and a stand-in."""

from abc import abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ..pipelines import PAIR, Call, Link, Network, Stage, family
from .base import Accelerator

Memory = dict[str, Any]

UNGUIDED = (
    "met no guidance to leave out (guidance scale 1, a model with guidance distilled into it, or guidance of more "
    "than two halves)"
)


@dataclass
class Guide:
    """Decides step by step about the unconditional half; born with its run, and anew when it must forget.

    Attributes:
        stage: the pipeline.
        link: its place in the run.
        memory: where it keeps its tensors, so that they are counted.
    """

    stage: Stage
    link: Link
    memory: Memory

    def both(self, call: Call) -> bool:
        """Tell whether the unconditional half runs at this step; asked once a step."""
        return True

    def learn(self, call: Call, uncond: Tensor, cond: Tensor) -> None:
        """Take note of both halves after they ran."""

    def instead(self, call: Call, cond: Tensor) -> Tensor:
        """Return what stands in for the unconditional half: the conditional one, which is no guidance at all."""
        return cond


class Method(Protocol):
    """What says how one run leaves out unconditional halves."""

    @property
    def continues(self) -> bool:
        """Whether what stands in for u continues it; if not, caches further out are told to forget."""
        ...

    def guide(self, stage: Stage, link: Link, memory: Memory) -> Guide:
        """Return what decides in one run."""
        ...

    def reason(self) -> str:
        """Return what the strip says of a step without the unconditional half."""
        ...


class LessGuidance(Accelerator):
    """Leaves out the unconditional half of classifier-free guidance at some steps.

    The pipeline computes u + w (c - u) with guidance scale w. Handed c for both it gets c at any w, and u is not
    needed; handed something close to u it goes on guiding. That works where both halves are one call, and where they
    are two, the conditional one first.
    """

    seat: ClassVar[str] = "guidance"

    @property
    def continues(self) -> bool:
        return False

    @abstractmethod
    def guide(self, stage: Stage, link: Link, memory: Memory) -> Guide: ...

    @abstractmethod
    def reason(self) -> str: ...

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        if family(pipe).guidance == "unknown":
            return "how it asks for the two halves of guidance is not described in pipelines/families.py"
        return None

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        return stage.around_denoiser(partial(Halves, self, stage))


class Planned(LessGuidance):
    """Knows the steps without guidance beforehand."""

    @abstractmethod
    def guides(self, progress: float) -> bool:
        """Tell whether guidance is on when this part of the run is done."""

    def guide(self, stage: Stage, link: Link, memory: Memory) -> Guide:
        return _Plan(stage, link, memory, self)

    def idle_because(self, steps: int) -> str:
        return f"{self} guides all {steps} steps"


@dataclass
class _Plan(Guide):
    method: Planned

    def both(self, call: Call) -> bool:
        return self.method.guides(call.progress)


class Halves:
    """Takes the calls of one run to the network, or answers for it."""

    def __init__(self, method: Method, stage: Stage, link: Link) -> None:
        self.method, self.stage, self.link = method, stage, link
        self.memory: Memory = {}
        self.conditional: dict[int, Tensor] = {}  # by step, while the other half is awaited
        self.decided: tuple[int, bool] | None = None
        self.shape: tuple[int, ...] = ()
        self.guided = False
        link.run.holds(self.memory)
        link.run.holds(self.conditional)
        link.idle(f"{method} {UNGUIDED}")
        self._forget()

    def __call__(self, call: Call, network: Network) -> Tensor:
        if call.branches == PAIR:
            out = self._pair(call, network)
        elif call.branches == ("uncond",):
            out = self._second(call, network)
        elif call.branches == ("cond",) and self.stage.family.guidance == "separate":
            self._runs_both(call)  # now, so that an accelerator further out hears of a change at the first call
            out = network(call)
            self.conditional.clear()
            self.conditional[call.step] = out
        else:
            return network(call)
        if self.link.stale:  # an accelerator further in has changed what its output is: what was learnt is of no use
            self._forget()
        return out

    def _pair(self, call: Call, network: Network) -> Tensor:
        self._meets_guidance()
        if self._runs_both(call):
            out = network(call)
            self._learn(call, *out.chunk(2))
            return out
        cond = network(call.conditional())
        return torch.cat([self._instead(call, cond), cond])

    def _second(self, call: Call, network: Network) -> Tensor:
        self._meets_guidance()
        cond = self.conditional.pop(call.step, None)  # none if an accelerator further out answered that call
        if cond is not None and not self._runs_both(call):
            return self._instead(call, cond)
        out = network(call)
        if cond is not None:
            self._learn(call, out, cond)
        return out

    def _meets_guidance(self) -> None:
        if not self.guided:
            self.guided = True
            self.link.idle("")

    def _runs_both(self, call: Call) -> bool:
        if self.shape not in ((), call.shape):
            self._forget()
        if self.decided is None or self.decided[0] != call.step:
            was, now = self.decided, self.guide.both(call)
            self.decided = (call.step, now)
            if was and was[1] != now and self.guided and not self.method.continues:
                self.link.disturb()
        self.shape = call.shape
        return self.decided[1]

    def _learn(self, call: Call, uncond: Tensor, cond: Tensor) -> None:
        if self.link.stale:
            self._forget()
        self.guide.learn(call, uncond, cond)

    def _instead(self, call: Call, cond: Tensor) -> Tensor:
        self.link.note("partial", self.method.reason())
        return self.guide.instead(call, cond)

    def _forget(self) -> None:
        self.memory.clear()
        self.guide = self.method.guide(self.stage, self.link, self.memory)
        self.decided, self.link.stale = None, False
