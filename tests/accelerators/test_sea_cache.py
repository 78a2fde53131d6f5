"""diffusers' SeaCache on pipelines that never heard of it: it gets steps and latents, and starts every run anew."""

import pytest
import torch
from deadheat.accelerators import ABCache, SeaCache, attached
from deadheat.pipelines import Cancelled, UnsupportedError
from diffusers import DDIMScheduler

from ..families import FAMILIES, executed, leftovers

ON = ["sd3", "flux", "wan", "ltx"]


def count_blocks(family, pipe) -> list[int]:
    """Count how often the first block's inside really runs."""
    network = family.denoiser(pipe)
    blocks = getattr(network, "transformer_blocks", None) or network.blocks
    seen: list[int] = []
    layer = next(layer for layer in blocks[0].modules() if isinstance(layer, torch.nn.Linear))
    layer.register_forward_hook(lambda *_: seen.append(1))
    return seen


@pytest.mark.parametrize("on", ON)
def test_blocks_are_skipped_two_in_a_row(on: str):
    """With a limit that nothing reaches, the rules alone decide: warm-up, two skips, one run, the last step."""
    family = FAMILIES[on]
    pipe = family.build()
    blocks = count_blocks(family, pipe)
    with executed(family, pipe) as seen, attached(pipe, SeaCache(threshold=5.0, warmup=2, most=2)) as session:
        family.call(pipe, 9)
    report = session.report()
    assert [step.action for step in report.steps] == ["computed"] * 2 + (["partial"] * 2 + ["computed"]) * 2 + [
        "computed"
    ]
    assert len(blocks) == 5 * (seen.calls // 9)
    assert report.calls == seen.samples == report.asked
    assert report.cache_bytes > 0


@pytest.mark.parametrize("on", ON)
def test_a_tiny_threshold_computes_everything(on: str):
    family = FAMILIES[on]
    pipe = family.build()
    plain = family.call(pipe, 5)
    with attached(pipe, SeaCache(threshold=1e-9)) as session:
        assert torch.allclose(plain, family.call(pipe, 5), atol=1e-5)
    assert session.report().count("partial") == 0


def test_threshold_0_touches_nothing():
    family = FAMILIES["wan"]
    pipe = family.build()
    before = leftovers(pipe)
    with attached(pipe, SeaCache(threshold=0)):
        registries = [vars(m).get("_diffusers_hook") for m in family.denoiser(pipe).modules()]
        assert not any(r.hooks for r in registries if r is not None)
    assert leftovers(pipe) == before


def test_a_run_starts_from_nothing():
    family = FAMILIES["flux"]
    pipe = family.build()
    cache = SeaCache(threshold=5.0, warmup=1)

    def stop(run, latents):
        if len(run.steps) == 3:
            raise Cancelled("stop")

    with attached(pipe, cache):
        fresh = family.call(pipe, 5)
    with attached(pipe, cache) as session:
        with session.stage.watch(stop), pytest.raises(Cancelled):
            family.call(pipe, 5, seed=1)
        assert torch.equal(fresh, family.call(pipe, 5))


def test_another_size_starts_anew():
    family = FAMILIES["sd3"]
    pipe = family.build()
    cache = SeaCache(threshold=5.0, warmup=1)
    with attached(pipe, cache):
        family.call(pipe, 4)
        large = family.call(pipe, 4, height=96, width=96)
    with attached(pipe, cache):
        assert torch.equal(large, family.call(pipe, 4, height=96, width=96))


def test_steps_that_an_outer_cache_skips_are_no_error():
    family = FAMILIES["sd3"]
    pipe = family.build()
    with (
        executed(family, pipe) as seen,
        attached(pipe, ABCache(every=2, warmup=2), SeaCache(threshold=5.0)) as session,
    ):
        assert torch.isfinite(family.call(pipe, 8)).all()
    assert session.report().calls == seen.samples


def test_the_scheduler_must_be_one_of_flow_matching():
    pipe = FAMILIES["sd3"].build()
    pipe.register_modules(scheduler=DDIMScheduler())
    with pytest.raises(UnsupportedError, match="flow matching"), attached(pipe, SeaCache()):
        pass


def test_of_two_denoisers_only_the_one_that_runs_is_reported():
    family = FAMILIES["wan"]
    pipe = family.build()
    pipe.register_modules(transformer_2=FAMILIES["wan"].build().transformer)
    pipe.register_to_config(boundary_ratio=0.8)
    with attached(pipe, SeaCache(threshold=1e-9)) as session:
        family.call(pipe, 6)
    assert session.report().count("partial") == 0
