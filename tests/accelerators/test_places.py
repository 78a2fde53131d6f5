"""One rule at every place: what a skip replaces is a knob, and the methods of others are settings of it."""

import pytest
import torch
from deadheat.accelerators import ABCache, Clockwork, EasyCache, LayerCache, LeMiCa, TaylorSeer, attached, check
from deadheat.pipelines import IncompatibleError, KnobError, UnsupportedError

from ..families import FAMILIES, leftovers

UNETS = ("sd15", "sdxl")
STACKS = [on for on in FAMILIES if on not in (*UNETS, "auraflow")]


def drawn(on: str, *recipe, steps: int = 9) -> torch.Tensor:
    pipe = FAMILIES[on].build()
    with attached(pipe, *recipe):
        return FAMILIES[on].call(pipe, steps)


@pytest.mark.parametrize("on", UNETS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deep_in_a_unet_it_is_clockwork(on: str, order: int):
    ours = ABCache(place="deep", order=order, axis="index", every=3, warmup=order)
    assert torch.equal(drawn(on, ours), drawn(on, Clockwork(clock=3, order=order, warmup=order, last=1)))


@pytest.mark.parametrize("on", FAMILIES)
@pytest.mark.parametrize("order", [1, 2])
def test_at_the_modules_it_is_taylor_seer(on: str, order: int):
    ours = ABCache(place="modules", order=order + 1, axis="index", weights="taylor", every=3, warmup=order + 1)
    assert torch.equal(drawn(on, ours), drawn(on, TaylorSeer(order=order, every=3, warmup=order + 1)))


@pytest.mark.parametrize("on", FAMILIES)
def test_a_mask_at_the_modules_is_a_layer_cache(on: str):
    ours = LeMiCa(place="modules", order=1, mask="0 3 6 8", of=9)
    assert torch.equal(drawn(on, ours), drawn(on, LayerCache(every=3, warmup=1)))


@pytest.mark.parametrize("on", UNETS)
def test_a_mask_deep_in_a_unet(on: str):
    ours = LeMiCa(place="deep", order=1, mask="0 3 6 8", of=9)
    assert torch.equal(drawn(on, ours), drawn(on, Clockwork(clock=3, last=1)))


ALL = [
    *((on, ABCache(place="deep", weights="damped", every=2, warmup=2)) for on in UNETS),
    *((on, ABCache(place="modules", weights="binomial", every=2, warmup=2)) for on in FAMILIES),
    *((on, LeMiCa(place="modules", weights="damped", mask="0-1 3 5", of=6)) for on in FAMILIES),
    *((on, EasyCache(place="deep", threshold=2.0, warmup=2, most=2)) for on in UNETS),
    *((on, EasyCache(place="stack", threshold=2.0, warmup=2, most=2)) for on in STACKS),
]


@pytest.mark.parametrize(("on", "cache"), ALL, ids=str)
def test_it_skips_and_leaves_nothing(on: str, cache):
    tiny, pipe = FAMILIES[on], FAMILIES[on].build()
    plain, before = tiny.call(pipe, 6), leftovers(pipe)
    with attached(pipe, type(cache)(**cache.neutral, place=cache.place)):
        assert torch.equal(plain, tiny.call(pipe, 6))
    with attached(pipe, cache) as session:
        busy = tiny.call(pipe, 6)
        assert torch.equal(busy, tiny.call(pipe, 6))
    assert session.report().count("partial") >= 1
    assert session.report().calls == tiny.samples(6)
    assert session.report().cache_bytes > 0
    assert leftovers(pipe) == before
    assert torch.isfinite(busy).all()
    assert not torch.equal(plain, busy)
    assert torch.equal(plain, tiny.call(pipe, 6))


def test_the_place_is_the_seat():
    unet, dit = FAMILIES["sd15"].build(), FAMILIES["sd3"].build()
    check([ABCache(), LeMiCa(place="modules")], dit)
    check([ABCache(), EasyCache(place="deep"), LayerCache()], unet)
    for pipe, pair in ((unet, [ABCache(place="deep"), Clockwork()]), (dit, [LeMiCa(place="modules"), TaylorSeer()])):
        with pytest.raises(IncompatibleError, match="both take the"):
            check(pair, pipe)
    with pytest.raises(UnsupportedError, match=r"ab-cache cannot work with .*UNet"):
        check([ABCache(place="deep")], dit)
    with pytest.raises(KnobError, match="place=output"):
        EasyCache(fill="residual", place="stack")
    with pytest.raises(KnobError, match="place=stack"):
        ABCache(place="modules", first=1)


@pytest.mark.parametrize("on", UNETS)
def test_a_step_that_was_missed_is_made_up_for(on: str):
    """Behind a cache of the output that skips a step at which the part was to run, the part runs at the next call."""
    outer = ABCache(order=1, every=2, warmup=1)
    ours = LeMiCa(place="deep", order=1, mask="0 4 8 11", of=12)
    assert torch.equal(drawn(on, outer, ours, steps=12), drawn(on, outer, Clockwork(clock=4, last=1), steps=12))
    modules = LeMiCa(place="modules", order=1, mask="0 4 8 11", of=12)
    layers = LayerCache(every=4, warmup=1)
    assert torch.equal(drawn(on, outer, modules, steps=12), drawn(on, outer, layers, steps=12))
