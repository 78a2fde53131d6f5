"""The static layer cache: which modules run when, that gates stay current, that every branch and layer has its own."""

from math import ceil

import pytest
import torch
from deadheat.accelerators import ABCache, LayerCache, attached
from deadheat.accelerators.module_cache import in_block

from ..families import FAMILIES


def outputs(module) -> list[torch.Tensor]:
    """Note what a module's inside gives, whenever it really runs."""
    seen: list[torch.Tensor] = []
    plain = module.forward
    module.forward = lambda *a, **k: seen.append(plain(*a, **k)) or seen[-1]
    return seen


@pytest.mark.parametrize(("on", "branches"), [("sd3", 1), ("pixart", 1), ("lumina2", 2), ("flux", 2)])
@pytest.mark.parametrize(("every", "steps"), [(3, 9), (3, 8), (5, 7), (1, 4)])
def test_counts(on: str, branches: int, every: int, steps: int):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    modules = dict(tiny.denoiser(pipe).named_modules())
    seen = {name: outputs(m) for name, m in modules.items() if LayerCache.cached(name, m)}
    assert any("attn" in name for name in seen)
    assert any("ff" in name or "feed_forward" in name for name in seen)
    with attached(pipe, LayerCache(every=every, warmup=1)) as session:
        tiny.call(pipe, steps)
    runs = ceil(steps / every) + ((steps - 1) % every > 0)  # and the last step
    assert {len(one) for one in seen.values()} == {branches * runs}
    assert session.report().count("partial") == steps - runs


def test_gates_and_norms_are_current():
    """On a skipped step a block adds its old attention through the gate of the present step."""
    tiny = FAMILIES["pixart"]
    pipe = tiny.build()
    block = tiny.denoiser(pipe).transformer_blocks[0]
    attention, feed, cross = outputs(block.attn1), outputs(block.ff), outputs(block.attn2)
    calls: list[tuple[dict, torch.Tensor, torch.Tensor]] = []
    block.register_forward_hook(lambda _, args, kw, out: calls.append((kw, args[0], out)), with_kwargs=True)
    with attached(pipe, LayerCache(every=4, warmup=1)):
        tiny.call(pipe, 4)
    assert [len(attention), len(calls)] == [2, 4]
    for at, (kw, x, out) in enumerate(calls):
        now = 0 if at < 3 else 1
        table = block.scale_shift_table[None] + kw["timestep"].reshape(len(x), 6, -1)
        gate_a, gate_m = table[:, 2:3], table[:, 5:6]
        expected = x + gate_a * attention[now]
        expected = expected + cross[now] + gate_m * feed[now]
        assert torch.allclose(out, expected, atol=1e-5)
    gates = [kw["timestep"] for kw, *_ in calls]
    assert not torch.equal(gates[0], gates[1])


@pytest.mark.parametrize("on", ["wan", "flux"])
def test_branches_and_layers_are_apart(on: str):
    """With guidance in two calls, every skipped module gives what it gave its own branch."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    modules = dict(tiny.denoiser(pipe).named_modules())
    names = [name for name, m in modules.items() if LayerCache.cached(name, m)]
    inside = {name: outputs(modules[name]) for name in names}
    with attached(pipe, LayerCache(every=3, warmup=1)):
        outside = {name: outputs(modules[name]) for name in names}
        tiny.call(pipe, 3)
        for name in names:
            del modules[name].forward
    for name in names:
        (cond, uncond, *_), given = inside[name], outside[name]
        assert given[2] is cond or all(map(torch.equal, given[2], cond))
        assert given[3] is uncond or all(map(torch.equal, given[3], uncond))


def test_a_second_denoiser_has_its_own_past():
    """Wan 2.2 hands over from one network to another of the same shape: nothing of the first serves the second."""
    tiny = FAMILIES["wan"]
    pipe = tiny.build()
    second = FAMILIES["wan"].build().transformer
    pipe.register_modules(transformer_2=second)
    pipe.register_to_config(boundary_ratio=0.8)
    pipe.scheduler.set_timesteps(6)
    switch = int((pipe.scheduler.timesteps >= 800).sum())
    assert 0 < switch < 5
    seen = outputs(second.blocks[0].attn1)
    with attached(pipe, LayerCache(every=10, warmup=1)):
        tiny.call(pipe, 6)
    assert len(seen) == 4  # both branches at its first step and at the last


def test_a_step_that_was_missed_is_made_up_for():
    """Where an outer cache skips the very steps at which modules are due, they run at the next one."""
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    seen = outputs(tiny.denoiser(pipe).transformer_blocks[0].attn)
    outer = ABCache(every=2, warmup=1, order=1)  # asks the network at 0 1 3 5 7 9
    with attached(pipe, outer, LayerCache(every=4, warmup=1)):  # due at 0 4 8 9
        tiny.call(pipe, 10)
    assert outer.computed(10) == (0, 1, 3, 5, 7, 9)
    assert len(seen) == 3  # 0, 5 for 4, 9


def test_only_modules_of_blocks():
    assert in_block("transformer_blocks.0.attn", ("attn",))
    assert not in_block("time_embed.attn", ("attn",))
    assert not in_block("attn", ("attn",))
