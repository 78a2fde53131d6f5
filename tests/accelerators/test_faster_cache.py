"""FasterCache: what attention is continued by, how often it runs, and how one branch of guidance becomes the other."""

from types import SimpleNamespace

import pytest
import torch
from deadheat.accelerators import ABCache, FasterCache, GuidanceInterval, attached
from deadheat.accelerators.faster_cache import _Branches
from deadheat.accelerators.guidance import Halves
from deadheat.accelerators.spectrum import slow_part
from deadheat.pipelines import Call, KnobError, Latents, Link, Run, extent

from ..families import FAMILIES, executed, leftovers


def ran(module) -> list[int]:
    seen: list[int] = []
    layer = next(layer for layer in module.modules() if isinstance(layer, torch.nn.Linear))
    layer.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_the_split_loses_nothing():
    picture = torch.randn(2, 3, 16, 12)
    low = slow_part(picture)
    high = torch.fft.fft2(picture - low)
    assert torch.allclose(low + (picture - low), picture, atol=1e-6)
    assert torch.allclose(slow_part(low), low, atol=1e-5)  # a projection
    assert slow_part(picture - low).abs().max() < 1e-5
    assert high[..., 0, 0].abs().max() < 1e-3
    wave = torch.cos(torch.arange(16) * 2 * torch.pi * 3 / 16).expand(1, 1, 16, 16)
    assert torch.allclose(slow_part(wave), wave, atol=1e-5)  # 3 = 16 // 5 is still low
    wave = torch.cos(torch.arange(16) * 2 * torch.pi * 4 / 16).expand(1, 1, 16, 16)
    assert slow_part(wave).abs().max() < 1e-5


def test_weights():
    cache = FasterCache(weight=0.3)
    assert cache.weights_at([7], 9) == (1.0,)
    assert cache.weights_at([4, 6], 7) == pytest.approx((-0.3, 1.3))  # the paper's a + (a - b) w
    line = FasterCache(weight=0.5, every=4)
    for nodes, where in (([2, 3], 4), ([4, 8], 11), ([0, 4], 5)):
        before, last = line.weights_at(nodes, where)
        assert before * nodes[0] + last * nodes[1] == pytest.approx(where)
        assert before + last == pytest.approx(1)
    assert FasterCache(weight=0.0).weights_at([4, 6], 7) == (0.0, 1.0)


@pytest.mark.parametrize(("on", "calls"), [("sd3", 1), ("sd15", 1), ("wan", 2), ("flux", 2), ("auraflow", 1)])
def test_attention_rests_inside_the_window(on: str, calls: int):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    modules = dict(tiny.denoiser(pipe).named_modules())
    seen = [ran(m) for name, m in modules.items() if FasterCache.cached(name, m)]
    with attached(pipe, FasterCache(uncond_every=1, start=0.4, stop=0.8)) as session:
        tiny.call(pipe, 10)
    assert {len(one) for one in seen} == {calls * 8}  # not 5 and 7
    assert session.report().calls == tiny.samples(10)


@pytest.mark.parametrize("on", ["sd15", "sdxl", "pixart", "sd3", "ltx", "flux", "lumina2", "wan"])
def test_the_unconditional_branch_runs_now_and_then(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with executed(tiny, pipe) as seen, attached(pipe, FasterCache(every=1, uncond_every=4, start=0.2)) as session:
        out = tiny.call(pipe, 10)
    assert torch.isfinite(out).all()
    report = session.report()
    # both at 0 1, the first of the window 4 and 8, and the last
    assert [step.calls for step in report.steps] == [2, 2, 1, 1, 2, 1, 1, 1, 2, 2]
    assert report.calls == seen.samples


def asked(run: Run, step: int, branches: tuple[str, ...], layout: str = "image", **told) -> Call:
    shape = {"image": (1, 4, 10, 10), "packed": (1, 25, 16), "sequence": (1, 60, 4)}[layout]
    x = torch.zeros(len(branches), *shape[1:])
    return Call({"x": x, **told}, "x", step, 10, 0.5, branches, len(branches), run)


def gap(boost: float, layout: str = "image", guidance: str = "batched") -> tuple[Halves, Run]:
    run = Run()
    run.steps.append(None)  # noted on, never read
    run.note = lambda *_: None
    stage = SimpleNamespace(family=SimpleNamespace(guidance=guidance, latents=Latents(layout)))
    branches = _Branches(FasterCache(boost=boost, uncond_every=5, start=0.0))
    return Halves(branches, stage, Link("faster-cache", run)), run


@pytest.mark.parametrize("two_calls", [False, True])
@pytest.mark.parametrize("layout", ["image", "packed", "sequence"])
def test_an_unchanged_gap_gives_the_branch_itself(two_calls: bool, layout: str):
    rebuilt, run = gap(1.0, layout, "separate" if two_calls else "batched")
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(5.0), torch.arange(5.0))
    told = {"packed": {"img_ids": ids}, "sequence": {"num_frames": 3, "height": 5, "width": 4}}.get(layout, {})
    shape = asked(run, 0, ("cond",), layout).latents.shape
    base, apart = torch.randn(shape), torch.randn(shape)

    def network(call: Call):
        parts = {"cond": base * call.step, "uncond": base * call.step + apart}
        return torch.cat([parts[branch] for branch in call.branches])

    for step in range(10):
        if two_calls:
            rebuilt(asked(run, step, ("cond",), layout, **told), network)
            out = rebuilt(asked(run, step, ("uncond",), layout, **told), network)
        else:
            out = rebuilt(asked(run, step, ("uncond", "cond"), layout, **told), network)[:1]
        assert torch.allclose(out, base * step + apart, atol=1e-5)
    if layout != "image":
        assert "low" in rebuilt.memory


def test_boosts_do_not_compound():
    rebuilt, run = gap(1.2)
    apart = torch.randn(1, 4, 10, 10)
    low = slow_part(apart)

    def network(call: Call):
        return torch.cat([{"cond": 0 * apart, "uncond": apart}[branch] for branch in call.branches])

    outs = [rebuilt(asked(run, step, ("uncond", "cond")), network)[:1] for step in range(10)]
    for step in (1, 2, 3, 4):  # the first half of the window: low frequencies
        assert torch.allclose(outs[step], apart + 0.2 * low, atol=1e-5)
    for step in (6, 7, 8):
        assert torch.allclose(outs[step], apart + 0.2 * (apart - low), atol=1e-5)
    for step in (0, 5, 9):
        assert torch.equal(outs[step], apart)


def test_where_a_picture_ends():
    run = Run()
    assert extent(asked(run, 0, ("cond",)), Latents()) == (1, 10, 10)
    assert extent(asked(run, 0, ("cond",), "packed"), Latents("packed")) is None
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(5.0))
    assert extent(asked(run, 0, ("cond",), "packed", img_ids=ids), Latents("packed")) is None  # more than the picture
    told = {"num_frames": 3, "height": 5, "width": 4}
    assert extent(asked(run, 0, ("cond",), "sequence", **told), Latents("sequence")) == (3, 5, 4)
    assert extent(asked(run, 0, ("cond",), "sequence"), Latents("sequence")) is None


@pytest.mark.parametrize("on", ["flux", "ltx", "wan", "sd3"])
def test_real_calls_tell_how_far_they_reach(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    found = []
    with attached(pipe, ABCache(every=1)) as session:

        def look(link):
            def around(call, network):
                found.append((extent(call, session.stage.family.latents), call.latents))
                return network(call)

            return around

        with session.stage.around_denoiser(look):
            tiny.call(pipe, 1)
    sides, latents = found[0]
    grid = session.stage.family.latents.to_grid(latents, *sides)
    assert torch.equal(session.stage.family.latents.from_grid(grid), latents)


@pytest.mark.parametrize("on", ["sd3", "wan"])
@pytest.mark.parametrize("order", [1, -1])
def test_with_a_guidance_interval(on: str, order: int):
    """Where guidance ends, nothing is rebuilt that is no longer there: the branches are equal, as they would be."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    interval = GuidanceInterval(start=0.0, stop=0.5)
    with attached(pipe, interval):
        plain = tiny.call(pipe, 10)
    before = leftovers(pipe)
    with executed(tiny, pipe) as seen, attached(pipe, *[FasterCache(every=1), interval][::order]) as session:
        out = tiny.call(pipe, 10)
    assert leftovers(pipe) == before
    assert session.report().calls == seen.samples
    assert (out - plain).abs().max() < 0.2 * (plain.abs().max())


def test_a_window_from_behind_is_refused():
    with pytest.raises(KnobError, match="swap"):
        FasterCache(start=0.9, stop=0.1)
