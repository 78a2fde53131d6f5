"""What every accelerator owes every pipeline: neutral changes nothing, detached leaves nothing, and the count is true.

An accelerator joins by one line in `BUSY`; a family by its entry in tests/families.py.
"""

import dataclasses
import gc
import weakref
from functools import cache, partial
from importlib.util import find_spec

import pytest
import torch
from deadheat.accelerators import ACCELERATORS, ABCache, FirstBlockCache, GuidanceInterval, attached, check, knobs
from deadheat.pipelines import Cancelled, IncompatibleError, KnobError, UnsupportedError, denoisers
from diffusers import FlowMatchHeunDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler

from ..adapters import saved, shelf
from ..families import FAMILIES, TinyFamily, executed, leftovers

STEPS = 6
BUSY = {  # knobs with which the accelerator saves something in six steps of noise
    "ab-cache": {"every": 2, "warmup": 2},
    "lemica": {"mask": "0-1 3 5", "of": 6},
    "sada": {"late": 0.0, "start": 0.0, "stop": 1.0},
    "teacache": {"threshold": 10.0, "warmup": 2, "most": 2},
    "magcache": {"threshold": 2.0, "retention": 0.3, "most": 2},
    "fitted-cache": {"mask": "0-1 3 5", "of": 6, "weights": "2: -1.1 2.1; 4: 0.9"},
    "easy-cache": {"threshold": 2.0, "warmup": 2, "most": 2},
    "layer-cache": {"every": 2, "warmup": 1},
    "taylor-seer": {"every": 2, "warmup": 2},
    "pyramid-attention-broadcast": {"start": 0.0},
    "faster-cache": {"start": 0.0, "uncond_every": 2},
    "db-cache": {"threshold": 0.9, "warmup": 1},
    "sea-cache": {"threshold": 5.0, "warmup": 2},
    "first-block-cache": {"threshold": 2.0},
    "token-carving": {"keep": 0.0, "mass": 0.0, "block": 1, "neighbours": False, "warmup": 0.0},
    "token-merging": {},
    "background-shield": {},
    "sparse-cross-attention": {"words": "cube"},
    "clockwork": {"clock": 2},
    "deepcache": {"every": 2},
    "encoder-propagation": {"every": 2},
    "region-adaptive": {"ratio": 0.5, "warmup": 2, "resets": ""},
    "sparse-edit": {"every": 2, "warmup": 2},
    "fewer-steps": {"steps": 3},
    "guidance-adapter": {},
    "guidance-interval": {"start": 0.3, "stop": 0.7},
    "guidance-cutoff": {"after": 0.5},
    "adaptive-guidance": {"threshold": 0.0},
    "guidance-cache": {"every": 3, "start": 0.0},
    "t-gate": {"gate": 0.5},
    "bottleneck": {},
    "progressive-resolution": {"until": "0.5"},
}
REMEMBERS_NOTHING = {
    "fewer-steps",
    "guidance-adapter",
    "guidance-interval",
    "guidance-cutoff",
}
HOOKED = {  # diffusers' own hooks keep what they hold until they are taken off
    "first-block-cache",
    "sea-cache",
}
NOT_UNET = set(FAMILIES) - {"sd15", "sdxl"}
UNSUPPORTED = {  # everything else must work
    "teacache": {"sd15", "sdxl", "auraflow"},
    "magcache": {"sd15", "sdxl", "auraflow"},
    "clockwork": NOT_UNET,
    "deepcache": NOT_UNET,
    "encoder-propagation": NOT_UNET,
    "first-block-cache": {"sd15", "sdxl", "lumina2", "auraflow"},
    "db-cache": {"sd15", "sdxl", "auraflow"} if find_spec("cache_dit") else set(FAMILIES),
    "sea-cache": {"sd15", "sdxl", "pixart", "lumina2", "auraflow"},
    "region-adaptive": {"sd15", "sdxl", "auraflow"},
    "guidance-adapter": {"auraflow"},
    "sparse-edit": {"auraflow"},
    "guidance-interval": {"auraflow"},
    "sada": {"wan"},  # UniPC
    "guidance-cutoff": {"auraflow"},
    "adaptive-guidance": {"auraflow"},
    "guidance-cache": {"auraflow"},
    "t-gate": {"sd3", "flux", "qwen", "lumina2", "auraflow"},
    "token-carving": {"auraflow"},
    "token-merging": {"flux", "qwen", "lumina2", "wan", "ltx", "auraflow"},
    "background-shield": {"sd3", "flux", "qwen", "lumina2", "wan", "ltx", "auraflow"},
    "sparse-cross-attention": {"sd3", "flux", "qwen", "lumina2", "auraflow"},
    "bottleneck": {"auraflow"},
    "progressive-resolution": {"auraflow"},
}


@pytest.fixture(scope="module", autouse=True)
def shipped_adapters(tmp_path_factory):
    """A guidance adapter ships for every tiny pipeline that can have one."""
    assets = tmp_path_factory.mktemp("assets")
    for name in set(FAMILIES) - UNSUPPORTED["guidance-adapter"]:
        pipe = FAMILIES[name].build()
        saved(pipe, shelf(assets, pipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deadheat.pipelines.adapter_files.ASSETS", assets)
        yield


def pairs(works: bool):
    every = [(a, f) for a in ACCELERATORS for f in FAMILIES if (f not in UNSUPPORTED.get(a, ())) is works]
    return pytest.mark.parametrize(("name", "on"), every, ids=["-on-".join(pair) for pair in every])


def busy(name: str):
    return ACCELERATORS[name](**BUSY[name])


def neutral(name: str):
    return ACCELERATORS[name](**ACCELERATORS[name].neutral)


@cache
def worn(on: str, scheduler: type | None = None):
    """A pipeline that many tests in a row use: whatever was in it before must have come off without a trace."""
    return FAMILIES[on].build(scheduler and scheduler())


@pytest.fixture
def pipe(on: str):
    return worn(on)


@cache
def plain_latents(on: str) -> torch.Tensor:
    """What the untouched pipeline draws."""
    return FAMILIES[on].call(FAMILIES[on].build(), STEPS)


@cache
def busy_latents(name: str, on: str) -> torch.Tensor:
    """What the busy accelerator draws in a block of its own."""
    with attached(worn(on), busy(name)):
        return FAMILIES[on].call(worn(on), STEPS)


@pytest.fixture
def tiny(on: str) -> TinyFamily:
    return FAMILIES[on]


def test_every_accelerator_is_here():
    assert set(BUSY) == set(ACCELERATORS)


@pairs(works=False)
def test_unsupported(name: str, on: str):
    pipe = worn(on)
    why = ACCELERATORS[name].supports(pipe)
    assert why
    assert len(why.split()) > 4
    before = leftovers(pipe)
    with pytest.raises(UnsupportedError) as error, attached(pipe, busy(name)):
        pass
    assert name in str(error.value)
    assert type(pipe).__name__ in str(error.value)
    assert leftovers(pipe) == before


@pairs(works=True)
def test_neutral_is_bit_identical(name: str, on: str, pipe, tiny: TinyFamily):
    assert ACCELERATORS[name].supports(pipe) is None
    with attached(pipe, neutral(name)) as session:
        assert torch.equal(plain_latents(on), tiny.call(pipe, STEPS))
    report = session.report()
    assert report.calls == report.asked == tiny.samples(STEPS)
    assert any(warning.startswith("nothing was skipped") for warning in report.warnings)


@pairs(works=True)
def test_busy_saves_and_leaves_nothing(name: str, on: str, pipe, tiny: TinyFamily):
    plain, before = plain_latents(on), leftovers(pipe)
    with attached(pipe, busy(name)) as session:
        other = tiny.call(pipe, STEPS, seed=1)
        after = tiny.call(pipe, STEPS)
    assert leftovers(pipe) == before
    assert torch.equal(plain, tiny.call(pipe, STEPS))
    assert not torch.equal(plain, after)
    assert not torch.equal(other, after)
    assert torch.isfinite(after).all()
    assert not any(warning.startswith("nothing was skipped") for warning in session.report().warnings)
    assert torch.equal(after, busy_latents(name, on))  # the picture before it left no trace


@pairs(works=True)
def test_a_cancelled_run_leaves_nothing(name: str, on: str, pipe, tiny: TinyFamily):
    before = leftovers(pipe)

    def stop(run, latents):
        if len(run.steps) == 2:
            raise Cancelled("stop")

    whole = busy_latents(name, on)
    with attached(pipe, busy(name)) as session:
        with session.stage.watch(stop), pytest.raises(Cancelled):
            tiny.call(pipe, STEPS, seed=1)
        assert torch.equal(whole, tiny.call(pipe, STEPS))  # in the same block: the cancelled run is forgotten
    with pytest.raises(Cancelled), attached(pipe, busy(name)) as session, session.stage.watch(stop):
        tiny.call(pipe, STEPS)
    assert leftovers(pipe) == before


@pairs(works=True)
def test_an_error_in_the_denoiser_leaves_nothing(name: str, on: str, pipe, tiny: TinyFamily):
    before = leftovers(pipe)
    layer = tiny.denoiser(pipe).get_submodule(tiny.entry)
    seen = []

    def fail(*_):
        seen.append(1)
        if len(seen) == 2:
            raise MemoryError("no room")

    handle = layer.register_forward_hook(fail)
    with pytest.raises(MemoryError), attached(pipe, busy(name)):
        tiny.call(pipe, STEPS)
    handle.remove()
    assert leftovers(pipe) == before


@pairs(works=True)
@pytest.mark.parametrize("how", [(True, "prompts"), (True, "copies"), (False, "one"), (False, "copies")], ids=str)
def test_what_is_counted_really_ran(name: str, on: str, how: tuple[bool, str], tiny: TinyFamily):
    pipe, (guided, many) = worn(on), how
    options = {} if guided else dict(tiny.unguided)
    batch = 1 if many == "one" else 2
    if many == "prompts":
        options["prompt"] = ["a red cube", "a blue ball"]
    with executed(tiny, pipe) as seen, attached(pipe, busy(name)) as session:
        out = tiny.call(pipe, STEPS, copies=2 if many == "copies" else 1, **options)
    assert len(out) == batch
    assert torch.isfinite(out).all()
    report = session.report()
    steps = 3 if name == "fewer-steps" else STEPS
    assert report.calls == seen.samples
    assert report.asked == tiny.samples(steps, guided, batch)
    assert len(report.steps) == steps
    assert sum(step.calls for step in report.steps) == report.calls
    if name in ("ab-cache", "lemica", "fitted-cache"):
        assert report.calls == tiny.samples(len(session.accelerators[0].computed(STEPS)), guided, batch)
    if name == "guidance-interval" and guided:
        assert report.calls == report.asked - 3 * batch  # steps 2, 3 and 4 are inside


@pairs(works=True)
def test_nested_blocks(name: str, on: str, pipe, tiny: TinyFamily):
    before = leftovers(pipe)
    with attached(pipe, neutral("guidance-interval" if name == "ab-cache" and on != "auraflow" else "ab-cache")):
        within = leftovers(pipe)
        with attached(pipe, busy(name)) as session:
            nested = tiny.call(pipe, STEPS)
        assert session.report().steps
        assert leftovers(pipe) == within
    assert leftovers(pipe) == before
    assert torch.equal(nested, busy_latents(name, on))


@pairs(works=True)
def test_a_finished_run_holds_no_tensor(name: str, on: str, tiny: TinyFamily):
    pipe, kept = worn(on), []

    def watch(run, latents):
        kept.extend(map(weakref.ref, tensors(run._held)))

    with attached(pipe, busy(name)) as session, session.stage.watch(watch):
        tiny.call(pipe, STEPS)
        if name not in REMEMBERS_NOTHING:
            assert kept
            assert session.report().cache_bytes > 0
        if name not in HOOKED:
            assert not any(ref() is not None for ref in kept)
    gc.collect()
    assert not any(ref() is not None for ref in kept)
    assert not session.stage.runs[-1]._held


def tensors(container):
    if isinstance(container, torch.Tensor):
        yield container
    elif isinstance(container, dict):
        for value in container.values():
            yield from tensors(value)
    elif isinstance(container, list | tuple) or hasattr(container, "maxlen"):
        for value in container:
            yield from tensors(value)


# -------------------------------------------------------------------------------------------- recipes and schedulers


@pytest.mark.parametrize("on", [name for name in FAMILIES if name != "auraflow"])
@pytest.mark.parametrize("order", [1, -1], ids=["cache-outside", "interval-outside"])
def test_two_in_both_orders(on: str, order: int, pipe, tiny: TinyFamily):
    recipe = [ABCache(every=2, warmup=2), GuidanceInterval(start=0.0, stop=0.5)][::order]
    before = leftovers(pipe)
    with executed(tiny, pipe) as seen, attached(pipe, *recipe) as session:
        out = tiny.call(pipe, 10)
    report = session.report()
    assert leftovers(pipe) == before
    assert torch.isfinite(out).all()
    assert report.calls == seen.samples
    assert report.asked == 20
    assert report.calls < 2 * len(recipe[::order][0].computed(10))
    assert not any("nothing was skipped" in warning or "did nothing" in warning for warning in report.warnings)
    with attached(pipe, *recipe):
        assert torch.equal(out, tiny.call(pipe, 10))


REPEATING = [
    ("sd15", HeunDiscreteScheduler, 2 * STEPS - 1),
    ("sdxl", HeunDiscreteScheduler, 2 * STEPS - 1),
    ("sd3", FlowMatchHeunDiscreteScheduler, 2 * STEPS - 1),
    ("sd15", partial(PNDMScheduler, skip_prk_steps=True), STEPS + 1),
]


@cache
def plain_and_counted(on: str, scheduler: type):
    """What the untouched pipeline draws with another scheduler, and what really ran."""
    pipe = FAMILIES[on].build(scheduler())
    with executed(FAMILIES[on], pipe) as seen:
        return FAMILIES[on].call(pipe, STEPS), seen


@pytest.mark.parametrize(("on", "scheduler", "steps"), REPEATING, ids=lambda x: getattr(x, "__name__", str(x)))
@pytest.mark.parametrize("name", ACCELERATORS)
def test_schedulers_that_repeat_timesteps(name: str, on: str, scheduler: type, steps: int | None, tiny: TinyFamily):
    if on in UNSUPPORTED.get(name, ()):
        return
    pipe = worn(on, scheduler)
    if why := ACCELERATORS[name].supports(pipe):  # it knows its schedulers, and this is none of them
        assert type(pipe.scheduler).__name__ in why
        with pytest.raises(UnsupportedError, match=type(pipe.scheduler).__name__), attached(pipe, busy(name)):
            pass
        return
    plain, seen = plain_and_counted(on, scheduler)
    before = leftovers(pipe)
    with attached(pipe, neutral(name)) as session:
        assert torch.equal(plain, tiny.call(pipe, STEPS))
    assert session.report().calls == seen.samples
    assert len(session.report().steps) == (steps or seen.calls)
    assert [step.index for step in session.report().steps] == list(range(seen.calls))
    with executed(tiny, pipe) as now, attached(pipe, busy(name)) as session:
        out = tiny.call(pipe, STEPS)
    assert torch.isfinite(out).all()
    assert session.report().calls == now.samples <= seen.samples
    assert leftovers(pipe) == before
    assert torch.equal(plain, tiny.call(pipe, STEPS))


# ----------------------------------------------------------------------------------------------------- knobs and seats

NUMBERS = [
    (name, knob, default, spec)
    for name, cls in ACCELERATORS.items()
    for knob, (default, spec) in knobs(cls).items()
    if spec.low is not None
]
WORDS = [
    (name, knob, spec) for name, cls in ACCELERATORS.items() for knob, (_, spec) in knobs(cls).items() if spec.choices
]


@pytest.mark.parametrize(("name", "knob", "default", "spec"), NUMBERS, ids=lambda x: x if isinstance(x, str) else "")
def test_numbers_are_checked(name: str, knob: str, default, spec):
    cls = ACCELERATORS[name]
    for value in (spec.low - 1, spec.high + 1, float("inf"), float("nan")):
        with pytest.raises(KnobError) as error:
            cls(**{knob: value})
        assert f"{cls.__name__}.{knob} is {value!r}" in str(error.value)
    with pytest.raises(KnobError, match=f"not between {spec.low} and {spec.high}"):
        cls(**{knob: spec.high + 1})
    for value in ("3", None, [3], True):
        with pytest.raises(KnobError, match=f"{knob} is .*not a (whole )?number"):
            cls(**{knob: value})
    if isinstance(default, int):
        with pytest.raises(KnobError, match="not a whole number"):
            cls(**{knob: default + 0.5})
        assert isinstance(getattr(cls(**{knob: float(default)}), knob), int)
    assert spec.low <= default <= spec.high
    assert spec.what


@pytest.mark.parametrize(("name", "knob", "spec"), WORDS, ids=lambda x: x if isinstance(x, str) else "")
def test_words_are_checked(name: str, knob: str, spec):
    almost = spec.choices[0][:-1]
    with pytest.raises(KnobError, match=f"did you mean {spec.choices[0]}"):
        ACCELERATORS[name](**{knob: almost})
    with pytest.raises(KnobError, match="not one of"):
        ACCELERATORS[name](**{knob: 3})


def test_switches_are_checked():
    with pytest.raises(KnobError, match=r"ABCache\.feed_back is 1, not true or false"):
        ABCache(feed_back=1)


def test_names():
    assert ACCELERATORS["ABCache"] is ACCELERATORS["ab-cache"] is ABCache
    with pytest.raises(KnobError, match="did you mean ab-cache"):
        ACCELERATORS["ab-cash"]


@pytest.mark.parametrize("name", ACCELERATORS)
def test_it_is_a_value(name: str):
    cls = ACCELERATORS[name]
    assert cls.name == name
    assert cls.title
    assert cls.paper
    assert busy(name) == busy(name)
    assert hash(busy(name)) == hash(busy(name))
    assert str(cls()) == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), next(iter(knobs(cls))), 1)


@pytest.mark.parametrize("name", ACCELERATORS)
def test_one_seat_holds_one(name: str):
    works = [on for on in FAMILIES if on not in UNSUPPORTED.get(name, ())]
    if not works:  # its package is not installed
        return
    pipe = FAMILIES[works[-1]].build()
    before = leftovers(pipe)
    with pytest.raises(IncompatibleError) as error, attached(pipe, busy(name), neutral(name)):
        pass
    assert str(busy(name)) in str(error.value)
    assert str(neutral(name)) in str(error.value)
    assert leftovers(pipe) == before


@pytest.mark.parametrize("on", ["sd3", "sd15"])
def test_different_seats_go_together(on: str, pipe, tiny: TinyFamily):
    works = [name for name in BUSY if on not in UNSUPPORTED.get(name, ())]
    seats = {ACCELERATORS[name].seat: name for name in works}  # one for each
    recipe = [busy(name) for name in seats.values() if not ACCELERATORS[name].excludes & seats.keys()]
    assert len(recipe) > 2
    check(recipe, pipe)
    before = leftovers(pipe)
    with attached(pipe, *recipe):
        assert torch.isfinite(tiny.call(pipe, STEPS)).all()
    assert leftovers(pipe) == before


@pytest.mark.parametrize("on", ["sd15"])
def test_nothing_ran(on: str, pipe):
    with attached(pipe, ABCache()) as session, pytest.raises(UnsupportedError, match="nothing ran yet"):
        session.report()


@pytest.mark.parametrize("on", ["pixart"])
def test_one_idle_of_two_is_named(on: str, pipe, tiny: TinyFamily):
    with attached(pipe, ABCache(every=2, warmup=2), FirstBlockCache(threshold=0.0)) as session:
        tiny.call(pipe, STEPS)
    (warning,) = [said for said in session.report().warnings if "did nothing" in said]
    assert warning.startswith("first-block-cache did nothing")


def test_a_denoiser_is_needed():
    with pytest.raises(UnsupportedError, match="neither a transformer nor a unet"):
        denoisers(object())
