"""A place to stand between the image tokens: run the blocks on some of them, the others stay as they last were.

The first block gets the active tokens only. Self-attention sees every token all the same: the keys and values of the
others are those of the step that last computed them. Behind the last layer their old output stands beside the new.
Text tokens always run. Written once for all families; what differs between them is in their descriptions.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .call import Around, Call, Link, Network
from .errors import UnsupportedError
from .families import Stack, denoisers, family
from .patch import patched
from .rows import Rows
from .run import packed
from .stage import Stage, call_point


class Selector(Protocol):
    """Decides, call by call, which image tokens run."""

    def active(self, call: Call, tokens: int, known: bool) -> Tensor | None:
        """Return the indices of the image tokens that run, ascending, on any device; None for all of them.

        Not *known* means that nothing fit to stand in for the others is held: then all run, whatever is returned.
        """


SelectorStart = Callable[[Link], Selector]


Held = dict[Any, dict[str, Any]]
Memory = Callable[[Call], Held]


@dataclass(eq=False)
class _Now:
    """What the patched parts of one denoiser share during one call; between calls it holds nothing."""

    selector: Selector | None = None
    held: Held = field(default_factory=dict)
    rows: Rows | None = None
    kept: dict[str, Any] | None = None
    begun: bool = False

    def clear(self) -> None:
        self.selector, self.held, self.rows, self.kept, self.begun = None, {}, None, None, False


def why_whole(pipe: Any) -> str | None:
    """Return a sentence why *pipe* can only run on all its tokens, or None."""
    described = family(pipe)
    if described.unet:
        return "the convolutions of a UNet need the whole picture; only transformers can run on some of their tokens"
    if not described.stacks:
        return "its transformer blocks are not described in pipelines/families.py"
    if getattr(pipe, "controlnet", None) is not None:
        return "its ControlNet adds to every image token between the blocks, so that none can be left out"
    if any(map(_compiled, denoisers(pipe).values())):
        return "its blocks are compiled, and compiled attention sees only the tokens it is given: leave compile off"
    return None


def _compiled(network: nn.Module) -> bool:
    return hasattr(network, "_orig_mod") or any(m._compiled_call_impl is not None for m in network.modules())


@contextmanager
def around_tokens(stage: Stage, start: SelectorStart, memory: Memory | None = None) -> Iterator[None]:
    """Let a ``Selector`` choose at every call which image tokens run; one selector and one memory a run.

    What is held is apart for each guidance branch, and of use only if it was written at the step before. With a
    *memory* of one's own, that is asked at every call for what is held.

    Raises:
        UnsupportedError: the pipeline can only run on all its tokens.
    """
    if (why := why_whole(stage.pipe)) is not None:
        raise UnsupportedError(f"{type(stage.pipe).__name__} cannot run on some of its tokens: {why}")
    with ExitStack() as stack:
        for network in stage.denoisers.values():
            now = _Now()
            stack.enter_context(stage.around_denoiser(_beginning(now, start, memory)))
            for row in stage.family.stacks:
                for nth, block in enumerate(getattr(network, row.blocks)):
                    stack.enter_context(patched(block, call_point(block), _block(stage, now, network, row, block)))
                    for name in row.attends:
                        if (attention := getattr(block, name, None)) is not None:
                            wrap = _attention(now, row, f"{row.blocks}.{nth}.{name}")
                            stack.enter_context(patched(attention, call_point(attention), wrap))
            final = getattr(network, stage.family.final)
            stack.enter_context(patched(final, call_point(final), _final(stage, now)))
        yield


def _beginning(now: _Now, start: SelectorStart, memory: Memory | None) -> Callable[[Link], Around]:
    def begin(link: Link) -> Around:
        selector, held = start(link), Held()
        link.run.holds(held)

        def around(call: Call, network: Network) -> Tensor:
            now.selector, now.held = selector, held if memory is None else memory(call)
            try:
                return network(call)
            finally:
                now.clear()

        return around

    return begin


def _block(stage: Stage, now: _Now, network: nn.Module, row: Stack, block: nn.Module) -> Any:
    signature = inspect.signature(type(block).forward)

    def wrap(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if (call := stage.call) is None or now.selector is None:
                return forward(*args, **kwargs)
            bound = signature.bind(None, *args, **kwargs)
            given, first = bound.arguments, not now.begun
            if first:  # whichever block runs first: skip-layer guidance may leave out the first of them
                now.begun = True
                grid = stage.family.latents.tokens(call.kwargs, call.latents, patch_size(network))
                _choose(now, call, grid, row, given[row.hidden].shape[1])
            if now.rows is None:
                return forward(*args, **kwargs)
            if first:
                given[row.hidden] = now.rows.take(given[row.hidden], 1)
            for name, (dim, scope) in row.per_token.items():
                value = given[name]
                pair = scope == "image, text" and value is not None
                given[name] = (
                    (now.rows.of_argument(value[0], dim), *value[1:]) if pair else now.rows.of_argument(value, dim)
                )
            return forward(*bound.args[1:], **bound.kwargs)

        return wrapped

    return wrap


def _choose(now: _Now, call: Call, grid: tuple[int, int, int], row: Stack, length: int) -> None:
    """Ask which tokens run at this call; a call about which nothing can be held runs whole and is not held."""
    tokens, timestep = math.prod(grid), call.kwargs.get("timestep")
    if isinstance(timestep, Tensor) and timestep.ndim > 1:  # a noise level for each token, not for each sample
        return
    if now.selector is None or (not row.joint and tokens != length):  # tokens of a picture to be edited stand beside
        return
    before = max((kept["step"] for kept in now.held.values() if kept["step"] < call.step), default=-1)
    kept = now.held.get((call.branches, call.shape))
    known = kept is not None and kept["step"] >= before
    active = now.selector.active(call, tokens, known)
    if kept is None or not known or active is None:
        now.held.pop((call.branches, call.shape), None)  # before the new tensors come, not after
        now.kept = {"step": -1, "keys": {}}
        return
    now.kept, now.rows = kept, _rows(row, call, active, length, tokens)
    flags = torch.zeros(tokens, dtype=torch.bool).index_fill(0, active.cpu(), True)
    call.run.steps[-1].grid, call.run.steps[-1].active = grid, packed(flags.tolist())


def _rows(row: Stack, call: Call, active: Tensor, length: int, tokens: int) -> Rows:
    """Return the rows that run; in a joint sequence each sample's image begins where its text ends."""
    active = active.to(call.latents.device)
    if not row.joint:
        return Rows(active, length)
    begins = call.kwargs[row.text_mask].sum(1, dtype=torch.long)
    image = begins[:, None] + torch.arange(tokens, device=active.device)
    runs = torch.ones(len(begins), length, dtype=torch.bool, device=active.device)
    runs.scatter_(1, image, value=False)
    runs.scatter_(1, image[:, active], value=True)
    at = runs.int().argsort(dim=1, descending=True, stable=True)[:, : length - tokens + len(active)]
    return Rows(at[0] if len(at) == 1 else at, length)


def patch_size(network: nn.Module) -> tuple[int, int, int]:
    """Return how many latent frames, rows and columns make one token."""
    size = network.config.patch_size
    return (1, size, size) if isinstance(size, int) else tuple(size)


def _attention(now: _Now, row: Stack, name: str) -> Any:
    def wrap(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if now.kept is None:
                return forward(*args, **kwargs)
            with _Keys(now, row, name) as keys:
                out = forward(*args, **kwargs)
            if keys.seen != 1:
                raise UnsupportedError(
                    f"{name} called torch's scaled_dot_product_attention {keys.seen} times for its self-attention, "
                    "not once, so that the keys of resting tokens have nowhere to go: set the attention backend to "
                    "native, and leave out attention processors of your own"
                )
            return out

        return wrapped

    return wrap


class _Keys(TorchFunctionMode):
    """Notes the keys and values of one self-attention, or completes them by those that were noted.

    Positions are in the keys already, and every attention processor, whatever it does before, ends up here.
    """

    def __init__(self, now: _Now, row: Stack, name: str) -> None:
        super().__init__()
        self.rows, self.row, self.name, self.seen = now.rows, row, name, 0
        self.keys = now.kept["keys"] if now.kept is not None else {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query, key, value = given["query"], given["key"], given["value"]
        if query.shape[-2] != key.shape[-2]:  # attention to something else (an image prompt)
            return func(*args, **kwargs)
        self.seen += 1
        if self.rows is None:
            self.keys[self.name] = (key, value)
            return func(*args, **kwargs)
        rows = self.rows.beside(key.shape[-2] - self.rows.count, self.row.text_last)
        whole = (rows.put(old, new, -2) for old, new in zip(self.keys[self.name], (key, value), strict=True))
        given["key"], given["value"] = whole
        given |= dict(zip(("attn_mask", "dropout_p", "is_causal"), args[3:], strict=False))
        if (mask := given.get("attn_mask")) is not None and mask.shape[-1] == rows.count < rows.of:
            given["attn_mask"] = _completed(mask, rows)  # made anew by the processor, for the tokens it was given
        return func(**given)


def _completed(mask: Tensor, rows: Rows) -> Tensor:
    """Return a mask of the keys that run as one of all keys; none of the others is masked."""
    seen = mask.new_ones if mask.dtype == torch.bool else mask.new_zeros
    return rows.put(seen(*mask.shape[:-1], rows.of), mask, -1)


def _final(stage: Stage, now: _Now) -> Any:
    def wrap(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            if stage.call is None or now.kept is None:
                return out
            kept, call = now.kept, stage.call
            if now.rows is None:  # a copy: what is returned may be held, or be written to, by others
                kept["out"] = out.clone()
            else:
                out = now.rows.put(kept["out"], out, 1).clone()
            kept["step"] = call.step
            now.held[call.branches, call.shape] = kept
            return out

        return wrapped

    return wrap
