"""Run a pipeline as it is and accelerated, interleaved in one process, and measure what was gained and lost."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..accelerators import check
from ..pipelines import describe, ignored_words, known_model, model_name
from ..presets import Recipe
from .baselines import Baselines
from .broken import BROKEN
from .environment import environment
from .inputs import check_draws, check_inputs
from .result import Cell, Comparison
from .runner import Runner, Watch, other_side
from .score import Scorer
from .trial import Trial, run


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
    check_inputs(prompts, seeds, steps=steps, repeats=repeats, size=size, guidance=guidance, metrics=metrics,
                 negative=negative)  # fmt: skip
    check_draws(pipe)
    prompts, seeds = list(dict.fromkeys(prompts)), list(dict.fromkeys(seeds))
    listed = recipes if isinstance(recipes, (list, tuple)) else [recipes]
    chosen = [Recipe.of(what, pipe) for what in listed]
    for recipe in chosen:
        check(recipe.accelerators, pipe)
    if guidance is None and (model := known_model(model_name(pipe))) is not None:
        guidance = model.guidance
    settings = {
        "model": model_name(pipe),
        "prompts": prompts,
        "seeds": seeds,
        "steps": steps,
        "guidance": guidance,
        "negative": negative,
        "size": list(size) if size else None,
        "repeats": repeats,
        "metrics": list(metrics),
        "ignored_words": ignored_words(model_name(pipe), [*prompts, negative or ""]),
    }
    scorer = Scorer(metrics, pipe)
    trial = Trial(Runner(pipe, other_side(pipe), settings, watch), [(p, s) for p in prompts for s in seeds])
    run(trial, chosen, repeats, control)
    _finish(trial, scorer, Baselines(baselines, describe(pipe), settings, pipe) if baselines else None, memory)
    return Comparison(
        lanes=trial.lanes,
        settings=settings,
        environment=environment(pipe),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        unavailable=scorer.unavailable,
    )


def _finish(trial: Trial, scorer: Scorer, kept: Baselines | None, memory: bool) -> None:
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
        if not all(picture.isfinite().all() for picture in found):
            lane.warnings.append(BROKEN)
        truth = [trial.shots["baseline", at] for at in range(len(trial.cells))]
        scores = scorer([prompt for prompt, _ in trial.cells], found, truth)
        lane.cells = [Cell(p, s, sc, pic) for (p, s), sc, pic in zip(trial.cells, scores, found, strict=True)]
        lane.whole = scorer.together(found, truth)
    if memory:
        runner.phase, runner.rounds = "memory", len(trial.lanes)
        for nth, lane in enumerate(trial.lanes):
            runner.round = nth + 1
            lane.peak_bytes = runner.peak(lane, trial.cells[0])
