"""The calibrator finds the path that brute force finds, and its probes are what they claim to be."""

import random
from itertools import combinations, pairwise

import pytest
import torch
from deadheat.accelerators import LeMiCa, attached
from deadheat.measure import best_path, calibrate, calibrate_magnitudes, fit_cache, gap_costs, record
from deadheat.measure.fit import growth
from deadheat.pipelines import InputError, call_arguments
from diffusers import FlowMatchHeunDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler

from ..families import FAMILIES, leftovers


@pytest.mark.parametrize("seed", range(60))
def test_the_path_is_the_one_of_brute_force(seed: int):
    rng = random.Random(seed)
    steps = rng.randint(4, 9)
    calls = rng.randint(2, steps)
    values = (lambda: rng.randint(0, 3)) if seed % 2 else rng.random
    costs = {(i, j): float(j > i + 1 and values()) for i in range(steps) for j in range(i + 1, steps)}
    paths = [(0, *middle, steps - 1) for middle in combinations(range(1, steps - 1), calls - 2)]
    best = min(sorted((costs[g] for g in pairwise(path)), reverse=True) for path in paths)
    found = best_path(costs, steps, calls)
    assert len(found) == calls
    assert sorted((costs[g] for g in pairwise(found)), reverse=True) == best


REPEATING = [
    ("sd15", HeunDiscreteScheduler(), "HeunDiscreteScheduler took 11 steps where 6 were asked for"),
    ("sd15", PNDMScheduler(skip_prk_steps=True), "PNDMScheduler took 7 steps where 6 were asked for"),
    ("sd3", FlowMatchHeunDiscreteScheduler(), "FlowMatchHeunDiscreteScheduler took 11 steps where 6 were asked for"),
]


@pytest.mark.parametrize("measure", [gap_costs, record, growth], ids=lambda measure: measure.__name__)
@pytest.mark.parametrize(("on", "scheduler", "says"), REPEATING, ids=["heun", "pndm", "flow-heun"])
def test_steps_that_are_not_those_asked_for_are_refused(on: str, scheduler, says: str, measure):
    pipe = FAMILIES[on].build(scheduler=scheduler)
    before = leftovers(pipe)
    with pytest.raises(InputError, match=f"{says}.*calibrate with a scheduler that steps once"):
        measure(pipe, ["a fox"], 6)
    assert leftovers(pipe) == before


@pytest.mark.parametrize("measure", [calibrate, fit_cache, calibrate_magnitudes])
def test_bad_input_is_named(measure):
    pipe = FAMILIES["sd3"].build()
    with pytest.raises(InputError, match="prompts is one text"):
        measure(pipe, "a fox", steps=6)
    with pytest.raises(InputError, match="no prompt"):
        measure(pipe, [], steps=6)
    with pytest.raises(InputError, match="steps is 1"):
        measure(pipe, ["a fox"], steps=1)


def test_too_few_calls():
    costs = {(i, j): 0.0 for i in range(10) for j in range(i + 1, min(9, i + 3) + 1)}
    with pytest.raises(InputError, match="calls is 3; 10 steps with gaps of at most 3 need 4 to 10"):
        best_path(costs, 10, 3)


@pytest.mark.parametrize(
    ("on", "how"),
    [
        ("sd3", {}),
        ("sd15", {}),
        ("sdxl", {}),
        ("sd3", {"place": "stack"}),
        ("lumina2", {"place": "stack"}),
        ("sd15", {"place": "deep"}),
        ("flux", {"place": "modules"}),
    ],
)
def test_a_gap_costs_what_a_run_with_that_gap_loses(on: str, how: dict):
    pipe = FAMILIES[on].build()
    before = leftovers(pipe)
    costs = gap_costs(pipe, ["a fox", "a cat"], 6, guidance=3.0, longest=3, **how)
    assert leftovers(pipe) == before
    assert all(cost == 0 for (i, j), cost in costs.items() if j == i + 1)
    assert {j - i for i, j in costs} == {1, 2, 3}

    def latents(*accelerators):
        arguments = call_arguments(pipe, prompt=["a fox", "a cat"], steps=6, guidance=3.0)
        with attached(pipe, *accelerators):
            out = pipe(**{**arguments, "output_type": "latent"})
        return (out.images if hasattr(out, "images") else out.frames).float()

    lost = (latents(LeMiCa(mask="0-2 5", of=6, **how)) - latents()).abs().mean()
    assert costs[2, 5] == pytest.approx(float(lost))
    assert torch.isfinite(lost)
    assert lost > 0


def test_the_recipe_runs_as_it_is():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    recipe = calibrate(pipe, ["a fox"], steps=6, calls=4, guidance=3.0, longest=3)
    (lemica,) = recipe.accelerators
    assert len(lemica.computed(6)) == 4
    assert "6 steps, 4 computed" in recipe.about
    with pytest.raises(InputError, match="calls is 2; 6 steps"):
        calibrate(pipe, ["a fox"], steps=6, calls=2, longest=3)
