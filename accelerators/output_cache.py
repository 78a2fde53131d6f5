"""What caches of the denoiser's output share: skip calls by a rule, and predict the output from past ones."""

from abc import abstractmethod
from collections import defaultdict, deque
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..pipelines import Around, Call, Link, Network, Stage
from .base import Accelerator
from .predictors import combine, lagrange_weights

STOCHASTIC = ("Ancestral", "SDE", "DDPM", "SASolver", "LCM", "TCD")


class Node(NamedTuple):
    """A computed output, where it stands, and the shape of the latents it was asked for."""

    where: float
    output: Tensor
    asked: tuple[int, ...]


Past = deque[Node]
Memory = dict[str, Tensor]


@dataclass
class Rule:
    """Decides call by call whether the network runs, here as planned; born with its run, and anew when it forgets."""

    cache: "OutputCache"

    def computes(self, call: Call) -> bool:
        """Tell whether the network runs for *call*; asked once a call."""
        return self.cache.computes(call.step, call.steps)

    def learn(self, call: Call, out: Tensor) -> None:
        """Take note of what the network gave."""


class OutputCache(Accelerator):
    """Skips calls before they reach the denoiser; each guidance branch is predicted from its own past.

    Attributes:
        order: how many past outputs predict a skipped one.
        axis: "sigma" or "index", along what they are continued.
        feeds_back: whether a prediction counts as a past output.
    """

    order: int
    axis: str
    feeds_back = False

    @abstractmethod
    def computes(self, step: int, steps: int) -> bool:
        """Tell whether the network runs at *step* (from 0) of a run of so many, whatever the pictures look like."""

    def computed(self, steps: int) -> tuple[int, ...]:
        """Return the steps at which the network runs in a run of so many steps."""
        return tuple(step for step in range(steps) if self.computes(step, steps))

    def enough(self, known: int) -> bool:
        """Tell whether so many past outputs suffice for a prediction."""
        return known == self.order

    def weights_at(self, nodes: list[float], where: float) -> tuple[float, ...]:
        """Return the weights of the outputs at *nodes*, oldest first."""
        return lagrange_weights(nodes, where)

    def rule(self, memory: Memory) -> Rule:
        """Return what decides in one run; it keeps its tensors in *memory*, where they are counted."""
        return Rule(self)

    def kept(self, call: Call, out: Tensor) -> Tensor:
        """Return what is remembered of an output."""
        return out

    def given(self, call: Call, predicted: Tensor) -> Tensor:
        """Return the output that a prediction of what is remembered stands for."""
        return predicted

    @abstractmethod
    def reason(self) -> str:
        """Return what the strip says of a skipped step."""

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        scheduler = type(pipe.scheduler).__name__
        algorithm = str(pipe.scheduler.config.get("algorithm_type", ""))
        if self.order > 1 and (any(word in scheduler for word in STOCHASTIC) or "sde" in algorithm):
            return [f"{scheduler} adds noise at every step, which order {self.order} amplifies: use order=1"]
        return []

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        return stage.around_denoiser(self._start)

    def _start(self, link: Link) -> Around:
        past: dict[str, Past] = defaultdict(lambda: deque(maxlen=self.order))
        memory: Memory = {}
        link.run.holds(past)
        link.run.holds(memory)
        rule = self.rule(memory)

        def forget_if(changed: bool) -> None:
            nonlocal rule
            if changed:
                past.clear()
                memory.clear()
                rule, link.stale = self.rule(memory), False

        def around(call: Call, network: Network) -> Tensor:
            forget_if(any(seen and seen[-1].asked != call.shape for seen in past.values()))
            known = all(self.enough(len(past[branch])) for branch in call.branches)
            where = call.sigma if self.axis == "sigma" else float(call.step)
            if rule.computes(call) or not known:
                out = network(call)
                forget_if(link.stale)  # the first output of its kind: nothing older leads up to it
                _remember(past, call, where, self.kept(call, out))
                rule.learn(call, out)
                return out
            predicted = torch.cat([self._predict(past[branch], where) for branch in call.branches])
            link.note("reused" if self.order == 1 else "extrapolated", self.reason())
            if self.feeds_back:
                _remember(past, call, where, predicted)
            return self.given(call, predicted)

        return around

    def _predict(self, past: Past, where: float) -> Tensor:
        weights = self.weights_at([node.where for node in past], where)
        return combine(weights, [node.output for node in past])


def _remember(past: dict[str, Past], call: Call, where: float, out: Tensor) -> None:
    for branch, part in zip(call.branches, out.chunk(len(call.branches)), strict=True):
        seen = past[branch]
        if seen and seen[-1].where == where:  # a two-call solver asks twice at one noise level: the later counts
            seen.pop()
        seen.append(Node(where, part, call.shape))
