"""Run a pipeline as it is and accelerated, interleaved in one process, and measure what was gained and lost."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..accelerators import FewerSteps, attached, check
from ..pipelines import (
    Report,
    UnsupportedError,
    call_arguments,
    describe,
    ignored_words,
    known_model,
    model_name,
    pictures,
    twin,
)
from ..presets import Recipe
from .baselines import Baselines
from .environment import environment
from .inputs import check_inputs
from .result import Cell, Comparison, Lane, Role
from .score import Scorer
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
class _Runner:
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
            picture = pictures(pipe(**self.arguments(lane, *cell)))[0]
        return picture, session.report()

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
        return pictures(output)[0], seconds, stages

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


@dataclass(eq=False)
class _Trial:
    """One comparison while it runs."""

    runner: _Runner
    cells: list[tuple[str, int]]
    lanes: list[Lane] = field(default_factory=list)
    shots: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    stages: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)

    def add(self, recipe: Recipe, role: Role, name: str) -> Lane:
        """Add a lane and warm it up: one run, counted, not timed."""
        lane = Lane(name, str(recipe), role)
        self.runner.recipes[name] = recipe
        self.runner.phase = "warm-up"
        picture, report = self.runner.counted(lane, self.cells[0])
        self.shots[name, 0] = picture
        lane.calls, lane.asked, lane.cache_bytes = report.calls, report.asked, report.cache_bytes
        lane.steps, lane.warnings = report.to_dict()["steps"], list(report.warnings)
        self.lanes.append(lane)
        return lane

    def race(self, lanes: Sequence[Lane], rounds: int) -> None:
        """Run all *lanes* once a round, interleaved, in an order that turns, each round on the next cell."""
        self.runner.phase, self.runner.rounds = "timed", rounds
        for turn in range(rounds):
            self.runner.round, at = turn + 1, turn % len(self.cells)
            first = turn % len(lanes)
            for lane in [*lanes[first:], *lanes[:first]]:
                picture, seconds, stages = self.runner.timed(lane, self.cells[at])
                self._compare_with_warm_up(lane, at, picture)
                self.shots.setdefault((lane.name, at), picture)
                lane.seconds.append(seconds)
                self.stages.setdefault(lane.name, []).append(stages)

    def _compare_with_warm_up(self, lane: Lane, at: int, picture: Tensor) -> None:
        before = self.shots.get((lane.name, at))
        said = "two runs with the same seed gave different pictures: its faithfulness is blurred by that"
        if before is not None and not before.equal(picture) and said not in lane.warnings:
            lane.warnings.append(said)

    def fixed_and_step(self) -> tuple[float, float]:
        """Return the baseline's seconds outside denoising, and its seconds a step."""
        stages, steps = self.stages["baseline"], len(self.lanes[0].steps)
        fixed = statistics.median(s["text"] + s["decode"] for s in stages)
        return fixed, statistics.median(s["denoise"] for s in stages) / steps


def compare(
    pipe: Any,
    recipes: Any,
    *,
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    steps: int = 28,
    guidance: float | None = None,
    negative: str | None = None,
    size: tuple[int, int] | None = None,
    repeats: int = 5,
    metrics: Sequence[str] = ("psnr", "ssim", "adherence"),
    control: bool = True,
    memory: bool = True,
    watch: Watch | None = None,
    baselines: str | Path | None = None,
) -> Comparison:
    """Compare a pipeline as it is with the same pipeline accelerated, and with plainly fewer steps.

    Every lane is warmed up once; then all lanes run interleaved, *repeats* rounds, each round on the next prompt and
    seed; prompts that no round reached run once more, untimed. Each variant gets the plain pipeline at the number of
    steps whose wall clock is closest to, not above, its own.

    Args:
        pipe: any diffusers pipeline.
        recipes: what to compare: recipes, accelerators, presets' names, recipe texts, TOML paths; or one of them.
        prompts: what to draw.
        seeds: with which noise; every prompt is drawn with every seed.
        steps: denoising steps.
        guidance: guidance scale, None is the model's own.
        negative: what not to draw.
        size: (width, height) in pixels, None is the model's own.
        repeats: timed rounds.
        metrics: of ``measure.METRICS``.
        control: whether to run the fewer-steps control.
        memory: whether to measure the peak memory, in one more run a lane.
        watch: called after every step; may raise ``Cancelled``.
        baselines: folder that keeps the baseline's pictures between comparisons.

    Raises:
        InputError, KnobError, UnsupportedError, IncompatibleError: before anything runs.
        Cancelled: from *watch*; the pipeline is as it was.
    """
    check_inputs(prompts, seeds, steps=steps, repeats=repeats, size=size, guidance=guidance, metrics=metrics)
    listed = recipes if isinstance(recipes, (list, tuple)) else [recipes]
    chosen = [Recipe.of(what, pipe) for what in listed]
    for recipe in chosen:
        check(recipe.accelerators, pipe)
    if guidance is None and (model := known_model(model_name(pipe))) is not None:
        guidance = model.guidance
    settings = {
        "model": model_name(pipe),
        "prompts": list(prompts),
        "seeds": list(seeds),
        "steps": steps,
        "guidance": guidance,
        "negative": negative,
        "size": list(size) if size else None,
        "repeats": repeats,
        "metrics": list(metrics),
        "ignored_words": ignored_words(model_name(pipe), prompts),
    }
    scorer = Scorer(metrics, pipe)
    trial = _Trial(_Runner(pipe, _twin(pipe), settings, watch), [(p, s) for p in prompts for s in seeds])
    _run(trial, chosen, repeats, control)
    _finish(trial, scorer, Baselines(baselines, describe(pipe), settings, pipe) if baselines else None, memory)
    return Comparison(
        lanes=trial.lanes,
        settings=settings,
        environment=environment(pipe),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        unavailable=scorer.unavailable,
    )


def _twin(pipe: Any) -> Any:
    try:
        return twin(pipe)
    except UnsupportedError:  # an offloaded or quantised pipeline: the same one, accelerated only while its turn lasts
        return pipe


def _run(trial: _Trial, recipes: Sequence[Recipe], repeats: int, control: bool) -> None:
    """Warm up, choose the controls, race, and put right a control that came out slower than its variant."""
    baseline = trial.add(Recipe(), "baseline", "baseline")
    for recipe in recipes:
        names = {lane.name for lane in trial.lanes}
        name = recipe.title or str(recipe)
        trial.add(recipe, "variant", name if name not in names else f"{name} ({len(names)})")
    if control:
        trial.race(trial.lanes, 1)  # a first look, to know which controls to run beside them
        _set_controls(trial)
        for lane in trial.lanes:
            lane.seconds.clear()
        trial.stages.clear()
    trial.race(trial.lanes, repeats)
    for _ in range(2 if control else 0):
        late = _set_controls(trial)
        if not late:
            break
        trial.late |= {lane.name for lane in late}
        trial.race(late, repeats)
    _settle_controls(trial)
    used = {lane.control for lane in trial.lanes}
    trial.lanes = [lane for lane in _in_order(trial.lanes) if lane.role != "control" or lane.name in used]
    for lane in trial.lanes:
        lane.speedup = baseline.median / lane.median
        same_rounds = lane.name not in trial.late
        pairs = (
            zip(baseline.seconds, lane.seconds, strict=True)
            if same_rounds
            else ((baseline.median, s) for s in lane.seconds)
        )
        lane.ratios = [whole / part for whole, part in pairs]
        stages = trial.stages[lane.name]
        lane.stages = {name: statistics.median(s[name] for s in stages) for name in ("text", "denoise", "decode")}


def _set_controls(trial: _Trial) -> list[Lane]:
    """Give each variant the plain pipeline at the steps that fit into its seconds; returns lanes still to be timed."""
    fixed, step = trial.fixed_and_step()
    steps, new = len(trial.lanes[0].steps), []
    for lane in [lane for lane in trial.lanes if lane.role == "variant"]:
        if any(isinstance(a, FewerSteps) for a in trial.runner.recipes[lane.name].accelerators):
            lane.note = "is itself plainly fewer steps"
            continue
        fit = math.floor((lane.median - fixed) / step + 1e-9)
        now = _timed_control(trial, lane)
        if now is not None:  # what was measured counts for more than what was reckoned
            here = len(now.steps)
            fit = here - 1 if now.median > lane.median else max(here, min(fit, here + 1))
        if fit >= steps or fit < 1:
            lane.control, lane.note = (
                "",
                "no faster than the plain pipeline" if fit >= steps else "below one plain step",
            )
            continue
        name = f"{fit} steps"
        lane.control = name
        if all(other.name != name for other in trial.lanes):
            new.append(trial.add(Recipe((FewerSteps(steps=fit),)), "control", name))
    return new


def _timed_control(trial: _Trial, lane: Lane) -> Lane | None:
    found = [other for other in trial.lanes if other.name == lane.control and other.seconds]
    return found[0] if found else None


def _settle_controls(trial: _Trial) -> None:
    """Of the controls that were timed, give each variant the slowest that is not slower than itself."""
    timed = [lane for lane in trial.lanes if lane.role == "control" and lane.seconds]
    for lane in [lane for lane in trial.lanes if lane.control]:
        fits = [other for other in timed if other.median <= lane.median]
        best = max(fits, key=lambda other: other.median, default=None)
        if best is None:
            best = min(timed, key=lambda other: other.median)
            lane.note = f"its control took {best.median / lane.median - 1:.0%} longer"
        lane.control = best.name


def _in_order(lanes: list[Lane]) -> list[Lane]:
    """Put each control behind the first variant that it belongs to."""
    placed: list[Lane] = []
    by_name = {lane.name: lane for lane in lanes}
    for lane in (lane for lane in lanes if lane.role != "control"):
        placed.append(lane)
        if lane.control and by_name[lane.control] not in placed:
            placed.append(by_name[lane.control])
    return placed


def _finish(trial: _Trial, scorer: Scorer, kept: Baselines | None, memory: bool) -> None:
    """Draw what is missing, score every picture, and measure memory."""
    runner = trial.runner
    runner.phase, runner.round, runner.rounds = "more prompts", 0, len(trial.cells) * len(trial.lanes)
    for at, cell in enumerate(trial.cells):
        for lane in trial.lanes:
            runner.round += 1
            if (lane.name, at) in trial.shots:
                continue
            old = kept.get(*cell) if kept and lane.role == "baseline" else None
            trial.shots[lane.name, at] = old if old is not None else runner.counted(lane, cell)[0]
        if kept:
            kept.put(*cell, trial.shots["baseline", at])
    for lane in trial.lanes:
        found = [trial.shots[lane.name, at] for at in range(len(trial.cells))]
        truth = [trial.shots["baseline", at] for at in range(len(trial.cells))]
        scores = scorer([prompt for prompt, _ in trial.cells], found, truth)
        lane.cells = [Cell(p, s, sc, pic) for (p, s), sc, pic in zip(trial.cells, scores, found, strict=True)]
        lane.whole = scorer.together(found, truth)
    if memory:
        runner.phase, runner.rounds = "memory", len(trial.lanes)
        for nth, lane in enumerate(trial.lanes):
            runner.round = nth + 1
            lane.peak_bytes = runner.peak(lane, trial.cells[0])
