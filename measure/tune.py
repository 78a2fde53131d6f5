"""Find the fastest setting that holds a quality, or the best one within a time, by a race on the user's own pipeline.

1. The baseline is warmed up, and recorded for the fitted cache.
2. Every line of the search space is walked by halves, with four prompts: towards what is better while the constraint
   holds, back where it does not, and not at all where even that would lose against the leader.
3. Successive halving: the best, with their neighbours, on twice and four times as many prompts. What surely misses, or
   is surely overtaken, is dropped.
4. The finalists draw held-out prompts, one picture at a time, interleaved with the baseline and timed. A floor counts
   as held if the mean is above it by more than half its standard error.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..pipelines import UnsupportedError, ignored_words, known_model, model_name
from .environment import environment
from .goal import Goal, check_limit
from .inputs import check_inputs
from .prompts import course
from .race import Progress, Race
from .score import Scorer
from .track import Track
from .tuned import Tuned


def tune(
    pipe: Any,
    *,
    floor: Mapping[str, float] | None = None,
    budget: float | None = None,
    prompts: Sequence[str] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    limit: float = 600.0,
    watch: Progress | None = None,
) -> Tuned:
    """Search a pipeline's accelerators, knobs and combinations for the fastest that holds a floor, or fits a budget.

    Args:
        pipe: any diffusers pipeline.
        floor: metric -> smallest mean, as ``{"psnr": 30}``; ``{"adherence": -1}``: at most 1 point (percent) below the
            baseline's own.
        budget: most median seconds of a picture; give this or a floor.
        prompts: what to draw; with 12 or more, half of them are held out. None: a mix that suits the model.
        steps: denoising steps; None is the model's own number, or 28.
        guidance: guidance scale, None is the model's own.
        negative: what not to draw.
        size: (width, height) in pixels, None is the model's own.
        seed: of the noise.
        limit: seconds after which the best so far is the answer.
        watch: called with what is going on and the part of the time that is over; may raise ``Cancelled``.

    Raises:
        InputError, KnobError, UnsupportedError: before anything runs.
    """
    goal = Goal(dict(floor or {}), budget)
    model = known_model(model_name(pipe))
    steps = steps if steps is not None else (model.steps if model else 28)
    guidance = guidance if guidance is not None else (model.guidance if model else None)
    cells = course(pipe, prompts, seed)
    check_inputs([p for p, _ in cells.held_out], [seed], steps=steps, size=size, guidance=guidance)
    check_limit(limit)
    scorer = Scorer(tuple(dict.fromkeys((*goal.metrics, "psnr", "ssim"))), pipe)
    for metric in goal.metrics:
        if why := scorer.unavailable.get(metric):
            raise UnsupportedError(f"{metric} cannot be held here: {why}; take another floor, such as psnr=30")
    settings = {"steps": steps, "guidance": guidance, "negative": negative, "size": size}
    begin = time.perf_counter()
    race = Race(Track(pipe, goal, settings, scorer, begin + limit), cells, begin, watch)
    stopped = race.run()
    return Tuned(
        goal=goal, track=race.track, entries=race.entries, finalists=race.finalists,
        space=race.space, notes=race.notes, stopped=stopped, seconds=time.perf_counter() - begin,
        settings={"model": model_name(pipe), **settings, "seed": seed, "limit": limit,
                  "prompts": list(dict.fromkeys(p for p, _ in cells.held_out)),
                  "ignored_words": ignored_words(model_name(pipe), [p for p, _ in cells.held_out])},
        environment=environment(pipe), created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
