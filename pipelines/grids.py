"""The grid in which the image tokens of a denoiser's call stand: frames, rows and columns."""

from typing import Any

from torch import Tensor

from .call import Call
from .families import IDS, SHAPES, denoisers, family, packed_sides
from .stage import Stage

Grid = tuple[int, int, int]


def area(grid: Grid) -> int:
    """Return the number of tokens of a grid."""
    return grid[0] * grid[1] * grid[2]


class Grids:
    """The grids of the latest call, found once for all its attention modules."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.call: Call | None = None
        self.grids: list[Grid] = []

    def of(self, call: Call) -> list[Grid]:
        """Return the grids of *call*, finest first."""
        if call is not self.call:
            self.call, self.grids = call, token_grids(self.stage, call)
        return self.grids


def token_grids(stage: Stage, call: Call) -> list[Grid]:
    """Return frames, rows and columns of the image tokens of *call*; of a UNet, of each resolution that has attention.

    The finest comes first. Empty where the call does not tell.
    """
    given, latents = call.kwargs, call.latents
    match stage.family.latents.layout:
        case "packed":
            return _grid_of_shapes(given[SHAPES], latents) if SHAPES in given else _grid_of_ids(given.get(IDS))
        case "sequence":
            sides = tuple(given.get(name) or 0 for name in ("num_frames", "height", "width"))
        case _:
            sides = (1, *latents.shape[-2:]) if latents.ndim == 4 else tuple(latents.shape[-3:])
    if 0 in sides:
        return []
    config = next(iter(stage.denoisers.values())).config
    patch = getattr(config, "patch_size", 1) or 1
    patches = patch if isinstance(patch, (tuple, list)) else (getattr(config, "patch_size_t", 1) or 1, patch, patch)
    frames, rows, columns = (int(side) // int(per) for side, per in zip(sides, patches, strict=True))
    if not stage.family.unet:
        return [(frames, rows, columns)]
    return [(frames, -(-rows // 2**n), -(-columns // 2**n)) for n in _attending(next(iter(stage.denoisers.values())))]


def _attending(unet: Any) -> list[int]:
    """Return the resolutions of a UNet that have attention, as how often they are halved; the last is the middle's."""
    levels = list(zip(unet.down_blocks, reversed(unet.up_blocks), strict=True))
    attend = [n for n, blocks in enumerate(levels) if any(getattr(block, "attentions", None) for block in blocks)]
    return sorted({*attend, len(levels) - 1})


def _grid_of_shapes(shapes: Any, latents: Tensor) -> list[Grid]:
    """Return the grid of the picture, if there is no other beside it to start from."""
    rows, columns = packed_sides({SHAPES: shapes}) or (0, 0)
    return [(1, rows, columns)] if rows * columns == latents.shape[1] else []


def _grid_of_ids(ids: Tensor | None) -> list[Grid]:
    """Return the grid that position ids (tokens, 3) span, if they fill it in order."""
    if ids is None:
        return []
    ids = (ids[0] if ids.ndim == 3 else ids).long()
    frames, rows, columns = (int(last) + 1 for last in ids[-1])
    place = (ids[:, 0] * rows + ids[:, 1]) * columns + ids[:, 2]
    in_order = len(ids) == frames * rows * columns and bool((place[1:] - place[:-1] == 1).all())
    return [(frames, rows, columns)] if in_order else []


def usual_tokens(pipe: Any) -> int | None:
    """Return how many image tokens self-attention joins at the size the denoiser was made for, if it tells."""
    network = next(iter(denoisers(pipe).values()))
    side = getattr(network.config, "sample_size", None)
    if not isinstance(side, int):
        return None
    described = family(pipe)
    per = 2 ** _attending(network)[0] if described.unet else getattr(network.config, "patch_size", None)
    return (side // per) ** 2 if isinstance(per, int) else None
