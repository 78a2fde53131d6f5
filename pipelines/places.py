"""Places to stand inside the denoiser: a UNet's low-resolution branch, single modules; block_stack.py has one more.

Each is written once for all families and reads only their descriptions. The place around the whole denoiser, and the
one around the solver, are methods of ``Stage``.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from .errors import UnsupportedError
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
class Now:
    """What the patched blocks of one denoiser share while a call goes through them.

    Attributes:
        bypass: what decides in this run.
        value: what it gave instead of the part; None if the part runs.
        streams: what entered the part, where that is needed behind it.
        text: whether the text stream is one of them.
    """

    bypass: Bypass | None = None
    value: Tensor | None = None
    streams: list[Tensor] = field(default_factory=list)
    text: bool = False


def per_run(stage: Stage, now: Now, start: BypassStart) -> AbstractContextManager[None]:
    """Give every run a bypass of its own, which dies with it."""

    def begin(link: Link) -> Around:
        bypass = start(link)  # held by the run's chain alone, so that it dies with the run

        def around(call: Call, network: Network) -> Tensor:
            now.bypass = bypass
            try:
                return network(call)
            finally:
                now.bypass, now.streams, now.value = None, [], None

        return around

    return stage.around_denoiser(begin)


def called(stage: Stage, now: Now) -> tuple[Call, Bypass] | None:
    """Return the call that is going through, and what decides; None outside a run."""
    return (stage.call, now.bypass) if stage.call is not None and now.bypass is not None else None


@contextmanager
def around_low_resolution(stage: Stage, start: BypassStart) -> Iterator[None]:
    """Let a ``Bypass`` replace everything of a UNet below its first resolution.

    The first down block and the last up block always run. ``instead`` sees the first down block's output and gives
    the output of the last but one up block, (batch, channels, h, w); ``learn`` receives it.

    Raises:
        UnsupportedError: the denoiser is no UNet with at least two resolutions.
    """
    if not stage.family.unet:
        raise UnsupportedError(f"{stage.family.name} is no UNet: it has no low-resolution branch")
    with ExitStack() as stack:
        for network in stage.denoisers.values():
            downs, ups = list(network.down_blocks)[1:], list(network.up_blocks)[:-1]
            if not downs:
                raise UnsupportedError("this UNet has one resolution only: it has no low-resolution branch")
            now = Now()
            stack.enter_context(per_run(stage, now, start))
            mids = [network.mid_block] if network.mid_block is not None else []
            for block in (*downs, *mids, *ups):
                wrap = _level(stage, now, block, (block is downs[0], block is ups[-1]))
                stack.enter_context(patched(block, call_point(block), wrap))
        yield


def _level(stage: Stage, now: Now, block: Any, ends: tuple[bool, bool]) -> Any:
    first, last = ends
    # a skipped down block still owes the up blocks as many skip tensors as they will pop
    owed = len(block.resnets) + bool(getattr(block, "downsamplers", None))
    down = hasattr(block, "downsamplers")

    def wrap(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if (asked := called(stage, now)) is None:
                return forward(*args, **kwargs)
            hidden = args[0] if args else kwargs["hidden_states"]
            if first:
                now.value = asked[1].instead(asked[0], hidden)
            if now.value is None:
                out = forward(*args, **kwargs)
                if last:
                    asked[1].learn(asked[0], out)
                return out
            hidden = now.value if last else hidden
            return (hidden, (hidden,) * owed) if down else hidden

        return wrapped

    return wrap


Inner = functools.partial[Any]  # call it without arguments; what the module was given, it holds
AroundModule = Callable[[str, Call, Inner], Any]


@contextmanager
def around_modules(
    stage: Stage, match: Callable[[str, nn.Module], bool], start: Callable[[Link], AroundModule]
) -> Iterator[None]:
    """Send the modules inside the denoiser that *match* (attention, feed-forward, ...) through an ``AroundModule``.

    It receives the module's path, the call, and a function that runs the module; it returns the module's output. The
    path begins with the denoiser's name, for Wan 2.2 has two of one shape; *match* sees the path inside the denoiser.

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
                return now[0](name, stage.call, functools.partial(forward, *args, **kwargs))

            return wrapped

        return wrap

    found = [
        (f"{name}.{path}", module)
        for name, network in stage.denoisers.items()
        for path, module in network.named_modules()
        if path and match(path, module)
    ]
    if not found:
        raise UnsupportedError(f"no module of {type(stage.pipe).__name__}'s denoiser matches")
    with ExitStack() as stack:
        stack.enter_context(stage.around_denoiser(begin))
        for name, module in found:
            stack.enter_context(patched(module, call_point(module), wrap_as(name)))
        yield
