"""True scenes of the pocket world, for distances that know no prompt."""

import random

import torch
from torch import Tensor

from training.generator import draw, layout
from training.render import Renderer


def rendered(count: int, side: int = 128) -> Tensor:
    """Return true scenes (N, 3, side, side) from 0 to 1, drawn by lot, the same on every machine."""
    rng, renderer = random.Random("true scenes"), Renderer()
    return torch.cat([renderer([layout(draw(rng), rng)], side) for _ in range(count)])
