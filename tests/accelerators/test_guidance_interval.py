"""The guidance interval leaves out the unconditional half, at the steps it says, with the result the paper means."""

import pytest
import torch
from deadheat.accelerators import GuidanceInterval, attached
from deadheat.pipelines import KnobError

from ..families import FAMILIES, TinyFamily, executed

GUIDED = [name for name in FAMILIES if name != "auraflow"]


@pytest.mark.parametrize(
    ("start", "stop", "guided"), [(0, 0.5, 4), (0.5, 1, 4), (0.25, 0.75, 4), (0, 0, 0), (0, 1, 8)]
)
@pytest.mark.parametrize("on", ["sd15", "flux"])
def test_steps_outside_run_one_half(on: str, start: float, stop: float, guided: int):
    family = FAMILIES[on]
    pipe = family.build()
    with executed(family, pipe) as seen, attached(pipe, GuidanceInterval(start=start, stop=stop)) as session:
        family.call(pipe, 8)
    assert seen.samples == 8 + guided
    steps = session.report().steps
    assert [step.calls == 2 for step in steps] == [start <= step.index / 8 < stop for step in steps]
    assert {step.action for step in steps if step.calls == 1} <= {"partial"}
    assert all(step.asked == 2 for step in steps)


@pytest.mark.parametrize("on", GUIDED)
def test_never_guided_is_unguided(on: str):
    """Outside the interval the result is the conditional prediction alone, whatever the guidance scale."""
    family = FAMILIES[on]
    pipe = family.build()
    plain = family.call(pipe, 5, **{**family.unguided, "negative_prompt": None})
    with attached(pipe, GuidanceInterval(start=0, stop=0)):
        out = family.call(pipe, 5)
    assert torch.allclose(plain, out, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("on", ["sd3", "wan"])
def test_the_scale_does_not_matter_outside(on: str):
    family: TinyFamily = FAMILIES[on]
    pipe = family.build()
    with attached(pipe, GuidanceInterval(start=0, stop=0)):
        assert torch.allclose(
            family.call(pipe, 4, guidance_scale=3.0), family.call(pipe, 4, guidance_scale=9.0), atol=1e-4
        )


@pytest.mark.parametrize("on", ["sd15", "lumina2"])
def test_without_guidance_it_is_idle(on: str):
    family = FAMILIES[on]
    pipe = family.build()
    plain = family.call(pipe, 4, **family.unguided)
    with attached(pipe, GuidanceInterval(start=0.1, stop=0.8)) as session:
        assert torch.equal(plain, family.call(pipe, 4, **family.unguided))
    (warning,) = session.report().warnings
    assert "nothing was skipped" in warning
    assert "met no guidance to leave out" in warning


def test_backwards_is_refused():
    with pytest.raises(KnobError, match="after stop"):
        GuidanceInterval(start=0.9, stop=0.2)


def test_backwards_in_sigma_is_refused():
    with pytest.raises(KnobError, match="above highest"):
        GuidanceInterval(lowest=5.0, highest=0.3)


@pytest.mark.parametrize("on", ["sd15", "pixart", "sd3", "wan"])
def test_the_interval_in_sigma(on: str):
    """As EDM counts it: the noise of a flow, which goes from 1 to 0, is taken as a ratio."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    method = GuidanceInterval(start=0.0, stop=1.0, lowest=0.28, highest=5.42)
    with executed(tiny, pipe) as seen, attached(pipe, method) as session:
        tiny.call(pipe, 12)
    steps = session.report().steps
    levels = [step.sigma / (1 - min(step.sigma, 0.9999)) if on in ("sd3", "wan") else step.sigma for step in steps]
    inside = [0.28 < level <= 5.42 for level in levels]
    assert True in inside
    assert inside[0] is False
    assert [step.calls == 2 for step in steps] == inside
    assert seen.samples == 12 + sum(inside)
