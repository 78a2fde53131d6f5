"""A cache that will not pay says why, and one that does nothing says nothing."""

import pytest
from deadheat.accelerators import (
    ACCELERATORS,
    ABCache,
    DeepCache,
    FirstBlockCache,
    LayerCache,
    RegionAdaptive,
    SparseEdit,
    attached,
)
from deadheat.accelerators.worth import stochastic
from deadheat.pipelines import calls_a_step, few_step_model
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    LCMScheduler,
    SASolverScheduler,
)

from ..families import FAMILIES


@pytest.fixture(scope="module")
def sd3():
    return FAMILIES["sd3"].build()


@pytest.mark.parametrize("cls", [ABCache, FirstBlockCache, LayerCache])
def test_few_steps(cls, sd3):
    assert any("8 steps leave little" in said for said in cls().cautions(sd3, 8))
    assert not any("leave little" in said for said in cls().cautions(sd3, 28))
    assert not cls(**cls.neutral).cautions(sd3, 4)


@pytest.mark.parametrize("cls", [LayerCache, DeepCache])
def test_parts_of_a_small_network(cls, monkeypatch):
    pipe = FAMILIES["sd15"].build()
    assert any("between its layers" in said for said in cls().cautions(pipe, 28))
    assert not cls(**cls.neutral).cautions(pipe, 28)
    assert not ABCache().cautions(pipe, 28)
    monkeypatch.setattr("deadheat.accelerators.worth.SMALL", 1000)
    assert not cls().cautions(pipe, 28)


def test_two_calls_a_step():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build(scheduler=FlowMatchHeunDiscreteScheduler())
    assert calls_a_step(pipe.scheduler) == 2
    with attached(pipe, ABCache(every=2)) as session:
        tiny.call(pipe, 10)
    assert any("asks the network 2 times a step" in said for said in session.report().warnings)


@pytest.mark.parametrize(
    ("name", "distilled"),
    [("black-forest-labs/FLUX.1-schnell", True), ("stabilityai/sdxl-turbo", True), ("me/x-4steps", True),
     ("ByteDance/Hyper-SD", True), ("black-forest-labs/FLUX.1-dev", False), ("pocket-dit", False)],
)  # fmt: skip
def test_distilled_models(name: str, distilled: bool, monkeypatch):
    pipe = FAMILIES["flux"].build()
    pipe.register_to_config(_name_or_path=name)
    assert few_step_model(pipe) is distilled
    assert any("distilled" in said for said in ABCache().cautions(pipe, 20)) is distilled


def test_a_network_that_takes_the_guidance_scale_is_distilled():
    pipe = FAMILIES["sd15"].build()
    assert not few_step_model(pipe)
    pipe.unet.register_to_config(time_cond_proj_dim=64)
    assert few_step_model(pipe)


CACHE_SEATS = {"denoiser output", "block stack", "attention and feed-forward", "deep part of the UNet"}
CACHES = [name for name, cls in ACCELERATORS.items() if cls.seat in CACHE_SEATS] + ["guidance-cache"]
MADE = {
    "lemica": {"mask": "0-1 3 5", "of": 6},
    "fitted-cache": {"mask": "0-1 3 5", "of": 6, "weights": "2: -1.1 2.1; 4: 0.9"},
}
ON = ("sd3", "sd15")


def carrier(name: str, scheduler=None):
    """A tiny pipeline that this cache can work with, or None."""
    for on in ON:
        pipe = FAMILIES[on].build()
        if ACCELERATORS[name].supports(pipe) is None:
            pipe.register_modules(scheduler=scheduler or pipe.scheduler)
            return pipe
    return None


@pytest.mark.parametrize("name", CACHES)
def test_every_cache_speaks_the_same(name: str):
    if (pipe := carrier(name)) is None:
        pytest.skip("its package is not installed")
    cache = ACCELERATORS[name](**MADE.get(name, {}))
    assert any("leave little to skip" in said for said in cache.cautions(pipe, 6))
    pipe.register_to_config(_name_or_path="stabilityai/sdxl-turbo")
    assert any("distilled" in said for said in cache.cautions(pipe, 6))


CONTINUES = {  # a knob with which a cache continues its past, and the value with which it repeats it
    "ab-cache": ("order", 2, 1), "lemica": ("order", 2, 1), "teacache": ("order", 2, 1), "magcache": ("order", 2, 1),
    "clockwork": ("order", 2, 1), "deepcache": ("order", 2, 1), "guidance-cache": ("order", 2, 1),
    "taylor-seer": ("order", 1, 0), "faster-cache": ("weight", 0.5, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTINUES)
@pytest.mark.parametrize(
    "scheduler",
    [
        EulerAncestralDiscreteScheduler(),
        DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
        DDPMScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_fresh_noise_is_not_continued(name: str, scheduler):
    knob, continues, repeats = CONTINUES[name]
    pipe = carrier(name, scheduler)
    noisy, calm = (ACCELERATORS[name](**MADE.get(name, {}), **{knob: value}) for value in (continues, repeats))
    assert any(f"amplifies: use {knob}={repeats:g}" in said for said in noisy.cautions(pipe, 28))
    assert not any("amplifies" in said for said in calm.cautions(pipe, 28))


@pytest.mark.parametrize(("on", "cache"), [("sd3", RegionAdaptive()), ("sd15", SparseEdit())], ids=["region", "edit"])
def test_resting_parts_and_fresh_noise(on: str, cache):
    pipe = FAMILIES[on].build()
    assert not any("adds noise" in said for said in cache.cautions(pipe, 28))
    pipe.register_modules(scheduler=DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"))
    assert any("adds noise" in said for said in cache.cautions(pipe, 28))


@pytest.mark.parametrize(
    ("scheduler", "fresh"),
    [(FlowMatchEulerDiscreteScheduler(), False), (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), True),
     (DDIMScheduler(), False), (LCMScheduler(), True), (SASolverScheduler(), True)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_which_schedulers_add_noise(scheduler, fresh: bool):
    assert stochastic(scheduler) is fresh


def test_predictions_that_feed_on_themselves(sd3):
    said = {
        (order, every): ABCache(order=order, every=every, feed_back=True).cautions(sd3, 28)
        for order in (2, 3) for every in (1, 2, 3)
    }  # fmt: skip
    assert not said[2, 2] and not said[2, 1] and not said[3, 1]
    assert any("use every=2" in sentence for sentence in said[2, 3])
    assert any("order 3 multiplies errors even at every=2" in sentence for sentence in said[3, 2])
