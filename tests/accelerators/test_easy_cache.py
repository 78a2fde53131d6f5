"""EasyCache: its arithmetic by hand, who decides, and what fills the gaps."""

import pytest
import torch
from deadheat.accelerators import EasyCache, GuidanceInterval, attached, easy_cache
from deadheat.accelerators.easy_cache import _Moved, _moved_by
from deadheat.accelerators.schedules import Threshold
from deadheat.pipelines import Call, Run

from ..families import FAMILIES, executed


def call(step: int, x: float, branches: tuple[str, ...] = ("cond",)) -> Call:
    latents = torch.full((len(branches), 1, 2, 2), x)
    return Call({"x": latents}, "x", step, 10, 1.0, branches, len(latents), Run())


def test_the_rule_by_hand():
    rule = _Moved(EasyCache(), Threshold(0.5, warmup=2), {})
    for step, (x, v) in enumerate([(10.0, 4.0), (9.0, 2.0)]):
        assert rule.computes(call(step, x))
        rule.learn(call(step, x), torch.full((1, 1, 2, 2), v))
    assert rule.rate == 2.0  # |2 - 4| / |9 - 10|
    assert not rule.computes(call(2, 8.8))  # 2 * 0.2 / 2 = 0.2
    assert not rule.computes(call(3, 8.6))  # 0.4 since the last computed step
    assert rule.computes(call(4, 8.4))  # 0.6


def test_the_conditional_half_decides_for_both():
    rule = _Moved(EasyCache(), Threshold(0.5, warmup=2), {})
    for step, x in enumerate((10.0, 9.0)):
        assert rule.computes(call(step, x))
        rule.learn(call(step, x), torch.full((1, 1, 2, 2), 4.0))
        assert rule.computes(call(step, x, ("uncond",)))
        rule.learn(call(step, x, ("uncond",)), torch.full((1, 1, 2, 2), 1e6))
    assert rule.rate == 0.0
    assert not rule.computes(call(2, 0.0))
    assert not rule.computes(call(2, 1e9, ("uncond",)))


def test_without_a_rate_it_computes():
    rule = _Moved(EasyCache(), Threshold(0.5), {})
    assert rule.computes(call(0, 1.0))
    rule.learn(call(0, 1.0), torch.zeros(1, 1, 2, 2))
    assert rule.computes(call(1, 1.0))
    rule.learn(call(1, 1.0), torch.zeros(1, 1, 2, 2))  # the latents stood still: no rate
    assert rule.computes(call(2, 1.0))


def test_channels_that_only_one_side_has_stay():
    out = _moved_by(torch.ones(1, 3, 2, 2), torch.ones(1, 2, 2, 2), 1)
    assert out[0, :, 0, 0].tolist() == [2.0, 2.0, 1.0]
    assert _moved_by(torch.ones(1, 2, 2, 2), torch.ones(1, 5, 2, 2), -1).abs().sum() == 0


@pytest.mark.parametrize("on", ["sd3", "flux"])
def test_a_threshold_that_nothing_reaches_computes_the_ends(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with executed(tiny, pipe) as seen, attached(pipe, EasyCache(threshold=2.0, warmup=2, most=20)) as session:
        tiny.call(pipe, 8)
    assert seen.samples == 2 * 3
    assert [step.index for step in session.report().steps if step.action == "computed"] == [0, 1, 7]


def test_skips_in_a_row_are_bounded():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    with attached(pipe, EasyCache(threshold=2.0, warmup=2, most=2)) as session:
        tiny.call(pipe, 9)
    assert [step.index for step in session.report().steps if step.action == "computed"] == [0, 1, 4, 7, 8]


@pytest.mark.parametrize("fill", ["line", "reuse", "residual"])
@pytest.mark.parametrize("on", ["sd3", "pixart", "wan"])
def test_every_fill_works_where_channels_differ_too(on: str, fill: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with attached(pipe, EasyCache(threshold=2.0, warmup=2, fill=fill)) as session:
        assert torch.isfinite(tiny.call(pipe, 6)).all()
    assert session.report().count("extrapolated" if fill == "line" else "reused") >= 1


@pytest.mark.parametrize("on", ["sd3", "wan", "flux"])  # both halves in one call, and in two
def test_lazy_cache_is_judged_by_the_guided_prediction(on: str, monkeypatch: pytest.MonkeyPatch):
    tiny, scale, seen = FAMILIES[on], 3.0, []
    monkeypatch.setattr(easy_cache, "guidance_scale", lambda pipe: scale)
    learn = _Moved.learn

    def learning(rule: _Moved, call: Call, out: torch.Tensor) -> None:
        learn(rule, call, out)
        seen.append((call.step, call.branches, out, rule.memory["output"]))

    monkeypatch.setattr(_Moved, "learn", learning)
    pipe = tiny.build()
    with attached(pipe, EasyCache(threshold=1e-9, warmup=2, judges="guided")):
        tiny.call(pipe, 4)
    outs = {branch: out.chunk(len(branches))[nth] for step, branches, out, _ in seen if step == 3
            for nth, branch in enumerate(branches)}  # fmt: skip
    cond, uncond = outs["cond"], outs.get("uncond", outs["cond"])
    torch.testing.assert_close(seen[-1][3], uncond + scale * (cond - uncond))
    assert "uncond" in outs


@pytest.mark.parametrize("on", ["wan", "flux"])
def test_a_branch_that_begins_late(on: str):
    """It runs alone at a step at which the branch that decides is skipped."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with (
        executed(tiny, pipe) as seen,
        attached(pipe, GuidanceInterval(start=0.3, stop=0.8), EasyCache(threshold=2.0, warmup=2)),
    ):
        assert torch.isfinite(tiny.call(pipe, 12)).all()
    assert seen.samples < tiny.samples(12)
