"""The parts of a run that each have a size of their own, and the noise levels that they go through."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .errors import KnobError


@dataclass(frozen=True)
class Leg:
    """Some steps of a run at one size.

    Attributes:
        steps: how many.
        size: height and width, as a part of the full ones.
        until: noise level at the full size at which the leg ends. None, or a level that the run has passed already:
            where its last step would end in a plain run.
    """

    steps: int
    size: Fraction
    until: float | None = None


def levels_of(planned: Sequence[float], legs: Sequence[Leg]) -> tuple[list[float], list[float]]:
    """Return the noise level before and after each step of *legs*, where a plain run takes the *planned* ones.

    A part r of the size needs a part r of the noise-to-signal ratio for the same information, which is the plain
    schedule with r times its shift.

    >>> levels_of([1.0, 0.75, 0.5, 0.25, 0.0], [Leg(1, Fraction(1)), Leg(2, Fraction(1, 2)), Leg(1, Fraction(1))])
    ([1.0, 0.6, 0.3333333333333333, 0.25], [0.75, 0.3333333333333333, 0.14285714285714285, 0.0])

    Raises:
        KnobError: a leg ends before it starts.
    """
    starts: list[float] = []
    ends: list[float] = []
    index, begin = np.arange(len(planned)), 0.0
    for leg in legs:
        end: float = len(starts) + leg.steps
        if leg.until is not None:
            reached = float(np.interp(-leg.until, -np.asarray(planned), index))
            end = reached if begin < reached < index[-1] else end
        if begin >= end:
            raise KnobError(
                f"this run of {index[-1]} steps changes its size late, at step {begin:.1f}, and again at {end:g}: "
                "give both changes a noise level, or none"
            )
        full = np.interp(np.linspace(begin, end, leg.steps + 1), index, planned)
        part = full * float(leg.size) / (1 - full + full * float(leg.size))
        if not starts:
            part[0] = full[0]  # pure noise is pure noise at every size
        starts += part[:-1].tolist()
        ends += part[1:].tolist()
        begin = end
    return starts, ends
