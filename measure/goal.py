"""What `tune` is asked for, and how sure one can be of it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..pipelines import InputError, KnobError, nearest
from .metrics import LESS_IS_BETTER, METRICS, MOST, OWN, TOGETHER, counted

Scores = Mapping[str, float | None]
SURE, LOST = 0.5, 1.5  # standard errors: a floor is held, or is out of reach


@dataclass(frozen=True)
class Estimate:
    """A mean, and its standard error."""

    mean: float
    error: float

    @property
    def holds(self) -> bool:
        """Whether the mean is on the right side, by more than half its error."""
        return self.mean - SURE * self.error >= 0

    @property
    def lost(self) -> bool:
        """Whether the mean is on the wrong side, beyond doubt."""
        return self.mean + LOST * self.error < 0


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of values with its standard error, infinite for fewer than two.

    >>> estimate([1.0, 3.0])
    Estimate(mean=2.0, error=1.0)
    """
    mean = statistics.fmean(values)
    return Estimate(mean, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf)


@dataclass(frozen=True)
class Goal:
    """The fastest that holds a floor, or the most faithful within a budget.

    Attributes:
        floor: metric -> smallest mean allowed (largest, where less is better). A metric that judges a picture by
            itself takes a negative number too: so many points below the baseline's own mean, adherence in percent.
        budget: most median seconds of a picture; None where there is a floor.
        quality: what is to be best within a budget.
    """

    floor: Mapping[str, float] = field(default_factory=dict)
    budget: float | None = None
    quality: str = "psnr"

    def __post_init__(self) -> None:
        """Refuse what cannot be held.

        Raises:
            InputError, KnobError: names the value and the way out.
        """
        if bool(self.floor) == (self.budget is not None):
            raise InputError("give either a floor, such as psnr=30, or a budget, such as 2.5s")
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise InputError(f"budget is {self.budget}, not a number of seconds above 0")
        for metric in self.metrics:
            if metric not in METRICS:
                raise KnobError(f"no metric is called {metric!r}; {nearest(metric, METRICS)}")
            if metric in TOGETHER:
                raise InputError(f"{metric} counts for all pictures together: no floor for it can be held by each")
        for metric, bound in self.floor.items():
            check_floor(metric, bound)
            if bound < 0 and metric not in OWN:
                raise InputError(
                    f"the floor of {metric} is {bound}; only {', '.join(OWN)} may stand points below the baseline"
                )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that decide."""
        return tuple(self.floor) or (self.quality,)

    def slack(self, metric: str, row: Scores, baseline: Scores) -> float | None:
        """Return by how much one picture is better than its floor asks; None where the metric says nothing.

        >>> Goal({"adherence": -1}).slack("adherence", {"adherence": 0.75}, {"adherence": 0.78})
        -2.0
        """
        value, own = row.get(metric), baseline.get(metric)
        if value is None:
            return None
        bound = self.floor.get(metric, 0.0)
        if bound < 0:
            return None if own is None else round((value - own) * OWN[metric], 9) - bound
        gap = counted(value, metric) - bound
        return -gap if metric in LESS_IS_BETTER else gap

    def __str__(self) -> str:
        if self.budget is not None:
            return f"the best {self.quality} within {self.budget:g} s"
        return f"the fastest with {' and '.join(map(self.bound_text, self.floor))}"

    def bound_text(self, metric: str) -> str:
        """Write a floor in words."""
        bound = self.floor[metric]
        if bound < 0:
            return f"{metric} at most {-bound:g} points below the baseline's"
        return f"{metric} {'at most' if metric in LESS_IS_BETTER else 'at least'} {bound:g}"


def check_floor(metric: str, bound: float) -> None:
    """Refuse a floor that no pictures can hold.

    Raises:
        InputError: names the value, and the largest that there is.
    """
    if not math.isfinite(bound):
        raise InputError(f"the floor of {metric} is {bound}, not a number")
    if bound > MOST.get(metric, math.inf):
        raise InputError(
            f"the floor of {metric} is {bound:g}, and its mean is never above {MOST[metric]:g}; take less"
        )


def check_limit(seconds: float) -> None:
    """Refuse a time that a search cannot keep to.

    Raises:
        InputError: names the value, and what it may be.
    """
    if not 0 < seconds < math.inf:
        raise InputError(f"the time limit is {seconds:g} s, not a number of seconds above 0; write it as 10min")


def read_floor(texts: Sequence[str]) -> dict[str, float]:
    """Read floors as on the command line.

    >>> read_floor(["psnr=30", "adherence=-1"])
    {'psnr': 30.0, 'adherence': -1.0}

    Raises:
        InputError: something else is written there.
    """
    found = {}
    for text in texts:
        name, equals, number = text.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(f"the floor is {text!r}; write it as psnr=30, or adherence=-1")
    return found


def read_seconds(text: str) -> float:
    """Read seconds as on the command line.

    >>> read_seconds("2.5s"), read_seconds("900ms"), read_seconds("10min")
    (2.5, 0.9, 600.0)

    Raises:
        InputError: something else is written there.
    """
    number, factor = text.strip(), 1.0
    for unit, seconds in (("ms", 1e-3), ("min", 60.0), ("s", 1.0)):
        if number.endswith(unit):
            number, factor = number.removesuffix(unit), seconds
            break
    try:
        found = float(number) * factor
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{text!r} is no time; write it as 2.5s, 900ms or 10min")
    return found
