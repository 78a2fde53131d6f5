"""Ranges in recipe text: what they mean, and what is refused with a way out."""

import pytest
from deadheat.measure import expand, numbers
from deadheat.pipelines import InputError, KnobError


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("ab-cache", ["ab-cache"]),
        ("ab-cache:every=4", ["ab-cache:every=4"]),
        ("ab-cache:every=2..4", ["ab-cache:every=2", "ab-cache:every=3", "ab-cache:every=4"]),
        ("ab-cache:every=2..8/3", ["ab-cache:every=2", "ab-cache:every=5", "ab-cache:every=8"]),
        ("ab-cache:every=2..3|6", ["ab-cache:every=2", "ab-cache:every=3", "ab-cache:every=6"]),
        ("ab-cache:every=2|2..3", ["ab-cache:every=2", "ab-cache:every=3"]),
        ("teacache:threshold=0.1..0.3/0.1", [f"teacache:threshold={value}" for value in ("0.1", "0.2", "0.3")]),
        ("guidance-interval:stop=.5..1/.25", [f"guidance-interval:stop={value}" for value in ("0.5", "0.75", "1")]),
        ("lemica:mask=0-3 6 9,of=10", ["lemica:mask=0-3 6 9,of=10"]),
        (
            'sparse-cross-attention:before="a fox, red | + ..",words=fox + ab-cache:every=2|3',
            [f'sparse-cross-attention:before="a fox, red | + ..",words=fox + ab-cache:every={n}' for n in (2, 3)],
        ),
        ("lemica:axis=sigma|index", ["lemica:axis=sigma", "lemica:axis=index"]),
        (
            "ab-cache:every=2..3,order=1|2 + guidance-interval",
            [f"ab-cache:every={e},order={o} + guidance-interval" for e in (2, 3) for o in (1, 2)],
        ),
    ],
)
def test_ranges(text, means):
    assert expand(text) == means


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ab-cash:every=2..3", "did you mean ab-cache"),
        ("ab-cache:evry=2..3", "no knob 'evry'; did you mean every"),
        ("lemica:calls=8..14/2", "LeMiCa|lemica has no knob 'calls'; known: axis, first"),
        ("ab-cache:every", "'every' has no value; write every="),
        ("ab-cache:every=", "empty value"),
        ("ab-cache:every=2||3", "empty value"),
        ("ab-cache:every=5..2", r"ends before it begins; write 2\.\.5"),
        ("ab-cache:every=2..", "no range; write for example"),
        ("ab-cache:every=a..b", "no range; write for example"),
        ("ab-cache:every=2..4/0", "no number above 0"),
        ("ab-cache:every=2..4/x", "no number above 0"),
        ("teacache:threshold=0.1..0.3", "fractions without a step"),
        ("ab-cache:every=2..50", r"ABCache\.every is 11, not between 1 and 10"),
        ("ab-cache:every=2.." + "9" * 5000, "no number or choice needs more"),
        ("ab-cache:every=2..3/0.5", r"ABCache\.every is '2\.5', not a whole number"),
        ("teacache:threshold=0..1/0.000001", "values; at most 10000"),
        (" + ab-cache:every=2..3", "a recipe is empty"),
    ],
)
def test_what_is_refused(text, says):
    with pytest.raises(KnobError, match=says):
        expand(text)


def test_too_many_recipes_are_refused_before_they_are_written_out():
    text = " + ".join(["teacache:threshold=0..0.9/0.001"] * 4)
    with pytest.raises(KnobError, match="at most 10000"):
        expand(text)


def test_numbers():
    assert numbers("--seeds", "0, 4..6,10..20/5") == [0, 4, 5, 6, 10, 15, 20]
    with pytest.raises(InputError, match=r"--seeds is 'x', not a whole number"):
        numbers("--seeds", "0,x")
    with pytest.raises(InputError, match=r"--steps is '0\.5'"):
        numbers("--steps", "0.5")
    with pytest.raises(KnobError, match="--seeds has a value of 5000 characters"):
        numbers("--seeds", "9" * 5000)
