"""What caches share that skip all of the network, or all of its blocks, by a rule, and predict from past values."""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from ..pipelines import (
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
from .recollection import Memory, OfModule, Past, Recollection, Rule
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
        modules: dict[str, OfModule] = {}

        def around(path: str, call: Call, run: Inner) -> Any:
            if path not in modules:
                modules[path] = OfModule(self, link)
            return modules[path](call, run)

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
