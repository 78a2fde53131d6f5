"""The cut-off costs N + k calls, does what diffusers' callback does, and also where that one crashes."""

import pytest
import torch
from deadheat.accelerators import ABCache, GuidanceCutoff, attached
from deadheat.pipelines import Call, staged
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback

from ..families import FAMILIES, executed

TENSORS = {
    "sd15": (SDCFGCutoffCallback, ["prompt_embeds"]),
    "sdxl": (SDXLCFGCutoffCallback, ["prompt_embeds", "add_text_embeds", "add_time_ids"]),
}


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("on", ["sd15", "sdxl", "pixart", "wan", "flux"])
def test_calls(on: str, copies: int):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with executed(tiny, pipe) as seen, attached(pipe, GuidanceCutoff(after=0.4)) as session:
        tiny.call(pipe, 5, copies=copies)
    assert seen.samples == session.report().calls == (5 + 2) * copies
    assert [step.action for step in session.report().steps] == ["computed"] * 2 + ["partial"] * 3


@pytest.mark.parametrize("on", TENSORS)
def test_like_the_callback_of_diffusers(on: str):
    """Which counts the step that is done: its index 1 leaves steps 0 and 1 guided."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    kind, names = TENSORS[on]
    theirs = tiny.call(
        pipe,
        5,
        callback_on_step_end=kind(cutoff_step_ratio=None, cutoff_step_index=1),
        callback_on_step_end_tensor_inputs=["latents", *names],
    )
    with attached(pipe, GuidanceCutoff(after=0.4)):
        assert torch.allclose(theirs, tiny.call(pipe, 5), atol=1e-4)
    with pytest.raises(RuntimeError):
        tiny.call(
            pipe,
            5,
            copies=2,
            callback_on_step_end=kind(cutoff_step_ratio=None, cutoff_step_index=1),
            callback_on_step_end_tensor_inputs=["latents", *names],
        )


@pytest.mark.parametrize("on", ["sd3", "flux"])
def test_without_guidance_it_says_so(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with attached(pipe, GuidanceCutoff(after=0.2)) as session:
        tiny.call(pipe, 4, **tiny.unguided)
    (warning,) = session.report().warnings
    assert warning.startswith("nothing was skipped: guidance-cutoff:after=0.2 met no guidance to leave out")
    with attached(pipe, GuidanceCutoff(after=1.0)) as session:
        tiny.call(pipe, 4)
    assert "guides all 4 steps" in session.report().warnings[0]


@pytest.mark.parametrize("on", ["sd3", "wan"])
def test_a_cache_outside_forgets_when_guidance_ends(on: str):
    """Alone it computes 0 1 2 4 6 8 9; guidance is gone at 6, and 7, to be continued from 4 and 6, is computed."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with attached(pipe, ABCache(every=2, warmup=2), GuidanceCutoff(after=0.5)) as session:
        tiny.call(pipe, 10)
    ran = [step.index for step in session.report().steps if step.calls]
    assert ran == [0, 1, 2, 4, 6, 7, 8, 9]


@pytest.mark.parametrize("on", ["wan", "flux"])
def test_an_unconditional_call_without_its_conditional_one_is_computed(on: str):
    """An accelerator further out may answer the conditional call; nothing can then stand in for the other."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    kept: list[torch.Tensor] = []

    def start(link):
        def around(call: Call, network):
            if call.branches == ("cond",) and kept:
                return kept[0]
            out = network(call)
            kept.append(out)
            return out

        return around

    with staged(pipe) as stage, stage.around_denoiser(start), GuidanceCutoff(after=0.0).attach(stage):
        tiny.call(pipe, 4)
    assert [step.calls for step in stage.runs[-1].steps] == [1, 1, 1, 1]
    assert len(kept) == 2 + 3
