"""Runs the lanes of a comparison: counted, timed, or for their memory, with somebody watching every step."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from ..accelerators import attached
from ..pipelines import Report, UnsupportedError, call_arguments, picture, twin
from ..presets import Recipe
from .result import Lane, Role
from .timing import after_each_step, peak_bytes, staged_seconds, synchronise

Phase = Literal["warm-up", "timed", "more prompts", "memory"]


@dataclass(frozen=True)
class Event:
    """A step that has just been made, for progress, previews and cancelling.

    Attributes:
        lane, role: who made it; phase: what the run is for.
        round, rounds: number of the run within all runs of the phase, from 1.
        step, steps: number of the step, from 1, and how many there will be.
        action: what the step did; known in the warm-up only, "" elsewhere.
        latents: the latents after the step.
        pipe: the pipeline that ran.
    """

    lane: str
    role: Role
    phase: Phase
    round: int
    rounds: int
    step: int
    steps: int
    action: str
    latents: Tensor
    pipe: Any


Watch = Callable[[Event], object]


@dataclass(eq=False)
class Runner:
    """Runs lanes: the pipelines, the settings, and who watches."""

    baseline: Any
    other: Any
    settings: dict[str, Any]
    watch: Watch | None
    recipes: dict[str, Recipe] = field(default_factory=dict)
    phase: Phase = "warm-up"
    round: int = 1
    rounds: int = 1

    def pipe(self, lane: Lane) -> Any:
        return self.baseline if lane.role == "baseline" else self.other

    def arguments(self, lane: Lane, prompt: str, seed: int) -> dict[str, Any]:
        s = self.settings
        return call_arguments(
            self.pipe(lane),
            prompt=prompt,
            negative=s["negative"],
            steps=s["steps"],
            guidance=s["guidance"],
            size=s["size"],
            seed=seed,
        )

    def look(self, lane: Lane, session: Any = None) -> Callable[[int, Tensor], None] | None:
        """Return what is called after each step: the same little work on every side."""
        watch = self.watch
        if watch is None:
            return None
        pipe = self.pipe(lane)

        def look(step: int, latents: Tensor) -> None:
            runs = session.stage.runs if session is not None else []
            action = runs[-1].steps[-1].action if runs and runs[-1].steps else ""
            steps = len(pipe.scheduler.timesteps)
            watch(
                Event(
                    lane.name, lane.role, self.phase, self.round, self.rounds, step + 1, steps, action, latents, pipe
                )
            )

        return look

    def counted(self, lane: Lane, cell: tuple[str, int]) -> tuple[Tensor, Report]:
        """Run once with the clock on every side; returns the picture and what every step did."""
        pipe, recipe = self.pipe(lane), self.recipes[lane.name]
        with ExitStack() as stack:
            session = stack.enter_context(attached(pipe, *recipe.accelerators))
            stack.enter_context(after_each_step(pipe, self.look(lane, session)))
            drawn = picture(pipe(**self.arguments(lane, *cell)))
        return drawn, session.report()

    def timed(self, lane: Lane, cell: tuple[str, int]) -> tuple[Tensor, float, dict[str, float]]:
        """Run once with the stopwatch; the baseline carries nothing but what every side carries."""
        pipe, recipe = self.pipe(lane), self.recipes[lane.name]
        arguments = self.arguments(lane, *cell)
        with ExitStack() as stack:
            if recipe.accelerators:
                stack.enter_context(attached(pipe, *recipe.accelerators))
            stages = stack.enter_context(staged_seconds(pipe))
            stack.enter_context(after_each_step(pipe, self.look(lane)))
            synchronise(pipe)
            begin = time.perf_counter()
            output = pipe(**arguments)
            synchronise(pipe)
            seconds = time.perf_counter() - begin
        stages["denoise"] = seconds - stages["text"] - stages["decode"]
        return picture(output), seconds, stages

    def peak(self, lane: Lane, cell: tuple[str, int]) -> int:
        """Run once and return the most bytes it took."""
        pipe, recipe = self.pipe(lane), self.recipes[lane.name]
        with ExitStack() as stack:
            if recipe.accelerators:
                stack.enter_context(attached(pipe, *recipe.accelerators))
            stack.enter_context(after_each_step(pipe, self.look(lane)))
            found = stack.enter_context(peak_bytes(pipe))
            pipe(**self.arguments(lane, *cell))
        return found[0]


def other_side(pipe: Any) -> Any:
    """Return the pipeline that accelerators stand in: a twin on the same weights, so that the baseline stays bare.

    An offloaded or quantised pipeline has no twin: it is the same one, accelerated only while its turn lasts.
    """
    try:
        return twin(pipe)
    except UnsupportedError:
        return pipe
