"""MagCache's ratios are what the blocks' residual does, and the recipe made of them runs."""

import pytest
import torch
from deadheat.accelerators import MagCache
from deadheat.measure import calibrate_magnitudes, magnitude_ratios
from deadheat.pipelines import UnsupportedError, around_stack, call_arguments, staged

from ..families import FAMILIES, leftovers


class Recorder:
    """Keeps every residual."""

    def __init__(self) -> None:
        self.found: dict = {}

    def instead(self, call, hidden):
        return None

    def learn(self, call, value):
        self.found[call.step, call.branches] = value


@pytest.mark.parametrize("on", ["sd3", "flux", "lumina2"])
def test_ratios_by_hand(on: str):
    pipe = FAMILIES[on].build()
    before, recorder = leftovers(pipe), Recorder()
    ratios = magnitude_ratios(pipe, ["a fox", "a cat"], 4, guidance=3.0)
    assert leftovers(pipe) == before
    arguments = call_arguments(pipe, prompt=["a fox", "a cat"], steps=4, guidance=3.0)
    with staged(pipe) as stage, around_stack(stage, lambda link: recorder):
        pipe(**{**arguments, "output_type": "latent"})
    branches = {branch for _, branch in recorder.found}
    by_hand = [1.0]
    for step in range(1, 4):
        sizes = [(recorder.found[step, b].norm(dim=-1), recorder.found[step - 1, b].norm(dim=-1)) for b in branches]
        by_hand.append(float(torch.stack([(now / old).mean() for now, old in sizes]).mean()))
    assert ratios == pytest.approx(by_hand, abs=2e-5)


def test_the_recipe_is_magcache_with_them():
    pipe = FAMILIES["sd3"].build()
    recipe = calibrate_magnitudes(pipe, ["a fox"], steps=5, guidance=3.0)
    (magcache,) = recipe.accelerators
    assert isinstance(magcache, MagCache)
    assert len(magcache.ratios.split()) == 5
    assert "5 steps" in recipe.about
    assert not any("published" in said or "not 5" in said for said in magcache.cautions(pipe, 5))


def test_a_network_without_described_blocks():
    with pytest.raises(UnsupportedError, match="cannot be measured: a UNet"):
        magnitude_ratios(FAMILIES["sd15"].build(), ["a fox"], 4)
