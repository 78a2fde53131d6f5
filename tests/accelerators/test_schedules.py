"""Schedules run the steps they say."""

import pytest
from deadheat.accelerators import EasyCache, attached
from deadheat.accelerators.schedules import Threshold, periodic, read_mask, stretched, write_mask
from deadheat.pipelines import KnobError

from deadheat import Recipe

from ..families import FAMILIES


def test_periodic():
    assert all(periodic(step, 9, 1, 1) for step in range(9))
    assert [s for s in range(9) if periodic(s, 9, 4, 2)] == [0, 1, 2, 6, 8]


def test_masks_are_read_as_written():
    for steps in ((0, 9), tuple(range(10)), (0, 1, 2, 4, 7, 8, 9)):
        assert read_mask(write_mask(steps), 10) == steps
    assert read_mask("all", 4) == (0, 1, 2, 3)


LONG = "9" * 5000  # more digits than Python reads


@pytest.mark.parametrize(
    "text",
    ["", "0", "1-9", "0 9 10", "0-3, 9", "0 -3 9", "0-3 9-6", "none", "0-10000000000000", f"0-9 {LONG}", f"{LONG}-9"],
    ids=lambda text: text[:20],
)
def test_masks_that_are_refused(text: str):
    with pytest.raises(KnobError, match="mask"):
        read_mask(text, 10)


@pytest.mark.parametrize(
    "text",
    [f"region-adaptive:resets={LONG}", "progressive-resolution:sizes=1e-9999999999", f"lemica:mask={LONG}"],
    ids=lambda text: text[:20],
)
def test_a_short_text_takes_no_memory(text: str):
    with pytest.raises(KnobError):
        Recipe.parse(text)


def test_stretched_masks_keep_both_ends():
    for steps in (2, 7, 28, 49, 100):
        made = stretched(tuple(range(0, 50, 7)), 50, steps)
        assert made[0] == 0
        assert made[-1] == steps - 1
        assert list(made) == sorted(set(made))
    assert stretched((0, 1, 9), 10, 10) == (0, 1, 9)


CHANGES = (9.0, 0.1, 0.3, 0.2, 0.1, 0.1, 0.4, 0.7, 0.0, 0.0)


def computed(rule: Threshold, changes=CHANGES) -> list[int]:
    return [step for step, change in enumerate(changes) if rule.computes(step, len(changes), change)]


def test_changes_add_up_to_the_limit():
    assert computed(Threshold(0.5)) == [0, 3, 6, 7, 9]  # 0.1 + 0.3 + 0.2; 0.1 + 0.1 + 0.4; 0.7; the last


def test_or_each_stands_alone():
    assert computed(Threshold(0.35, accumulate=False)) == [0, 6, 7, 9]


def test_ends_and_runs_of_skips_are_bounded():
    assert computed(Threshold(99.0, warmup=3, last=2)) == [0, 1, 2, 8, 9]
    assert computed(Threshold(99.0, most=2)) == [0, 3, 6, 9]


def test_a_limit_of_0_computes_everything_and_so_does_a_change_that_is_no_number():
    assert computed(Threshold(0.0), [0.0] * 5) == [0, 1, 2, 3, 4]
    assert computed(Threshold(9.0), [float("nan")] * 5) == [0, 1, 2, 3, 4]


def test_a_larger_limit_never_computes_more():
    counts = [len(computed(Threshold(limit))) for limit in (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)]
    assert counts == sorted(counts, reverse=True)


def test_mask_then_threshold():
    rule = Threshold(0.5, warmup=1, always=frozenset({0, 3}))
    assert [rule.computes(step, 8, 0.2) for step in range(8)] == [True, False, False, True, False, False, True, True]
    with pytest.raises(KnobError, match="must hold step 0"):
        EasyCache(mask="1 3", of=8)
    cache = EasyCache(mask="0 2 7", of=8, warmup=2, threshold=2.0, most=8)
    assert [step for step in range(8) if cache.computes(step, 8)] == [0, 1, 2, 7]


def test_a_mask_is_computed_whatever_the_change():
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    with attached(pipe, EasyCache(mask="0 4 6-7", of=8, warmup=2, threshold=2.0, most=8)) as session:
        tiny.call(pipe, 8)
    assert {step.index for step in session.report().steps if step.action == "computed"} >= {0, 1, 4, 6, 7}
