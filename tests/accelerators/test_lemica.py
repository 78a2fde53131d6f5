"""LeMiCa computes the steps of its mask and predicts the others through them."""

import pytest
from deadheat.accelerators import LeMiCa, attached
from deadheat.pipelines import KnobError

from ..families import FAMILIES
from .test_ab_cache import error, polynomial


def test_a_line_is_continued_over_uneven_gaps():
    mask = LeMiCa(mask="0-1 3 8 12-13 20 27", of=28)
    assert error(mask, polynomial(1, "sigma")) < 1e-12
    assert error(mask, polynomial(2, "sigma")) > 1e-6


def test_order_one_repeats():
    assert error(LeMiCa(mask="0 4 27", of=28, order=1), polynomial(0, "sigma")) == 0


def test_a_mask_for_another_number_of_steps_is_stretched_and_says_so():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    with attached(pipe, LeMiCa(mask="0 1 2 5 8 11", of=12)) as session:
        tiny.call(pipe, 6)
    report = session.report()
    assert [step.index for step in report.steps if step.action == "computed"] == [0, 1, 2, 4, 5]
    assert any("made for 12 steps and is stretched to 6" in warning for warning in report.warnings)


@pytest.mark.parametrize("mask", ["0-3", "5-27", "0 27 28", "0;27", 7])
def test_wrong_masks(mask):
    with pytest.raises(KnobError, match="mask"):
        LeMiCa(mask=mask, of=28)
