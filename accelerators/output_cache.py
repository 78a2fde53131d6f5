"""What caches share that skip all of the network, or all of its blocks, by a rule, and predict from past values."""

from abc import abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..pipelines import (
    Action,
    Around,
    Call,
    KnobError,
    Link,
    Network,
    Stage,
    UnsupportedError,
    around_low_resolution,
    around_modules,
    around_stack,
    unlike_unet,
)
from ..pipelines.places import AroundModule, Inner
from .base import Accelerator
from .module_cache import cached, lacking
from .predictors import combine, lagrange_weights
from .schedules import read_mask, stretched
from .worth import amplifies, seldom_pays

SEATS = {  # where a cache can stand -> the seat that it then takes
    "output": "denoiser output",
    "stack": "block stack",
    "deep": "deep part of the UNet",
    "modules": "attention and feed-forward",
}
PLACES = tuple(SEATS)
PLACE = "what a skip replaces: the output, the block stack, below a UNet's first resolution, or the blocks' modules"


class Node(NamedTuple):
    """A computed value, where it stands, and the shape of the latents it was asked for."""

    where: float
    output: Tensor
    asked: tuple[int, ...]


Past = deque[Node]
Memory = dict[str, Tensor]


@dataclass
class Rule:
    """Decides call by call whether the network runs, here as planned; born with its run, and anew when it forgets."""

    cache: "OutputCache"

    def see(self, call: Call, modulated: Callable[[], Tensor]) -> None:
        """Look at what the first block's attention will see of its input; only at the block stack."""

    def computes(self, call: Call) -> bool:
        """Tell whether the network runs for *call*; asked once a call."""
        return self.cache.computes(call.step, call.steps)

    def learn(self, call: Call, out: Tensor) -> None:
        """Take note of what the network gave."""


class OutputCache(Accelerator):
    """Skips calls to the denoiser, or a part of every call; each guidance branch is predicted from its own past.

    Attributes:
        order: how many past outputs predict a skipped one.
        axis: "sigma" or "index", along what they are continued.
        place: "output" of the denoiser; "stack": of its blocks, what they add to their input; "deep": of a UNet, what
            comes up from below its first resolution; "modules": every attention and feed-forward, by itself. All else
            then runs at every step.
        first, last: at the stack, how many blocks at either end run at every step.
        feeds_back: whether a prediction counts as a past output.
    """

    order: int
    axis: str
    place = "output"
    first = last = 0
    feeds_back = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seat", SEATS[self.place])  # the knob decides which seat is taken
        if self.place != "stack" and (self.first or self.last):
            raise KnobError(f"{self}: first and last are blocks of the stack: they need place=stack")

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
        return [*amplifies(self, pipe, "order", 1), *seldom_pays(self, pipe, steps)]

    def refusal(self, pipe: Any) -> str | None:
        if (why := super().refusal(pipe)) is not None:
            return why
        needed: dict[str, Callable[[Any], str | None]] = {"deep": unlike_unet, "modules": lacking}
        return needed[self.place](pipe) if self.place in needed else None

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        if self.place == "output":
            return stage.around_denoiser(self._start)
        if self.place == "deep":
            return around_low_resolution(stage, lambda link: Recollection(self, link))
        if self.place == "modules":
            return around_modules(stage, cached, self._start_modules)
        if not stage.family.stacks:
            raise UnsupportedError(
                f"{self} stands at the transformer blocks, and those of {stage.family.name} are not described: "
                "a cache of the denoiser's output (ab-cache, lemica with place=output) works there"
            )
        return around_stack(stage, lambda link: Recollection(self, link), self.first, self.last)

    def _start(self, link: Link) -> Around:
        recollection = Recollection(self, link)

        def around(call: Call, network: Network) -> Tensor:
            if (out := recollection.instead(call, call.latents)) is None:
                out = network(call)
                recollection.learn(call, out)
            return out

        return around

    def _start_modules(self, link: Link) -> AroundModule:
        recollections: dict[str, Recollection] = {}

        def around(path: str, call: Call, run: Inner) -> Any:
            if path not in recollections:
                recollections[path] = Recollection(self, link)
            recollection = recollections[path]
            if (known := recollection.instead(call, None)) is not None:
                return recollection.split(call, known)
            out = run()
            recollection.learn(call, recollection.joined(call, out))
            return out

        return around

    def weights_for(self, nodes: list[float], where: float, steps: int) -> tuple[float, ...]:
        """Return the weights in a run of so many steps."""
        return self.weights_at(nodes, where)

    def predict(self, past: Past, where: float, steps: int) -> Tensor:
        """Continue the past values to a place."""
        weights = self.weights_for([node.where for node in past], where, steps)
        return combine(weights, [node.output for node in past])


class MaskedCache(OutputCache):
    """Runs the network at the steps of a mask, stretched where a run has another length.

    Attributes:
        mask: computed steps as ``read_mask`` reads them, or "all".
        of: how many steps the mask was made for.
    """

    mask: str
    of: int

    def computed(self, steps: int) -> tuple[int, ...]:
        if self.mask.strip() == "all":
            return tuple(range(steps))
        return stretched(read_mask(self.mask, self.of), self.of, steps)

    def computes(self, step: int, steps: int) -> bool:
        return step in self.computed(steps) or step >= steps - 1

    def enough(self, known: int) -> bool:
        return known > 0  # a mask may skip at once; the first skip then repeats

    def idle_because(self, steps: int) -> str:
        return f"the mask of {self.name} computes all {steps} steps"


class Recollection:
    """What one run remembers, and what a skipped call gets of it."""

    def __init__(self, cache: OutputCache, link: Link) -> None:
        self.cache, self.link = cache, link
        self.past: dict[str, Past] = defaultdict(lambda: deque(maxlen=cache.order))
        self.memory: Memory = {}
        self.rule = cache.rule(self.memory)
        self.entering: Callable[[], Tensor] | None = None
        self.lengths: dict[str, list[int]] = {}
        link.run.holds(self.past)
        link.run.holds(self.memory)

    def enter(self, call: Call, hidden: Tensor, modulated: Callable[[], Tensor]) -> None:
        """Keep the view into the first block until the rule asks for it."""
        self.entering = modulated

    def instead(self, call: Call, hidden: Any) -> Tensor | None:
        """Return the prediction that stands in for this call, or None if it is computed."""
        cache, past = self.cache, self.past
        self._forget_if(any(seen and seen[-1].asked != call.shape for seen in past.values()))
        if self.entering is not None:
            self.rule.see(call, self.entering)
            self.entering = None
        known = all(cache.enough(len(past[branch])) for branch in call.branches)
        if self.rule.computes(call) or not known:
            return None
        where = self._where(call)
        predicted = torch.cat([cache.predict(past[branch], where, call.steps) for branch in call.branches])
        whole: Action = "reused" if cache.order == 1 else "extrapolated"
        self.link.note(whole if cache.place == "output" else "partial", cache.reason())
        if cache.feeds_back:
            remember(past, call, where, predicted)
        return cache.given(call, predicted)

    def learn(self, call: Call, out: Tensor) -> None:
        """Remember what the network gave."""
        if self.cache.place == "output":
            self._forget_if(self.link.stale)  # the first output of its kind: nothing older leads up to it
        remember(self.past, call, self._where(call), self.cache.kept(call, out))
        self.rule.learn(call, out)

    def joined(self, call: Call, out: Any) -> Tensor:
        """Return what a module gave as one tensor: joint attention gives two, of image tokens and of text."""
        parts = out if isinstance(out, tuple) else (out,)
        self.lengths |= {branch: [part.shape[1] for part in parts] for branch in call.branches}
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def split(self, call: Call, out: Tensor) -> Any:
        """Return it as the module would have given it."""
        parts = out.split(self.lengths[call.branches[0]], 1)
        return parts if len(parts) > 1 else parts[0]

    def _where(self, call: Call) -> float:
        return call.sigma if self.cache.axis == "sigma" else float(call.step)

    def _forget_if(self, changed: bool) -> None:
        if changed:
            self.past.clear()
            self.memory.clear()
            self.rule, self.link.stale = self.cache.rule(self.memory), False


def remember(past: dict[str, Past], call: Call, where: float, out: Tensor) -> None:
    """Add what a call gave to the past of each of its branches."""
    for branch, part in zip(call.branches, out.chunk(len(call.branches)), strict=True):
        seen = past[branch]
        if seen and seen[-1].where == where:  # a two-call solver asks twice at one noise level: the later counts
            seen.pop()
        seen.append(Node(where, part, call.shape))
