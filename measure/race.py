"""The race of `tune`: walks the search space, halves what is left, and runs the finals."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter

from ..accelerators import attached
from ..pipelines import Cancelled, InputError
from ..presets import Recipe
from .finals import FINALISTS, Finals
from .fit import Recording, record
from .judge import Judge
from .prompts import Course
from .space import Line, Space, search_space
from .track import Entry, TimeUp, Track

RUNGS = (4, 8, 16)  # cells of a probe, and of the two rungs of halving; half of them where pictures are slow
PROBES = 0.08  # of the time, that the baseline's pictures for a probe may take
CALIBRATE, WALK, HALVE = 0.06, 0.4, 0.52  # of the time, at most, until each part is over
Progress = Callable[[str, float], object]


@dataclass(eq=False)
class Race:
    """A race while it runs.

    Attributes:
        entries: every setting that was tried, by line and place in it.
        reached: number of the line that is being walked.
        rungs: how many cells each part draws.
    """

    track: Track
    course: Course
    begin: float
    watch: Progress | None
    space: Space = field(default_factory=Space)
    entries: list[Entry] = field(default_factory=list)
    finalists: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reached: int = 0
    rungs: tuple[int, int, int] = RUNGS

    def __post_init__(self) -> None:
        self.judge = Judge(self.track)

    def run(self) -> str:
        """Search until done; returns why it ended early, or ""."""
        if self.course.note:
            self.notes.append(self.course.note)
        try:
            with suppress(TimeUp):
                self._set_out()
                self._within(HALVE, self._walk_first)  # without the first line there is nothing to compare with
                if not self._within(WALK, self._walk_others):
                    rest = ", ".join(line.name for line in self.space.lines[self.reached :])
                    self.notes.append(f"the time did not suffice for: {rest}; give it more with --time")
                self._within(HALVE, self._halve)
            self.track.check_time()
            if self.space.lines and not any(entry.scores or entry.dropped for entry in self.entries):
                return f"{self.track.end - self.begin:.0f} s did not suffice to try anything"
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

    def say(self, text: str) -> None:
        """Tell whoever watches."""
        if self.watch:
            self.watch(text, (perf_counter() - self.begin) / (self.track.end - self.begin))

    def _set_out(self) -> None:
        self.say("the pipeline as it is")
        track = self.track
        track.warm_up(self.course.probe[0])
        if all(track.goal.slack(m, row, row) is None for row in track.baseline.scores.values()
               for m in track.goal.metrics):  # fmt: skip
            raise InputError(
                f"{' and '.join(track.goal.metrics)} says nothing about {self.course.probe[0][0]!r}: take another"
            )
        if track.goal.budget is not None and track.expected(track.baseline) <= track.goal.budget:
            return  # nothing has to be given up
        if RUNGS[0] * track.expected(track.baseline) > PROBES * (track.end - self.begin):
            self.rungs = (RUNGS[0] // 2, RUNGS[1] // 2, RUNGS[2] // 2)
            self.notes.append("pictures are slow for the time given: probes rest on half as many")
        steps = track.settings["steps"]
        self.space = search_space(track.pipe, steps, self._record, guided=track.baseline.asked > steps)

    def _record(self, recipe: Recipe) -> Recording:
        track = self.track
        one = track.fixed + track.settings["steps"] * track.step
        share = CALIBRATE * (track.end - self.begin) / max(one, 1e-9)
        cells = self.course.calibrate[: max(2, min(len(self.course.calibrate), int(share)))]
        recipe_text = f" with {recipe}" if recipe.accelerators else ""

        def shown(done: int, of: int) -> None:
            self.say(f"recording {done}/{of}{recipe_text}")

        with attached(track.pipe, *recipe.accelerators):
            return record(track.pipe, [prompt for prompt, _ in cells], track.settings["steps"],
                          guidance=track.settings["guidance"], seed=cells[0][1] + 500, watch=shown)  # fmt: skip

    # -- walking the lines ---------------------------------------------------------------------------------------

    def _walk_first(self) -> None:
        """Walk the first line, and let its best draw all probes: it is what others are compared with."""
        for line in self.space.lines[:1]:
            self.say(f"line 1/{len(self.space.lines)}: {line.name}")
            self._walk(line)
            self.reached = 1
            if (leader := self._leader()) is not None:
                self.track.probe(leader, self.course.probe[: self.rungs[2]])
                self.judge.pace = None if leader.failed else leader

    def _walk_others(self) -> None:
        for nth, line in enumerate(self.space.lines[self.reached :], self.reached):
            self.track.check_time()
            self.reached = nth
            self.say(f"line {nth + 1}/{len(self.space.lines)}: {line.name}")
            self._walk(line)

    def _leader(self) -> Entry | None:
        """Return the best that fits, so far."""
        fit = (entry for entry in self.entries if entry.scores and not entry.dropped and self.judge.fits(entry))
        return max(fit, key=self.judge.worth, default=None)

    def _walk(self, line: Line) -> None:
        """Go through a line by halves: on while it fits, back while it could still win."""
        ahead = 1 if self.track.goal.budget is None else -1  # towards faster, or towards more faithful
        low, high = 0, len(line.recipes) - 1
        while low <= high:
            middle = (low + high) // 2
            entry = self._probed(line, middle)
            if entry is None:
                return
            fits, leader = self.judge.fits(entry), self._leader()
            if not fits and leader is not None and self.judge.worth(entry) <= self.judge.worth(leader):
                entry.dropped = f"misses, and is no better than {leader.name}"
                return
            if fits is (ahead > 0):
                low = middle + 1
            else:
                high = middle - 1

    def _probed(self, line: Line, at: int) -> Entry | None:
        """Return the entry for a setting, with its first probes; None where it cannot run."""
        for entry in self.entries:
            if entry.line == line.name and entry.at == at:
                return None if entry.failed else entry
        entry = Entry(line.recipes[at], line.name, at)
        self.track.probe(entry, self.course.probe[: self.rungs[0]])
        self.entries.append(entry)
        entry.dropped = entry.dropped or entry.idle
        return None if entry.failed else entry

    # -- halving -------------------------------------------------------------------------------------------------

    def _halve(self) -> None:
        self._add_neighbours()
        for cells, keep in ((self.rungs[1], 2 * FINALISTS), (self.rungs[2], FINALISTS + 1)):
            for nth, entry in enumerate(self.pool(keep)):
                self.say(f"{cells} prompts, {nth + 1} of {keep} at most: {entry.name}")
                self.track.probe(entry, self.course.probe[:cells])

    def _add_neighbours(self) -> None:
        lines = {line.name: line for line in self.space.lines}
        for entry in self.pool(3):
            for at in (entry.at - 1, entry.at + 1):
                if 0 <= at < len(lines[entry.line].recipes):
                    self._probed(lines[entry.line], at)

    def pool(self, keep: int) -> list[Entry]:
        """Return so many of the best that may fit, and the best that surely does; drops the others."""
        alive = [entry for entry in self.entries if entry.scores and not entry.dropped]
        for entry in alive:
            if self.judge.lost(entry):
                over = self.track.goal.budget is not None
                entry.dropped = "takes longer than the budget" if over else "misses the floor"
        alive = sorted((entry for entry in alive if not entry.dropped), key=self.judge.worth, reverse=True)
        sure = next((entry for entry in alive if self.judge.sure(entry)), None)
        if sure is not None:
            for entry in alive:
                entry.dropped = self.judge.overtaken(entry, sure)
            alive = [entry for entry in alive if not entry.dropped]
        kept = alive[:keep]
        if sure is not None and sure not in kept:
            kept[-1] = sure
        return kept

    def _finals(self) -> None:
        Finals(self).run()
