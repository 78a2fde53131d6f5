"""What happened in one run of a pipeline: its steps, its calls, and what every step did."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

Action = Literal["computed", "reused", "extrapolated", "partial"]
_STRENGTH: dict[Action, int] = {"computed": 0, "partial": 1, "reused": 2, "extrapolated": 2}


@dataclass
class Step:
    """One step of a run.

    Attributes:
        index: number of the step within the run, from 0.
        sigma: noise level of the latents before the step, in the scheduler's own units.
        action: what the step did with the network.
        reason: why, in a phrase; empty where the network simply ran.
        calls: samples that went through the denoiser (a batched guidance pair counts 2).
        asked: samples that the pipeline asked for.
        seconds: host time of the step.
        grid: frames, rows and columns of image tokens, where only some of them ran; else empty.
        active: which of them ran, as ``packed`` writes it.
    """

    index: int
    sigma: float
    action: Action = "computed"
    reason: str = ""
    calls: int = 0
    asked: int = 0
    seconds: float = 0.0
    grid: tuple[int, ...] = ()
    active: str = ""


@dataclass
class Run:
    """One run of a pipeline, from ``scheduler.set_timesteps`` to its last ``scheduler.step``.

    Attributes:
        steps: the steps taken so far.
        cache_bytes: most bytes that accelerators held at once.
        total: number of steps that the scheduler planned; 0 before the first call.
        sigmas: noise level before each planned step, in the scheduler's own units; empty before the first call.
        acted: names of the accelerators that saved something.
        idle: why an accelerator had nothing to save, by name, where it knows better than before the run.
        warned: what accelerators have to say about the run, each once.
        ignored: words of the prompts that the model does not know, and leaves out.
        pipe: the pipeline, as long as it runs.
    """

    steps: list[Step] = field(default_factory=list)
    cache_bytes: int = 0
    total: int = 0
    sigmas: list[float] = field(default_factory=list)
    acted: set[str] = field(default_factory=set)
    idle: dict[str, str] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)
    ignored: tuple[str, ...] = ()
    pipe: Any = None
    _held: list[Any] = field(default_factory=list)
    _mark: float = field(default_factory=time.perf_counter)

    @property
    def calls(self) -> int:
        return sum(step.calls for step in self.steps)

    @property
    def asked(self) -> int:
        return sum(step.asked for step in self.steps)

    def holds(self, container: Any) -> None:
        """Count the tensors inside *container* (dicts, lists, deques, tuples) as an accelerator's memory."""
        self._held.append(container)

    def note(self, action: Action, reason: str) -> None:
        """Say what the present step does instead of running the whole network; the stronger word stands."""
        step = self.steps[-1]
        if _STRENGTH[action] >= _STRENGTH[step.action]:
            step.action, step.reason = action, reason

    def end_step(self) -> None:
        now, step = time.perf_counter(), self.steps[-1]
        step.seconds, self._mark = now - self._mark, now
        if step.calls and step.action in ("reused", "extrapolated"):  # one branch only
            step.action = "partial"
        self.cache_bytes = max(self.cache_bytes, sum(map(tensor_bytes, self._held)))

    def release(self) -> None:
        """Let go of everything the accelerators held: a finished run keeps numbers only."""
        self._held.clear()
        self.pipe = None


def packed(flags: Sequence[bool]) -> str:
    """Write flags as hexadecimal digits, four a digit.

    >>> packed([True, False, False, True, True])
    '98'
    """
    bits = "".join("01"[flag] for flag in flags)
    return "".join(f"{int(bits[at : at + 4].ljust(4, '0'), 2):x}" for at in range(0, len(bits), 4))


def unpacked(text: str, count: int) -> list[bool]:
    """Read what ``packed`` wrote.

    >>> unpacked("98", 5)
    [True, False, False, True, True]
    """
    return [bit == "1" for digit in text for bit in f"{int(digit, 16):04b}"][:count]


def tensor_bytes(container: Any) -> int:
    """Bytes of all tensors inside nested containers.

    >>> import torch
    >>> tensor_bytes({"cond": [(0.5, torch.zeros(4))]})
    16
    """
    if isinstance(container, Tensor):
        return container.nbytes
    if isinstance(container, dict):
        return sum(map(tensor_bytes, container.values()))
    if isinstance(container, (list, tuple, deque)):
        return sum(map(tensor_bytes, container))
    return 0


@dataclass(frozen=True)
class Report:
    """What a run did, in numbers.

    Attributes:
        steps: what every step did.
        calls: samples that went through the denoiser: counted, not estimated.
        asked: samples that the pipeline asked for; the calls of the plain run of as many steps.
        seconds: host seconds from the first to the last step (text encoding and decoding are outside).
        cache_bytes: most bytes that accelerators held at once.
        warnings: sentences that the user should read.
        ignored_words: words of the prompts that a pocket model does not know, and left out.
    """

    steps: tuple[Step, ...]
    calls: int
    asked: int
    seconds: float
    cache_bytes: int
    warnings: tuple[str, ...] = ()
    ignored_words: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Run, warnings: Iterable[str] = ()) -> "Report":
        seconds = sum(step.seconds for step in run.steps)
        steps = tuple(run.steps)
        return cls(steps, run.calls, run.asked, seconds, run.cache_bytes, tuple(warnings), run.ignored)

    def count(self, action: Action) -> int:
        """Return how many steps did *action*."""
        return sum(step.action == action for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return asdict(self)

    def __str__(self) -> str:
        did = ", ".join(f"{n} {action}" for action in _STRENGTH if (n := self.count(action)))
        lines = [
            f"{len(self.steps)} steps: {did}",
            f"{self.calls} of {self.asked} network calls, {self.seconds:.2f} s denoising, "
            f"{self.cache_bytes / 2**20:.1f} MiB held",
            *(f"warning: {warning}" for warning in self.warnings),
            *([f"not known to the model, and ignored: {', '.join(self.ignored_words)}"] * bool(self.ignored_words)),
        ]
        return "\n".join(lines)
