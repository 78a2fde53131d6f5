"""Places to stand inside the denoiser: single modules; ``block_stack`` and ``unet`` have more of them.

Each is written once for all families and reads only their descriptions. The place around the whole denoiser, and the
one around the solver, are methods of ``Stage``.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from .call import Around, Call, Link, Network
from .errors import UnsupportedError
from .patch import patched
from .stage import Stage, call_point


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
