"""Calibrates a fitted cache from one recorded run: the steps to compute, and how to sum their outputs elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..accelerators import FittedCache, LeMiCa
from ..accelerators.fitted_cache import write_weights
from ..accelerators.schedules import write_mask
from ..pipelines import InputError, SolverStep, call_arguments, flows, model_name, staged
from ..presets import Recipe
from .calibrate import Replay, asked_for, check_calibration, made_with, own_guidance, steps_as_asked

NODES = 3  # on pocket-dit the third lowers what a skip leaves unexplained by 1 to 20 %, more at short gaps
_RIDGE = 1e-5  # keeps weights small where past outputs hardly differ

_GROWN = 4  # prompts on which the growth of errors is measured, in one batch

Nodes = tuple[int, ...]


@dataclass
class Recording:
    """All that a calibration has to know of recorded runs.

    Attributes:
        products: inner products of the guided predictions of every two steps, summed over prompts, (steps, steps).
        moves: how far a prediction moves the latents at its step: the factor of an error made there.
        grows: how much larger an error made at a step is in the final latents than in those behind the step.
    """

    products: np.ndarray
    moves: np.ndarray
    grows: np.ndarray = field(default_factory=lambda: np.ones(0))
    _weights: dict[tuple[Nodes, int], np.ndarray] = field(default_factory=dict)
    _harm: dict[tuple[Nodes, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.grows.size:
            self.grows = np.ones(self.steps)

    @property
    def steps(self) -> int:
        return len(self.moves)

    def weights(self, nodes: Nodes, step: int) -> np.ndarray:
        """Return the weights of the predictions at *nodes* that come closest to the one at *step*: least squares."""
        if (nodes, step) not in self._weights:
            among = self.products[np.ix_(nodes, nodes)]
            among = among + _RIDGE * np.diag(np.diag(among))
            self._weights[nodes, step] = np.linalg.solve(among, self.products[list(nodes), step])
        return self._weights[nodes, step]

    def harm(self, nodes: Nodes, end: int) -> float:
        """Return the squared error of the final latents if nothing is computed between the last of *nodes* and *end*.

        The errors of the steps between add up before they are squared, for the network sees only their sum at *end*;
        what it then makes of them is what it made of errors at each of these steps.
        """
        if (nodes, end) not in self._harm:
            row = np.zeros(self.steps)
            for step in range(nodes[-1] + 1, end):
                size = self.grows[step] * self.moves[step]
                row[step] += size
                row[list(nodes)] -= size * self.weights(nodes, step)
            self._harm[nodes, end] = max(0.0, float(row @ self.products @ row))
        return self._harm[nodes, end]


def moves(scheduler: Any, sigmas: Sequence[float]) -> np.ndarray:
    """Return by how much an error of one in the prediction moves the latents at each step, first order.

    Flow matching and noise predictions move them by the change of sigma; velocities turn them (Salimans & Ho 2022),
    by the change of the angle whose tangent is sigma; predicted pictures by the relative change of sigma.
    """
    levels = np.array([*sigmas, 0.0])
    kind = scheduler.config.get("prediction_type", "epsilon")
    if flows(scheduler) or kind == "epsilon":
        return np.diff(levels)
    if kind == "v_prediction":
        return np.sin(np.diff(np.arctan(levels)))
    return np.diff(levels) / np.maximum(levels[:-1], 1e-6)


def record(
    pipe: Any, prompts: Sequence[str], steps: int, *, guidance: float | None = None, seed: int = 0,
    watch: Callable[[int, int], None] | None = None,
) -> Recording:  # fmt: skip
    """Run every prompt once, as it is, and keep the inner products of its predictions.

    Raises:
        InputError: the noise levels have no end, or the scheduler takes another number of steps: no step can be
            weighed.
    """
    total, found = np.zeros((0, 0)), np.zeros(0)
    for nth, prompt in enumerate(prompts):
        made: list[Tensor] = []

        def listen(now: SolverStep, solve: Callable[[SolverStep], Any], made: list[Tensor] = made) -> Any:
            made.append(now.prediction.detach().float().flatten())
            return solve(now)

        given = call_arguments(pipe, prompt=prompt, steps=steps, guidance=guidance, seed=seed + nth)
        with staged(pipe) as stage, stage.around_solver(listen), torch.no_grad():
            pipe(**{**given, "output_type": "latent"})
            sigmas = [step.sigma for step in stage.runs[-1].steps]
        steps_as_asked(pipe, len(sigmas), steps)
        rows = torch.stack(made)
        products = (rows @ rows.T).double().cpu().numpy()
        total = products if not total.size else total + products
        found = moves(pipe.scheduler, sigmas)
        if watch:
            watch(nth + 1, len(prompts))
    if not all(map(math.isfinite, found)):
        raise InputError(f"{type(pipe.scheduler).__name__} begins without a noise level: nothing can be weighed there")
    return Recording(total, found)


def growth(
    pipe: Any, prompts: Sequence[str], steps: int, *, guidance: float | None = None, seed: int = 0,
    watch: Callable[[int, int], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """Measure how much an error grows from the step where it is made to the final latents.

    Each step in turn repeats the output before it, all others compute: what that changes in the end, over what it
    changed at once. On pocket-dit an error grows fivefold from the third step of 28, and shrinks from the middle on.
    """
    replay, found = Replay(pipe, prompts, steps, guidance, seed), np.ones(steps)
    sizes = moves(pipe.scheduler, replay.sigmas)
    for step in range(1, steps - 1):
        mask = write_mask([other for other in range(steps) if other != step])
        last = replay.final(LeMiCa(mask=mask, of=steps, order=1), step - 1) - replay.truth
        first = replay.predictions[step - 1] - replay.predictions[step]
        found[step] = float(last.norm()) / max(abs(sizes[step]) * float(first.norm()), 1e-12)
        if watch:
            watch(step, steps - 2)
    found[0] = found[1]
    return found


def best_steps(recording: Recording, calls: int, *, longest: int = 7, nodes: int = NODES) -> tuple[int, ...]:
    """Return the computed steps, so many of them, whose gaps have the smallest sum of harms.

    Exact: dynamic programming over the last computed steps that a prediction looks back to.

    Raises:
        InputError: so many calls cannot be had.
    """
    steps = recording.steps
    best: dict[Nodes, tuple[float, Nodes]] = {(0,): (0.0, (0,))}
    for _ in range(calls - 1):
        reached: dict[Nodes, tuple[float, Nodes]] = {}
        for past, (harm, path) in best.items():
            for step in range(past[-1] + 1, min(steps - 1, past[-1] + longest) + 1):
                whole = harm + recording.harm(past, step)
                key = (*past, step)[-nodes:]
                if key not in reached or whole < reached[key][0]:
                    reached[key] = (whole, (*path, step))
        best = reached
    ends = [found for past, found in best.items() if past[-1] == steps - 1]
    if not ends:
        least = 1 + -(-(steps - 1) // longest)
        raise InputError(f"calls is {calls}; {steps} steps with gaps of at most {longest} need {least} to {steps}")
    return min(ends)[1]


def fit_cache(
    pipe: Any, prompts: Sequence[str], *, steps: int = 28, calls: int = 12, guidance: float | None = None,
    seed: int = 0, longest: int = 7, watch: Callable[[int, int], None] | None = None,
) -> Recipe:  # fmt: skip
    """Find the best schedule with so many computed steps, and its weights, from one run of each prompt.

    Raises:
        InputError: so many calls cannot be had, or a value that cannot be used.
    """
    check_calibration(prompts, steps, guidance, seed, longest)
    least = 1 + -(-(steps - 1) // longest)
    if not max(2, least) <= calls <= steps:
        raise InputError(f"calls is {calls}; {steps} steps with gaps of at most {longest} need {least} to {steps}")
    guidance = own_guidance(pipe) if guidance is None else guidance
    recording = measured(pipe, prompts, steps, guidance=guidance, seed=seed, watch=watch)
    cache = fitted(recording, calls, longest=longest)
    what = f"{recording.steps} steps, {calls} computed, {asked_for(pipe, prompts, guidance, seed)}"
    return Recipe((cache,), f"auto-{calls}", f"Calibrated: {model_name(pipe)}, {what}; {made_with(pipe)}.")


def measured(
    pipe: Any, prompts: Sequence[str], steps: int, *, guidance: float | None = None, seed: int = 0,
    watch: Callable[[int, int], None] | None = None,
) -> Recording:  # fmt: skip
    """Record all prompts, and measure on the first few how errors grow.

    Raises:
        InputError: the noise levels have no end, so that no step can be weighed.
    """
    how: dict[str, Any] = {"guidance": guidance, "seed": seed}
    runs, whole = len(prompts), len(prompts) + steps - 2
    told = watch or (lambda *_: None)
    recording = record(pipe, prompts, steps, **how, watch=lambda done, _: told(done, whole))
    recording.grows = growth(pipe, prompts[:_GROWN], steps, **how, watch=lambda done, _: told(runs + done, whole))
    return recording


def fitted(recording: Recording, calls: int, *, longest: int = 7) -> FittedCache:
    """Return the cache with the best schedule of so many computed steps.

    Raises:
        InputError: so many calls cannot be had.
    """
    path, rows = best_steps(recording, calls, longest=longest), {}
    for step in sorted(set(range(recording.steps)) - set(path)):
        nodes = tuple(node for node in path if node < step)[-NODES:]
        rows[step] = tuple(float(f"{w:.5g}") for w in recording.weights(nodes, step))
    return FittedCache(mask=write_mask(path), of=recording.steps, weights=write_weights(rows))
