"""Behind the gate cross attention is the mean of both branches at the last open step, and one branch runs."""

import pytest
import torch
from deadheat.accelerators import ABCache, TGate, attached
from deadheat.pipelines import IncompatibleError
from diffusers import SD3Transformer2DModel

from deadheat import accelerate

from ..families import FAMILIES, executed


def crossing(tiny, pipe):
    return [m for name, m in tiny.denoiser(pipe).named_modules() if TGate.cached(name, m)]


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize(("on", "calls"), [("sd15", 1), ("sdxl", 1), ("pixart", 1), ("ltx", 1), ("wan", 2)])
def test_cross_attention_runs_before_the_gate_only(on: str, calls: int, copies: int):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    runs: list[int] = []
    modules = crossing(tiny, pipe)
    for module in modules:
        module.to_q.register_forward_hook(lambda *_: runs.append(1))
    with executed(tiny, pipe) as seen, attached(pipe, TGate(gate=0.5)) as session:
        tiny.call(pipe, 6, copies=copies)
    assert seen.samples == session.report().calls == (6 + 3) * copies
    assert len(runs) == 3 * calls * len(modules)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("on", ["sdxl", "pixart", "wan"])
def test_what_stands_behind_the_gate_is_the_mean(on: str, copies: int):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    given: list[torch.Tensor] = []
    crossing(tiny, pipe)[-1].register_forward_hook(lambda _, __, out: given.append(out))
    with attached(pipe, TGate(gate=0.5)):
        tiny.call(pipe, 4, copies=copies)
    halves = [half for out in given[:-2] for half in out.chunk(1 if on == "wan" else 2)][-2:]
    for out in given[-2:]:
        assert torch.allclose(out, (halves[0] + halves[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("on", ["sd15", "pixart", "wan"])
def test_the_negative_prompt_does_not_matter_behind_the_gate(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with attached(pipe, TGate(gate=0.0)):
        one, other = (tiny.call(pipe, 4, negative_prompt=text) for text in ("blurry", "a blue ball"))
    assert torch.equal(one, other)


@pytest.mark.parametrize("on", ["sd15", "wan"])
def test_without_guidance_cross_attention_is_frozen_all_the_same(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    runs: list[int] = []
    modules = crossing(tiny, pipe)
    for module in modules:
        module.to_q.register_forward_hook(lambda *_: runs.append(1))
    with attached(pipe, TGate(gate=0.5)) as session:
        tiny.call(pipe, 6, **tiny.unguided)
    assert len(runs) == 3 * len(modules)
    assert session.report().count("partial") == 3
    assert not any("nothing was skipped" in warning for warning in session.report().warnings)


@pytest.mark.parametrize("on", ["pixart", "wan"])
def test_a_cache_outside_may_take_the_last_open_step(on: str):
    """The gate closes behind 4 of 8 steps; step 3 is skipped, so cross attention is kept at 4, the first behind."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    runs: list[int] = []
    crossing(tiny, pipe)[0].to_q.register_forward_hook(lambda *_: runs.append(1))
    with attached(pipe, ABCache(every=2, warmup=2), TGate(gate=0.5)) as session:
        out = tiny.call(pipe, 8)
    assert torch.isfinite(out).all()
    open_calls = 3 * (2 if on == "wan" else 1)
    assert len(runs) == open_calls + 1
    assert [step.index for step in session.report().steps if step.calls][:4] == [0, 1, 2, 4]


def test_a_second_self_attention_is_no_cross_attention():
    network = SD3Transformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    names = [name for name, _ in network.named_modules() if name.endswith("attn2")]
    assert names
    assert not any(TGate.cached(name, module) for name, module in network.named_modules())


@pytest.mark.parametrize("other", ["region-adaptive", "sparse-edit"])
def test_what_runs_some_tokens_only_is_refused(other: str):
    pipe = FAMILIES["pixart"].build()
    with pytest.raises(IncompatibleError, match="which takes the image tokens"), accelerate(pipe, f"t-gate + {other}"):
        pass
