"""Fitted cache: a schedule and its predictor, both calibrated on the model; ours, after LeMiCa and AB-Cache."""

from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any, ClassVar

from ..pipelines import KnobError
from .knobs import knob
from .output_cache import MaskedCache
from .predictors import lagrange_weights
from .schedules import read_mask

MOST_NODES = 4


@dataclass(frozen=True)
class FittedCache(MaskedCache):
    """Run the network at calibrated steps, and sum past outputs with calibrated weights at the others.

    A skipped step k between the computed steps gets

        e[k] = sum over a of w[k, a] e[a],      a the last computed steps before k,

    as in AB-Cache and LeMiCa, but the weights w are neither one (repeat) nor Lagrange's (continue a polynomial): they
    are those with the least squared error over recorded runs of the very model. Between a repeat and a polynomial they
    find what is right for each gap, so nobody has to choose an order. `deadheat calibrate auto MODEL` records a run,
    fits the weights of every possible gap, and finds the steps whose gaps together do the least harm. ``mask="all"``
    computes everything.

    Weights hold for the number of steps they were fitted at. In a run of another length, or where steps were computed
    that the mask leaves out, the last two outputs are continued as a line; without any weights always. They belong to
    the guidance and the noise levels of the recorded runs, too: on pocket-dit those of guidance 4 are 4 dB nearer than
    a line there and 6 dB at guidance 7, but 5 dB further without guidance.

    >>> FittedCache(mask="0-3 6 9", of=10, weights="4: -0.9 1.9; 5: -1.1 2.1").computed(10)
    (0, 1, 2, 3, 6, 9)
    """

    name: ClassVar[str] = "fitted-cache"
    title: ClassVar[str] = "Fitted cache"
    paper: ClassVar[str] = "ours; after Yu et al. 2025, arXiv:2504.10540, and Gao et al. 2025, arXiv:2511.00090"
    neutral: ClassVar[dict[str, Any]] = {"mask": "all"}
    seat: ClassVar[str] = "denoiser output"
    axis: ClassVar[str] = "index"  # type: ignore[misc]

    mask: str = knob("0-4 6 8 10 12 14 16 18 20 22 24-27", "computed steps, from 0, as in '0-3 6 9'; or 'all'")
    of: int = knob(28, "how many steps the mask was made for", low=2, high=1000, unit="steps")
    weights: str = knob("", "of the last outputs, oldest first, for skipped steps, as in '4: -0.9 1.9; 5: -1.1 2.1'")

    def __post_init__(self) -> None:
        super().__post_init__()
        kept = read_mask(self.mask, self.of)
        for step, row in self.rows.items():
            if step in kept or not 0 <= step < self.of:
                raise KnobError(f"FittedCache.weights has step {step}, which the mask {self.mask!r} does not skip")
            if len(row) > min(MOST_NODES, sum(node < step for node in kept)):
                raise KnobError(
                    f"FittedCache.weights has {len(row)} numbers for step {step}: at most {MOST_NODES}, and "
                    "no more than there are computed steps before it"
                )

    @cached_property
    def rows(self) -> dict[int, tuple[float, ...]]:
        """The weights by skipped step."""
        return read_weights(self.weights)

    @property
    def order(self) -> int:  # type: ignore[override]
        """How many past outputs predict a skipped one, at most."""
        return max(map(len, self.rows.values()), default=2)

    def weights_for(self, nodes: list[float], where: float, steps: int) -> tuple[float, ...]:
        """Return the weights of the outputs at the steps *nodes* for step *where* of a run of so many steps."""
        row = self.rows.get(round(where))
        meant = [node for node in self.computed(steps) if node < where]
        if row is None or steps != self.of or nodes[-len(row) :] != meant[-len(row) :]:
            return (0.0,) * (len(nodes) - 2) + lagrange_weights(nodes[-2:], where)
        return (0.0,) * (len(nodes) - len(row)) + row

    def reason(self) -> str:
        return "not in the mask; fitted"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        said = super().cautions(pipe, steps)
        if self.mask.strip() == "all":
            return said
        if not self.weights:
            said.append("it has no weights of this model yet: fit them with `deadheat calibrate auto MODEL`")
        elif steps != self.of:
            said.append(
                f"mask and weights were fitted for {self.of} steps; at {steps} the mask is stretched and lines are "
                f"continued: fit them with `deadheat calibrate auto MODEL --steps {steps}`"
            )
        return said


def read_weights(text: str) -> dict[int, tuple[float, ...]]:
    """Read weights by step.

    >>> read_weights("4: -0.9 1.9; 5: 1")
    {4: (-0.9, 1.9), 5: (1.0,)}

    Raises:
        KnobError: something else is written there.
    """
    rows: dict[int, tuple[float, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        step, _, numbers = part.partition(":")
        try:
            at, row = int(step), tuple(float(number) for number in numbers.split())
        except ValueError:
            raise KnobError(f"the weights have {part!r} in them; write them as in '4: -0.9 1.9; 5: 1'") from None
        if not row:
            raise KnobError(f"the weights have {part!r} in them, a step without numbers")
        if not all(map(isfinite, row)):
            raise KnobError(f"the weights have {part!r} in them, which are no finite numbers")
        if at in rows:
            raise KnobError(f"the weights have step {at} twice: leave one of them out")
        rows[at] = row
    return rows


def write_weights(rows: dict[int, tuple[float, ...]]) -> str:
    """Write weights as ``read_weights`` reads them.

    >>> write_weights({4: (-0.9, 1.9), 5: (1.0,)})
    '4: -0.9 1.9; 5: 1'
    """
    return "; ".join(f"{step}: {' '.join(f'{w:.5g}' for w in row)}" for step, row in sorted(rows.items()))
