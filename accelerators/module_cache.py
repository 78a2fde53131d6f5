"""What caches of single modules share: attention and feed-forward outputs, predicted from their own past."""

from abc import abstractmethod
from collections import deque
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..pipelines import Call, Link, Stage, around_modules, denoisers
from ..pipelines.places import AroundModule, Inner
from .base import Accelerator
from .predictors import combine

ATTENTION = ("attn", "attn1", "attn2")
FEED_FORWARD = ("ff", "ffn", "ff_context", "feed_forward")


class Made(NamedTuple):
    """What a module gave, at which step, for which shape; joint attention gives two tensors, image and text."""

    step: float
    parts: tuple[Tensor, ...]
    asked: tuple[int, ...]


class ModuleCache(Accelerator):
    """Skips modules inside the blocks; each is predicted from its own past, by guidance branch.

    Attributes:
        nodes: how many past outputs a prediction uses at most.
    """

    nodes: int

    @classmethod
    @abstractmethod
    def cached(cls, name: str, module: nn.Module) -> bool:
        """Tell whether the module of this name is one that may be skipped."""

    @abstractmethod
    def computes(self, name: str, call: Call) -> bool:
        """Tell whether the module runs at this call, whatever its input."""

    @abstractmethod
    def weights_at(self, steps: list[float], where: float) -> tuple[float, ...]:
        """Return the weights of the outputs made at *steps*, oldest first."""

    @abstractmethod
    def reason(self) -> str:
        """Return what the strip says of a step with skipped modules."""

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        modules = ((name, m) for network in denoisers(pipe).values() for name, m in network.named_modules())
        if not any(cls.cached(name, module) for name, module in modules):
            return "its denoiser has none of the modules that this method skips"
        return None

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        return around_modules(stage, self.cached, self._start)

    def _start(self, link: Link) -> AroundModule:
        past: dict[tuple[Any, ...], deque[Made]] = {}
        link.run.holds(past)

        def around(name: str, call: Call, run: Inner) -> Any:
            made = past.setdefault((name, call.branches), deque(maxlen=self.nodes))
            if made and made[-1].asked != call.shape:
                made.clear()
            if self.computes(name, call) or not made:
                out = run()
                if made and made[-1].step == call.step:  # a network that uses a module twice
                    made.pop()
                made.append(Made(call.step, out if isinstance(out, tuple) else (out,), call.shape))
                return out
            link.note("partial", self.reason())
            weights = self.weights_at([node.step for node in made], call.step)
            parts = tuple(combine(weights, values) for values in zip(*(node.parts for node in made), strict=True))
            return parts if len(parts) > 1 else parts[0]

        return around


def last_name(name: str) -> str:
    """Return what a module is called inside its block.

    >>> last_name("transformer_blocks.3.attn1")
    'attn1'
    """
    return name.rpartition(".")[2]
