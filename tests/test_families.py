"""The tiny pipelines themselves: what the other tests take for granted."""

import pytest
import torch
from diffusers import HeunDiscreteScheduler

from .families import FAMILIES, TinyFamily, executed, leftovers


def test_a_run_can_be_repeated(family: TinyFamily):
    pipe = family.build()
    first = family.call(pipe)
    assert torch.isfinite(first).all()
    assert first.std() > 0.01
    assert torch.equal(first, family.call(pipe))
    assert torch.equal(first, family.call(family.build()))
    assert not torch.equal(first, family.call(pipe, seed=1))


def test_built_anew_it_is_the_same(family: TinyFamily):
    pipe = family.make()
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(family.call(pipe), family.call(family.build()))


def test_every_sample_is_counted(family: TinyFamily):
    pipe = family.build()
    for guided, options in ((True, {}), (False, family.unguided)):
        with executed(family, pipe) as seen:
            family.call(pipe, steps=3, **options)
        assert seen.samples == family.samples(3, guided)
        assert seen.calls == (6 if guided and family.guidance == "separate" else 3)


def test_batches(family: TinyFamily):
    pipe = family.build()
    with executed(family, pipe) as seen:
        out = family.call(pipe, steps=2, prompt=["a red cube", "a blue ball"])
    assert out.shape[0] == 2
    assert seen.samples == family.samples(2, batch=2)
    assert family.call(pipe, steps=2, copies=2).shape[0] == 2


def test_a_plain_run_leaves_nothing(family: TinyFamily):
    pipe = family.build()
    before = leftovers(pipe)
    with executed(family, pipe):
        assert leftovers(pipe) != before
        family.call(pipe)
    assert leftovers(pipe) == before


def test_copies_are_independent():
    family = FAMILIES["sd15"]
    ours, other = family.build(), family.build()
    with torch.no_grad():
        ours.unet.conv_in.weight.zero_()
    assert not torch.equal(family.call(ours), family.call(other))


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_another_scheduler(name: str):
    family = FAMILIES[name]
    pipe = family.build(scheduler=HeunDiscreteScheduler())
    with executed(family, pipe) as seen:
        family.call(pipe, steps=4)
    assert seen.calls == 2 * 4 - 1


def test_pictures(family: TinyFamily):
    pictures = family.call(family.build(), steps=2, output_type="pt")
    assert pictures.shape[-3] == 3
    assert 0 <= pictures.min() <= pictures.max() <= 1
