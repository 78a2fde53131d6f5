"""MagCache: fast video generation with magnitude-aware cache (Ma et al. 2025, https://arxiv.org/abs/2506.09045)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

from ..pipelines import KnobError
from .knobs import knob
from .stack_cache import StackCache

PUBLISHED = {  # FLUX.1, 28 steps; the first step has no step before it
    "flux": "1 1.21094 1.11719 1.07812 1.0625 1.03906 1.03125 1.03906 1.02344 1.03125 1.02344 0.98047 1.01562 1.00781 "
    "1 1.00781 1 1.00781 1 1 0.99609 0.99609 0.98047 0.98828 0.96484 0.95703 0.93359 0.89062",
}


@dataclass(frozen=True)
class MagCache(StackCache):
    """Skip the transformer blocks as long as the size of their residual is known to have changed little.

    With r_i the residual at step i and the ratio g_i = mean |r_i| / |r_(i-1)| over the tokens, measured in one run,

        G_t = product of g since the last run of the blocks,      E = sum over t since then of |1 - G_t|

    (section 3.3 of the paper). A step is skipped while E <= threshold, at most ``most`` in a row; the first
    ``retention`` of the run and the last step are computed. The ratios depend on the model and its scheduler, not on
    the prompt: the schedule is known before the run. `deadheat calibrate magcache MODEL` measures them for yours.
    ``ratios`` are one number a step from the second on, after a 1 for the first; those of another number of steps
    lend each step its nearest. ``order=2`` continues the residual instead of repeating it. ``threshold=0`` computes
    everything.

    >>> MagCache(ratios="1 1 1 1 1 1 1 1 1 1", most=2, retention=0.2).computed(10)
    (0, 1, 4, 7, 9)
    """

    name: ClassVar[str] = "magcache"
    title: ClassVar[str] = "MagCache"
    paper: ClassVar[str] = "Ma et al. 2025, arXiv:2506.09045"
    neutral: ClassVar[dict[str, Any]] = {"threshold": 0.0}

    threshold: float = knob(0.06, "error of the residual's size that may add up", low=0.0, high=2.0)
    most: int = knob(3, "most steps skipped in a row", low=1, high=20, unit="steps")
    retention: float = knob(0.2, "first part of the run that is computed", low=0.0, high=0.9, unit="fraction")
    ratios: str = knob("flux", "size of the residual by that of the step before; or 'flux', as published")
    order: int = knob(1, "how many past residuals predict a skipped one", low=1, high=3, unit="residuals")

    def __post_init__(self) -> None:
        super().__post_init__()
        read_ratios(self.ratios)

    def computed(self, steps: int) -> tuple[int, ...]:
        if self.threshold == 0:
            return tuple(range(steps))
        ratios = nearest_ratios(read_ratios(self.ratios), steps)
        found, size, error, skipped = [0], 1.0, 0.0, 0
        for step in range(1, steps):
            if step < max(1, int(self.retention * steps)):
                found.append(step)
                continue
            size, skipped = size * ratios[step], skipped + 1
            error += abs(1 - size)
            if error > self.threshold or skipped > self.most or step == steps - 1:
                found.append(step)
                size, error, skipped = 1.0, 0.0, 0
        return tuple(found)

    def computes(self, step: int, steps: int) -> bool:
        """Tell whether the blocks run at *step*, from 0."""
        return step in self.computed(steps) or step >= steps - 1

    def reason(self) -> str:
        return f"size off by at most {self.threshold:g}"

    def idle_because(self, steps: int) -> str:
        if self.threshold == 0:
            return f"{self} runs the blocks at every step"
        return f"its ratios leave none of {steps} steps within {self.threshold:g}"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        said, known = super().cautions(pipe, steps), len(read_ratios(self.ratios))
        way = f"measure your model's with `deadheat calibrate magcache MODEL --steps {steps}`"
        if self.threshold and self.ratios in PUBLISHED:
            said.append(f"the ratios are those published for {self.ratios}: {way}")
        elif self.threshold and known != steps:
            said.append(f"the ratios were measured with {known} steps, not {steps}: {way}")
        return said


def read_ratios(text: str) -> tuple[float, ...]:
    """Read the ratios of a run: numbers between spaces, or the name of a published table.

    >>> read_ratios("1 1.21 0.98")
    (1.0, 1.21, 0.98)

    Raises:
        KnobError: no table is called so, and these are not at least two numbers above zero.
    """
    try:
        ratios = tuple(float(part) for part in PUBLISHED.get(text.strip(), text).split())
    except ValueError:
        ratios = ()
    if len(ratios) < 2 or not all(isfinite(ratio) and ratio > 0 for ratio in ratios):
        raise KnobError(
            f"MagCache.ratios is {text!r}, neither {' nor '.join(PUBLISHED)} nor numbers above 0 between spaces, one "
            "a step, as `deadheat calibrate magcache MODEL` writes them"
        )
    return ratios


def nearest_ratios(ratios: Sequence[float], steps: int) -> tuple[float, ...]:
    """Carry ratios over to another number of steps: each takes the one at its part of the run.

    >>> nearest_ratios((1.0, 1.2, 1.1), 5)
    (1.0, 1.0, 1.2, 1.1, 1.1)
    """
    return tuple(ratios[round(step * (len(ratios) - 1) / max(1, steps - 1))] for step in range(steps))
