"""The fitted cache: weights are least squares, the schedule is brute force's, and what it learned it plays back."""

from itertools import combinations
from math import cos, sin

import numpy as np
import pytest
import torch
from deadheat.accelerators import FittedCache, LeMiCa, attached
from deadheat.accelerators.fitted_cache import read_weights, write_weights
from deadheat.measure import best_steps, fit_cache, fitted, record
from deadheat.measure.fit import Recording, growth, moves
from deadheat.pipelines import InputError, KnobError, call_arguments
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from ..families import FAMILIES, executed, leftovers


def recording(steps: int, seed: int = 0, size: int = 40) -> tuple[Recording, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = np.cumsum(rng.normal(size=(steps, size)), 0)  # neighbours are alike, as on a trajectory
    return Recording(rows @ rows.T, -rng.uniform(0.5, 1.5, steps)), rows


def test_weights_are_least_squares():
    made, rows = recording(8)
    found = made.weights((1, 3, 4), 6)
    true, *_ = np.linalg.lstsq(rows[[1, 3, 4]].T, rows[6], rcond=None)
    assert found == pytest.approx(true, abs=1e-3)


def test_harm_is_what_the_latents_lose():
    made, rows = recording(8)
    lost = sum(made.moves[k] * (rows[k] - made.weights((0, 1, 3), k) @ rows[[0, 1, 3]]) for k in (4, 5))
    assert made.harm((0, 1, 3), 6) == pytest.approx(float(lost @ lost))
    assert made.harm((0, 1, 3), 4) == 0.0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("calls", [4, 6, 8])
def test_the_schedule_is_the_one_of_brute_force(seed: int, calls: int):
    steps, longest = 9, 4
    made, _ = recording(steps, seed)

    def harm(path: tuple[int, ...]) -> float:
        return sum(made.harm(path[: n + 1][-3:], end) for n, end in enumerate(path[1:]))

    paths = [(0, *middle, steps - 1) for middle in combinations(range(1, steps - 1), calls - 2)]
    allowed = [path for path in paths if max(np.diff(path)) <= longest]
    found = best_steps(made, calls, longest=longest)
    assert harm(found) == pytest.approx(min(map(harm, allowed)))
    assert len(found) == calls


def test_all_steps_harm_nothing_and_too_few_are_refused():
    made, _ = recording(10)
    assert best_steps(made, 10) == tuple(range(10))
    with pytest.raises(InputError, match="calls is 2; 10 steps with gaps of at most 4 need 4 to 10"):
        best_steps(made, 2, longest=4)


def test_moves():
    flow = moves(FlowMatchEulerDiscreteScheduler(), [1.0, 0.6, 0.1])
    assert flow == pytest.approx([-0.4, -0.5, -0.1])
    assert moves(EulerDiscreteScheduler(), [10.0, 2.0]) == pytest.approx([-8.0, -2.0])
    turned = moves(DDIMScheduler(prediction_type="v_prediction"), [float("inf"), 1.0])
    assert turned == pytest.approx([-np.sin(np.pi / 4), -np.sin(np.pi / 4)])


def test_what_grows_most_is_avoided():
    made, _ = recording(10)
    plain = best_steps(made, 6)
    skipped = next(step for step in range(1, 9) if step not in plain)
    made, _ = recording(10)
    made.grows[skipped] = 1e3
    assert skipped in best_steps(made, 6)


def test_the_growth_of_an_error_is_what_a_run_with_it_shows():
    pipe = FAMILIES["sd3"].build()
    found = growth(pipe, ["a fox", "a cat"], 6, guidance=3.0)
    arguments = call_arguments(pipe, prompt=["a fox", "a cat"], steps=6, guidance=3.0)
    seen: list[torch.Tensor] = []

    def listen(now, solve):
        seen.append(now.prediction)
        return solve(now)

    def latents(*accelerators):
        generator = torch.Generator().manual_seed(0)
        with attached(pipe, *accelerators) as session, session.stage.around_solver(listen):
            return pipe(**{**arguments, "output_type": "latent", "generator": generator}).images

    gap = (latents(LeMiCa(mask="0-2 4-5", of=6, order=1)) - latents()).norm()
    at_once = (seen[9] - seen[8]).norm() * (pipe.scheduler.sigmas[4] - pipe.scheduler.sigmas[3]).abs()
    assert found[3] == pytest.approx(float(gap / at_once), rel=1e-4)
    assert found[0] == found[1]
    assert found[5] == 1


@pytest.mark.parametrize("on", ["sd3", "sd15", "sdxl"])
def test_one_run_a_prompt_and_nothing_left(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    before = leftovers(pipe)
    with executed(tiny, pipe) as seen:
        recipe = fit_cache(pipe, ["a fox", "a cat"], steps=8, calls=5, seed=3)
    assert leftovers(pipe) == before
    assert seen.calls == 16 + 8 + sum(range(1, 7))  # each prompt; all at once; all behind each step left out
    (cache,) = recipe.accelerators
    assert len(cache.computed(8)) == 5
    assert type(cache)(**{k: getattr(cache, k) for k in ("mask", "of", "weights")}) == cache
    assert "8 steps, 5 computed" in recipe.about
    with attached(pipe, cache) as session:
        tiny.call(pipe, 8)
    assert [s.index for s in session.report().steps if s.action == "computed"] == list(cache.computed(8))


def test_a_run_that_a_sum_explains_is_drawn_exactly():
    """A network whose outputs are combinations of two tensors: after two outputs nothing else is new."""
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    network = tiny.denoiser(pipe)
    a, b = torch.randn(2, 1, network.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    clock = [0]

    def made(*args, **kwargs):
        clock[0] += 1
        turn = float(kwargs["timestep"][0]) / 200
        out = (cos(turn) * a + sin(turn) * b).expand(len(kwargs["hidden_states"]), -1, -1, -1)
        return (out,)

    network.forward = made
    with torch.no_grad():
        plain = tiny.call(pipe, 12)
        recording = record(pipe, ["a red cube"], 12, guidance=4.0)
        clock[0] = 0
        with attached(pipe, fitted(recording, 5)) as session:
            fast = tiny.call(pipe, 12)
    assert clock[0] == 5
    assert session.report().calls == 10
    assert torch.allclose(fast, plain, atol=1e-3 * float(plain.abs().max()))


def test_weights_are_written_and_read():
    rows = {4: (-0.9, 1.9), 7: (0.25,)}
    assert read_weights(write_weights(rows)) == rows
    for wrong in ("4 1 2", "x: 1", "4: y", "4:", "4: nan 1", "5: inf", "4: 1; 4: 2"):
        with pytest.raises(KnobError, match="the weights have"):
            read_weights(wrong)
    with pytest.raises(KnobError, match="weights has step 3"):
        FittedCache(mask="0-3 6 9", of=10, weights="3: 1")
    with pytest.raises(KnobError, match="3 numbers for step 2"):
        FittedCache(mask="0-1 9", of=10, weights="2: 1 1 1")


def test_weights_hold_where_they_were_fitted():
    cache = FittedCache(mask="0-1 3 5", of=6, weights="2: 0.25 0.5; 4: 0.125")
    assert cache.weights_for([0.0, 1.0], 2.0, 6) == (0.25, 0.5)
    assert cache.weights_for([1.0, 3.0], 4.0, 6) == (0.0, 0.125)
    assert cache.weights_for([0.0, 1.0], 2.0, 7) == (-1.0, 2.0)  # another number of steps: a line
    assert cache.weights_for([1.0], 2.0, 6) == (1.0,)  # another past: what there is
