"""Find the steps that a model can least do without (LeMiCa's offline part, arXiv:2511.00090, section 3.2)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..accelerators import LeMiCa
from ..accelerators.base import Accelerator, check
from ..accelerators.schedules import write_mask
from ..pipelines import (
    Around,
    Call,
    InputError,
    Link,
    Network,
    SolverStep,
    call_arguments,
    family,
    known_model,
    model_name,
    staged,
)
from ..presets import Recipe
from .environment import environment
from .inputs import check_inputs

Gap = tuple[int, int]


def gap_costs(
    pipe: Any, prompts: Sequence[str], steps: int, *, guidance: float | None = None, seed: int = 0, order: int = 2,
    place: str = "output", longest: int = 6, watch: Callable[[int, int], None] | None = None,
) -> dict[Gap, float]:  # fmt: skip
    """Measure what each single skip does to the final latents: mean absolute difference, over all prompts.

    A gap (i, j) computes steps i and j and predicts those between them; every other step is computed. What comes
    before a gap is the same as without it, and is played back instead of computed again.

    Args:
        pipe: any diffusers pipeline.
        prompts: what to draw, in one batch.
        steps: denoising steps.
        guidance: guidance scale, None is the pipeline's own.
        seed: of the noise.
        order: how many outputs predict a skipped one.
        place: what is predicted: the denoiser's "output", the residual of its block "stack", a UNet's "deep" part, or
            the blocks' "modules".
        longest: largest j - i.
        watch: called with (gaps measured, gaps in all).

    Returns:
        The cost of every gap; neighbouring steps cost nothing.

    Raises:
        InputError: the scheduler takes another number of steps.
    """
    replay = Replay(pipe, prompts, steps, guidance, seed)
    gaps = [(i, j) for i in range(steps) for j in range(i + 1, min(steps - 1, i + longest) + 1)]
    costs: dict[Gap, float] = {gap: 0.0 for gap in gaps if gap[1] == gap[0] + 1}
    todo = [gap for gap in gaps if gap not in costs]
    for done, (i, j) in enumerate(todo):
        mask = write_mask([step for step in range(steps) if not i < step < j])
        cache = LeMiCa(mask=mask, of=steps, order=order, place=place)
        until = i if place == "output" else i - order  # elsewhere what the gap looks back to has to run
        costs[i, j] = float((replay.final(cache, until) - replay.truth).abs().mean())
        if watch:
            watch(done + 1, len(todo))
    return costs


class Replay:
    """Runs prompts in one batch, again and again with other steps left out; up to there the first run is played back.

    Attributes:
        truth: the final latents of the untouched run.
        predictions: what the solver was given at each step of it, guided.

    Raises:
        InputError: the run had another number of steps.
    """

    def __init__(self, pipe: Any, prompts: Sequence[str], steps: int, guidance: float | None, seed: int) -> None:
        self.pipe, self.seed = pipe, seed
        self._arguments = call_arguments(pipe, prompt=list(prompts), steps=steps, guidance=guidance, seed=seed)
        self._arguments |= {"output_type": "latent"}
        self._tape: dict[tuple[int, int], Tensor] = {}
        self.predictions: list[Tensor] = []

        def listen(now: SolverStep, solve: Callable[[SolverStep], Any]) -> Any:
            self.predictions.append(now.prediction.detach().float())
            return solve(now)

        with staged(pipe) as stage, stage.around_solver(listen), stage.around_denoiser(_played(self._tape, steps)):
            self.truth = self._run()
            self.sigmas = [step.sigma for step in stage.runs[-1].steps]
        steps_as_asked(pipe, len(self.sigmas), steps)

    def final(self, cache: Accelerator, until: int) -> Tensor:
        """Return the final latents with *cache*, which changes nothing up to the step *until*."""
        with staged(self.pipe) as stage, cache.attach(stage), stage.around_denoiser(_played(self._tape, until)):
            return self._run()

    @torch.no_grad()
    def _run(self) -> Tensor:
        generator = call_arguments(self.pipe, prompt="", seed=self.seed)["generator"]
        out = self.pipe(**{**self._arguments, "generator": generator})
        found: Tensor = out.images if hasattr(out, "images") else out.frames
        return found.detach().float()


def steps_as_asked(pipe: Any, ran: int, steps: int) -> None:
    """Refuse a run whose steps are not those that were asked for: what is measured there belongs to other steps.

    Raises:
        InputError: a scheduler that repeats timesteps (Heun, PNDM), or a pipeline that leaves steps out.
    """
    if ran != steps:
        raise InputError(
            f"{type(pipe.scheduler).__name__} took {ran} steps where {steps} were asked for, so that none can be "
            "weighed for what it is: calibrate with a scheduler that steps once for each, such as "
            "EulerDiscreteScheduler or DPMSolverMultistepScheduler (FlowMatchEulerDiscreteScheduler for flow matching)"
        )


def _played(tape: dict[tuple[int, int], Tensor], until: int) -> Callable[[Link], Around]:
    """Play the denoiser's outputs back up to a step; an empty tape is recorded first."""

    def start(link: Link) -> Around:
        recording, asked = not tape, {"step": -1, "nth": 0}

        def around(call: Call, network: Network) -> Tensor:
            asked["nth"] = asked["nth"] + 1 if asked["step"] == call.step else 0
            asked["step"] = call.step
            at = (call.step, asked["nth"])
            if recording:
                tape[at] = network(call)
                return tape[at]
            return tape[at] if call.step <= until and at in tape else network(call)

        return around

    return start


def best_path(costs: Mapping[Gap, float], steps: int, calls: int) -> tuple[int, ...]:
    """Return the computed steps, so many of them, whose largest gap cost is smallest, then the second largest, ...

    Exact: dynamic programming over (calls made, step) with the sorted costs as the key, for adding one cost to both
    of two sorted lists never changes which comes first.

    >>> costs = {(i, j): float((j - i - 1) * (i + 1)) for i in range(6) for j in range(i + 1, 6)}
    >>> best_path(costs, 6, 4)
    (0, 3, 4, 5)

    Raises:
        InputError: no path has so many calls.
    """
    best: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {0: ((), (0,))}
    for _ in range(calls - 1):
        reached: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {}
        for i, (key, path) in best.items():
            for j in range(i + 1, steps):
                if (i, j) in costs:
                    made = tuple(sorted((*key, costs[i, j]), reverse=True))
                    if j not in reached or made < reached[j][0]:
                        reached[j] = (made, (*path, j))
        best = reached
    if steps - 1 not in best:
        longest = max(j - i for i, j in costs)
        least = 1 + -(-(steps - 1) // longest)
        raise InputError(f"calls is {calls}; {steps} steps with gaps of at most {longest} need {least} to {steps}")
    return best[steps - 1][1]


def calibrate(
    pipe: Any, prompts: Sequence[str], *, steps: int = 28, calls: int = 12, guidance: float | None = None,
    seed: int = 0, order: int = 2, place: str = "output", longest: int = 6,
    watch: Callable[[int, int], None] | None = None,
) -> Recipe:  # fmt: skip
    """Find LeMiCa's mask for a model: which *calls* of *steps* to compute.

    Raises:
        InputError: so many calls cannot be had, or a value that cannot be used.
    """
    check_calibration(prompts, steps, guidance, seed, longest)
    check([LeMiCa(mask=write_mask(range(steps)), of=steps, order=order, place=place)], pipe)
    guidance = own_guidance(pipe) if guidance is None else guidance
    if not 2 <= calls <= steps or calls < 1 + -(-(steps - 1) // longest):
        best_path(
            {(i, j): 0.0 for i in range(steps) for j in range(i + 1, min(steps - 1, i + longest) + 1)}, steps, calls
        )
    costs = gap_costs(
        pipe, prompts, steps, guidance=guidance, seed=seed, order=order, place=place, longest=longest, watch=watch
    )
    path = best_path(costs, steps, calls)
    worst = max(costs[gap] for gap in pairwise(path))
    what = f"{steps} steps, {calls} computed, {asked_for(pipe, prompts, guidance, seed)}; worst gap {worst:.4f}"
    about = f"Calibrated: {model_name(pipe)} ({family(pipe).name}), {what}; {made_with(pipe)}."
    lemica = LeMiCa(mask=write_mask(path), of=steps, order=order, place=place)
    return Recipe((lemica,), f"lemica-{calls}", about)


def check_calibration(prompts: Sequence[str], steps: int, guidance: float | None, seed: int, longest: int = 1) -> None:
    """Check what a calibration is asked for.

    Raises:
        InputError: names the value.
    """
    check_inputs(prompts, [seed], steps=steps, guidance=guidance)
    if steps < 2:
        raise InputError(f"steps is {steps}: a run of one step has none to skip")
    if longest < 1:
        raise InputError(f"longest is {longest}, not at least 1: the next step is one step away")


def own_guidance(pipe: Any) -> float | None:
    """Return the guidance scale that suits a model, None where only its pipeline knows."""
    model = known_model(model_name(pipe))
    return model.guidance if model is not None else None


def asked_for(pipe: Any, prompts: Sequence[str], guidance: float | None, seed: int) -> str:
    """Say what was drawn for a calibration, and with which scheduler."""
    shift = pipe.scheduler.config.get("shift")
    scheduler = type(pipe.scheduler).__name__ + (f" shift {shift}" if shift is not None else "")
    return f"guidance {guidance}, {scheduler}, {len(prompts)} prompts, seed {seed}"


def made_with(pipe: Any) -> str:
    """Say which versions a calibration was made with."""
    versions = environment(pipe)["versions"]
    return f"torch {versions['torch']}, diffusers {versions['diffusers']}"
