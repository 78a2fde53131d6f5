"""What `tune` answers: the recipe, what it does in the mean and at worst, the frontier, and what was given up."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pipelines import UnsupportedError, family
from ..presets import Recipe
from .calibrate import made_with
from .goal import Goal
from .metrics import LESS_IS_BETTER, counted, mean_score
from .prompts import Cell
from .report import score_text
from .snippet import snippet
from .space import FEWER, Space
from .track import Entry, Track

ENOUGH = 8  # held-out cells below which nothing is claimed
TIE = 1.02  # medians as close as this are equal: the more faithful is taken


@dataclass(eq=False)
class Tuned:
    """The answer of a search.

    Attributes:
        goal: what was asked for.
        entries: every setting that was tried; finalists: those that drew held-out prompts.
        space: what was searched, and why other lines do not fit.
        stopped: why the search ended early; "" if it did not.
        seconds: how long it took.
        settings, environment, created, notes: how, on what and when.
    """

    goal: Goal
    track: Track
    entries: list[Entry]
    finalists: list[Entry]
    space: Space
    settings: dict[str, Any]
    environment: dict[str, Any]
    created: str
    seconds: float
    notes: list[str]
    stopped: str = ""

    def __post_init__(self) -> None:
        self.best, self.claim = self._chosen()

    @property
    def recipe(self) -> Recipe:
        """The answer as a recipe; the plain pipeline where nothing better was found."""
        if self.best is None:
            return Recipe((), "plain", self.claim)
        return Recipe(self.best.recipe.accelerators, f"tuned: {self.goal}", self.about)

    @property
    def measured(self) -> bool:
        """Whether the answer rests on held-out prompts."""
        return self.best is None or self.best in self.finalists

    def _chosen(self) -> tuple[Entry | None, str]:
        """Return the answer, and what can be said for it."""
        if self.goal.budget is not None and self.track.expected(self.track.baseline) <= self.goal.budget:
            return None, "the plain pipeline is within the budget: nothing has to be given up"
        sound = [entry for entry in self.finalists if not entry.failed]
        known = [entry for entry in sound if len(entry.scores) >= ENOUGH and entry.seconds]
        if fit := [entry for entry in known if self._holds(entry)]:
            kept = "holds" if self.goal.budget is None else "is within the budget"
            return self._better(fit), f"{kept} on held-out prompts"
        near = [entry for entry in known if self.track.judged(entry).mean >= 0 and self._faster(entry)]
        if near and self.goal.budget is None:
            best = max(near, key=lambda entry: self.track.judged(entry).mean)
            return best, "holds in the mean, but by less than half its error"
        return self._by_probes() if self.stopped and not known else self._nothing()

    def _nothing(self) -> tuple[None, str]:
        return None, f"nothing that was tried gives {self.goal}: the plain pipeline is the answer"

    def _by_probes(self) -> tuple[Entry | None, str]:
        """Return the best guess of a search that ended before its finals said anything."""
        for entry in self.finalists:
            entry.scores = {**entry.probes, **entry.scores}
        self.finalists.clear()
        pace = max(self.entries, key=lambda entry: len(self._probes(entry)), default=None)
        probed = [entry for entry in self.entries if entry.scores and not entry.dropped]
        if holding := [entry for entry in probed if self._probably(entry, pace)]:
            early = "judged by its probes alone: the search ended before held-out prompts were drawn"
            return self._better(holding), early
        return None, "nothing was measured well enough before the search ended: the plain pipeline is the answer"

    def _probes(self, entry: Entry) -> dict[Cell, Any]:
        return entry.probes or entry.scores

    def _holds(self, entry: Entry) -> bool:
        if self.goal.budget is not None:
            return entry.median <= self.goal.budget
        return self.track.judged(entry).holds and self._faster(entry)

    def _probably(self, entry: Entry, pace: Entry | None) -> bool:
        if self.goal.budget is not None:
            return self.track.expected(entry) <= self.goal.budget
        return self.track.judged(entry, pace if pace is not entry else None).holds and self._faster(entry)

    def _faster(self, entry: Entry) -> bool:
        return self._share(entry) < 1

    def _share(self, entry: Entry) -> float:
        """Return what a picture takes of the baseline's seconds: of the same rounds, as a machine's pace changes."""
        if entry.speedup is not None:
            return 1 / entry.speedup
        return self.track.expected(entry) / self.track.expected(self.track.baseline)

    def _better(self, fit: list[Entry]) -> Entry:
        """Return the fastest, of equals the most faithful; within a budget the most faithful."""
        if self.goal.budget is not None:
            return max(fit, key=lambda entry: self.track.judged(entry).mean)
        fastest = min(map(self._share, fit))
        ties = [entry for entry in fit if self._share(entry) <= TIE * fastest]
        return max(ties, key=lambda entry: self.track.judged(entry).mean)

    # -- numbers -------------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that were measured, those of the goal first."""
        return tuple(dict.fromkeys((*self.goal.metrics, "psnr", "ssim")))

    def values(self, entry: Entry, metric: str) -> dict[Cell, float]:
        """Return the values of a metric, by cell."""
        return {cell: value for cell, row in entry.scores.items() if (value := row.get(metric)) is not None}

    def mean(self, entry: Entry, metric: str) -> float | None:
        """Return the mean of a metric, as ``mean_score``, or None."""
        return mean_score(self.values(entry, metric).values(), metric)

    def worst(self, entry: Entry, metric: str) -> tuple[float, Cell] | None:
        """Return the worst value of a metric, and where it was."""
        values = self.values(entry, metric)
        choose = max if metric in LESS_IS_BETTER else min
        return choose(((value, cell) for cell, value in values.items()), default=None)

    def error(self, entry: Entry, metric: str) -> float | None:
        """Return the standard error of the mean."""
        values = [counted(value, metric) for value in self.values(entry, metric).values()]
        return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None

    def expected(self, entry: Entry) -> float:
        """Return the seconds of one picture: measured for finalists, reckoned for others."""
        return self.track.expected(entry)

    def speedup(self, entry: Entry) -> float | None:
        """Return the baseline's median seconds over its own, of the same rounds; None for what was not timed."""
        return entry.speedup

    def frontier(self) -> list[Entry]:
        """Return what nothing else beats in both time and quality, fastest first; numbers of probes are reckoned."""
        metric = self.goal.metrics[0]
        sign = -1 if metric in LESS_IS_BETTER else 1
        found: list[Entry] = []
        best = -float("inf")
        rated = [(self.expected(entry), sign * mean, nth, entry) for nth, entry in enumerate(self.entries)
                 if (mean := self.mean(entry, metric)) is not None]  # fmt: skip
        for _, quality, _, entry in sorted(rated, key=lambda one: (one[0], -one[1], one[2])):
            if quality > best:
                found.append(entry)
                best = quality
        return found

    def fewer_steps(self) -> Entry | None:
        """Return the plain run with the fewest steps that fits as well, as far as was tried."""
        plain = [entry for entry in self.entries if entry.line == FEWER and entry.scores and not entry.failed]
        pace = max(self.entries, key=lambda entry: len(self._probes(entry)), default=None)
        fit = [entry for entry in plain if self._probably(entry, None if entry in self.finalists else pace)]
        return min(fit, key=self.expected, default=None)

    # -- words and files -----------------------------------------------------------------------------------------

    @property
    def about(self) -> str:
        """Where the answer's numbers come from, in a sentence or two."""
        s, best = self.settings, self.best
        if best is None:
            return self.claim
        speed = self.speedup(best)
        quick = f"{speed:.2f}x as fast" if speed else f"about {self.expected(best):.2f} s a picture, reckoned"
        numbers = ", ".join(self._number(best, metric) for metric in self.metrics)
        machine = self.environment["hardware"]["gpu"] or self.environment["hardware"]["processor"]
        return (
            f"Tuned: {s['model']} ({family(self.track.pipe).name}), {s['steps']} steps, guidance {s['guidance']}, "
            f"{type(self.track.pipe.scheduler).__name__}; {self.goal}; {self.claim}: {quick}, {numbers}, over "
            f"{len(best.scores)} pictures; {machine}; {made_with(self.track.pipe)}."
        )

    def _number(self, entry: Entry, metric: str) -> str:
        mean, worst = self.mean(entry, metric), self.worst(entry, metric)
        return f"{metric} {score_text(mean, metric)} (worst {score_text(worst[0] if worst else None, metric)})"

    def text(self) -> str:
        """Return the answer for people."""
        from .tuned_text import answer

        return answer(self)

    def snippet(self) -> str:
        """Return code that draws the first held-out prompt with the answer, ready to be pasted."""
        call = {name: self.settings[name] for name in ("steps", "guidance", "negative", "size")}
        prompt = self.settings["prompts"][0]
        recipe = str(Recipe(self.recipe.accelerators))
        pipe = self.environment["pipeline"]
        call |= {"seed": self.settings["seed"], "system": pipe["system"], "revision": pipe["revision"]}
        return snippet(self.settings["model"], recipe, prompt=prompt, **call)

    def save(self, path: str | Path) -> Path:
        """Write the recipe as a preset; returns its path.

        Raises:
            UnsupportedError: the answer is the plain pipeline, which no preset is needed for.
        """
        if self.best is None:
            raise UnsupportedError(f"there is no preset to write: {self.claim}")
        target = Path(path)
        target.write_text(self.recipe.to_toml(), encoding="utf-8")
        return target

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        from .tuned_data import data

        return data(self)
