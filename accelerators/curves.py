"""The order of a space-filling curve: tokens that follow each other on it lie close together in the picture."""

import torch
from torch import Tensor


def hilbert_order(frames: int, rows: int, columns: int) -> Tensor:
    """Return the tokens of a grid, numbered frame by frame and row by row, in the order of a Hilbert curve.

    In a square or a cube whose side is a power of two each token touches the next. Any other grid is cut out of the
    smallest such square or cube around it: the curve then jumps where it had left the grid.

    >>> hilbert_order(1, 2, 2).tolist()
    [0, 1, 3, 2]
    """
    sides = [side for side in (frames, rows, columns) if side > 1]
    if not sides:
        return torch.zeros(1, dtype=torch.long)
    axes = torch.meshgrid(*[torch.arange(side) for side in sides], indexing="ij")
    return _position([axis.flatten() for axis in axes], (max(sides) - 1).bit_length()).argsort()


def _position(x: list[Tensor], bits: int) -> Tensor:
    """Return how far along the curve points lie, with coordinates of so many bits (Skilling 2004).

    Skilling's way: from the coarsest bit to the finest, undo the turn of the sub-cube a point lies in; what is left is
    the Gray code of its position.
    """
    for bit in reversed(range(1, bits)):
        lower = (1 << bit) - 1
        for i in range(len(x)):
            turned = (x[i] >> bit) & 1 == 1
            swap = torch.where(turned, 0, (x[0] ^ x[i]) & lower)
            x[0] = torch.where(turned, x[0] ^ lower, x[0] ^ swap)
            x[i] = x[i] ^ swap if i else x[0]
    for i in range(1, len(x)):
        x[i] = x[i] ^ x[i - 1]
    odd = torch.zeros_like(x[0])
    for bit in range(1, bits):
        odd ^= torch.where((x[-1] >> bit) & 1 == 1, (1 << bit) - 1, 0)
    position = torch.zeros_like(odd)
    for bit in reversed(range(bits)):
        for axis in x:
            position = position << 1 | ((axis ^ odd) >> bit) & 1
    return position
