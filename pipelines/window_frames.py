"""The geometry of a window in a convolutional network, and what its layers noted of the whole map."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .boxes import Box, Sides

Reads = dict[str, tuple[Tensor, ...]]


@dataclass(eq=False)
class Notes:
    """What the layers of a network left when it ran on a whole map.

    Attributes:
        whole: by layer: the input of a convolution (B, C, H, W), or keys or values (B, tokens, C).
        norms: by group norm: factor and offset of each channel.
        out: the output.
    """

    whole: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    out: Tensor | None = None
    tokens: Tensor | None = None  # all keys and values, end to end; those in ``whole`` are views

    def join(self) -> None:
        """Put keys and values end to end, so that one operation reads all of them."""
        names = [name for name, value in self.whole.items() if value.ndim == 3]
        if names:
            self.tokens = torch.cat([self.whole[name].flatten() for name in names])
            parts = self.tokens.split([self.whole[name].numel() for name in names])
            for name, part in zip(names, parts, strict=True):
                self.whole[name] = part.view_as(self.whole[name])

    def read_tokens(self, like: Tensor, room: Tensor | None = None) -> dict[str, Tensor]:
        """Return copies of keys and values, of the dtype and on the device of *like*; in *room*, if there is any."""
        if self.tokens is None:
            return {}
        copy = self.tokens.to(like.device, like.dtype, copy=True) if room is None else room.copy_(self.tokens)
        whole = {name: value for name, value in self.whole.items() if value.ndim == 3}
        parts = copy.split([value.numel() for value in whole.values()])
        return {name: part.view_as(value) for part, (name, value) in zip(parts, whole.items(), strict=True)}

    def tensors(self) -> Iterator[Tensor]:
        """Go through everything that is kept."""
        yield from self.whole.values()
        for pair in self.norms.values():
            yield from pair
        if self.out is not None:
            yield self.out

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())


class TooLarge(Exception):
    """The notes of a network are more than they may be."""


@dataclass(frozen=True)
class Seat:
    """Where a layer stands: its sizes, as seen when the whole map ran; of a convolution, its arithmetic.

    Attributes:
        kind: "conv"; "up conv", behind a doubling of the map; "padded conv", whose input ends in a row and a column
            of zeros; "tokens", keys or values.
        size: height and width of what it is given.
        out: height and width of what it gives.
        kernel, stride, padding: as torch has them.
    """

    kind: str
    size: Sides
    out: Sides
    kernel: int = 1
    stride: int = 1
    padding: int = 0

    def given(self, of: Sides, box: Box) -> Box:
        """Return which part of its input a window *box*, in a map *of* that size, brings along."""
        height, width = self.size
        if self.kind == "up conv":
            half = box.at(of, (-(-height // 2), -(-width // 2)))  # of an odd map the last row was doubled and cut off
            return Box(2 * half.top, 2 * half.left, 2 * half.bottom, 2 * half.right)
        return box.at(of, (height - 1, width - 1) if self.kind == "padded conv" else self.size)

    def cut(self, of: Sides, box: Box) -> "Cut":
        """Return what a convolution reads for a window."""
        out, given, (height, width) = box.at(of, self.out), self.given(of, box), self.size
        top, left = out.top * self.stride - self.padding, out.left * self.stride - self.padding
        bottom = (out.bottom - 1) * self.stride + self.kernel - self.padding
        right = (out.right - 1) * self.stride + self.kernel - self.padding
        part = Box(max(0, top), max(0, left), min(height, bottom), min(width, right))
        fresh = Box(
            max(given.top, part.top),
            max(given.left, part.left),
            min(given.bottom, part.bottom),
            min(given.right, part.right),
        )
        pads = (part.left - left, right - part.right, part.top - top, bottom - part.bottom)
        take = fresh.moved(-given.top, -given.left)
        whole = self.kind != "padded conv" and fresh == given
        return Cut(part, pads, fresh, fresh.moved(-top, -left), None if whole else take)


@dataclass(frozen=True)
class Cut:
    """What a convolution reads for a window.

    Attributes:
        part: the part of the noted map.
        pads: zeros around it, where the map ends: left, right, top, bottom.
        fresh: the part of the map that the window brings along.
        into: where that goes in what is read.
        take: which of what the window brings along goes there; None for all of it.
    """

    part: Box
    pads: tuple[int, int, int, int]
    fresh: Box
    into: Box
    take: Box | None

    def room(self, noted: Tensor, like: Tensor) -> "Room":
        """Return memory for what is read of such a map, of the dtype and on the device of *like*."""
        (height, width), (left, right, top, bottom) = self.part.sides, self.pads
        size = (*noted.shape[:2], top + height + bottom, left + width + right)
        whole = torch.zeros(size, dtype=like.dtype, device=like.device)
        whole = whole.contiguous(memory_format=layout(whole))
        return Room(whole, Box(top, left, top + height, left + width).of(whole), self.into.of(whole))


class Room(NamedTuple):
    """What a convolution reads: all of it, the part that is noted, and the part that the window fills."""

    whole: Tensor
    noted: Tensor
    fresh: Tensor


def layout(x: Tensor) -> torch.memory_format:
    """Return how a map is kept and read: on a CPU channels last, which small windows are sooner computed with."""
    return torch.channels_last if x.ndim == 4 and x.device.type == "cpu" else torch.contiguous_format


@dataclass(frozen=True, eq=False)
class Frame:
    """The geometry of a window.

    Attributes:
        box: the window.
        cuts: by convolution, what it reads.
        rows: by keys or values, the places of the window's tokens.
    """

    box: Box
    cuts: Mapping[str, Cut]
    rows: Mapping[str, Tensor]

    def window(self, latents: Tensor) -> Tensor:
        """Return the window of latents (B, C, H, W), in memory of its own."""
        return self.box.of(latents).contiguous(memory_format=layout(latents))

    def reads(
        self,
        notes: Notes,
        like: Tensor,
        tokens: Mapping[str, Tensor] | None = None,
        rooms: dict[str, Room] | None = None,
    ) -> Reads:
        """Return what the layers read around the window, of the dtype and on the device of *like*.

        The window will fill its part of *tokens*, keys and values as ``Notes.read_tokens`` gives them; several
        windows of the same call share them. What convolutions read lies in *rooms*, which several calls may use in
        turn: memory that is asked for anew at every step comes slowly.
        """
        tokens = notes.read_tokens(like) if tokens is None else tokens
        rooms = {} if rooms is None else rooms
        found: Reads = dict(notes.norms)
        for name, cut in self.cuts.items():
            noted = notes.whole[name]
            if (room := rooms.get(name)) is None:
                room = rooms[name] = cut.room(noted, like)
            room.noted.copy_(cut.part.of(noted))
            found[name] = room.whole, room.fresh
        return found | {name: (tokens[name], rows) for name, rows in self.rows.items()}

    @cached_property
    def shape(self) -> tuple[Any, ...]:
        """What two windows must have in common to take the same operations."""
        cuts = tuple((cut.part.sides, cut.pads, cut.into, cut.take) for cut in self.cuts.values())
        return cuts, tuple(len(rows) for rows in self.rows.values())

    def fresh(self, reads: Mapping[str, tuple[Tensor, ...]], notes: Notes) -> dict[str, Tensor]:
        """Return copies of what the window's layers computed, as the notes would hold it."""
        found = {name: reads[name][1].to(notes.whole[name], copy=True) for name in self.cuts}
        for name, rows in self.rows.items():
            found[name] = reads[name][0].index_select(1, rows).to(notes.whole[name])
        return found

    def held(self, notes: Notes) -> dict[str, Tensor]:
        """Return copies of the same parts of the notes."""
        found = {name: cut.fresh.of(notes.whole[name]).clone() for name, cut in self.cuts.items()}
        for name, rows in self.rows.items():
            whole = notes.whole[name]
            found[name] = whole.index_select(1, rows.to(whole.device))
        return found

    def write(self, notes: Notes, values: Mapping[str, Tensor]) -> None:
        """Write these parts into the notes: those of ``fresh`` for the next edit, or those of ``held`` again."""
        for name, cut in self.cuts.items():
            cut.fresh.of(notes.whole[name]).copy_(values[name])
        for name, rows in self.rows.items():
            whole = notes.whole[name]
            whole.index_copy_(1, rows.to(whole.device), values[name].to(whole))
