"""What caches of a part of a UNet share: a schedule known beforehand, and a memory of what the part gave."""

from abc import abstractmethod
from collections import deque
from typing import Any

import torch
from torch import Tensor

from ..pipelines import Call, Link, unlike_unet
from .base import Accelerator
from .module_cache import Made
from .predictors import combine, lagrange_weights
from .schedules import due
from .worth import amplifies, saves_little, seldom_pays

Kind = tuple[tuple[str, ...], tuple[int, ...], torch.dtype]  # what the batch holds, shape of one branch, type


class UNetCache(Accelerator):
    """Leaves out a part of a UNet at some steps, and predicts what it would have given from what it gave.

    Attributes:
        order: how many past values a prediction uses at most; 1 repeats the last.
    """

    order: int

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        return unlike_unet(pipe)

    @abstractmethod
    def computes(self, step: int, steps: int) -> bool:
        """Tell whether all of the UNet runs at *step* (from 0) of a run of so many."""

    def computed(self, steps: int) -> tuple[int, ...]:
        """Return the steps at which all of the UNet runs in a run of so many steps."""
        return tuple(step for step in range(steps) if self.computes(step, steps))

    @abstractmethod
    def reason(self) -> str:
        """Return what the strip says of a step at which the part is left out."""

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        return [*seldom_pays(self, pipe, steps), *amplifies(self, pipe, "order", 1), *saves_little(self, pipe)]

    def idle_because(self, steps: int) -> str:
        return f"{self} runs all of the UNet at each of {steps} steps"


class Past:
    """What the part gave in one run; a ``Bypass`` that gives a prediction of it at the steps that do not compute."""

    def __init__(self, cache: UNetCache, link: Link) -> None:
        self.cache, self.link = cache, link
        self.made: dict[Kind, deque[Made]] = {}
        link.run.holds(self.made)

    def due(self, since: int, step: int, steps: int) -> bool:
        """Tell whether what was made at step *since* has had its day at *step* of a run of so many."""
        return due(since, step, lambda between: self.cache.computes(between, steps))

    def serving(self, call: Call) -> list[Made]:
        """Return the past values that stand in for the part at this call, newest last; none where it has to run."""
        made = self._of(call)
        return [] if made and self.due(made[-1].step, call.step, call.steps) else made

    def instead(self, call: Call, hidden: Tensor) -> Any:
        """Return the prediction for *call*, one tensor or several; None where the part has to run."""
        if not (made := self.serving(call)):
            return None
        self.link.note("partial", self.cache.reason())
        weights = lagrange_weights([node.step for node in made], call.step)
        parts = tuple(combine(weights, values) for values in zip(*(node.parts for node in made), strict=True))
        return parts if len(parts) > 1 else parts[0]

    def learn(self, call: Call, value: Any) -> None:
        """Remember what the part gave."""
        made = self.made.setdefault(kind(call), deque(maxlen=self.cache.order))
        if made and made[-1].step == call.step:
            made.pop()
        made.append(Made(call.step, value if isinstance(value, tuple) else (value,), call.shape))

    def _of(self, call: Call) -> list[Made]:
        """Return what was made for such a call, newest last; where guidance was switched off, its half of a pair."""
        wanted = kind(call)
        fits = [(k, m) for k, m in self.made.items() if k[1:] == wanted[1:] and set(k[0]) >= set(wanted[0])]
        if not fits:
            return []
        (branches, *_), made = max(fits, key=lambda fit: fit[1][-1].step)
        if branches == wanted[0]:
            return list(made)
        rows = [branches.index(branch) for branch in wanted[0]]
        return [
            Made(node.step, tuple(_rows(part, len(branches), rows) for part in node.parts), node.asked)
            for node in made
        ]


def kind(call: Call) -> Kind:
    """Return what must be alike for the past of one call to serve another."""
    return call.branches, call.shape, call.latents[0].dtype


def _rows(part: Tensor, branches: int, rows: list[int]) -> Tensor:
    chunks = part.chunk(branches)
    return torch.cat([chunks[row] for row in rows])
