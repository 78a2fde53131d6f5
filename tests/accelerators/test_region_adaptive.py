"""Whose turn it is: counts, gaps and the published rule against brute force; and what a run really computed."""

import math

import pytest
import torch
from deadheat.accelerators import (
    ABCache,
    Bottleneck,
    FirstBlockCache,
    GuidanceInterval,
    RegionAdaptive,
    TaylorSeer,
    attached,
)
from deadheat.accelerators.region_adaptive import first_in_time
from deadheat.measure.regions import region_maps, regions_html
from deadheat.pipelines import IncompatibleError, KnobError, unpacked
from deadheat.presets import presets

from ..families import FAMILIES, leftovers

STACKED = ["pixart", "sd3", "flux", "qwen", "lumina2", "wan", "ltx"]
FOCUS = ("low-std", "high-std", "update-size", "published")


def played(knobs: RegionAdaptive, steps: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """Return which tokens run at each step, (steps, tokens), for metrics of noise."""
    random = torch.Generator().manual_seed(seed)
    liked = torch.rand(tokens, generator=random)  # some tokens stay unattractive, or none would starve
    counts, made = knobs.counts(steps, tokens), []
    gap = drops = torch.zeros(tokens, dtype=torch.long)
    for step in range(steps):
        gap = gap + 1
        runs = torch.ones(tokens, dtype=torch.bool)
        if counts[step] < tokens:
            metric = liked + 0.2 * torch.rand(tokens, generator=random)
            order = knobs.order(metric, gap, drops, counts[step])
            runs = first_in_time(order, gap, counts[step:], knobs.max_gap)
            drops = drops + ~runs
        gap = gap.masked_fill(runs, 0)
        made.append(runs)
    return torch.stack(made)


def longest_gap(ran: torch.Tensor) -> int:
    return max(int(column.nonzero()[:, 0].diff().max()) for column in ran.T)


GAPS = [(0.5, 2, 0), (0.5, 6, 0), (0.25, 4, 0), (0.25, 6, 0), (0.2, 9, 0.1), (0.3, 7, -0.3), (0.125, 8, 0)]


@pytest.mark.parametrize(("ratio", "most", "tilt"), GAPS, ids=str)
@pytest.mark.parametrize("focus", FOCUS)
def test_no_gap_is_longer_and_every_count_is_kept(ratio: float, most: int, tilt: float, focus: str):
    for seed, resets, starvation in ((0, "", 0.0), (1, "12 20", 0.1), (2, "9", 1.0)):
        knobs = RegionAdaptive(
            ratio=ratio, max_gap=most, tilt=tilt, focus=focus, resets=resets, starvation=starvation, warmup=2
        )
        for tokens in (16, 61, 256):
            ran = played(knobs, 28, tokens, seed)
            assert ran.sum(1).tolist() == knobs.counts(28, tokens)
            assert longest_gap(ran) <= most


def test_without_a_bound_tokens_do_starve():
    """So that the test above has power."""
    assert longest_gap(played(RegionAdaptive(starvation=0.0, max_gap=100, resets="", warmup=2), 28, 64)) > 6


@pytest.mark.parametrize(("ratio", "tilt"), [(0.5, 0.0), (0.5, 0.6), (0.25, -0.1)])
@pytest.mark.parametrize("tokens", [256, 3600, 4096])
def test_the_mean_number_of_tokens_is_the_ratio(ratio: float, tilt: float, tokens: int):
    counts = RegionAdaptive(ratio=ratio, tilt=tilt).counts(28, tokens)
    sparse = [count for count in counts if count < tokens]
    assert len(sparse) == 28 - 6
    assert sum(sparse) / len(sparse) / tokens == pytest.approx(ratio, abs=64 / tokens if tokens >= 1024 else 1 / 256)
    assert (sparse[0] - sparse[-1]) / tokens == pytest.approx(tilt, abs=0.02)


def test_the_published_rule():
    """The code's formula: of N tokens sorted by std * exp(k * drops), some skipped at the bottom, some at the top."""
    random = torch.Generator().manual_seed(0)
    for high in (0.0, 0.3, 1.0):
        knobs = RegionAdaptive(focus="published", high=high, starvation=0.1)
        metric = torch.rand(40, generator=random)
        drops = torch.randint(0, 9, (40,), generator=random)
        gap = torch.ones(40, dtype=torch.long)
        count = 20
        ranked = (metric * torch.exp(0.1 * drops)).argsort()
        top = round(high * 20)
        expected = ranked[20 - top : 40 - top]
        runs = first_in_time(knobs.order(metric, gap, drops, count), gap, [count] * 50, 100)
        assert runs.nonzero()[:, 0].tolist() == sorted(expected.tolist())


def test_focus():
    metric, none = torch.tensor([3.0, 1.0, 2.0]), torch.zeros(3, dtype=torch.long)
    for focus, first in (("low-std", 1), ("high-std", 0), ("update-size", 0)):
        assert RegionAdaptive(focus=focus).order(metric, none, none, 1).argmax() == first
    gap = torch.tensor([0, 0, 2])
    assert RegionAdaptive(focus="low-std", starvation=1.0).order(metric, gap, none, 1).argmax() == 2


def test_the_order_of_the_tokens_does_not_matter():
    random = torch.Generator().manual_seed(0)
    metric, gap = torch.rand(50, generator=random), torch.randint(0, 4, (50,), generator=random)
    shuffle = torch.randperm(50, generator=random)
    for focus in FOCUS:
        knobs = RegionAdaptive(focus=focus, starvation=0.13)
        runs = first_in_time(knobs.order(metric, gap, gap, 20), gap, [20] * 9, 6)
        moved = first_in_time(knobs.order(metric[shuffle], gap[shuffle], gap[shuffle], 20), gap[shuffle], [20] * 9, 6)
        assert torch.equal(runs[shuffle], moved)


@pytest.mark.parametrize("on", STACKED)
def test_what_a_run_says_is_what_ran(on: str):
    """The tokens that go through the first layer of the last block are counted there."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    knobs = RegionAdaptive(ratio=0.4, warmup=2, resets="7", of=10)
    network = tiny.denoiser(pipe)
    last = [child for child in network.children() if isinstance(child, torch.nn.ModuleList)][-1][-1]
    layer = getattr(last, "attn1", getattr(last, "attn", None)).to_q
    seen: list[int] = []
    layer.register_forward_hook(lambda _, __, out: seen.append(out.shape[1]))
    options = {} if on == "ltx" else {"height": 32, "width": 96}
    with attached(pipe, knobs) as session:
        tiny.call(pipe, 10, **options)
    steps = session.report().steps
    grids = {step.grid for step in steps if step.active}
    (grid,) = grids
    tokens, calls = math.prod(grid), 2 if tiny.guidance == "separate" else 1
    assert on == "ltx" or grid[2] == 3 * grid[1]
    ran = torch.tensor([unpacked(s.active, tokens) if s.active else [True] * tokens for s in steps])
    assert ran.sum(1).tolist() == knobs.counts(10, tokens)
    assert longest_gap(ran) <= knobs.max_gap
    for branch in range(calls):
        mine = seen[branch::calls]
        assert [mine[0] - n for n in mine] == (tokens - ran.sum(1)).tolist()
    assert [s.action for s in steps] == ["computed" if count == tokens else "partial" for count in ran.sum(1)]
    maps = region_maps(session.report().to_dict()["steps"])
    assert [round(float(m.mean()) * tokens) for m in maps] == knobs.counts(10, tokens)
    assert regions_html(session.report().to_dict()["steps"]).count("<img") == 11


@pytest.mark.parametrize("focus", FOCUS)
def test_a_batch_and_every_focus(focus: str):
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    with attached(pipe, RegionAdaptive(focus=focus, warmup=2, resets="")) as session:
        out = tiny.call(pipe, 6, copies=2)
    assert torch.isfinite(out).all() and len(out) == 2
    assert session.report().count("partial") == 4


def test_the_metric_is_of_the_guided_output():
    """The tokens with the largest norm of what the scheduler was given run next."""
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    given = []

    def watch(now, step):
        given.append(now.prediction.clone())
        return step(now)

    knobs = RegionAdaptive(focus="update-size", warmup=2, resets="", starvation=0.0)
    with attached(pipe, knobs) as session, session.stage.around_solver(watch):
        tiny.call(pipe, 4)
    norms = given[1].norm(dim=1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).mean((2, 4)).flatten()
    active = unpacked(session.report().steps[2].active, 16)
    assert torch.tensor(active).nonzero()[:, 0].tolist() == norms.topk(8).indices.sort().values.tolist()


@pytest.mark.parametrize("on", ["sd3", "flux"])
@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
@pytest.mark.parametrize("other", [ABCache(every=2, warmup=2), GuidanceInterval(start=0.0, stop=0.5)], ids=str)
def test_goes_with_caches_of_the_output(other, order: int, on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    before = leftovers(pipe)
    recipe = [other, RegionAdaptive(warmup=3, resets="")][::order]
    with attached(pipe, *recipe) as session:
        out = tiny.call(pipe, 12)
    assert torch.isfinite(out).all()
    report = session.report()
    assert report.calls < report.asked
    assert any("image tokens" in step.reason for step in report.steps)
    assert not any("did nothing" in warning for warning in report.warnings)
    assert leftovers(pipe) == before


@pytest.mark.parametrize("on", ["sd3", "flux", "wan"])
@pytest.mark.parametrize("order", [1, -1], ids=["bottleneck-first", "bottleneck-last"])
def test_a_new_resolution_is_a_new_beginning(on: str, order: int):
    """Between two sizes all tokens run once: none can rest on what it had at another size, or long ago at this one."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    before = leftovers(pipe)
    recipe = [Bottleneck(first=4, low=4, last=4, up=0.0), RegionAdaptive(ratio=0.5, warmup=2, resets="")][::order]
    with attached(pipe, *recipe) as session:
        first = tiny.call(pipe, 12)
        assert torch.equal(first, tiny.call(pipe, 12))
    ran = [
        sum(unpacked(step.active, math.prod(step.grid))) / math.prod(step.grid) if step.grid else 1.0
        for step in session.report().steps
    ]
    assert torch.isfinite(first).all()
    assert ran == [1, 1, 0.5, 0.5, *[1, 0.5, 0.5, 0.5] * 2]
    sizes = [math.prod(step.grid) for step in session.report().steps if step.grid]
    assert sizes == [sizes[0]] * 2 + [sizes[0] // 4] * 3 + [sizes[0]] * 3
    assert leftovers(pipe) == before


@pytest.mark.parametrize("other", [FirstBlockCache(), TaylorSeer()], ids=str)
def test_nothing_else_may_stand_between_the_blocks(other):
    pipe = FAMILIES["sd3"].build()
    for recipe in ([other, RegionAdaptive()], [RegionAdaptive(), other]):
        with pytest.raises(IncompatibleError, match="does not go with") as error, attached(pipe, *recipe):
            pass
        assert other.name in str(error.value)


def test_two_pipelines_at_once():
    one, two = FAMILIES["sd3"], FAMILIES["pixart"]
    first, second = one.build(), two.build()
    knobs = RegionAdaptive(warmup=2, resets="")
    with attached(first, knobs), attached(second, knobs):
        both = one.call(first, 5), two.call(second, 5)
    with attached(first, knobs):
        assert torch.equal(both[0], one.call(first, 5))
    with attached(second, knobs):
        assert torch.equal(both[1], two.call(second, 5))


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"ratio": 0.1}, "max_gap is 6.*once in 10 steps"),
        ({"ratio": 0.5, "tilt": 0.8, "max_gap": 6}, "max_gap is 6.*once in 10 steps"),
        ({"ratio": 0.8, "tilt": 0.6}, "tilt of at most 0.4"),
        ({"ratio": 0.2, "tilt": 0.5}, "tilt of at most 0.4"),
        ({"resets": "12 x"}, "resets is '12 x'"),
        ({"resets": "12 28"}, "below of=28"),
    ],
)
def test_knobs_that_cannot_be(knobs, says):
    with pytest.raises(KnobError, match=says):
        RegionAdaptive(**knobs)


def test_cautions():
    pipe = FAMILIES["sd3"].build()
    said = " ".join(RegionAdaptive().cautions(pipe, 8))
    assert "fewer steps" in said and "8 steps" in said
    assert not RegionAdaptive(ratio=1.0).cautions(pipe, 8)


def test_presets_hold_what_was_published():
    for model, resets, high in (
        ("stabilityai/stable-diffusion-3-medium-diffusers", "12 20", 0.3),
        ("Alpha-VLLM/Lumina-Image-2.0", "12 22", 1.0),
    ):
        recipe = presets(model)["region-adaptive-published"]
        (made,) = recipe.accelerators
        assert (made.focus, made.resets, made.high, made.ratio) == ("published", resets, high, 0.5)
        assert "not measured here" in recipe.about
        counts = made.counts(made.of, 4096)
        assert [step for step, count in enumerate(counts) if count == 4096][4:] == [int(r) for r in resets.split()]
