"""What caches of single modules share: attention and feed-forward outputs, predicted from their own past."""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..pipelines import Call, Link, Stage, around_modules, denoisers, why_compiled
from ..pipelines.places import AroundModule, Inner
from .base import Accelerator
from .predictors import combine
from .schedules import due
from .worth import saves_little, seldom_pays

ATTENTION = ("attn", "attn1", "attn2", "attention")
FEED_FORWARD = ("ff", "ffn", "ff_context", "feed_forward", "img_mlp", "txt_mlp")


class Made(NamedTuple):
    """What a module gave to a branch, when, for which shape; joint attention gives two tensors, image and text."""

    step: int
    parts: tuple[Tensor, ...]
    asked: tuple[int, ...]


class Part(NamedTuple):
    """A module inside the denoiser, and its path."""

    path: str
    module: nn.Module

    @property
    def name(self) -> str:
        """What it is called inside its block."""
        return last_name(self.path)


class ModuleCache(Accelerator):
    """Skips modules inside the blocks; each is predicted from its own past, by guidance branch.

    A schedule says at which steps a module is due. If it was not asked at such a step (an accelerator further out
    skipped the whole network, or one branch of it), it runs the next time that it is asked.

    Attributes:
        nodes: how many past outputs a prediction uses at most.
    """

    nodes: int

    @classmethod
    def cached(cls, name: str, module: nn.Module) -> bool:
        """Tell whether the module of this name is one that may be skipped: all attention and feed-forward."""
        return cached(name, module)

    @abstractmethod
    def computes(self, part: Part, step: int, steps: int) -> bool:
        """Tell whether a module runs at *step* (from 0) of a run of so many, whatever its input."""

    @abstractmethod
    def weights_at(self, steps: list[int], where: float) -> tuple[float, ...]:
        """Return the weights of the outputs made at *steps*, oldest first."""

    @abstractmethod
    def reason(self) -> str:
        """Return what the strip says of a step with skipped modules."""

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        return lacking(pipe, cls.cached)

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        return [*seldom_pays(self, pipe, steps), *saves_little(self, pipe)]

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        paths = {
            f"{network}.{path}": module
            for network, denoiser in stage.denoisers.items()
            for path, module in denoiser.named_modules()
        }
        return around_modules(stage, self.cached, lambda link: self._start(link, paths))

    def _start(self, link: Link, paths: dict[str, nn.Module]) -> AroundModule:
        past: dict[tuple[str, str], deque[Made]] = {}
        link.run.holds(past)

        def around(path: str, call: Call, run: Inner) -> Any:
            made = [past.setdefault((path, branch), deque(maxlen=self.nodes)) for branch in call.branches]
            if any(known and known[-1].asked != call.shape for known in made):
                for known in made:
                    known.clear()
            if self._due(Part(path, paths[path]), call, made):
                out = run()
                _remember(made, call, out)
                return out
            link.note("partial", self.reason())
            weights = [self.weights_at([node.step for node in known], call.step) for known in made]
            # by part of the output, and in it by branch
            values = zip(*(zip(*(node.parts for node in known), strict=True) for known in made), strict=True)
            parts = tuple(torch.cat([combine(*one) for one in zip(weights, of, strict=True)]) for of in values)
            return parts if len(parts) > 1 else parts[0]

        return around

    def _due(self, part: Part, call: Call, made: list[deque[Made]]) -> bool:
        if not all(made):
            return True
        # a network that uses a module twice asks the rule for this step
        since = min(call.step - 1, *(known[-1].step for known in made))
        return due(since, call.step, lambda step: self.computes(part, step, call.steps))


def _remember(made: list[deque[Made]], call: Call, out: Any) -> None:
    """Add what a module gave to the past of each branch of the call."""
    parts = out if isinstance(out, tuple) else (out,)
    for known, half in zip(made, zip(*(part.chunk(len(made)) for part in parts), strict=True), strict=True):
        if known and known[-1].step == call.step:  # a network that uses a module twice
            known.pop()
        known.append(Made(call.step, half, call.shape))


def cached(name: str, module: nn.Module) -> bool:
    """Tell whether a module is the attention or the feed-forward of a block."""
    return in_block(name, (*ATTENTION, *FEED_FORWARD))


def lacking(pipe: Any, cached: Callable[[str, nn.Module], bool] = cached) -> str | None:
    """Return a sentence where the denoiser has none of the modules that are to be *cached*, or out of reach."""
    modules = (named for network in denoisers(pipe).values() for named in network.named_modules())
    if not any(cached(name, module) for name, module in modules):
        return "its denoiser has none of the modules that this method skips"
    return why_compiled(pipe)


def in_block(path: str, names: tuple[str, ...]) -> bool:
    """Tell whether a path is that of a block's module with one of these names, and not of something like it elsewhere.

    >>> in_block("layers.3.attention", ("attention",)), in_block("t_embedder.attention", ("attention",))
    (True, False)
    """
    *_, block, name = ("", *path.split("."))
    return block.isdecimal() and name in names


def last_name(name: str) -> str:
    """Return what a module is called inside its block.

    >>> last_name("transformer_blocks.3.attn1")
    'attn1'
    """
    return name.rpartition(".")[2]
