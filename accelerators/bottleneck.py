"""Bottleneck Sampling: high, low, high resolution (Tian et al. 2025, https://arxiv.org/abs/2503.18940)."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from ..pipelines import KnobError, Leg, Stage, around_resolution
from .knobs import knob
from .resizing import LowResolution


@dataclass(frozen=True)
class Bottleneck(LowResolution):
    """Take the middle steps of a run at a lower resolution, between a sketch and a finish at the full one.

    ``first``, ``low`` and ``last`` share the run's steps out, exactly so where they add up to it. A side ``factor``
    times shorter holds the same information with a noise-to-signal ratio n that is ``factor`` times lower, so that
    in flow matching the noise level s = n / (1 + n) of every low step becomes

        s' = s / (factor - (factor - 1) s)

    which is the plain schedule with its shift divided by ``factor``. ``down`` and ``up`` are such levels s at full
    resolution, in [0, 1] for every scheduler; one that the run has passed already counts as 0. ``transition`` says
    how the latents get from one size to the other: see ``Keep`` and ``Renoise`` in ``resizing``. ``low=0`` is the
    plain run.

    The defaults rise early, at s = 0.75: on pocket-dit (28 steps) that kept 27.7 dB of PSNR to the baseline, against
    20.3 dB with the change where the steps fall (``up=0``) and, with ``transition="renoise"`` as in the paper, 19.6.

    >>> [leg.steps for leg in Bottleneck(first=4, low=12, last=5).legs(21)], Bottleneck().cost(21)
    ([4, 12, 5], 12.0)
    """

    name: ClassVar[str] = "bottleneck"
    title: ClassVar[str] = "Bottleneck Sampling"
    paper: ClassVar[str] = "Tian et al. 2025, arXiv:2503.18940"
    neutral: ClassVar[dict[str, Any]] = {"low": 0}

    first: int = knob(4, "share of the first steps, at full resolution", low=0, high=100, unit="steps")
    low: int = knob(12, "share of the steps at low resolution", low=0, high=100, unit="steps")
    last: int = knob(5, "share of the last steps, at full resolution", low=1, high=100, unit="steps")
    factor: int = knob(2, "how many times shorter a side is", low=2, high=4)
    down: float = knob(0.0, "noise level at which the resolution falls; 0: as the steps fall", low=0.0, high=0.99)
    up: float = knob(0.75, "noise level at which it rises again; 0: as the steps fall", low=0.0, high=0.99)
    transition: str = knob(
        "keep", "keep the noisy state, or noise the clean prediction anew", choices=("keep", "renoise")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.up and self.down and self.up >= self.down:
            raise KnobError(f"Bottleneck.up is {self.up}, not below down, which is {self.down}: swap them")

    def legs(self, steps: int) -> list[Leg]:
        whole = self.first + self.low + self.last
        sketch = round(self.first * steps / whole) if self.low else steps
        rise = max(sketch, min(round((self.first + self.low) * steps / whole), steps - 1))
        parts = [
            Leg(sketch, Fraction(1), self.down or None),
            Leg(rise - sketch, self.parts()[0], self.up or None),
            Leg(steps - rise, Fraction(1)),
        ]
        return [leg for leg in parts if leg.steps] if rise > sketch else [Leg(steps, Fraction(1))]

    def parts(self) -> list[Fraction]:
        return [Fraction(1, self.factor)]

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        return around_resolution(stage, self.legs, self.resize)
