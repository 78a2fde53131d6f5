"""The sparse side of an edit: one picture's recording, and edits that read from it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..accelerators import Accelerator, attached
from ..pipelines import (
    DTYPES,
    Box,
    Codec,
    Decoded,
    TokenRecording,
    TokenTrace,
    Trace,
    Undo,
    UNetRecording,
    boxes_around,
    denoisers,
    family,
    patched,
    pictures,
    staged,
    travels,
    unlike_unet,
    unwindowed,
    why_whole,
)
from .edit_clock import clocked, waiting
from .timing import after_each_step

Look = Callable[[int, Tensor], None] | None


@dataclass(frozen=True)
class Keep:
    """How a recording is kept: most bytes, in which dtype, every so many steps."""

    budget: int = 2**30
    store: str = "float16"
    every: int = 1


@dataclass(eq=False)
class Drawn:
    """What a sparse run gave: the picture, right inside the active cells only, what it cost, and what it read from.

    Attributes:
        computed: at how many steps the network ran.
        warnings: what the accelerators that skip the others say of the run.
    """

    picture: Tensor
    seconds: float
    stages: dict[str, float]
    calls: int
    computed: int
    warnings: list[str]
    trace: Trace | TokenTrace
    decoded: Decoded
    version: object


def why_dense(pipe: Any) -> str | None:
    """Return a sentence why this pipeline can only be edited dense, or None."""
    if (why := Codec.why_not(getattr(pipe, "vae", None))) is not None:
        return why
    network = next(iter(denoisers(pipe).values()))
    if any(map(travels, [*pipe.vae.modules(), *network.modules()])):
        return "its weights lie elsewhere until they run, and a sparse edit reads them itself: use all-on-device"
    if reads_mask(network):
        return (
            "its network is given the mask, and the picture without what is masked, at every step, so that a "
            "recording of the untouched picture is none of the picture under this mask"
        )
    return (unlike_unet(pipe) or unwindowed(network)) if family(pipe).unet else why_whole(pipe)


def reads_mask(network: Any) -> bool:
    """Tell whether a network was trained to fill masks: latents, a mask, and latents again are an odd number."""
    return bool(network.config.in_channels % 2)


def windows_of(active: Tensor) -> list[Box]:
    """Return the windows that cover the active latents, aligned so that few kinds of them occur."""
    size = (active.shape[0], active.shape[1])
    found = boxes_around(active)
    even = [Box(b.top // 2 * 2, b.left // 2 * 2, (b.bottom + 1) // 2 * 2, (b.right + 1) // 2 * 2) for b in found]
    return [box.grown(0, size) for box in even]


def windows_part(active: Tensor) -> float:
    """Return which part of the latents these windows are."""
    return min(1.0, sum(box.area for box in windows_of(active)) / active.numel())


class Engine:
    """A picture with its recording.

    Attributes:
        pipe: a pipeline that fills masks.
        skips: accelerators that skip steps of the edits.
        strength: up to which strength there is a recording; 0 for none.
        version: another object for each recording.
    """

    def __init__(self, pipe: Any, image: Tensor, keep: Keep, skips: tuple[Accelerator, ...] = ()) -> None:
        self.pipe, self.keep, self.skips = pipe, keep, skips
        self.strength, self.version = 0.0, object()
        self.unet = family(pipe).unet
        self._texts: dict[str, Any] = {}
        with torch.inference_mode():
            self.codec = Codec(pipe.vae, image, store=DTYPES[keep.store], budget=keep.budget // 2)
        network = next(iter(denoisers(pipe).values()))
        kind = UNetRecording if self.unet else TokenRecording
        budget = keep.budget - self.codec.nbytes
        self.recording = kind(network, store=keep.store, budget=budget, every=keep.every)

    @property
    def nbytes(self) -> int:
        return self.recording.nbytes + self.codec.nbytes

    @property
    def too_large(self) -> str:
        """Why there is no recording, if it was beyond the budget."""
        if not self.recording.too_large:
            return ""
        return (
            f"what one step computes for this picture is more than the budget of {self.keep.budget / 2**20:.0f} MiB: "
            "give more as budget_bytes, or as --memory-budget on the command line"
        )

    def record(self, arguments: dict[str, Any], strength: float, look: Look) -> float:
        """Run over the untouched picture, and keep what every layer computes; return the seconds."""
        begin = time.perf_counter()
        self.strength, self.version = 0.0, object()
        with torch.inference_mode(), ExitStack() as stack:
            stage = stack.enter_context(staged(self.pipe))
            stack.enter_context(self.codec.editing(self.codec.moments, Box(0, 0, 1, 1)))
            stack.enter_context(self.recording.recording(stage))
            stack.enter_context(after_each_step(self.pipe, look))
            self.pipe(**arguments | {"strength": strength, "output_type": "latent"})
        waiting(self.pipe)()
        self.strength = 0.0 if self.recording.too_large else strength
        return time.perf_counter() - begin

    def draw(self, arguments: dict[str, Any], start: Tensor, active: Tensor, look: Look) -> Drawn:
        """Run the pipeline, but compute only around the active cells."""
        cells = active.repeat_interleave(self.codec.size[0] // active.shape[0], 0)
        cells = cells.repeat_interleave(self.codec.size[1] // active.shape[1], 1)
        begin = time.perf_counter()
        with torch.inference_mode(), ExitStack() as stack:
            moments = self.codec.painted(start, cells)
            encoded = time.perf_counter() - begin
            session = stack.enter_context(attached(self.pipe, *self.skips))
            stage = session.stage
            stage.owner = "sparse-edit"
            trace: Trace | TokenTrace
            if isinstance(self.recording, UNetRecording):
                trace = stack.enter_context(self.recording.editing(stage, self.codec.size, windows_of(cells)))
            else:
                rows = active.flatten().nonzero()[:, 0]
                trace = stack.enter_context(self.recording.editing(stage, rows))
            around = boxes_around(cells, most=1)[0].grown(1, self.codec.size)
            decoded = stack.enter_context(self.codec.editing(moments, around))
            stack.enter_context(self._known_texts(arguments.get("prompt", "")))
            clock = stack.enter_context(clocked(self.pipe, counts=False))
            stack.enter_context(after_each_step(self.pipe, look))
            picture = pictures(self.pipe(**arguments))[0]
            waiting(self.pipe)()
        seconds = time.perf_counter() - begin
        clock.seconds["encode"] += encoded
        steps = stage.runs[-1].steps
        calls, computed = sum(step.calls for step in steps), sum(step.calls > 0 for step in steps)
        warned = [f"skipping steps: {text}" for text in session.report().warnings]
        stages = clock.stages(seconds)
        return Drawn(picture, seconds, stages, calls, computed, warned, trace, decoded, self.version)

    def learn(self, drawn: Drawn, active: Tensor, picture: Tensor, strength: float) -> Undo | None:
        """Make an edited picture the recorded one, up to the strength of its edit; return what takes that back.

        None where what the edit computed was beyond the budget, so that the recording is of the picture before.
        """
        if drawn.trace.dropped:
            return None
        before = self.strength

        def put_back() -> None:
            self.strength = before

        self.strength = min(before, strength)  # the noisier steps are those of the picture before
        cells = active.repeat_interleave(self.codec.size[0] // active.shape[0], 0)
        cells = cells.repeat_interleave(self.codec.size[1] // active.shape[1], 1)
        with torch.inference_mode():
            known = drawn.trace.learn() + self.codec.learn(drawn.decoded, cells, picture)
        return known + Undo.of(put_back, [])

    @contextmanager
    def _known_texts(self, prompt: str) -> Iterator[None]:
        """Encode each prompt once."""

        def wrap(encode: Any) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                if prompt not in self._texts:
                    self._texts[prompt] = encode(*args, **kwargs)
                return self._texts[prompt]

            return wrapped

        with patched(self.pipe, "encode_prompt", wrap):
            yield
