"""Caches of the block stack: which steps run the blocks, by hand; branches apart; one seat, two places."""

from math import inf, isnan, nan

import pytest
import torch
from deadheat.accelerators import ABCache, FirstBlockCache, LeMiCa, MagCache, TeaCache, attached, check
from deadheat.pipelines import Call, IncompatibleError, KnobError, Run, UnsupportedError, around_stack, staged

from ..families import FAMILIES, leftovers


def blocks_ran(tiny, pipe) -> list[int]:
    """Count how often the last block's attention really runs."""
    network, seen = tiny.denoiser(pipe), []
    row = "blocks" if tiny.name == "wan" else "transformer_blocks"
    block = getattr(network, row)[-1]
    (block.attn if hasattr(block, "attn") else block.attn1).to_q.register_forward_hook(lambda *_: seen.append(1))
    return seen


def decisions(cache: TeaCache, probes: list[float], branch: str = "cond", rule=None) -> list[bool]:
    """Return at which steps the blocks run if these numbers are what enters them."""
    rule = rule or cache.rule({})
    found = []
    for step, probe in enumerate(probes):
        call = Call({}, "hidden_states", step, len(probes), 1.0, (branch,), 1, Run())
        rule.see(call, lambda probe=probe: torch.tensor([probe], dtype=torch.float64))
        found.append(rule.computes(call))
    return found


# ------------------------------------------------------------------------------------------------------------ TeaCache


def test_the_change_adds_up_and_starts_anew_when_the_blocks_run():
    probes = [1.1**step for step in range(9)]  # a relative change of 0.1 a step
    seen = decisions(TeaCache(threshold=0.25, warmup=1), probes)
    assert seen == [True, False, False, True, False, False, True, False, True]
    assert decisions(TeaCache(threshold=0.15, warmup=1), probes) == [True, False] * 4 + [True]
    assert decisions(TeaCache(threshold=0.05, warmup=1), probes) == [True] * 9


def test_the_change_is_from_step_to_step_also_over_skipped_steps():
    probes = [1, 1.2, 1.0, 1.2, 1.0, 1.2]  # comes back: adds up all the same
    assert decisions(TeaCache(threshold=0.5, warmup=1), probes) == [True, False, False, True, False, True]


def test_what_does_not_change_is_skipped_as_often_as_allowed():
    seen = decisions(TeaCache(threshold=0.01, warmup=2, most=3), [2.0] * 10)
    assert seen == [True, True, False, False, False, True, False, False, False, True]


def test_a_larger_threshold_never_runs_more():
    generator = torch.Generator().manual_seed(0)
    probes = torch.rand(40, generator=generator).add(1).tolist()
    counts = [sum(decisions(TeaCache(threshold=t / 10, warmup=3), probes)) for t in range(1, 30)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_a_number_that_is_none_runs_the_blocks():
    assert decisions(TeaCache(threshold=10.0, warmup=1), [1.0, nan, 1.0, 1.0, 1.0, 1.0])[1:3] == [True, True]
    assert decisions(TeaCache(threshold=10.0, warmup=1), [0.0, 1.0, 1.0, 1.0])[1]


def test_branches_add_up_apart():
    cache = TeaCache(threshold=0.25, warmup=1)
    rule, quiet, restless = cache.rule({}), [1.0] * 5, [1.0, 2.0, 4.0, 8.0, 16.0]
    assert decisions(cache, quiet, "uncond", rule) == [True, False, False, False, True]
    assert decisions(cache, restless, "cond", rule) == [True] * 5


def test_polynomials_by_hand_and_never_below_zero():
    assert TeaCache().expected(0.3) == 0.3
    assert TeaCache(polynomial="flux").expected(0.0) == 0.26423
    x = 0.2
    by_hand = 21.470 * x**4 - 12.802 * x**3 + 2.3128 * x**2 + 0.79249 * x + 0.0096927
    assert TeaCache(polynomial="ltx-video").expected(x) == pytest.approx(by_hand)
    assert TeaCache(polynomial="cogvideox-5b").expected(0.001) == 0.0
    assert TeaCache(polynomial="wan2.1-t2v-14b").expected(0.0) == 0.0
    assert isnan(TeaCache(polynomial="flux").expected(nan))
    assert not TeaCache().expected(inf) < 10  # runs


@pytest.mark.parametrize(("on", "calls"), [("sd3", 1), ("pixart", 1), ("wan", 2), ("flux", 2), ("ltx", 1)])
def test_without_a_limit_only_the_warm_up_and_the_last_step_run(on: str, calls: int):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    seen = []
    if on == "flux":
        tiny.denoiser(pipe).single_transformer_blocks[0].attn.to_q.register_forward_hook(lambda *_: seen.append(1))
    else:
        seen = blocks_ran(tiny, pipe)
    with attached(pipe, TeaCache(threshold=10.0, warmup=3, most=20)) as session:
        tiny.call(pipe, 9)
    assert len(seen) == calls * 4
    assert session.report().count("partial") == 5
    assert session.report().calls == tiny.samples(9)  # what surrounds the blocks runs at every step


# ------------------------------------------------------------------------------------------------------------ MagCache


def test_ratios_of_one_skip_as_often_as_allowed():
    assert MagCache(ratios="1 1 1 1 1 1 1 1 1 1 1 1", most=3, retention=0.25).computed(12) == (0, 1, 2, 6, 10, 11)


def test_the_schedule_is_the_one_by_hand():
    ratios = "1 1.5 1.1 1.02 0.97 1.03 0.9 1.0 1.04 1.04 0.5 1"
    # from step 2: G=1.1 E=.1 runs; 1.02, .02 skipped; .9894, .0306 skipped; 1.019, .0497 skipped; .917 runs;
    # 1, 0 skipped; 1.04, .04 skipped; 1.0816 runs; 0.5 runs; the last step
    assert MagCache(ratios=ratios, threshold=0.05, most=5, retention=0.2).computed(12) == (0, 1, 2, 6, 9, 10, 11)


def test_the_published_ratios_give_the_published_calls():
    assert len(MagCache().computed(28)) == 14
    assert len(MagCache(threshold=0.24, most=5, retention=0.1).computed(28)) == 8 + 1  # and the last step


@pytest.mark.parametrize("ratios", ["", "1", "1 two", "1 -1", "1 0", "1 nan", "1 inf", "fluxx"])
def test_ratios_that_are_none(ratios: str):
    with pytest.raises(KnobError, match=r"MagCache\.ratios is .*deadheat calibrate magcache"):
        MagCache(ratios=ratios)


@pytest.mark.parametrize(("on", "calls"), [("sd3", 1), ("wan", 2)])
def test_the_schedule_is_what_runs(on: str, calls: int):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    seen, cache = blocks_ran(tiny, pipe), MagCache(ratios="1 1 1 1 1 1 1 1", most=2, retention=0.2)
    with attached(pipe, cache) as session:
        tiny.call(pipe, 8)
    assert len(seen) == calls * len(cache.computed(8))
    computed = [step.index for step in session.report().steps if step.action == "computed"]
    assert tuple(computed) == cache.computed(8) == (0, 3, 6, 7)


def test_ratios_of_others_are_cautioned_against():
    pipe = FAMILIES["sd3"].build()
    assert any("published for flux" in said for said in MagCache().cautions(pipe, 28))
    (said,) = MagCache(ratios="1 1 1").cautions(pipe, 28)
    assert "measured with 3 steps, not 28" in said
    assert "calibrate magcache MODEL --steps 28" in said
    assert not MagCache(ratios=" ".join(["1"] * 28)).cautions(pipe, 28)
    assert any("little to skip" in said for said in MagCache(ratios="1 1 1 1").cautions(pipe, 4))


# ---------------------------------------------------------------------------------------------- LeMiCa and AB-Cache


class Repeating:
    """Gives the last residual of each branch at every step that is not to be computed."""

    def __init__(self, computed) -> None:
        self.computed, self.last = computed, {}

    def instead(self, call, hidden):
        return None if call.step in self.computed else self.last[call.branches]

    def learn(self, call, value):
        self.last[call.branches] = value


@pytest.mark.parametrize("on", ["sd3", "flux", "lumina2"])
def test_a_mask_at_the_stack_repeats_the_residual(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    mask = LeMiCa(mask="0-1 3 7", of=8, order=1, place="stack")
    with attached(pipe, mask) as session:
        out = tiny.call(pipe, 8)
    assert session.report().count("partial") == 4
    assert session.report().calls == tiny.samples(8)
    with staged(pipe) as stage, around_stack(stage, lambda link: Repeating(mask.computed(8))):
        assert torch.equal(out, tiny.call(pipe, 8))
    with attached(pipe, LeMiCa(mask="0-1 3 7", of=8, order=1)):
        assert not torch.equal(out, tiny.call(pipe, 8))


def test_every_step_at_the_stack_is_the_plain_picture():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    plain = tiny.call(pipe, 5)
    for cache in (LeMiCa(mask="all", place="stack"), ABCache(every=1, place="stack")):
        with attached(pipe, cache):
            assert torch.equal(plain, tiny.call(pipe, 5))


@pytest.mark.parametrize("make", [LeMiCa, ABCache])
@pytest.mark.parametrize("on", ["sd3", "flux"])
def test_blocks_at_either_end_can_be_kept(on: str, make):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    ran, outs = blocks_ran(tiny, pipe), {}
    how = {"mask": "0-1 3 7", "of": 8} if make is LeMiCa else {"every": 3, "warmup": 2}
    expected = make(**how).computed(8)
    for ends in ({}, {"first": 1}):
        ran.clear()
        with attached(pipe, make(**how, order=1, place="stack", **ends)):
            outs[str(ends)] = tiny.call(pipe, 8)
        assert len(ran) == len(expected) * (2 if on == "flux" else 1)  # guided in two calls
    assert not torch.equal(*outs.values())
    with pytest.raises(UnsupportedError, match="none is left"), attached(pipe, make(place="stack", first=20)):
        pass
    with pytest.raises(KnobError, match="need place=stack"):
        make(first=1)


def test_the_last_block_can_run_at_every_step():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    ran = blocks_ran(tiny, pipe)
    with attached(pipe, LeMiCa(mask="0-1 3 7", of=8, order=1, place="stack")):
        tiny.call(pipe, 8)
    assert len(ran) == 4
    ran.clear()
    with attached(pipe, LeMiCa(mask="0-1 3 7", of=8, order=1, place="stack", last=1)):
        tiny.call(pipe, 8)
    assert len(ran) == 8


def test_the_place_decides_the_seat():
    pipe = FAMILIES["sd3"].build()
    check([LeMiCa(), TeaCache()], pipe)
    check([ABCache(place="stack"), LeMiCa()], pipe)
    for other in (TeaCache(), MagCache(), FirstBlockCache(), ABCache(place="stack")):
        with pytest.raises(IncompatibleError, match="both take the block stack"):
            check([LeMiCa(place="stack"), other], pipe)
    assert LeMiCa(place="stack") != LeMiCa()
    assert LeMiCa.seat == "denoiser output"


@pytest.mark.parametrize("on", ["sd15", "auraflow"])
def test_no_stack_is_refused_before_anything_runs(on: str):
    pipe = FAMILIES[on].build()
    before = leftovers(pipe)
    with pytest.raises(UnsupportedError, match=r"not described.*place=output"), attached(pipe, LeMiCa(place="stack")):
        pass
    assert leftovers(pipe) == before


def test_an_outer_cache_lets_the_inner_one_see_true_steps():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    inner = LeMiCa(mask="0-4 7-8 11", of=12, order=1, place="stack")
    with attached(pipe, ABCache(every=2, warmup=2), inner) as session:
        tiny.call(pipe, 12)
    actions = [step.action for step in session.report().steps]
    assert actions[:9] == [
        "computed", "computed", "computed", "extrapolated", "computed", "extrapolated", "partial", "extrapolated",
        "computed",
    ]  # fmt: skip
