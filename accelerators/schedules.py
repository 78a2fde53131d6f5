"""When to compute: rules that decide before the run starts, and one that looks at the run. Steps count from 0."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..pipelines import KnobError


def periodic(step: int, steps: int, every: int, warmup: int, last: int = 1, *, since: int | None = None) -> bool:
    """Tell whether a step is computed: the first *warmup*, then one in *every*, and the last one, or so many.

    The period is counted from the end of the warm-up, or *since* another step.

    >>> [step for step in range(14) if periodic(step, 14, 3, 4)]
    [0, 1, 2, 3, 4, 7, 10, 13]
    >>> [step for step in range(14) if periodic(step, 14, 3, 4, since=0)]
    [0, 1, 2, 3, 6, 9, 12, 13]
    """
    begin = warmup if since is None else since
    return step < warmup or (step - begin) % every == 0 or step >= steps - last


def due(since: int, step: int, computes: Callable[[int], bool]) -> bool:
    """Tell whether what was made at step *since* has had its day at *step*: a step behind it is one that *computes*.

    Not the rule for *step* alone: where an accelerator further out answered at a step that was to compute, the next
    call makes up for it, and nothing grows older than it would have been.

    >>> [due(4, step, lambda at: at % 4 == 0) for step in (6, 8, 9)]
    [False, True, True]
    """
    return any(map(computes, range(since + 1, step + 1)))


def read_mask(text: str, of: int) -> tuple[int, ...]:
    """Read the computed steps of a run of so many: numbers and ranges between spaces, or "all".

    >>> read_mask("0-3 6 9", of=10)
    (0, 1, 2, 3, 6, 9)

    Raises:
        KnobError: not numbers and ranges, or without the first step or the last.
    """
    if text.strip() == "all":
        return tuple(range(of))
    found: set[int] = set()
    for part in text.split():
        low, _, high = part.partition("-")
        high = high or low
        if not (low.isdecimal() and high.isdecimal()):
            raise KnobError(f"the mask has {part!r} in it; write computed steps as in '0-3 6 9', or 'all'")
        if beyond(low, of) or beyond(high, of):  # asked before a range of millions is written out
            raise _unfit(text, of)
        if int(low) > int(high):
            raise KnobError(f"the mask has {part!r} in it, which runs backwards: write {high}-{low}")
        found.update(range(int(low), int(high) + 1))
    if not {0, of - 1} <= found:
        raise _unfit(text, of)
    return tuple(sorted(found))


def beyond(number: str, of: int) -> bool:
    """Tell whether a whole number is no step of a run of so many, be it of more digits than Python reads.

    >>> beyond("9", of=10), beyond("10", of=10)
    (False, True)
    """
    return len(number) > 9 or int(number) >= of


def _unfit(text: str, of: int) -> KnobError:
    return KnobError(f"the mask {text!r} must hold step 0 and step {of - 1}, and none after it (of={of})")


def write_mask(steps: Iterable[int]) -> str:
    """Write computed steps as ``read_mask`` reads them.

    >>> write_mask([0, 1, 2, 3, 6, 9])
    '0-3 6 9'
    """
    runs: list[list[int]] = []
    for step in sorted(steps):
        if runs and runs[-1][1] == step - 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    return " ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def stretched(mask: tuple[int, ...], of: int, steps: int) -> tuple[int, ...]:
    """Carry a mask over to another number of steps: each computed step moves to its part of the run.

    >>> stretched((0, 1, 2, 3, 6, 9), of=10, steps=19)
    (0, 2, 4, 6, 12, 18)
    """
    if of == steps:
        return mask
    return tuple(sorted({round(step * (steps - 1) / max(1, of - 1)) for step in mask}))


@dataclass
class Threshold:
    """Compute when the change since the last computed step reaches a limit; belongs to one run.

    Attributes:
        limit: the change that is no longer ignored; 0 computes every step.
        warmup, last: first and last steps that are computed whatever the change.
        most: most steps that are skipped in a row.
        accumulate: whether the changes given are from step to step and have to be added up.
        always: steps that are computed whatever the change; where there are any, the threshold decides between them.
        total: the change since the last computed step.
        skipped: steps skipped since then.

    >>> rule = Threshold(0.5, warmup=1)
    >>> [rule.computes(step, 6, 0.2) for step in range(6)]
    [True, False, False, True, False, True]
    """

    limit: float
    warmup: int = 1
    last: int = 1
    most: int = 1000
    accumulate: bool = True
    always: frozenset[int] = frozenset()
    total: float = 0.0
    skipped: int = 0

    def computes(self, step: int, steps: int, change: float) -> bool:
        """Tell whether a step is computed; asked once a step, in order. A change that is no number computes."""
        self.total = change + (self.total if self.accumulate else 0.0)
        forced = step in self.always or step < self.warmup or step >= steps - self.last or self.skipped >= self.most
        if forced or not self.total < self.limit:
            self.total, self.skipped = 0.0, 0
            return True
        self.skipped += 1
        return False
