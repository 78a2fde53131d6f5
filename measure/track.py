"""Where settings race: draws pictures with a recipe, scores them, and reckons or measures what they take."""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..accelerators import attached
from ..pipelines import Cancelled, Report, UnsupportedError, call_arguments, family, pictures
from ..presets import Recipe
from .broken import BROKEN, tidy_up
from .goal import Estimate, Goal, Scores, estimate
from .prompts import Cell
from .score import Scorer
from .timing import synchronise

SMALL = 256 * 256  # pixels up to which several probes are drawn in one batch
BATCH = 4


class TimeUp(Exception):
    """The time that a part of the search may take is over."""


@dataclass(eq=False)
class Entry:
    """One setting in the race.

    Attributes:
        recipe: what runs; line: the line of the search space that it is of; at: its place there.
        scores: cell -> metric -> value, of probes (at first) or of held-out cells (once it is a finalist).
        probes: the scores of the probes of a finalist.
        cost: what a run takes, in whole steps of the network.
        calls, asked: samples through the denoiser, and those that the pipeline asked for.
        seconds: wall clock of one picture, run by run.
        beside: the baseline's seconds and its own, of the rounds in which both ran.
        dropped: why it is out of the race; "" if it is not.
        failed: whether it is out because it cannot run, or draws no numbers.
        warnings: what its report warned of.
    """

    recipe: Recipe
    line: str = ""
    at: int = 0
    scores: dict[Cell, Scores] = field(default_factory=dict)
    probes: dict[Cell, Scores] = field(default_factory=dict)
    cost: float = 0.0
    calls: int = 0
    asked: int = 0
    seconds: list[float] = field(default_factory=list)
    beside: list[tuple[float, float]] = field(default_factory=list)
    dropped: str = ""
    failed: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.recipe.title or str(self.recipe)

    @property
    def idle(self) -> str:
        """Why the last run was that of another setting under a longer name; "" where every part did something."""
        if any(text.startswith("nothing was skipped") for text in self.warnings):
            return "it skipped nothing: the same as the plain pipeline"
        parts = self.recipe.accelerators if len(self.recipe.accelerators) > 1 else ()
        idle = [a.name for a in parts if any(text.startswith(f"{a.name} did nothing") for text in self.warnings)]
        return f"{' and '.join(idle)} did nothing: the same as without" if idle else ""

    @property
    def median(self) -> float:
        """Median measured seconds."""
        return statistics.median(self.seconds)

    @property
    def speedup(self) -> float | None:
        """Median seconds of the baseline over its own, of the rounds in which both ran; None where there are none."""
        if not self.beside:
            return None
        plain, own = zip(*self.beside, strict=True)
        return statistics.median(plain) / statistics.median(own)


@dataclass(eq=False)
class Track:
    """One pipeline, its settings, its baseline's pictures, and the clock.

    Attributes:
        settings: steps, guidance, negative and size, as ``call_arguments`` takes them.
        end: when the search has to be over; until: when its present part has to be, on ``time.perf_counter``.
        fixed, step: the baseline's seconds outside denoising, and for one step.
    """

    pipe: Any
    goal: Goal
    settings: dict[str, Any]
    scorer: Scorer
    end: float
    until: float = 0.0
    fixed: float = 0.0
    step: float = 0.0
    baseline: Entry = field(default_factory=lambda: Entry(Recipe(), "baseline"))
    truth: dict[Cell, Tensor] = field(default_factory=dict)

    def check_time(self) -> None:
        """Raise if the present part has taken its time."""
        if time.perf_counter() > (self.until or self.end):
            raise TimeUp

    def draw(
        self, recipe: Recipe, cells: Sequence[Cell], counted: bool = True
    ) -> tuple[list[Tensor], Report | None, float]:
        """Draw cells in one batch; returns their pictures (frames as one tall picture), the report, and seconds.

        The plain pipeline carries nothing at all where it is not counted, and has no report then.
        """
        prompts, seeds = [prompt for prompt, _ in cells], [seed for _, seed in cells]
        one = len(cells) == 1
        given = call_arguments(
            self.pipe, prompt=prompts[0] if one else prompts, seed=seeds[0] if one else seeds, **self.settings
        )
        with ExitStack() as stack:
            session = stack.enter_context(attached(self.pipe, *recipe.accelerators)) if counted else None
            synchronise(self.pipe)
            begin = time.perf_counter()
            output = self.pipe(**given)
            synchronise(self.pipe)
            seconds = time.perf_counter() - begin
            report = session.report() if session else None
        found = [torch.cat(list(part), 1) for part in pictures(output).chunk(len(cells))]
        return found, report, seconds

    def warm_up(self, cell: Cell) -> None:
        """Run the baseline until it is warm, and learn what a step takes."""
        self.draw(Recipe(), [cell], counted=False)
        (picture,), report, seconds = self.draw(Recipe(), [cell])
        if report is None:
            return
        denoising = sum(step.seconds for step in report.steps)
        self.step, self.fixed = denoising / len(report.steps), max(0.0, seconds - denoising)
        self.baseline.calls, self.baseline.asked = report.calls, report.asked
        self.baseline.cost = float(len(report.steps))
        self._keep(self.baseline, [cell], [picture])

    def probe(self, entry: Entry, cells: Sequence[Cell]) -> None:
        """Draw and score the cells that an entry has not drawn yet, several at once where pictures are small."""
        todo = [cell for cell in cells if cell not in entry.scores]
        size = self._batch()
        for at in range(0, len(todo), size):
            part = todo[at : at + size]
            if missing := [cell for cell in part if cell not in self.truth]:
                self.check_time()
                self._drawn(self.baseline, missing)
            self.check_time()
            if not self._drawn(entry, part):
                return

    def round(self, entries: Sequence[Entry], cell: Cell) -> None:
        """Draw one picture with each, one after the other as a user would, with the stopwatch."""
        tried = {entry: self._tried(entry, [cell], counted=entry is not self.baseline) for entry in entries}
        drawn = {entry: one for entry, one in tried.items() if one is not None}
        for entry in sorted(drawn, key=lambda one: one is not self.baseline):
            found, seconds = drawn[entry]
            entry.seconds.append(seconds)
            if self.baseline in drawn:
                entry.beside.append((drawn[self.baseline][1], seconds))
            self._keep(entry, [cell], found)

    def _tried(self, entry: Entry, cells: Sequence[Cell], counted: bool = True) -> tuple[list[Tensor], float] | None:
        """Draw cells; returns pictures and seconds, or None where the entry cannot, and is out of the race."""
        try:
            found, report, seconds = self.draw(entry.recipe, cells, counted)
            if not all(picture.isfinite().all() for picture in found):
                raise UnsupportedError(BROKEN)
        except Exception as error:
            if entry is self.baseline or isinstance(error, Cancelled):
                raise
            tidy_up(error)
            said = str(error).splitlines() or [type(error).__name__]
            entry.dropped, entry.failed = f"failed: {said[0]}", True
            return None
        if report is not None and entry is not self.baseline:
            self._count(entry, report, len(cells))
        return found, seconds

    def _drawn(self, entry: Entry, cells: Sequence[Cell]) -> bool:
        made = self._tried(entry, cells)
        if made is not None:
            self._keep(entry, cells, made[0])
        return made is not None

    def _batch(self) -> int:
        pixels = next(iter(self.truth.values()))[0].numel()
        return BATCH if pixels <= SMALL and not family(self.pipe).video else 1

    def _count(self, entry: Entry, report: Report, batch: int) -> None:
        made = cost(report, self.step * batch)
        entry.cost = min(made, entry.cost) if entry.cost else made
        entry.calls, entry.asked = report.calls // batch, report.asked // batch
        entry.warnings = report.warnings

    def _keep(self, entry: Entry, cells: Sequence[Cell], found: Sequence[Tensor]) -> None:
        if entry is self.baseline:
            self.truth |= dict(zip(cells, found, strict=True))
        truth = [self.truth[cell] for cell in cells]
        rows = self.scorer([prompt for prompt, _ in cells], found, truth)
        entry.scores |= dict(zip(cells, rows, strict=True))

    def expected(self, entry: Entry) -> float:
        """Return the seconds of one picture: measured, or reckoned from the steps' cost."""
        return entry.median if entry.seconds else self.fixed + entry.cost * self.step

    def slacks(self, entry: Entry, metric: str) -> dict[Cell, float]:
        """Return by how much each picture of an entry is better than asked."""
        pairs = (
            (cell, self.goal.slack(metric, row, self.baseline.scores[cell])) for cell, row in entry.scores.items()
        )
        return {cell: value for cell, value in pairs if value is not None}

    def judged(self, entry: Entry, beside: Entry | None = None) -> Estimate:
        """Return the slack of an entry's worst metric, on all cells that *beside* has drawn.

        Prompts differ more than settings do. So what an entry drew is compared with what *beside* drew from the same
        cells, and the difference is added to the mean of *beside* over all its cells (a control variate).
        """
        found = []
        for metric in self.goal.metrics:
            own = self.slacks(entry, metric)
            other = self.slacks(beside, metric) if beside is not None else {}
            both = own.keys() & other.keys()
            if len(other) > len(own) and len(both) > 1:
                gap, whole = estimate([own[c] - other[c] for c in both]), estimate(list(other.values()))
                found.append(Estimate(gap.mean + whole.mean, (gap.error**2 + whole.error**2) ** 0.5))
            elif own:
                found.append(estimate(list(own.values())))
        return min(found, key=lambda one: one.mean, default=Estimate(-math.inf, math.inf))


def cost(report: Report, step: float) -> float:
    """Return what a run took, in whole steps of the network: other kinds of steps by their median in the same run.

    Args:
        report: what the steps did.
        step: seconds of a whole step, for a run that has none.
    """
    kinds: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for made in report.steps:
        kinds[made.action, made.calls, made.asked].append(made.seconds)
    most = max(made.asked for made in report.steps)
    whole = [s for (action, calls, asked), found in kinds.items() for s in found
             if action == "computed" and calls == asked == most]  # fmt: skip
    unit = statistics.median(whole) if whole else step
    return sum(len(found) * statistics.median(found) for found in kinds.values()) / max(unit, 1e-9)
