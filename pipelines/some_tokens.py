"""Places where a module runs for some of its image tokens, and for some of the words they look at.

Self-attention of the chosen tokens sees all tokens: keys and values of the others are those that were recorded.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from .attention import unseen_modules
from .call import Call, Link
from .families import denoisers, family
from .grids import Grid, Grids, area
from .patch import patched
from .places import Inner, around_modules
from .stage import Stage, call_point
from .token_modules import FEED_FORWARD, token_wise

PLAIN = (AttnProcessor, AttnProcessor2_0)


class Recorded(NamedTuple):
    """What a module gave for all its tokens: its output, and of self-attention the keys and values."""

    out: Tensor
    keys: tuple[Tensor, ...] = ()

    def of(self, samples: Tensor) -> "Recorded":
        """Return the record of these samples, which may repeat."""
        return Recorded(self.out[samples], tuple(key[samples] for key in self.keys))


@dataclass(eq=False)
class SomeTokens:
    """A module and the image tokens that it is given at a call.

    Attributes:
        hidden: (samples, tokens, channels).
        grid: frames, rows and columns of the tokens.
        words: number of text tokens that it looks at; 0 for self-attention and feed-forwards.
    """

    hidden: Tensor
    grid: Grid
    words: int
    _run: Callable[..., Tensor]
    _keys: "_Keys"

    def whole(self, samples: Tensor | None = None) -> Recorded:
        """Run the module on all tokens, of these samples or of all."""
        with self._keys.noting() as noted:
            out = self._run(samples, None, None)
        return Recorded(out.clone(), tuple(noted))

    def some(
        self, tokens: Tensor, base: Recorded, samples: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        """Run the module on these tokens alone; the others keep the output, keys and values of *base*."""
        with self._keys.beside(base.keys, tokens):
            out = self._run(samples, tokens, words)
        return base.out.index_copy(1, tokens, out)


AroundSome = Callable[[str, Call, SomeTokens], Tensor]


@dataclass(eq=False)
class _Keys:
    """What the key and value projections of one self-attention do at this moment."""

    noted: list[Tensor] | None = None
    waiting: list[Tensor] = field(default_factory=list)
    tokens: Tensor | None = None

    @contextmanager
    def noting(self) -> Iterator[list[Tensor]]:
        noted: list[Tensor] = []
        self.noted = noted
        try:
            yield noted
        finally:
            self.noted = None

    @contextmanager
    def beside(self, keys: tuple[Tensor, ...], tokens: Tensor) -> Iterator[None]:
        self.waiting, self.tokens = list(keys), tokens
        try:
            yield
        finally:
            self.waiting, self.tokens = [], None

    def wrap(self, forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Tensor:
            out = forward(*args, **kwargs)
            if self.noted is not None:
                self.noted.append(out)
            elif self.waiting and self.tokens is not None:
                return self.waiting.pop(0).index_copy(1, self.tokens, out)
            return out

        return wrapped


def whole_modules(pipe: Any) -> str | None:
    """Return a sentence that says why no self-attention of *pipe* can run for some of its tokens, or None."""
    if (why := unseen_modules(pipe)) is not None:
        return why
    modules = [(name, m) for network in denoisers(pipe).values() for name, m in network.named_modules()]
    if not any(_alone(family(pipe), name, module) for name, module in modules if name.endswith("attn1")):
        return "its self-attention holds text too, or rotates positions into its keys, or has a processor of its own"
    return None


def no_crossing(pipe: Any) -> str | None:
    """Return a sentence that says why *pipe* has no cross attention that could look at some words only, or None."""
    if (why := unseen_modules(pipe)) is not None:
        return why
    modules = [(name, m) for network in denoisers(pipe).values() for name, m in network.named_modules()]
    if not any(crosses(name, module) for name, module in modules):
        return "its denoiser has no cross attention of its own: prompt and picture share one attention"
    return None


def crosses(name: str, module: nn.Module) -> bool:
    """Tell whether a module is cross attention; SD3 has a second self attention under the same name."""
    return name.rpartition(".")[2] == "attn2" and getattr(module, "is_cross_attention", True)


def _alone(described: Any, name: str, module: nn.Module) -> bool:
    """Tell whether the module of this name treats image tokens alone, and can do so for some of them."""
    if not token_wise(described, name, module):
        return False
    if not isinstance(module, Attention):
        return name.rpartition(".")[2] in FEED_FORWARD
    return name.endswith("attn1") and type(module.processor) in PLAIN and module.group_norm is None


@contextmanager
def around_some_tokens(stage: Stage, feed_forward: bool, start: Callable[[Link], AroundSome]) -> Iterator[None]:
    """Send self-attention, and feed-forwards if wanted, through an ``AroundSome``, made anew for each run.

    Attention that is masked, and modules whose input is not the image tokens of the call, never come by.
    """
    keys: dict[str, _Keys] = {}

    def match(name: str, module: nn.Module) -> bool:
        return _alone(stage.family, name, module) and (feed_forward or isinstance(module, Attention))

    with ExitStack() as stack:
        for network_name, network in stage.denoisers.items():
            for name, module in network.named_modules():
                if match(name, module):
                    held = keys[f"{network_name}.{name}"] = _Keys()
                    for part in (module.to_k, module.to_v) if isinstance(module, Attention) else ():
                        stack.enter_context(patched(part, call_point(part), held.wrap))
        stack.enter_context(around_modules(stage, match, functools.partial(_begin, stage, keys, start)))
        yield


@contextmanager
def around_cross_attention(stage: Stage, start: Callable[[Link], AroundSome]) -> Iterator[None]:
    """Send cross attention through an ``AroundSome``, made anew for each run.

    Modules whose input is not the image tokens of the call, or whose text is not the call's, never come by.
    """
    with around_modules(stage, crosses, functools.partial(_begin, stage, {}, start)):
        yield


def _begin(stage: Stage, keys: dict[str, _Keys], start: Callable[[Link], AroundSome], link: Link) -> Any:
    around, grids = start(link), Grids(stage)

    def module(name: str, call: Call, run: Inner) -> Any:
        bound = inspect.signature(run.func).bind(*run.args, **run.keywords)
        first = next(iter(bound.arguments))
        hidden, text = bound.arguments[first], bound.arguments.get("encoder_hidden_states")
        grid = next((grid for grid in grids.of(call) if hidden.ndim == 3 and area(grid) == hidden.shape[1]), None)
        if grid is None or len(hidden) != call.batch or not _fits(call, bound.arguments, name in keys):
            return run()

        def run_some(samples: Tensor | None, tokens: Tensor | None, words: Tensor | None) -> Any:
            given = inspect.BoundArguments(bound.signature, bound.arguments.copy())
            given.arguments[first] = _rows(hidden, samples, tokens)
            if text is not None:
                given.arguments["encoder_hidden_states"] = _rows(text, samples, words)
                if (mask := given.arguments.get("attention_mask")) is not None:
                    mask = mask if samples is None else mask[samples]
                    given.arguments["attention_mask"] = mask if words is None else mask[..., words]
            return run.func(*given.args, **given.kwargs)

        words = 0 if text is None else text.shape[1]
        return around(name, call, SomeTokens(hidden, grid, words, run_some, keys.get(name) or _Keys()))

    return module


def _fits(call: Call, given: dict[str, Any], alone: bool) -> bool:
    """Tell whether a module's text and mask are what is expected: none of its own, or those of the call."""
    text, mask = given.get("encoder_hidden_states"), given.get("attention_mask")
    if alone:
        return text is None and mask is None
    of_call = call.kwargs.get("encoder_hidden_states")
    if not isinstance(text, Tensor) or not isinstance(of_call, Tensor) or text.shape[:2] != of_call.shape[:2]:
        return False
    return mask is None or (len(mask) == len(text) and mask.shape[-1] == text.shape[1])


def _rows(x: Tensor, samples: Tensor | None, tokens: Tensor | None) -> Tensor:
    x = x if samples is None else x.index_select(0, samples)
    return x if tokens is None else x.index_select(1, tokens)


def on_device(indices: list[int], like: Tensor) -> Tensor:
    """Return indices as a tensor beside *like*."""
    return torch.tensor(indices, dtype=torch.long, device=like.device)
