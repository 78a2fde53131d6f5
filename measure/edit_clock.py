"""The seconds of the parts of an edit, and its counted calls; the same light wrapping on every lane."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..pipelines import denoisers, patched
from .timing import synchronise


@dataclass
class Clock:
    """What was measured so far.

    Attributes:
        seconds: by stage.
        calls: samples that went through the denoiser.
    """

    seconds: dict[str, float] = field(default_factory=lambda: {"text": 0.0, "encode": 0.0, "decode": 0.0})
    calls: int = 0

    def stages(self, total: float) -> dict[str, float]:
        """Return the seconds of all stages of a run of so many; what is left of it is denoising."""
        return self.seconds | {"denoise": total - sum(self.seconds.values())}


@contextmanager
def clocked(pipe: Any, counts: bool = True) -> Iterator[Clock]:
    """Measure text encoding, encoding and decoding, and count the denoiser's calls."""
    clock = Clock()

    def timed(name: str) -> Callable[[Any], Any]:
        def wrap(function: Any) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                synchronise(pipe)
                begin = time.perf_counter()
                try:
                    return function(*args, **kwargs)
                finally:
                    synchronise(pipe)
                    clock.seconds[name] += time.perf_counter() - begin

            return wrapped

        return wrap

    def counted(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            clock.calls += len(args[0] if args else next(iter(kwargs.values())))
            return forward(*args, **kwargs)

        return wrapped

    with ExitStack() as stack:
        if hasattr(pipe, "encode_prompt"):
            stack.enter_context(patched(pipe, "encode_prompt", timed("text")))
        for name in ("encode", "decode"):
            stack.enter_context(patched(pipe.vae, name, timed(name)))
        for network in denoisers(pipe).values() if counts else ():
            stack.enter_context(patched(network, "forward", counted))
        yield clock
