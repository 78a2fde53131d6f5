"""Places to stand inside the denoiser: the block stack, single modules; ``unet`` has those inside a UNet.

Each is written once for all families and reads only their descriptions. The place around the whole denoiser, and the
one around the solver, are methods of ``Stage``.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from .errors import UnsupportedError
from .families import Stack
from .patch import patched
from .stage import Around, Call, Link, Network, Stage, call_point


class Bypass(Protocol):
    """Decides, call by call, whether a part of the network runs, and learns from it when it does."""

    def instead(self, call: Call, hidden: Tensor) -> Tensor | None:
        """Return what stands in for the part at this call, given its input; None runs the part."""

    def learn(self, call: Call, value: Tensor) -> None:
        """Take note of what the part gave when it ran."""


BypassStart = Callable[[Link], Bypass]


@dataclass(eq=False)
class _Now:
    """What is shared by the patched blocks of one denoiser."""

    bypass: Bypass | None = None
    hidden: Tensor | None = None
    value: Tensor | None = None


def _per_run(stage: Stage, now: _Now, start: BypassStart) -> AbstractContextManager[None]:
    def begin(link: Link) -> Around:
        bypass = start(link)  # held by the run's chain alone, so that it dies with the run

        def around(call: Call, network: Network) -> Tensor:
            now.bypass = bypass
            try:
                return network(call)
            finally:
                now.bypass = now.hidden = now.value = None

        return around

    return stage.around_denoiser(begin)


def _called(stage: Stage, now: _Now) -> tuple[Call, Bypass] | None:
    return (stage.call, now.bypass) if stage.call is not None and now.bypass is not None else None


@contextmanager
def around_stack(stage: Stage, start: BypassStart) -> Iterator[None]:
    """Let a ``Bypass`` replace all transformer blocks by a residual: output = input + residual.

    ``instead`` gives the residual of the image tokens (with the text tokens where both share one sequence),
    (batch, tokens, channels); ``learn`` receives it. The text stream behind the last block is never read again.

    Raises:
        UnsupportedError: the family has no described block stack.
    """
    if not stage.family.stacks:
        raise UnsupportedError(f"{stage.family.name} has no described transformer block stack")
    with ExitStack() as stack:
        for network in stage.denoisers.values():
            now = _Now()
            stack.enter_context(_per_run(stage, now, start))
            rows = [(row, block) for row in stage.family.stacks for block in getattr(network, row.blocks)]
            for nth, (row, block) in enumerate(rows):
                wrap = _block(stage, now, row, block, (nth == 0, nth == len(rows) - 1))
                stack.enter_context(patched(block, call_point(block), wrap))
        yield


def _block(stage: Stage, now: _Now, row: Stack, block: nn.Module, ends: tuple[bool, bool]) -> Any:
    signature, (first, last) = inspect.signature(type(block).forward), ends

    def wrap(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if (called := _called(stage, now)) is None:
                return forward(*args, **kwargs)
            given = signature.bind(None, *args, **kwargs).arguments
            hidden = given[row.hidden]
            if first:
                now.hidden, now.value = hidden, called[1].instead(called[0], hidden)
            if now.value is None:
                out = forward(*args, **kwargs)
                if last and now.hidden is not None:
                    image = out if row.returns is None else out[row.returns]
                    called[1].learn(called[0], image - now.hidden)
                return out
            if last:
                hidden = hidden + now.value
            if row.returns is None:
                return hidden
            out = [given["encoder_hidden_states"]] * 2
            out[row.returns] = hidden
            return tuple(out)

        return wrapped

    return wrap


Inner = Callable[[], Any]
AroundModule = Callable[[str, Call, Inner], Any]


@contextmanager
def around_modules(
    stage: Stage, match: Callable[[str, nn.Module], bool], start: Callable[[Link], AroundModule]
) -> Iterator[None]:
    """Send the modules inside the denoiser that *match* (attention, feed-forward, ...) through an ``AroundModule``.

    It receives the module's name, the call, and a function that runs the module; it returns the module's output.

    Raises:
        UnsupportedError: no module matches, so that nothing would ever be saved.
    """
    now: list[AroundModule] = []

    def begin(link: Link) -> Around:
        around_module = start(link)

        def around(call: Call, network: Network) -> Tensor:
            now.append(around_module)
            try:
                return network(call)
            finally:
                now.clear()

        return around

    def wrap_as(name: str) -> Any:
        def wrap(forward: Any) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                if stage.call is None or not now:
                    return forward(*args, **kwargs)
                return now[0](name, stage.call, lambda: forward(*args, **kwargs))

            return wrapped

        return wrap

    found = [
        (name, module)
        for network in stage.denoisers.values()
        for name, module in network.named_modules()
        if name and match(name, module)
    ]
    if not found:
        raise UnsupportedError(f"no module of {type(stage.pipe).__name__}'s denoiser matches")
    with ExitStack() as stack:
        stack.enter_context(stage.around_denoiser(begin))
        for name, module in found:
            stack.enter_context(patched(module, call_point(module), wrap_as(name)))
        yield
