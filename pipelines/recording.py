"""What a UNet computed for a picture, step by step, and edits that compute windows and read the rest from there."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .boxes import Box, Sides
from .call import Around, Call, Link, Network
from .stage import Stage
from .tape import Tape, hooked
from .undo import Undo
from .window_frames import Frame, Notes, Room
from .windows import Windows

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
MOST_TAPES = 32
CLOSE = 1e-3  # of the largest value: more than that between forward and tape is no rounding in float32


@dataclass(eq=False)
class Trace:
    """What the windows of one edit computed: what ``learn`` needs to make the new picture the recorded one.

    Attributes:
        levels: the recording, by noise level.
        room: most bytes that it may take.
        passes: noted step, geometry, and what the window's layers computed.
        nbytes: bytes of that.
        dropped: whether it was more, so that nothing is left of it.
    """

    levels: dict[float, Notes]
    room: int
    passes: list[tuple[Notes, Frame, dict[str, Tensor]]] = field(default_factory=list)
    nbytes: int = 0
    dropped: bool = False

    def add(self, notes: Notes, frame: Frame, reads: dict[str, tuple[Tensor, ...]]) -> None:
        """Take note of what a window computed."""
        if self.dropped:
            return
        values = frame.fresh(reads, notes)
        self.nbytes += sum(value.nbytes for value in values.values())
        self.passes.append((notes, frame, values))
        if self.nbytes > self.room:
            self.passes.clear()
            self.nbytes, self.dropped = 0, True

    def learn(self) -> Undo:
        """Write what was computed into the recording; return what takes that back.

        A step that was skipped takes the window of the step that ran with the nearest noise.
        """
        self._fill()
        held = [(notes, frame, frame.held(notes)) for notes, frame, _ in self.passes]
        for notes, frame, values in self.passes:
            frame.write(notes, values)
        self.passes.clear()
        self.nbytes = 0

        def put_back() -> None:
            for notes, frame, old in reversed(held):
                frame.write(notes, old)

        return Undo.of(put_back, [tensor for _, _, old in held for tensor in old.values()])

    def _fill(self) -> None:
        passes = {id(notes): [one for one in self.passes if one[0] is notes] for notes, *_ in self.passes}
        ran = [level for level, notes in self.levels.items() if id(notes) in passes]
        for level, notes in self.levels.items():
            if level not in ran and level <= max(ran, default=0.0):  # noisier ones stay those of the picture before
                like = self.levels[nearest(ran, level)]
                self.passes += [(notes, frame, values) for _, frame, values in passes[id(like)]]


class UNetRecording:
    """What a UNet computed for a picture at the steps of a run.

    Attributes:
        network: the UNet.
        every: every so many steps are kept; raised where the budget asks for it.
        too_large: whether not even one step is within the budget.
        settled: whether the last edit made no tape, so that the next one of its kind takes as long.
    """

    def __init__(self, network: nn.Module, *, store: str = "float16", budget: int = 2**30, every: int = 1) -> None:
        self.network, self.budget, self.every = network, budget, every
        self.windows = Windows(network, DTYPES[store])
        self.too_large, self.settled = False, False
        self._levels: dict[float, Notes] = {}
        self._tapes: dict[Any, Tape] = {}
        self._packed: dict[Any, tuple[Tensor, Tensor]] = {}
        self._trusted: bool | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(notes.nbytes for notes in self._levels.values())

    @contextmanager
    def recording(self, stage: Stage) -> Iterator[None]:
        """Keep what the runs of *stage* compute."""
        self._levels.clear()
        self.too_large = False

        def start(link: Link) -> Around:
            return self._record

        with stage.around_denoiser(start, innermost=True):
            yield

    def _record(self, call: Call, network: Network) -> Tensor:
        if self.too_large or call.step % self.every:
            return network(call)
        out, notes = self.windows.noted(lambda: network(call))
        if not self._levels:
            fitting = max(0, self.budget) // notes.nbytes
            self.too_large = not fitting
            self.every = max(self.every, math.ceil(call.steps / max(1, fitting)))
        if not self.too_large:
            self._levels[call.sigma] = notes
        return out

    @contextmanager
    def editing(self, stage: Stage, size: Sides, boxes: Sequence[Box]) -> Iterator[Trace]:
        """Let the runs of *stage* compute these windows of latents of this *size*; the rest is the recording's."""
        device = next(self.network.parameters()).device
        frames = [self.windows.frame(size, box, device) for box in boxes]
        trace = Trace(self._levels, self.budget - self.nbytes)
        room: Tensor | None = None  # for keys and values
        rooms: list[dict[str, Room]] = [{} for _ in frames]
        taped = self._trusted is not False and not hooked(self.network)
        self.settled = True
        for tape in self._tapes.values():
            tape.forget("text")

        def start(link: Link) -> Around:
            def around(call: Call, network: Network) -> Tensor:
                nonlocal room
                notes = self._at(call.sigma)
                if notes is None or notes.out is None or notes.out.shape[::2] != call.latents.shape[::2]:
                    return network(call)
                link.note("partial", f"{sum(box.area for box in boxes)} of {math.prod(size)} latent pixels")
                if room is None and notes.tokens is not None:
                    room = torch.empty_like(notes.tokens, dtype=call.latents.dtype, device=call.latents.device)
                return self._windows(_Step(call, network, notes, taped, room), zip(frames, rooms, strict=True), trace)

            return around

        with stage.around_denoiser(start, innermost=True):
            yield trace

    def _at(self, sigma: float) -> Notes | None:
        """Return the noted step whose noise is nearest."""
        return self._levels[nearest(self._levels, sigma)] if self._levels else None

    def _windows(self, step: "_Step", frames: Iterable[tuple[Frame, dict[str, Room]]], trace: Trace) -> Tensor:
        call, network, notes = step.call, step.network, step.notes
        assert notes.out is not None
        out, tokens = notes.out.to(call.latents.dtype, copy=True), notes.read_tokens(call.latents, step.room)
        for frame, rooms in frames:
            reads = frame.reads(notes, call.latents, tokens, rooms)
            part = replace(call, kwargs=call.kwargs | {call.first: frame.window(call.latents)})
            found = (
                self._played(part, network, frame, reads)
                if step.taped
                else self.windows.run(lambda part=part: network(part), frame, reads)  # type: ignore[misc]
            )
            frame.box.of(out).copy_(found)
            trace.add(notes, frame, reads)
        return out

    def _played(self, call: Call, network: Network, frame: Frame, reads: dict[str, tuple[Tensor, ...]]) -> Tensor:
        """Run a window from its tape; the first run of its kind makes the tape, and the first tape is proved."""
        inputs = _inputs(call, reads)
        shapes = tuple((name, tuple(x.shape), x.dtype) for name, x in inputs.items() if "." not in name)
        tape = self._tapes.get(key := (frame.shape, shapes))

        def run() -> Tensor:
            return self.windows.run(lambda: network(call), frame, reads)

        if self._trusted is False:
            return run()
        if tape is None:
            self.settled = False
            if len(self._tapes) >= MOST_TAPES:
                self._tapes.pop(next(iter(self._tapes)))
            tape = Tape(("time", "text"), self._packed)
            out = tape.record(run, inputs)
            self._tapes[key] = tape  # not before it is whole: whoever stops the run leaves none
            return out
        keys = {"time": call.sigma, "text": tuple(id(x) for name, x in inputs.items() if name.startswith("text"))}
        out = tape.play(inputs, keys)
        if self._trusted is None:
            self.settled = False
            plain = run()
            close = max(CLOSE, 4 * torch.finfo(plain.dtype).eps)
            self._trusted = bool((out - plain).abs().max() <= close * plain.abs().max().clamp(min=1e-6))
            return plain
        call.run.steps[-1].calls += call.batch
        return out


@dataclass(frozen=True, eq=False)
class _Step:
    """A call during an edit, the noted step that it reads from, whether tapes may be played, room for keys, values."""

    call: Call
    network: Network
    notes: Notes
    taped: bool
    room: Tensor | None


def nearest(levels: Iterable[float], sigma: float) -> float:
    """Return the noise level that is nearest to *sigma*."""
    return min(levels, key=lambda level: abs(level - sigma))


def _inputs(call: Call, reads: dict[str, tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """Return all tensors of a call by name."""
    found: dict[str, Tensor] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, part in value.items():
                collect(f"{name}/{key}", part)

    for name, value in call.kwargs.items():
        kind = {call.first: "latents", "timestep": "time"}.get(name, f"text/{name}")
        collect(kind, value)
    for name, parts in reads.items():
        for nth, part in enumerate(parts):
            found[f"{name}.{nth}"] = part
    return found
