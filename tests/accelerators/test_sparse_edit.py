"""SparseEdit computes a rectangle at most steps: which, how exactly, and what it says."""

import pytest
import torch
from deadheat.accelerators import SparseEdit, attached
from deadheat.pipelines import Box, KnobError

from deadheat import accelerate

from ..families import FAMILIES

WHOLE = "0 0 1 1"


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux", "pixart"])
def test_steps_and_what_they_say(name: str):
    tiny = FAMILIES[name]
    pipe = tiny.build()
    with attached(pipe, SparseEdit(every=3, warmup=2)) as session:
        tiny.call(pipe, 8)
    report = session.report()
    whole = SparseEdit(every=3, warmup=2).whole(8)
    assert whole == [0, 1, 4, 7]
    assert [step.index for step in report.steps if step.action == "computed"] == whole
    assert report.calls == report.asked
    assert all(" of " in step.reason for step in report.steps if step.index not in whole)


@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_a_rectangle_that_is_everything_is_the_plain_run(name: str):
    tiny = FAMILIES[name]
    pipe = tiny.build()
    plain = tiny.call(pipe, 6)
    with attached(pipe, SparseEdit(region=WHOLE, every=3, warmup=1)):
        assert torch.equal(tiny.call(pipe, 6), plain)


@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_outside_the_output_is_that_of_the_last_whole_step(name: str):
    tiny, outs = FAMILIES[name], []
    pipe = tiny.build()

    def look(now, solve):
        outs.append(now.prediction.clone())
        return solve(now)

    with attached(pipe, SparseEdit(every=100, warmup=2)) as session, session.stage.around_solver(look):
        tiny.call(pipe, 4)
    height, width = outs[0].shape[-2:]
    box = SparseEdit().box(height, width)
    outside = torch.ones(height, width, dtype=torch.bool)
    box.of(outside).fill_(False)
    for later in outs[2:]:
        torch.testing.assert_close(later[..., outside], outs[1][..., outside], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(box.of(later), box.of(outs[1]))


@pytest.mark.parametrize("text", ["sparse-edit:warmup=1 + bottleneck", "bottleneck + sparse-edit:warmup=1"])
def test_while_the_resolution_falls_and_rises(text: str):
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    with accelerate(pipe, text) as session:
        assert tiny.call(pipe, 16).isfinite().all()
    assert session.report().count("partial") > 4


def test_another_size_is_computed_whole_first():
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    with attached(pipe, SparseEdit(every=100, warmup=1)) as session:
        tiny.call(pipe, 4)
        tiny.call(pipe, 4, height=32, width=96)
    assert [step.action for step in session.report().steps] == ["computed", *["partial"] * 3]


@pytest.mark.parametrize("region", ["", "1 2", "0.5 0 0.5 1", "0 0.7 1 0.2", "-0.1 0 1 1", "a b c d", "0 0 1 nan"])
def test_a_bad_rectangle_names_the_way_out(region: str):
    with pytest.raises(KnobError, match=r"SparseEdit\.region is .*as in '0\.25 0\.25 0\.75 0\.75'"):
        SparseEdit(region=region)


def test_boxes_never_are_empty():
    assert SparseEdit(region="0.99 0.99 1 1").box(8, 8) == Box(7, 7, 8, 8)
    assert SparseEdit(region="0 0 0.01 0.01").box(8, 8) == Box(0, 0, 1, 1)


def test_cautions():
    pipe = FAMILIES["sd15"].build()
    assert SparseEdit().cautions(pipe, 28) == []
    assert "next to nothing" in SparseEdit(region="0 0 0.9 0.9").cautions(pipe, 28)[0]
    assert "4 steps" in SparseEdit().cautions(pipe, 4)[0]
    assert SparseEdit(every=1).cautions(pipe, 4) == []
