"""TaylorSeer: forecasting features with Taylor expansions (Liu et al. 2025, https://arxiv.org/abs/2503.06923)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from .knobs import knob
from .module_cache import ModuleCache, Part
from .predictors import taylor_weights
from .schedules import periodic
from .worth import amplifies


@dataclass(frozen=True)
class TaylorSeer(ModuleCache):
    """Forecast every attention and feed-forward output from its own past; norms and gates always run.

    With F the output of a module at the last computed step, N steps apart from the one before, a skipped module k
    steps later gives (equation 7 of the paper)

        F(k) = sum over j = 0..order of  d_j F / (j! N^j) k^j,    d_j the j-th difference of computed outputs.

    Differences stand in for derivatives, so that this is exact for lines and not for parabolas, at any order.
    diffusers has this method for attention alone, where its pattern of names finds it (on PixArt, Wan and LTX it finds
    none and says nothing). ``every=1`` computes everything.

    >>> from deadheat.accelerators.schedules import periodic
    >>> [step for step in range(12) if periodic(step, 12, every=4, warmup=3)]
    [0, 1, 2, 3, 7, 11]
    """

    name: ClassVar[str] = "taylor-seer"
    title: ClassVar[str] = "TaylorSeer"
    paper: ClassVar[str] = "Liu et al. 2025, arXiv:2503.06923"
    neutral: ClassVar[dict[str, Any]] = {"every": 1}
    seat: ClassVar[str] = "attention and feed-forward"

    every: int = knob(3, "run the modules once in this many steps", low=1, high=10, unit="steps")
    order: int = knob(1, "order of the Taylor expansion; 0 repeats", low=0, high=3)
    warmup: int = knob(4, "first steps that always run", low=1, high=50, unit="steps")

    @property
    def nodes(self) -> int:  # type: ignore[override]
        """How many past outputs a prediction uses at most."""
        return self.order + 1

    def computes(self, part: Part, step: int, steps: int) -> bool:
        return periodic(step, steps, self.every, self.warmup)

    def weights_at(self, steps: list[int], where: float) -> tuple[float, ...]:
        return taylor_weights(steps, where)

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        return [*super().cautions(pipe, steps), *amplifies(self, pipe, "order", 0)]

    def reason(self) -> str:
        return f"attention and feed-forward forecast, order {self.order}"

    def idle_because(self, steps: int) -> str:
        if self.every == 1:
            return f"{self} runs every module at every step"
        return f"{self} runs all {steps} steps: {self.warmup} to warm up, and the last"
