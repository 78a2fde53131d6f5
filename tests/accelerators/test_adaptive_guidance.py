"""Guidance ends where the least alike of the branches agree; the line in place of one is exact where it holds."""

from types import SimpleNamespace

import pytest
import torch
from deadheat.accelerators import AdaptiveGuidance, attached
from deadheat.pipelines import FAMILIES as DESCRIBED
from deadheat.pipelines import PAIR, Call, Link, Run, Stage, clean, staged
from diffusers import FlowMatchEulerDiscreteScheduler

from ..families import FAMILIES, executed

PROMPTS = ["a red cube", "a blue ball"]


def likenesses(on: str, of: str) -> list[float]:
    """Gamma at every step of the untouched run of two prompts."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def start(link):
        def around(call: Call, network):
            out = network(call)
            for branch, part in zip(call.branches, out.chunk(len(call.branches)), strict=True):
                x = call.latents[-len(part) :]
                part = -part if on == "lumina2" else part  # as its pipeline does for the scheduler
                found = part if of == "prediction" else clean(pipe.scheduler, call.sigma, x, part)
                seen.setdefault(call.step, {})[branch] = found.flatten(1).double()
            return out

        return around

    with staged(pipe) as stage, stage.around_denoiser(start):
        tiny.call(pipe, 8, prompt=PROMPTS)
    return [float(torch.cosine_similarity(pair["uncond"], pair["cond"]).min()) for pair in seen.values()]


@pytest.mark.parametrize(
    ("on", "of"),
    [(on, of) for on in ("sd3", "sd15", "wan", "flux", "lumina2") for of in ("clean", "prediction")]
    + [("pixart", "prediction")],
)
def test_it_ends_where_the_branches_agree(on: str, of: str):
    gammas = likenesses(on, of)
    threshold = (sorted(gammas)[-1] + sorted(gammas)[-2]) / 2  # met once, at the step that is most alike
    last = gammas.index(max(gammas))
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with executed(tiny, pipe) as seen, attached(pipe, AdaptiveGuidance(threshold, of, "none")) as session:
        tiny.call(pipe, 8, prompt=PROMPTS)
    assert seen.samples == session.report().calls == 2 * (8 + last + 1)
    if last == 7:
        assert f"{max(gammas):.4f} alike at most" in session.report().warnings[0]


def guide(method: AdaptiveGuidance):
    pipe = SimpleNamespace(scheduler=FlowMatchEulerDiscreteScheduler())
    return method.guide(Stage(pipe, DESCRIBED["SD3Transformer2DModel"], {}), Link(method.name, Run()), {})


def call(step: int, latents: torch.Tensor) -> Call:
    return Call({"x": torch.cat([latents] * 2)}, "x", step, 10, 1 - step / 10, PAIR, 2 * len(latents), Run())


def test_the_line_is_exact_where_it_holds():
    """Each picture of a batch has its own coefficients."""
    torch.manual_seed(0)
    a = torch.tensor([0.9, 0.5]).view(2, 1, 1, 1)
    b = torch.tensor([-0.2, 0.1]).view(2, 1, 1, 1)
    made = guide(AdaptiveGuidance(threshold=0.0, again=0))
    apart, cond = 0.01 * torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for step in range(8):
        before, cond = cond, cond + 0.1 * torch.randn(2, 4, 8, 8)
        if step:
            apart = a * apart + b * (cond - before)
        if step < 2:
            assert made.both(call(step, cond))
            made.learn(call(step, cond), cond + apart, cond)
        else:
            assert not made.both(call(step, cond))
            assert torch.allclose(made.instead(call(step, cond), cond), cond + apart, atol=1e-5)


def test_branches_that_never_differ_are_rebuilt_as_they_are():
    """The negative prompt is the prompt: no coefficient can be told, and none is needed."""
    made = guide(AdaptiveGuidance(threshold=0.99, rebuild="linear"))
    cond = torch.randn(2, 4, 8, 8)
    for step in range(2):
        made.learn(call(step, cond), cond, cond)
    assert not made.both(call(2, cond))
    assert torch.equal(made.instead(call(2, cond), cond + 1), cond + 1)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize(("rebuild", "guided"), [("none", 1), ("linear", 3)])
@pytest.mark.parametrize("on", ["sdxl", "wan", "flux"])
def test_calls(on: str, rebuild: str, guided: int, copies: int):
    """The line needs two guided steps, and is laid anew four steps later."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with executed(tiny, pipe) as seen, attached(pipe, AdaptiveGuidance(0.0, "prediction", rebuild)) as session:
        tiny.call(pipe, 6, copies=copies)
    assert seen.samples == session.report().calls == (6 + guided) * copies


@pytest.mark.parametrize("on", ["sd3", "wan"])
@pytest.mark.parametrize(("again", "guided"), [(0, [0, 1]), (3, [0, 1, 4, 7]), (1, list(range(8)))])
def test_what_is_rebuilt_is_taken_anew_now_and_then(on: str, again: int, guided: list[int]):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    recipe = AdaptiveGuidance(0.0, "prediction", again=again)
    with executed(tiny, pipe) as seen, attached(pipe, recipe) as session:
        out = tiny.call(pipe, 8)
    partial = [step.index for step in session.report().steps if step.action == "partial"]
    assert partial == [step for step in range(8) if step not in guided]
    assert seen.samples == session.report().calls == 8 + len(guided)
    if again == 1:
        assert torch.equal(out, tiny.call(pipe, 8))


@pytest.mark.parametrize("on", ["sd3", "wan"])
@pytest.mark.parametrize(("before", "guided"), [(1, range(10)), (2, [0, 1, 2, 3, 5, 7, 9]), (3, [0, 1, 2, 3, 6, 9])])
def test_before_the_branches_agree_some_steps_are_rebuilt_too(on: str, before: int, guided: list[int]):
    """Four guided steps are what the line is laid through."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with executed(tiny, pipe) as seen, attached(pipe, AdaptiveGuidance(1.0, before=before)) as session:
        out = tiny.call(pipe, 10)
    partial = [step.index for step in session.report().steps if step.action == "partial"]
    assert partial == [step for step in range(10) if step not in guided]
    assert seen.samples == session.report().calls == 10 + len(guided)
    assert torch.equal(out, tiny.call(pipe, 10)) is (before == 1)


def test_without_a_line_every_step_is_guided_before_the_branches_agree():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    with attached(pipe, AdaptiveGuidance(1.0, rebuild="none", before=2)) as session:
        tiny.call(pipe, 10)
    assert session.report().calls == 20


def test_without_guidance_it_is_not_taken_up_again():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    with attached(pipe, AdaptiveGuidance(0.0, "prediction", "none", again=2)) as session:
        tiny.call(pipe, 8)
    assert session.report().calls == 9


def test_it_says_why_nothing_was_skipped():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    with attached(pipe, AdaptiveGuidance(threshold=1.0)) as session:
        tiny.call(pipe, 4)
        guided = session.report().warnings[0]
        tiny.call(pipe, 4, **tiny.unguided)
        unguided = session.report().warnings[0]
    assert "alike at most" in guided
    assert "met no guidance to leave out" in unguided
