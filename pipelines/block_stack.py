"""The place around the block stack of a transformer: some of its blocks give way to a residual."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .call import Call
from .errors import UnsupportedError
from .families import Stack, family
from .modulation import modulated
from .patch import patched
from .places import BypassStart, Now, called, per_run
from .stage import Stage, call_point

TEXT = "encoder_hidden_states"  # what blocks call the text stream


def why_no_stack(pipe: Any) -> str | None:
    """Return a sentence that says why *pipe* has no block stack to stand around, or None."""
    described = family(pipe)
    if described.unet:
        return "a UNet has no single stack of transformer blocks"
    if not described.stacks:
        return "its transformer blocks are not described in pipelines/families.py"
    return None


@runtime_checkable
class Onlooker(Protocol):
    """A ``Bypass`` of the block stack that also looks at what enters it."""

    def enter(self, call: Call, hidden: Tensor, modulated: Callable[[], Tensor]) -> None:
        """Look at the tokens that enter the first block, and at what its attention will see of them."""


@contextmanager
def around_stack(stage: Stage, start: BypassStart, first: int = 0, last: int = 0) -> Iterator[None]:
    """Let a ``Bypass`` replace all but the *first* and the *last* transformer blocks by a residual.

    The output of the replaced blocks is their input + residual. ``instead`` sees the image tokens that enter the first
    of them (with the text tokens where both share one sequence) and gives the residual, (batch, tokens, channels);
    ``learn`` receives it. Where blocks behind them still read a text stream of its own, its residual follows that of
    the image along the tokens; behind the last block it is never read again.

    Raises:
        UnsupportedError: the family has no described block stack, or none of its blocks is left to replace.
    """
    if not stage.family.stacks:
        raise UnsupportedError(f"{stage.family.name} has no described transformer block stack")
    with ExitStack() as stack:
        for network in stage.denoisers.values():
            rows = [(row, block) for row in stage.family.stacks for block in getattr(network, row.blocks)]
            if first + last >= len(rows):
                raise UnsupportedError(f"of {len(rows)} blocks none is left between {first} first and {last} last")
            now = Now(text=last > 0)
            stack.enter_context(per_run(stage, now, start))
            for nth, (row, block) in enumerate(rows[: len(rows) - last]):
                if nth == 0 or nth >= first:
                    part = _Part(nth == 0, nth >= first, nth == first, nth == len(rows) - last - 1)
                    wrap = _block(stage, now, row, block, part)
                    stack.enter_context(patched(block, call_point(block), wrap))
        yield


@dataclass(frozen=True)
class _Part:
    """What a patched block is: first of the stack; one of those to replace, and their first or last."""

    enters: bool
    replaced: bool
    first: bool
    last: bool


def _block(stage: Stage, now: Now, row: Stack, block: nn.Module, part: _Part) -> Any:
    signature = inspect.signature(type(block).forward)

    def wrap(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if (asked := called(stage, now)) is None:
                return forward(*args, **kwargs)
            (call, bypass), given = asked, signature.bind(None, *args, **kwargs).arguments
            if part.enters and isinstance(bypass, Onlooker):
                bypass.enter(call, given[row.hidden], functools.partial(modulated, block, row, given))
            if part.first:
                now.streams = _streams(row, given, now.text)
                now.value = bypass.instead(call, now.streams[0])
            if now.value is None or not part.replaced:
                out = forward(*args, **kwargs)
                if part.last and now.streams:
                    after = _streams(row, _returned(row, out), now.text)
                    moved = [b - a for a, b in zip(now.streams, after, strict=True)]
                    bypass.learn(call, torch.cat(moved, dim=1) if len(moved) > 1 else moved[0])
                return out
            return _passed(row, given, _moved(now) if part.last else [given[row.hidden]])

        return wrapped

    return wrap


def _streams(row: Stack, values: Mapping[str, Any], text: bool) -> list[Tensor]:
    """Return the image tokens, and the text tokens where they are a stream of their own that is still needed."""
    return [values[row.hidden]] + ([values[TEXT]] if text and row.returns is not None else [])


def _returned(row: Stack, out: Any) -> dict[str, Any]:
    """Name what a block returned as the next block's arguments."""
    return {row.hidden: out} if row.returns is None else {row.hidden: out[row.returns], TEXT: out[1 - row.returns]}


def _moved(now: Now) -> list[Tensor]:
    """Return the streams behind the replaced blocks: as they went in, plus the residual."""
    lengths = [stream.shape[1] for stream in now.streams]
    parts = now.value.split(lengths, dim=1) if now.value is not None else ()
    return [stream + part for stream, part in zip(now.streams, parts, strict=True)]


def _passed(row: Stack, given: Mapping[str, Any], streams: list[Tensor]) -> Any:
    """Return *streams* the way the block returns them; the text as it came where it is none of them."""
    if row.returns is None:
        return streams[0]
    out = [streams[1] if len(streams) > 1 else given[TEXT]] * 2
    out[row.returns] = streams[0]
    return tuple(out)
