"""diffusers' First Block Cache, mended: SD3 works, a run starts from nothing, branches do not mix, no leftovers."""

import pytest
import torch
from deadheat.accelerators import FirstBlockCache, SeaCache, attached
from deadheat.pipelines import Cancelled

from ..families import FAMILIES, executed, leftovers


def inside(block):
    """Return a layer of a block that runs only when the block really runs."""
    return next(layer for layer in block.modules() if isinstance(layer, torch.nn.Linear))


ON = ["pixart", "sd3", "flux", "wan", "ltx"]


@pytest.mark.parametrize("on", ON)
def test_the_other_blocks_are_skipped(on: str):
    family = FAMILIES[on]
    pipe = family.build()
    network = family.denoiser(pipe)
    blocks = getattr(network, "transformer_blocks", None) or network.blocks
    ran = {0: 0, 1: 0}
    for nth in ran:
        inside(blocks[nth]).register_forward_hook(lambda *_, nth=nth: ran.__setitem__(nth, ran[nth] + 1))
    with executed(family, pipe) as seen, attached(pipe, FirstBlockCache(threshold=2.0)) as session:
        family.call(pipe, 6)
    report = session.report()
    assert ran[0] == seen.calls
    assert ran[1] < ran[0]
    assert report.calls == seen.samples == report.asked
    assert report.count("partial") >= 1
    assert report.cache_bytes > 0


@pytest.mark.parametrize("on", ON)
def test_what_fits_can_be_asked_while_it_runs(on: str):
    """As another visitor of a page does: the question leaves the hooks of the run where they are."""
    family = FAMILIES[on]
    pipe = family.build()
    blocks = next(m for m in family.denoiser(pipe).modules() if isinstance(m, torch.nn.ModuleList))
    answers = []

    def ask(*_):
        answers.extend(cache.supports(pipe) for cache in (FirstBlockCache, SeaCache))

    partial, made = [], []
    for curious in (False, True):
        with attached(pipe, FirstBlockCache(threshold=2.0)) as session:
            hook = inside(blocks[0]).register_forward_hook(ask) if curious else None
            made.append(family.call(pipe, 6))
            if hook:
                hook.remove()
        partial.append(session.report().count("partial"))
    assert torch.equal(*made) and partial[0] == partial[1] >= 1
    assert answers[::2] == [None] * (len(answers) // 2) and answers


@pytest.mark.parametrize("on", ON)
def test_a_tiny_threshold_computes_everything(on: str):
    family = FAMILIES[on]
    pipe = family.build()
    plain = family.call(pipe, 5)
    with attached(pipe, FirstBlockCache(threshold=1e-9)) as session:
        assert torch.allclose(plain, family.call(pipe, 5), atol=1e-5)
    assert session.report().count("partial") == 0
    assert "nothing was skipped" in session.report().warnings[0]


@pytest.mark.parametrize("on", ON)
def test_threshold_0_touches_nothing(on: str):
    family = FAMILIES[on]
    pipe = family.build()
    before = leftovers(pipe)
    with attached(pipe, FirstBlockCache(threshold=0)):
        registries = [vars(m).get("_diffusers_hook") for m in family.denoiser(pipe).modules()]
        assert not any(r.hooks for r in registries if r is not None)
    assert leftovers(pipe) == before


@pytest.mark.parametrize("on", ON)
def test_a_run_starts_from_nothing(on: str):
    """Left alone, diffusers resets its state at the end of a run that succeeds, and only there."""
    family = FAMILIES[on]
    pipe = family.build()

    def stop(run, latents):
        if len(run.steps) == 2:
            raise Cancelled("stop")

    with attached(pipe, FirstBlockCache(threshold=2.0)):
        fresh = family.call(pipe, 5)
    with attached(pipe, FirstBlockCache(threshold=2.0)) as session:
        with session.stage.watch(stop), pytest.raises(Cancelled):
            family.call(pipe, 5, seed=1, prompt="a blue ball")
        assert torch.equal(fresh, family.call(pipe, 5))


@pytest.mark.parametrize("on", ["flux", "wan"])
def test_branches_are_apart(on: str):
    """With a threshold that nothing exceeds, the first step alone decides: each branch keeps its own residual."""
    family = FAMILIES[on]
    pipe = family.build()
    head, tail = [], []
    network = family.denoiser(pipe)
    blocks = getattr(network, "transformer_blocks", None) or network.blocks
    inside(blocks[0]).register_forward_hook(lambda *_: head.append(1))
    inside(blocks[1]).register_forward_hook(lambda *_: tail.append(1))
    with attached(pipe, FirstBlockCache(threshold=2.0)) as session:
        family.call(pipe, 4)
    first = session.report().steps[0]
    assert first.action == "computed"
    assert first.calls == 2
    assert len(tail) >= 2  # both branches ran whole once


def test_another_size_starts_anew():
    family = FAMILIES["sd3"]
    pipe = family.build()
    with attached(pipe, FirstBlockCache(threshold=2.0)):
        family.call(pipe, 4)
        large = family.call(pipe, 4, height=96, width=96)
    with attached(pipe, FirstBlockCache(threshold=2.0)):
        assert torch.equal(large, family.call(pipe, 4, height=96, width=96))
