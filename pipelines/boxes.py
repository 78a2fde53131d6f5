"""Boxes: the parts of a map in which something changes, at every resolution of a network."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Sides = tuple[int, int]
MOST_GROUPS = 32  # parts of a mask that are looked at one by one


@dataclass(frozen=True)
class Box:
    """Rows top to bottom and columns left to right of a map, ends excluded.

    >>> Box(3, 5, 6, 8).at((16, 16), (8, 8)), Box(3, 5, 6, 8).at((16, 16), (128, 128))
    (Box(top=1, left=2, bottom=3, right=4), Box(top=24, left=40, bottom=48, right=64))
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def sides(self) -> Sides:
        return self.bottom - self.top, self.right - self.left

    @property
    def area(self) -> int:
        return self.sides[0] * self.sides[1]

    def at(self, of: Sides, size: Sides) -> "Box":
        """Return the box of a map of another *size* that covers this one in a map *of* its size."""
        (h, w), (height, width) = of, size
        return Box(
            self.top * height // h,
            self.left * width // w,
            -(-self.bottom * height // h),
            -(-self.right * width // w),
        )

    def grown(self, by: int, size: Sides) -> "Box":
        """Return the box with so many rows and columns more on every side, inside a map of this *size*."""
        return Box(
            max(0, self.top - by),
            max(0, self.left - by),
            min(size[0], self.bottom + by),
            min(size[1], self.right + by),
        )

    def moved(self, down: int, right: int) -> "Box":
        """Return the box so many rows further down and columns further right."""
        return Box(self.top + down, self.left + right, self.bottom + down, self.right + right)

    def joined(self, other: "Box") -> "Box":
        """Return the smallest box around both."""
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def of(self, whole: Tensor) -> Tensor:
        """Return this part of a map (..., height, width), as a view."""
        return whole[..., self.top : self.bottom, self.left : self.right]

    def rows(self, size: Sides) -> Tensor:
        """Return the indices of its places in a map of this *size* that was flattened."""
        down = torch.arange(self.top, self.bottom)[:, None] * size[1]
        return (down + torch.arange(self.left, self.right)).flatten()


def boxes_around(active: Tensor, most: int = 3, waste: float = 1.3) -> list[Box]:
    """Return at most so many boxes that together cover the *active* places of a map (height, width).

    Touching places share a box. Boxes are joined while that computes at most *waste* times as much, and beyond that
    until there are few enough: each box is a pass of its own, in which small maps cost as much as their overhead.

    >>> active = torch.zeros(16, 16, dtype=torch.bool)
    >>> active[1:3, 1:4] = active[12:14, 10] = True
    >>> boxes_around(active)
    [Box(top=1, left=1, bottom=3, right=4), Box(top=12, left=10, bottom=14, right=11)]
    """
    boxes = [around(active, Box(0, 0, *active.shape))] if most == 1 and active.any() else _groups(active)
    while len(boxes) > 1:
        pairs = [(a, b) for nth, a in enumerate(boxes) for b in boxes[:nth]]
        a, b = min(pairs, key=lambda pair: pair[0].joined(pair[1]).area - pair[0].area - pair[1].area)
        joined = a.joined(b)
        if joined.area > waste * (a.area + b.area) and len(boxes) <= most:
            break
        boxes = [box for box in boxes if box not in (a, b)] + [joined]
    return sorted(boxes, key=lambda box: (box.top, box.left))


def around(active: Tensor, box: Box) -> Box:
    """Return the smallest box around the active places inside *box*, of which there must be some."""
    places = box.of(active).nonzero()
    (top, left), (bottom, right) = places.amin(0).tolist(), places.amax(0).tolist()
    return Box(top, left, bottom + 1, right + 1).moved(box.top, box.left)


def _groups(active: Tensor) -> list[Box]:
    """Return a box for each set of active places that touch; where those are many, for each set of near ones.

    Joining takes the cube of how many there are: a dotted mask would take minutes.
    """
    found, cell = _components(active), 1
    while len(found) > MOST_GROUPS:
        cell *= 2
        coarse = functional.max_pool2d(active[None].float(), cell, ceil_mode=True)[0] > 0
        whole = [Box(b.top * cell, b.left * cell, b.bottom * cell, b.right * cell) for b in _components(coarse)]
        found = [around(active, box.grown(0, (active.shape[0], active.shape[1]))) for box in whole]
    return found


def _components(active: Tensor) -> list[Box]:
    """Return a box for each set of active places that touch, corners included."""
    left = {(int(y), int(x)) for y, x in active.nonzero()}
    found = []
    while left:
        edge = [left.pop()]
        top, start = edge[0]
        box = Box(top, start, top + 1, start + 1)
        while edge:
            y, x = edge.pop()
            box = box.joined(Box(y, x, y + 1, x + 1))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.append(box)
    return found
