"""Caches of single modules: which run when, that a branch is its own past, and that lines are continued exactly."""

import pytest
import torch
from deadheat.accelerators import (
    ABCache,
    FasterCache,
    LayerCache,
    PyramidAttentionBroadcast,
    TaylorSeer,
    TGate,
    attached,
)
from deadheat.accelerators.module_cache import Part
from deadheat.pipelines import KnobError, UnsupportedError
from diffusers.models.attention_processor import Attention

from ..families import FAMILIES


def ran(module) -> list[int]:
    """Count how often a module's first linear layer really runs."""
    seen: list[int] = []
    layer = next(layer for layer in module.modules() if isinstance(layer, torch.nn.Linear))
    layer.register_forward_hook(lambda *_: seen.append(1))
    return seen


@pytest.mark.parametrize(("on", "calls"), [("sd3", 1), ("sd15", 1), ("wan", 2), ("flux", 2), ("auraflow", 1)])
def test_taylor_seer_runs_the_modules_at_its_steps(on: str, calls: int):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    network = tiny.denoiser(pipe)
    modules = dict(network.named_modules())
    names = [name for name in modules if TaylorSeer.cached(name, modules[name])]
    seen = [ran(modules[name]) for name in names]
    assert any("attn" in name for name in names)
    with attached(pipe, TaylorSeer(every=3, warmup=2)) as session:
        tiny.call(pipe, 9)
    assert {len(one) for one in seen} == {calls * 5}  # steps 0 1 2 5 8
    assert session.report().count("partial") == 4


def test_lines_are_continued(monkeypatch):
    """Where every module's output is a line over the steps, the forecast is the output."""
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    block = tiny.denoiser(pipe).transformer_blocks[1]
    slope, clock, given = torch.randn(1, 1, 32), [0], []
    plain_forward = block.ff.forward

    def line(x):
        return plain_forward(x) * 0 + 3 + slope * clock[0]

    block.ff.forward = line
    block.ff.net[0].register_forward_hook(lambda *_: None)
    block.register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 1))
    with attached(pipe, TaylorSeer(every=4, warmup=2, order=1)):
        patched_forward = block.ff.forward
        block.ff.forward = lambda *a, **k: given.append(patched_forward(*a, **k)) or given[-1]
        tiny.call(pipe, 8)
        block.ff.forward = patched_forward
    for step, out in enumerate(given):
        assert torch.allclose(out, (3 + slope * step).expand_as(out), atol=1e-4)


def test_cross_attention_rests_longer_than_self_attention():
    tiny = FAMILIES["pixart"]
    pipe = tiny.build()
    block = tiny.denoiser(pipe).transformer_blocks[0]
    own, cross = ran(block.attn1), ran(block.attn2)
    with attached(pipe, PyramidAttentionBroadcast(self_every=2, cross_every=4, start=0.0, stop=1.0)):
        tiny.call(pipe, 9)
    assert (len(own), len(cross)) == (5, 3)  # 0 2 4 6 8; 0 4 8


@pytest.mark.parametrize("on", ["wan", "lumina2"])
def test_branches_are_apart(on: str):
    """Guidance in two calls: what the conditional call left must not serve the unconditional one."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    modules = dict(tiny.denoiser(pipe).named_modules())
    seen = ran(next(m for name, m in modules.items() if PyramidAttentionBroadcast.cached(name, m)))
    with attached(pipe, PyramidAttentionBroadcast(self_every=2, cross_every=2, start=0.0, stop=1.0)):
        tiny.call(pipe, 5)
    assert len(seen) == 2 * 3


def test_half_of_a_pair_goes_on_from_the_pair():
    """Where guidance rests now and then, the conditional branch has one past, alone or in a pair."""
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    modules = dict(tiny.denoiser(pipe).named_modules())
    module = next(m for name, m in modules.items() if FasterCache.cached(name, m))
    layer = next(layer for layer in module.modules() if isinstance(layer, torch.nn.Linear))
    rows: list[int] = []
    layer.register_forward_hook(lambda _, __, out: rows.append(len(out)))
    with attached(pipe, FasterCache(every=3, uncond_every=2, start=0.0)):
        tiny.call(pipe, 9)
    # guided at 0 2 4 6 8; attention is due at 0 3 6 8, and at 3 runs for one half: the other then falls behind
    assert rows == [2, 1, 2, 2, 2]


def test_a_window_from_behind_is_refused():
    with pytest.raises(KnobError, match="swap"):
        PyramidAttentionBroadcast(start=0.9, stop=0.1)


def test_a_second_self_attention_is_no_cross_attention():
    """SD3.5 calls the second self attention of its dual blocks attn2, like others their cross attention."""
    joint = Attention(query_dim=8, heads=1, dim_head=8)
    cross = Attention(query_dim=8, heads=1, dim_head=8, cross_attention_dim=8)
    cache = PyramidAttentionBroadcast(self_every=2, cross_every=6, start=0.0, stop=1.0)
    steps = {m: [s for s in range(13) if cache.computes(Part("blocks.0.attn2", m), s, 13)] for m in (joint, cross)}
    assert steps == {joint: [0, 2, 4, 6, 8, 10, 12], cross: [0, 6, 12]}


@pytest.mark.parametrize(
    "recipe",
    [TaylorSeer(), LayerCache(), FasterCache(), PyramidAttentionBroadcast(), ABCache(place="modules"), TGate()],
)
def test_compiled_blocks_are_out_of_reach(recipe):
    """Traced with their blocks they would leave nearly everything uncompiled, the plain pipeline too."""
    pipe = FAMILIES["pixart"].build()
    assert recipe.refusal(pipe) is None
    pipe.transformer.transformer_blocks[1].compile(backend="eager")
    with pytest.raises(UnsupportedError, match="load it uncompiled"), attached(pipe, recipe):
        pass
