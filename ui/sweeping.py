"""A sweep as work for a visitor: what may be asked for, and how it is told. Knows no gradio."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from .jobs import Job, model
from .pictures import data_url
from .settings import PUBLIC, Settings, check_recipe, words

MOST_CELLS = 24 if PUBLIC else 120
MOST_LINES = 20  # of recipes, and of prompts
DEFAULT = (  # with the baseline and five plain runs of fewer steps, which stand in every sweep: 12 cells
    "ab-cache:every=2|3",
    "first-block-cache:threshold=0.2",
    "taylor-seer",
    "guidance-interval",
    "guidance-interval + ab-cache:every=3",
)


@dataclass(frozen=True)
class SweepSettings:
    """What a visitor wants to have measured.

    Attributes:
        recipes, prompts: one a line; the knobs of a recipe may have several values.
        model, steps, guidance, seed, repeats: as ``sweep`` takes them.
    """

    recipes: str
    prompts: str
    model: str = "pocket-dit"
    steps: int = 28
    guidance: float = 4.0
    seed: int = 0
    repeats: int = 3

    def checks(self) -> dict[str, Callable[[], Any]]:
        """Return a check for each field; each raises a ``DeadheatError`` that says what is wrong."""
        rest = Settings("", "", self.model, "", self.steps, self.guidance, self.seed, self.repeats).checks()
        names = ("model", "steps", "guidance", "seed", "repeats")
        return {
            "recipes": self._check_recipes,
            "prompts": self._check_prompts,
            **{name: rest[name] for name in names},
        }

    def checked(self) -> "SweepSettings":
        """Return the settings, or refuse them.

        Raises:
            DeadheatError: names the field, the value and what it may be.
        """
        for test in self.checks().values():
            test()
        return self

    def complaints(self) -> list[str]:
        """Return for each field what is wrong with it, "" if nothing is."""
        return [_complaint(test) for test in self.checks().values()]

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for ``sweep``."""
        return {
            "recipes": _lines("recipes", self.recipes),
            "prompts": _lines("prompts", self.prompts),
            "seeds": [int(self.seed)],
            "steps": int(self.steps),
            "guidance": float(self.guidance),
            "repeats": int(self.repeats),
        }

    def _check_recipes(self) -> None:
        from deadheat.measure.sweep_settings import sweep_recipes

        from deadheat import InputError, KnobError

        lines, prompts = _lines("recipes", self.recipes), _lines("prompts", self.prompts)
        if not lines:
            raise KnobError("no recipe is given; write one a line, such as ab-cache:every=2..4")
        if len(lines) > MOST_LINES:
            raise InputError(f"these are {len(lines)} lines, not between 1 and {MOST_LINES}")
        recipes: set[str] = set()
        for text in lines:
            recipes |= {*check_recipe(text, meant=partial(sweep_recipes, str(self.model)))}
            count = (len(recipes) + 6) * max(1, len(prompts))
            if count > MOST_CELLS:
                raise InputError(f"this is a sweep of {count} cells, and at most {MOST_CELLS} are taken: drop values")

    def _check_prompts(self) -> None:
        from deadheat.measure import check_inputs

        from deadheat import InputError

        prompts = _lines("prompts", self.prompts)
        if len(prompts) > MOST_LINES:
            raise InputError(f"these are {len(prompts)} prompts, not between 1 and {MOST_LINES}")
        check_inputs(prompts or [""])


def _lines(name: str, text: str | None) -> list[str]:
    return [line.strip() for line in words(name, text or "").splitlines() if line.strip()]


def _complaint(test: Callable[[], Any]) -> str:
    from deadheat import DeadheatError

    try:
        test()
    except DeadheatError as error:
        return str(error)
    return ""


class Bar:
    """How far a sweep is that has not begun."""

    def page(self, said: str) -> dict[str, Any]:
        """Return what the page should show."""
        return {"said": said, "part": 0.0}


@dataclass(eq=False)
class SweepJob(Job):
    """One sweep under way.

    Attributes:
        settings: what is measured.
        shown: what the explorer shows of it now.
        cells: how many cells are finished.
    """

    settings: SweepSettings  # type: ignore[assignment]
    shown: dict[str, Any] = field(default_factory=dict)
    cells: int = 0
    _total: int = 0
    _steps: int = 0
    _expected: int = 1
    _begun: float = 0.0
    _told: float = 0.0

    def _plan(self) -> Any:
        about = f"{self.settings.model} · {int(self.settings.steps)} steps"
        self.shown = {"kind": "explore", "badge": "running", "about": about, "points": []}
        return Bar()

    def news(self) -> Iterator[dict[str, Any]]:
        """Yield what the page should show: all of it where there is something new, else only how far it is."""
        sent = None
        for progress in super().news():
            fresh = {} if self.shown is sent else self.shown
            sent = self.shown
            yield {"kind": "progress", **fresh, "progress": progress, "run": self.number}

    def page(self) -> dict[str, Any]:
        """Return the finished sweep for the page.

        Raises:
            DeadheatError: it was stopped, or could not be done.
        """
        self.outcome()
        return {**self.shown, "badge": "measured just now", "progress": None, "run": self.number}

    def _work(self) -> Any:
        from deadheat.measure import sweep

        self._news.put(self.progress.page("loading the model"))
        pipe = model(self.settings.model)
        self._reckon(pipe)
        with tempfile.TemporaryDirectory(prefix="deadheat-sweep-") as folder:
            look = cache(lambda file: data_url(Path(folder) / file))
            arguments = {**self.settings.arguments(), "out": folder, "stop": self._step}
            done = sweep(pipe, **arguments, watch=lambda progress: self._finished(folder, look, progress))
            return {**done.to_dict(), "folder": None}

    def _reckon(self, pipe: Any) -> None:
        """Count the steps that all runs will take: warm-ups, rounds, and the baselines of later heats."""
        from deadheat.measure.plan import heats, plan
        from deadheat.measure.sweep_settings import sweep_settings

        given = self.settings.arguments()
        settings = sweep_settings(pipe, **given, negative=None, size=None, metrics=["psnr"], control=None)
        cells, rounds = plan(settings), settings["repeats"]
        steps = [int(c.recipe.partition("steps=")[2]) if c.role == "control" else c.steps for c in cells]
        more = sum(1 for _ in heats(cells, ())) - len(settings["prompts"])
        self._total, self._begun = len(cells), time.monotonic()
        self._expected = (rounds + 1) * sum(steps) + more * rounds * settings["steps"][0]

    def _step(self) -> bool:
        """Be asked after every step; says seldom how far it is, for whoever listens takes time from the stopwatch."""
        self._steps += 1
        if time.monotonic() - self._told > 1:
            self._tell()
        return self._stops()

    def _tell(self) -> None:
        self._told = time.monotonic()
        part = min(0.99, self._steps / self._expected)
        left = (self._told - self._begun) * (1 - part) / part if part > 0.02 else None
        rest = "" if left is None else f" · about {time_text(left)} left"
        self._news.put({"said": f"{self.cells} of {self._total} cells{rest}", "part": part})

    def _finished(self, folder: str, look: Callable[[str], str | None], progress: Any) -> None:
        from deadheat.measure import Sweep
        from deadheat.measure.explore import explore_sweep

        if progress.cell is not None and progress.done > self.cells:
            done = Sweep.load(folder)  # a whole heat is there at once
            self.cells, self.shown = len(done.cells), {**explore_sweep(done, look), "badge": "running"}
            self._tell()


def time_text(seconds: float) -> str:
    """Write a time that is only a guess.

    >>> time_text(8.2), time_text(200)
    ('9 s', '4 min')
    """
    return f"{int(seconds) + 1} s" if seconds < 100 else f"{int(seconds / 60) + 1} min"
