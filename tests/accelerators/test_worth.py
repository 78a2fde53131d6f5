"""A cache that will not pay says why, and one that does nothing says nothing."""

import pytest
from deadheat.accelerators import ACCELERATORS, ABCache, FirstBlockCache, LayerCache, attached
from deadheat.pipelines import calls_a_step, few_step_model
from diffusers import FlowMatchHeunDiscreteScheduler

from ..families import FAMILIES


@pytest.fixture(scope="module")
def sd3():
    return FAMILIES["sd3"].build()


@pytest.mark.parametrize("cls", [ABCache, FirstBlockCache, LayerCache])
def test_few_steps(cls, sd3):
    assert any("8 steps leave little" in said for said in cls().cautions(sd3, 8))
    assert not cls().cautions(sd3, 28)
    assert not cls(**cls.neutral).cautions(sd3, 4)


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


def test_every_cache_speaks_the_same():
    pipes = {on: FAMILIES[on].build() for on in ("sd3", "sd15")}
    silent = {"guidance-interval", "guidance-cutoff", "adaptive-guidance", "t-gate", "fewer-steps"}
    for name, cls in ACCELERATORS.items():
        pipe = next((pipe for pipe in pipes.values() if cls.supports(pipe) is None), None)
        if pipe is None or name in silent or "cache" not in name:
            continue
        knobs = {"mask": "0-1 3 5", "of": 6} if name in ("lemica", "fitted-cache") else {}
        assert any("leave little to skip" in said for said in cls(**knobs).cautions(pipe, 6)), name
