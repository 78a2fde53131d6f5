"""Find the fastest setting that holds a quality, or the best one within a time, by a race on the user's own pipeline.

1. The baseline is warmed up, and recorded for the fitted cache.
2. Every line of the search space is walked by halves, with four prompts: towards what is better while the constraint
   holds, back where it does not, and not at all where even that would lose against the leader.
3. Successive halving: the best, with their neighbours, on twice and four times as many prompts. What surely misses, or
   is surely overtaken, is dropped.
4. The finalists draw held-out prompts, one picture at a time, interleaved with the baseline and timed. A floor counts
   as held if the mean is above it by more than its standard error.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..accelerators import attached
from ..pipelines import (
    Cancelled,
    DeadheatError,
    InputError,
    UnsupportedError,
    ignored_words,
    known_model,
    model_name,
)
from ..presets import Recipe
from .environment import environment
from .fit import Recording, record
from .goal import Goal
from .inputs import check_inputs
from .prompts import Course, course
from .score import Scorer
from .space import Line, Space, search_space
from .track import Entry, TimeUp, Track
from .tuned import ENOUGH, Tuned

FEW, MORE, MANY = 4, 8, 16  # cells of a probe, and of the two rungs of halving
FINALISTS = 4
CLEAR = 24  # after which the last one need not go on if it holds by three errors
CALIBRATE, WALK, HALVE = 0.06, 0.4, 0.52  # of the time, at most, until each part is over
SLOWER = 1.04  # as slow as this, beside one that surely holds, is out
Progress = Callable[[str, float], object]


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
    if limit <= 0:
        raise InputError(f"the time limit is {limit:g} s; give more than 0")
    scorer = Scorer(tuple(dict.fromkeys((*goal.metrics, "psnr", "ssim"))), pipe)
    for metric in goal.metrics:
        if why := scorer.unavailable.get(metric):
            raise UnsupportedError(f"{metric} cannot be held here: {why}; take another floor, such as psnr=30")
    settings = {"steps": steps, "guidance": guidance, "negative": negative, "size": size}
    begin = time.perf_counter()
    search = _Search(Track(pipe, goal, settings, scorer, begin + limit), cells, begin, watch)
    stopped = search.run()
    return Tuned(
        goal=goal, track=search.track, entries=search.entries, finalists=search.finalists,
        space=search.space, notes=search.notes, stopped=stopped, seconds=time.perf_counter() - begin,
        settings={"model": model_name(pipe), **settings, "seed": seed, "limit": limit,
                  "prompts": list(dict.fromkeys(p for p, _ in cells.held_out)),
                  "ignored_words": ignored_words(model_name(pipe), [p for p, _ in cells.held_out])},
        environment=environment(pipe), created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


@dataclass(eq=False)
class _Search:
    """A race while it runs.

    Attributes:
        entries: every setting that was tried, by line and place in it.
        reached: number of the line that is being walked.
        leader: the best that fits, so far; pace: the one that drew the most probes, which others are compared with.
    """

    track: Track
    course: Course
    begin: float
    watch: Progress | None
    space: Space = field(default_factory=Space)
    entries: list[Entry] = field(default_factory=list)
    finalists: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    leader: Entry | None = None
    pace: Entry | None = None
    reached: int = 0

    def run(self) -> str:
        """Search until done; returns why it ended early, or ""."""
        if self.course.note:
            self.notes.append(self.course.note)
        try:
            with suppress(TimeUp):
                self._set_out()
                if not self._within(WALK, self._walk_all):
                    rest = ", ".join(line.name for line in self.space.lines[self.reached :])
                    self.notes.append(f"the time did not suffice for: {rest}; give it more with --time")
                self._within(HALVE, self._halve)
            self.track.check_time()
            self._finals()
        except TimeUp:
            return f"the time of {self.track.end - self.begin:.0f} s was over"
        except (KeyboardInterrupt, Cancelled):
            return "it was stopped"
        return ""

    def _within(self, share: float, part: Callable[[], None]) -> bool:
        """Do a part until so much of the time is over; returns whether it came to its end."""
        self.track.until = self.begin + share * (self.track.end - self.begin)
        try:
            part()
        except TimeUp:
            return False
        finally:
            self.track.until = 0.0
        return True

    def _say(self, text: str) -> None:
        if self.watch:
            self.watch(text, (time.perf_counter() - self.begin) / (self.track.end - self.begin))

    def _set_out(self) -> None:
        self._say("the pipeline as it is")
        track = self.track
        track.warm_up(self.course.probe[0])
        if all(track.goal.slack(m, row, row) is None for row in track.baseline.scores.values()
               for m in track.goal.metrics):  # fmt: skip
            raise InputError(
                f"{' and '.join(track.goal.metrics)} says nothing about {self.course.probe[0][0]!r}: take another"
            )
        if track.goal.budget is not None and track.expected(track.baseline) <= track.goal.budget:
            return  # nothing has to be given up
        steps = track.settings["steps"]
        self.space = search_space(track.pipe, steps, self._record, guided=track.baseline.asked > steps)

    def _record(self, recipe: Recipe) -> Recording:
        track = self.track
        one = track.fixed + track.settings["steps"] * track.step
        share = CALIBRATE * (track.end - self.begin) / max(one, 1e-9)
        cells = self.course.calibrate[: max(2, min(len(self.course.calibrate), int(share)))]
        recipe_text = f" with {recipe}" if recipe.accelerators else ""

        def shown(done: int, of: int) -> None:
            self._say(f"recording {done}/{of}{recipe_text}")

        with attached(track.pipe, *recipe.accelerators):
            return record(track.pipe, [prompt for prompt, _ in cells], track.settings["steps"],
                          guidance=track.settings["guidance"], seed=cells[0][1] + 500, watch=shown)  # fmt: skip

    # -- what is better, and what fits ---------------------------------------------------------------------------

    def _quality(self, entry: Entry) -> Any:
        return self.track.judged(entry, self.pace if entry is not self.pace else None)

    def _fits(self, entry: Entry) -> bool:
        budget = self.track.goal.budget
        return self.track.expected(entry) <= budget if budget is not None else self._quality(entry).mean >= 0

    def _sure(self, entry: Entry) -> bool:
        budget = self.track.goal.budget
        return self.track.expected(entry) <= budget if budget is not None else self._quality(entry).holds

    def _lost(self, entry: Entry) -> bool:
        budget = self.track.goal.budget
        if budget is not None:
            return self.track.expected(entry) > budget * (1.15 if not entry.seconds else 1.02)
        return bool(self._quality(entry).lost)

    def _worth(self, entry: Entry) -> float:
        if self.track.goal.budget is not None:
            return float(self._quality(entry).mean)
        return -self.track.expected(entry)

    def _overtaken(self, entry: Entry, by: Entry) -> str:
        """Return why an entry cannot win against one that surely fits; "" if it can."""
        if entry is by:
            return ""
        if self.track.goal.budget is None:
            late = self.track.expected(entry) > SLOWER * self.track.expected(by)
            return f"slower than {by.name}, which holds the floor" if late else ""
        mine, other = self._quality(entry), self._quality(by)
        worse = mine.mean + mine.error < other.mean
        return f"no better than {by.name}, which is within the budget" if worse else ""

    # -- walking the lines ---------------------------------------------------------------------------------------

    def _walk_all(self) -> None:
        for nth, line in enumerate(self.space.lines):
            self.reached = nth
            self._say(f"line {nth + 1}/{len(self.space.lines)}: {line.name}")
            self._walk(line)
            if self.pace is None and self.leader is not None:
                self.track.probe(self.leader, self.course.probe[:MANY])
                self.pace = self.leader

    def _walk(self, line: Line) -> None:
        """Go through a line by halves: on while it fits, back while it could still win."""
        ahead = 1 if self.track.goal.budget is None else -1  # towards faster, or towards more faithful
        low, high = 0, len(line.recipes) - 1
        while low <= high:
            middle = (low + high) // 2
            entry = self._probed(line, middle)
            if entry is None:
                return
            fits = self._fits(entry)
            if fits and (self.leader is None or self._worth(entry) > self._worth(self.leader)):
                self.leader = entry
            if not fits and self.leader is not None and self._worth(entry) <= self._worth(self.leader):
                self._drop(entry, f"misses, and is no better than {self.leader.name}")
                return
            if fits is (ahead > 0):
                low = middle + 1
            else:
                high = middle - 1

    def _probed(self, line: Line, at: int) -> Entry | None:
        """Return the entry for a setting, with its first probes; None where it cannot run."""
        for entry in self.entries:
            if entry.line == line.name and entry.at == at:
                return entry if entry.scores else None
        entry = Entry(line.recipes[at], line.name, at)
        try:
            self.track.probe(entry, self.course.probe[:FEW])
        except Cancelled:
            raise
        except (DeadheatError, RuntimeError, ValueError) as error:
            self.entries.append(entry)
            self._drop(entry, f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            return None
        self.entries.append(entry)
        return entry

    def _drop(self, entry: Entry, why: str) -> None:
        entry.dropped = why

    # -- halving -------------------------------------------------------------------------------------------------

    def _halve(self) -> None:
        self._add_neighbours()
        for cells, keep in ((MORE, 2 * FINALISTS), (MANY, FINALISTS + 1)):
            for nth, entry in enumerate(self._pool(keep)):
                self._say(f"{cells} prompts, {nth + 1} of {keep} at most: {entry.name}")
                self.track.probe(entry, self.course.probe[:cells])

    def _add_neighbours(self) -> None:
        lines = {line.name: line for line in self.space.lines}
        for entry in self._pool(3):
            for at in (entry.at - 1, entry.at + 1):
                if 0 <= at < len(lines[entry.line].recipes):
                    self._probed(lines[entry.line], at)

    def _pool(self, keep: int) -> list[Entry]:
        """Return so many of the best that may fit, and the best that surely does; drops the others."""
        alive = [entry for entry in self.entries if entry.scores and not entry.dropped]
        for entry in alive:
            if self._lost(entry):
                self._drop(
                    entry, "misses the floor" if self.track.goal.budget is None else "takes longer than the budget"
                )
        alive = sorted((entry for entry in alive if not entry.dropped), key=self._worth, reverse=True)
        sure = next((entry for entry in alive if self._sure(entry)), None)
        if sure is not None:
            for entry in alive:
                self._drop(entry, self._overtaken(entry, sure))
            alive = [entry for entry in alive if not entry.dropped]
        kept = alive[:keep]
        if sure is not None and sure not in kept:
            kept[-1] = sure
        return kept

    # -- the finals ----------------------------------------------------------------------------------------------

    def _finals(self) -> None:
        self.pace = None  # what is claimed rests on held-out prompts alone
        racing = self._pool_of_finalists()
        for heat in range(4):
            if not racing:
                return
            self._heat(racing, baseline_rounds=len(self.course.held_out) if heat == 0 else 7)
            if any(self._sure(entry) for entry in self.finalists if not entry.dropped):
                return
            racing = self._safer()

    def _pool_of_finalists(self) -> list[Entry]:
        alive = [entry for entry in self.entries if entry.scores and not entry.dropped]
        beside = max(alive, key=lambda entry: len(entry.scores), default=None)
        self.pace = beside
        found = self._pool(FINALISTS) if alive else []
        self.pace = None
        return found

    def _heat(self, racing: list[Entry], baseline_rounds: int) -> None:
        """Draw the held-out cells with all that race, interleaved; those that cannot win any more fall out."""
        track = self.track
        for entry in racing:
            entry.probes, entry.scores, entry.cost = entry.scores, {}, 0.0
            self.finalists.append(entry)
        cells = self.course.held_out
        for nth, cell in enumerate(cells):
            racing = [entry for entry in racing if not entry.dropped]
            if not racing:
                return
            track.check_time()
            self._say(f"held-out prompt {nth + 1}/{len(cells)}: {', '.join(entry.name for entry in racing)}")
            with_baseline = nth < baseline_rounds or cell not in track.truth
            lanes = [*([track.baseline] if with_baseline else []), *racing]
            turn = nth % len(lanes)
            track.round([*lanes[turn:], *lanes[:turn]], cell)
            if nth + 1 >= ENOUGH and (nth + 1) % 4 == 0:
                self._thin_out(racing)
            if nth + 1 >= CLEAR and self._clear(racing):
                return

    def _clear(self, racing: Sequence[Entry]) -> bool:
        """Tell whether one is left, and nothing that more pictures could show would change that."""
        left = [entry for entry in racing if not entry.dropped]
        if len(left) != 1 or not self._sure(left[0]):
            return False
        quality = self._quality(left[0])
        return self.track.goal.budget is not None or quality.mean - 3 * quality.error >= 0

    def _thin_out(self, racing: Sequence[Entry]) -> None:
        for entry in racing:
            if self._lost(entry):
                over = self.track.goal.budget is not None
                self._drop(entry, "takes longer than the budget" if over else "misses the floor on held-out prompts")
        sure = [entry for entry in racing if not entry.dropped and self._sure(entry)]
        if sure:
            best = max(sure, key=self._worth)
            for entry in racing:
                if not entry.dropped:
                    self._drop(entry, self._overtaken(entry, best))

    def _safer(self) -> list[Entry]:
        """Return the next setting back of the finalist that came closest, where none fits."""
        back = -1 if self.track.goal.budget is None else 1
        if self.track.goal.budget is None:
            closest = max(self.finalists, key=lambda entry: self._quality(entry).mean)
        else:
            closest = min(self.finalists, key=self.track.expected)
        line = next(line for line in self.space.lines if line.name == closest.line)
        at = closest.at + back
        while 0 <= at < len(line.recipes):
            known = next((e for e in self.entries if e.line == line.name and e.at == at), None)
            if known not in self.finalists:
                entry = known or Entry(line.recipes[at], line.name, at)
                if known is None:
                    self.entries.append(entry)
                entry.dropped = ""
                return [entry]
            at += back
        return []
