"""Spatially sparse inference, SIGE (Li et al. 2022, https://arxiv.org/abs/2211.02048), within one run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..pipelines import (
    Box,
    Call,
    KnobError,
    Link,
    Network,
    Notes,
    Stage,
    Windows,
    around_tokens,
    denoisers,
    family,
    token_grids,
    unlike_unet,
    unwindowed,
    why_whole,
)
from .base import Accelerator
from .knobs import knob
from .worth import stochastic


@dataclass(frozen=True)
class SparseEdit(Accelerator):
    """Compute only a rectangle of the picture at most steps; the rest keeps what the last whole step gave it.

    With x the latents, B the rectangle and N the notes of the last whole step (every layer's input around B, group
    norm statistics, keys and values of self-attention, and the output e), a step gives

        e[B] = network(x[B] | N),    e elsewhere as in N

    so that it costs what the window costs. Steps 0 to ``warmup`` - 1, and from then on every ``every``-th, are whole.
    Inside the window everything is exact but for the age of N. ``every=1`` computes everything; so does a rectangle
    that is the whole picture.

    This is the region of interest of a picture in the making. To change a part of a finished picture, keep an
    ``EditSession``, whose notes are of the very step, and which leaves every other pixel alone.

    >>> SparseEdit(every=3, warmup=2).whole(8)
    [0, 1, 4, 7]
    >>> SparseEdit(region="0.25 0.25 0.75 0.5").box(16, 16)
    Box(top=4, left=4, bottom=12, right=8)
    """

    name: ClassVar[str] = "sparse-edit"
    title: ClassVar[str] = "Sparse edit"
    paper: ClassVar[str] = "Li et al. 2022, arXiv:2211.02048"
    neutral: ClassVar[dict[str, Any]] = {"every": 1}
    seat: ClassVar[str] = "image tokens"
    excludes: ClassVar[frozenset[str]] = frozenset(
        {
            "block stack",
            "attention and feed-forward",
            "image tokens in attention",
            "deep part of the UNet",
        }
    )

    region: str = knob("0.25 0.25 0.75 0.75", "top, left, bottom, right of the rectangle, as parts of the picture")
    every: int = knob(4, "after the warm-up, one step in so many is whole", low=1, high=100, unit="steps")
    warmup: int = knob(4, "first steps that are whole", low=1, high=50, unit="steps")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sides()

    def _sides(self) -> tuple[float, float, float, float]:
        try:
            top, left, bottom, right = map(float, self.region.split())
        except ValueError:
            top = left = bottom = right = 0.0
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise KnobError(
                f"SparseEdit.region is {self.region!r}, not top, left, bottom and right between 0 and 1, as in "
                "'0.25 0.25 0.75 0.75'"
            )
        return top, left, bottom, right

    def box(self, height: int, width: int) -> Box:
        """Return the rectangle in a map of this size."""
        top, left, bottom, right = self._sides()
        found = Box(int(top * height), int(left * width), -int(-bottom * height // 1), -int(-right * width // 1))
        return found.grown(0, (height, width))

    def whole(self, steps: int) -> list[int]:
        """Return which of so many steps compute everything."""
        return [step for step in range(steps) if step < self.warmup or (step - self.warmup + 1) % self.every == 0]

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        if not family(pipe).unet:
            return why_whole(pipe)
        if (why := unlike_unet(pipe)) is not None:
            return why
        if getattr(pipe, "controlnet", None) is not None:
            return "its ControlNet adds whole maps between the layers, which do not fit a window"
        if getattr(pipe, "adapter", None) is not None:
            return "its T2I-Adapter adds whole maps between the layers, which do not fit a window"
        return unwindowed(next(iter(denoisers(pipe).values())))

    def idle_because(self, steps: int) -> str:
        if self.every == 1:
            return f"{self} computes everything"
        return f"{self} found no step of {steps} past the warm-up at which only the rectangle was to be computed"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        if self.every == 1:
            return []
        said = []
        top, left, bottom, right = self._sides()
        if (part := (bottom - top) * (right - left)) > 0.6:
            said.append(f"the rectangle is {part:.0%} of the picture: windows of more than half save next to nothing")
        if steps <= 10:
            said.append(f"{steps} steps change the picture too much from one to the next to leave the rest as it was")
        if stochastic(pipe.scheduler):
            said.append(f"{type(pipe.scheduler).__name__} adds noise at every step, outside the rectangle too")
        return said

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        if self.every == 1:
            yield
        elif stage.family.unet:
            networks = {id(network): network for network in stage.denoisers.values()}
            windows = Windows(next(iter(networks.values())))
            with stage.around_denoiser(lambda link: _Windowed(self, link, windows), innermost=True):
                yield
        else:
            with around_tokens(stage, lambda link: _Tokens(self, link, stage)):
                yield


@dataclass(eq=False)
class _Windowed:
    """The windows of one run of a UNet, its notes by guidance branch and shape."""

    knobs: SparseEdit
    link: Link
    windows: Windows
    notes: dict[Any, Notes] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.link.run.holds(self.held)

    def __call__(self, call: Call, network: Network) -> Tensor:
        key, size = (call.branches, call.shape), (call.latents.shape[-2], call.latents.shape[-1])
        if size != self.size:  # the windows know the layers' places for one size at a time
            self.notes.clear()
            self.size = size
        box, notes = self.knobs.box(*size), self.notes.get(key)
        whole = set(self.knobs.whole(call.steps))
        if notes is None or notes.out is None or call.step in whole or box.area == size[0] * size[1]:
            out, self.notes[key] = self.windows.noted(lambda: network(call))
            self.held[:] = [list(kept.tensors()) for kept in self.notes.values()]
            return out
        frame = self.windows.frame(size, box, call.latents.device)
        reads = frame.reads(notes, call.latents)
        part = replace(call, kwargs=call.kwargs | {call.first: frame.window(call.latents)})
        self.link.note("partial", f"{box.area} of {size[0] * size[1]} latent pixels")
        out = notes.out.clone()
        box.of(out).copy_(self.windows.run(lambda: network(part), frame, reads))
        return out


@dataclass(eq=False)
class _Tokens:
    """The tokens of one run of a transformer."""

    knobs: SparseEdit
    link: Link
    stage: Stage

    def active(self, call: Call, tokens: int, known: bool) -> Tensor | None:
        grids = token_grids(self.stage, call)
        if not known or call.step in set(self.knobs.whole(call.steps)) or not grids:
            return None
        frames, height, width = grids[0]
        box = self.knobs.box(height, width)
        if frames * height * width != tokens or box.area == height * width:
            return None
        rows = box.rows((height, width))
        self.link.note("partial", f"{len(rows) * frames} of {tokens} image tokens")
        return torch.cat([rows + frame * height * width for frame in range(frames)])
