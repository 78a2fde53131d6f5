"""Schedules run the steps they say."""

import pytest
from deadheat.accelerators.schedules import periodic, read_mask, stretched, write_mask
from deadheat.pipelines import KnobError


def test_periodic():
    assert all(periodic(step, 9, 1, 1) for step in range(9))
    assert [s for s in range(9) if periodic(s, 9, 4, 2)] == [0, 1, 2, 6, 8]


def test_masks_are_read_as_written():
    for steps in ((0, 9), tuple(range(10)), (0, 1, 2, 4, 7, 8, 9)):
        assert read_mask(write_mask(steps), 10) == steps
    assert read_mask("all", 4) == (0, 1, 2, 3)


@pytest.mark.parametrize("text", ["", "0", "1-9", "0 9 10", "0-3, 9", "0 -3 9", "none"])
def test_masks_that_are_refused(text: str):
    with pytest.raises(KnobError, match="mask"):
        read_mask(text, 10)


def test_stretched_masks_keep_both_ends():
    for steps in (2, 7, 28, 49, 100):
        made = stretched(tuple(range(0, 50, 7)), 50, steps)
        assert made[0] == 0
        assert made[-1] == steps - 1
        assert list(made) == sorted(set(made))
    assert stretched((0, 1, 9), 10, 10) == (0, 1, 9)
