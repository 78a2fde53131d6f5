"""The control is bit-identical to asking the pipeline for fewer steps."""

import pytest
import torch
from deadheat.accelerators import FewerSteps, attached
from deadheat.pipelines import UnsupportedError
from diffusers import StableDiffusionImg2ImgPipeline

from ..families import FAMILIES, TinyFamily, executed


@pytest.mark.parametrize("fewer", [1, 3])
def test_it_is_the_plain_run(family: TinyFamily, fewer: int):
    pipe = family.build()
    plain = family.call(pipe, fewer)
    with executed(family, pipe) as seen, attached(pipe, FewerSteps(steps=fewer)) as session:
        assert torch.equal(plain, family.call(pipe, 7))
    assert seen.samples == session.report().calls == session.report().asked == family.samples(fewer)
    assert not session.report().warnings


@pytest.mark.parametrize("on", ["sd15", "flux"])
@pytest.mark.parametrize("steps", [4, 5, 1000])
def test_not_fewer_is_idle(on: str, steps: int):
    family = FAMILIES[on]
    pipe = family.build()
    plain = family.call(pipe, 4)
    with attached(pipe, FewerSteps(steps=steps)) as session:
        assert torch.equal(plain, family.call(pipe, 4))
    assert f"fewer-steps:steps={steps} is not fewer than 4" in session.report().warnings[0]


def test_a_grid_of_ones_own_is_thinned():
    family = FAMILIES["flux"]
    pipe = family.build()
    grid = [1.0, 0.9, 0.7, 0.4, 0.1]
    plain = family.call(pipe, sigmas=[1.0, 0.7, 0.1])
    with attached(pipe, FewerSteps(steps=3)):
        assert torch.equal(plain, family.call(pipe, sigmas=grid))


def test_image_to_image_is_refused():
    pipe = StableDiffusionImg2ImgPipeline.from_pipe(FAMILIES["sd15"].build())
    with pytest.raises(UnsupportedError, match="image to image"), attached(pipe, FewerSteps()):
        pass
