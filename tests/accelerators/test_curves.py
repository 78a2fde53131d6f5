"""The space-filling order: every token once, each next to the one before where the grid allows, always local."""

import pytest
import torch
from deadheat.accelerators.curves import hilbert_order


def places(grid: tuple[int, int, int]) -> torch.Tensor:
    order = hilbert_order(*grid)
    return torch.stack([order // (grid[1] * grid[2]), order // grid[2] % grid[1], order % grid[2]], dim=1)


GRIDS = [(1, 1, 1), (1, 1, 8), (1, 12, 1), (1, 6, 10), (1, 45, 80), (1, 96, 64), (3, 5, 7), (5, 4, 4), (13, 30, 52)]


@pytest.mark.parametrize("grid", [*GRIDS, (1, 64, 64), (8, 8, 8)], ids=str)
def test_every_token_comes_once(grid: tuple[int, int, int]):
    assert torch.equal(hilbert_order(*grid).sort().values, torch.arange(grid[0] * grid[1] * grid[2]))


@pytest.mark.parametrize("grid", [(1, 2, 2), (1, 8, 8), (1, 64, 64), (4, 4, 1), (2, 2, 2), (16, 16, 16)], ids=str)
def test_each_touches_the_next_where_sides_are_powers_of_two(grid: tuple[int, int, int]):
    steps = places(grid).diff(dim=0).abs().sum(dim=1)
    assert set(steps.tolist()) == {1}


@pytest.mark.parametrize("grid", [(1, 6, 10), (1, 45, 80), (1, 96, 64), (3, 5, 7), (13, 30, 52)], ids=str)
def test_jumps_are_rare_where_a_larger_curve_is_cut(grid: tuple[int, int, int]):
    steps = places(grid).diff(dim=0).abs().amax(dim=1)
    assert (steps > 1).float().mean() < 0.06


def test_blocks_of_a_square_are_squares():
    for block in places((1, 32, 32)).split(64):
        assert (block.amax(dim=0) - block.amin(dim=0)).tolist() == [0, 7, 7]


def test_blocks_of_a_video_are_compact():
    """A block of 128 tokens in reading order is a line across the frame; along the curve it is a small box."""
    spans = [(block.amax(dim=0) - block.amin(dim=0) + 1).prod().item() for block in places((16, 32, 32)).split(128)]
    assert sorted(spans)[len(spans) // 2] == 128
    assert max(spans) <= 2 * 128
