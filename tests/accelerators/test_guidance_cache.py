"""The unconditional half is rebuilt exactly where its difference is as assumed, frame by frame, in every layout."""

import pytest
import torch
from deadheat.accelerators import SADA, ABCache, FasterCache, GuidanceCache, LeMiCa, attached, check
from deadheat.accelerators.spectrum import slow_part
from deadheat.pipelines import FAMILIES as DESCRIBED
from deadheat.pipelines import PAIR, Call, IncompatibleError, Link, Run, Stage

from ..families import FAMILIES, executed, leftovers

SD3 = DESCRIBED["SD3Transformer2DModel"]
FLUX = DESCRIBED["FluxTransformer2DModel"]


def guide(method: GuidanceCache, described=SD3):
    run = Run()
    return method.guide(Stage(None, described, {}), Link(method.name, run), {})


def call(step: int, sigma: float, steps: int = 10, **kwargs) -> Call:
    kwargs.setdefault("hidden_states", torch.zeros(4, 4, 8, 8))
    return Call(kwargs, "hidden_states", step, steps, sigma, PAIR, 4, Run())


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (1, 3, 5, 16, 11), (1, 1, 4, 4)])
def test_the_split_is_a_circle_in_the_spectrum(shape):
    frames = torch.randn(shape)
    height, width = shape[-2:]
    spectrum = torch.fft.fftshift(torch.fft.fft2(frames), dim=(-2, -1))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    circle = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 <= (min(height, width) // 5) ** 2
    low = torch.fft.ifft2(torch.fft.ifftshift(spectrum * circle, dim=(-2, -1)))
    assert torch.allclose(low.real, slow_part(frames), atol=1e-5)
    assert low.imag.abs().max() < 1e-5


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (1.1, 1.2)])
def test_at_the_same_step_it_gives_back_what_it_saw(low: float, high: float):
    made = guide(GuidanceCache(order=1, low=low, high=high, low_until=0.0, high_from=1.0))
    uncond, cond = torch.randn(2, 2, 4, 8, 8)
    made.learn(call(0, 1.0), uncond, cond)
    assert torch.allclose(made.instead(call(0, 1.0), cond), uncond, atol=1e-5)


def test_growth_adds_up():
    made = guide(GuidanceCache(order=1, low=1.1, high=1.2, low_until=0.8, high_from=0.6))
    uncond, cond, later = torch.randn(3, 2, 4, 8, 8)
    made.learn(call(4, 1.0), uncond, cond)
    slow = slow_part(uncond - cond)
    fine = uncond - cond - slow
    for step, a, b in [(5, 1.1, 1.0), (6, 1.1**2, 1.2), (7, 1.1**3, 1.2**2), (8, 1.1**3, 1.2**3)]:
        assert torch.allclose(made.instead(call(step, 1.0), later), later + a * slow + b * fine, atol=1e-5)
    made.learn(call(9, 1.0), uncond, cond)
    assert torch.allclose(made.instead(call(9, 1.0), later), later + slow + 1.2 * fine, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_difference_is_continued_as_a_polynomial(order: int):
    made = guide(GuidanceCache(order=order))
    terms = torch.randn(order, 2, 4, 8, 8)

    def apart(sigma: float) -> torch.Tensor:
        return sum(sigma**power * term for power, term in enumerate(terms))

    for step, sigma in enumerate([1.0, 0.8, 0.7][:order]):
        cond = torch.randn(2, 4, 8, 8)
        assert made.both(call(step, sigma))
        made.learn(call(step, sigma), cond + apart(sigma), cond)
    cond = torch.randn(2, 4, 8, 8)
    assert torch.allclose(made.instead(call(order, 0.5), cond), cond + apart(0.5), atol=1e-4)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("on", ["sd15", "sd3", "wan", "flux", "ltx"])
@pytest.mark.parametrize(("growth", "order"), [(1.0, 2), (1.1, 1)])
def test_calls(on: str, copies: int, growth: float, order: int):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    method = GuidanceCache(every=3, start=0.3, order=order, low=growth, high=growth)
    with executed(tiny, pipe) as seen, attached(pipe, method) as session:
        tiny.call(pipe, 10, copies=copies)
    full = [0, 1, 2, 5, 8]
    assert seen.samples == session.report().calls == (10 + len(full)) * copies
    assert [step.index for step in session.report().steps if step.action == "computed"] == full


def test_without_the_size_of_the_frames_nothing_is_split():
    """FLUX Kontext appends the tokens of a picture to start from: the call fails open."""
    ids = torch.zeros(20, 3)
    ids[:, 1] = torch.arange(20) // 4
    ids[:, 2] = torch.arange(20) % 4
    for tokens, due in ((20, False), (24, True)):
        made = guide(GuidanceCache(order=1, low=1.1, start=0.0), FLUX)
        uncond, cond = torch.randn(2, 2, tokens, 16)
        assert made.both(call(0, 1.0))
        made.learn(call(0, 1.0, img_ids=ids, hidden_states=torch.zeros(4, tokens, 16)), uncond, cond)
        assert made.both(call(1, 0.9)) is due


def test_without_guidance_it_says_so():
    tiny = FAMILIES["flux"]
    pipe = tiny.build()
    with attached(pipe, GuidanceCache()) as session:
        tiny.call(pipe, 10, **tiny.unguided)
    assert "met no guidance to leave out" in session.report().warnings[0]
    with attached(pipe, GuidanceCache(start=1.0)) as session:
        tiny.call(pipe, 10)
    assert "found too few of 10 steps in a row" in session.report().warnings[0]


@pytest.mark.parametrize("outer", [GuidanceCache(), FasterCache()], ids=lambda a: a.name)
@pytest.mark.parametrize("cache", [ABCache(), SADA(), LeMiCa(mask="0-1 3 5", of=6)], ids=lambda a: a.name)
def test_before_a_cache_that_skips_steps_it_would_learn_from_predictions(outer, cache):
    pipe = FAMILIES["sd3"].build()
    before = leftovers(pipe)
    with pytest.raises(IncompatibleError, match=rf"write {cache.name} \+ {outer.name}"), attached(pipe, outer, cache):
        pass
    assert leftovers(pipe) == before
    check([cache, outer], pipe)
    check([outer, ABCache(place="stack")], pipe)  # among the blocks, which are further in wherever it is written


@pytest.mark.parametrize("on", ["sd3", "wan"])
def test_behind_a_cache_that_skips_steps_it_skips_only_what_lies_near(on: str):
    """That cache computes 0 1 2 5 8 9, and 9 is the only one close enough to the step before."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with attached(pipe, ABCache(every=3, warmup=2), GuidanceCache(every=2, start=0.3)) as session:
        tiny.call(pipe, 10)
    assert {step.index: step.calls for step in session.report().steps if step.calls} == {
        0: 2,
        1: 2,
        2: 2,
        5: 2,
        8: 2,
        9: 1,
    }
