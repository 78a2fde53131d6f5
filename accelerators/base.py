"""What an accelerator is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ..pipelines import IncompatibleError, Report, Run, Stage, UnsupportedError, staged
from .knobs import checked
from .recipe_text import quoted


class Accelerator(ABC):
    """A frozen dataclass of knobs that changes how a pipeline runs, for as long as a ``with`` block lasts.

    Attributes:
        name: name in kebab-case, for the command line, presets and tables.
        title: name for people.
        paper: where the method comes from.
        neutral: knob values with which the accelerator changes nothing at all.
        seat: what it occupies; two accelerators of one recipe cannot have the same seat.
        excludes: seats that nobody may have beside it.
        behind: seats whose accelerators must come before it in a recipe: it learns from what they let through, and
            standing before them it would learn from their predictions.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    neutral: ClassVar[Mapping[str, Any]]
    seat: ClassVar[str]
    excludes: ClassVar[frozenset[str]] = frozenset()
    behind: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        """Refuse a knob outside its range."""
        for f in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, f.name, checked(type(self).__name__, f, getattr(self, f.name)))

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        """Return a sentence that says why this accelerator cannot work with *pipe*, or None if it can."""
        return None

    def refusal(self, pipe: Any) -> str | None:
        """Return a sentence that says why it cannot work with *pipe* and these knobs, or None if it can."""
        return self.supports(pipe)

    def bars(self, pipe: Any) -> frozenset[str]:
        """Return the seats that nobody may have beside it with *pipe* and these knobs."""
        return self.excludes

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        """Return sentences that say why it may not pay with *pipe* at this number of steps."""
        return []

    def idle_because(self, steps: int) -> str:
        """Return why a run of so many steps had nothing to skip, as the end of a sentence."""
        return f"{self} found nothing to skip in {steps} steps"

    @abstractmethod
    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        """Stand in the pipeline on entry, and leave it as it was on exit."""

    def __str__(self) -> str:
        """Write the accelerator as on the command line; knobs at their defaults are left out.

        >>> from deadheat.accelerators import ABCache
        >>> str(ABCache(every=4))
        'ab-cache:every=4'
        """
        changed = [f"{f.name}={_text(value)}" for f in fields(self) if (value := getattr(self, f.name)) != f.default]  # type: ignore[arg-type]
        return ":".join([self.name, ",".join(changed)] if changed else [self.name])


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else quoted(str(value))


@dataclass(eq=False)
class Session:
    """A pipeline while accelerators stand in it.

    Attributes:
        stage: the pipeline with its clock.
        accelerators: outermost first.
    """

    stage: Stage
    accelerators: tuple[Accelerator, ...]

    def report(self) -> Report:
        """Say what the last run did.

        Raises:
            UnsupportedError: nothing ran yet.
        """
        runs = [run for run in self.stage.runs if run.steps]
        if not runs:
            raise UnsupportedError(
                "nothing ran yet: call the pipeline inside the with block, then ask for the report"
                + (" (its scheduler was never asked for timesteps)" if not self.stage.runs else "")
            )
        return Report.of(runs[-1], self._warnings(runs[-1]))

    def _warnings(self, run: Run) -> list[str]:
        steps = len(run.steps)
        idle = [a for a in self.accelerators if a.name not in run.acted]
        reasons = [run.idle.get(a.name) or a.idle_because(steps) for a in idle]
        if idle and len(idle) == len(self.accelerators):
            said = [f"nothing was skipped: {'; '.join(reasons)}"]
        else:
            said = [f"{a.name} did nothing: {reason}" for a, reason in zip(idle, reasons, strict=True)]
        return said + run.warned + [c for a in self.accelerators for c in a.cautions(self.stage.pipe, steps)]


def check(accelerators: Sequence[Accelerator], pipe: Any) -> None:
    """Refuse, before anything runs, what cannot work.

    Raises:
        UnsupportedError: an accelerator cannot work with this pipeline.
        IncompatibleError: two accelerators want the same seat, one excludes the other's, or they stand in an order in
            which one would learn from the other's predictions.
    """
    for accelerator in accelerators:
        if (why := accelerator.refusal(pipe)) is not None:
            raise UnsupportedError(f"{accelerator.name} cannot work with {type(pipe).__name__}: {why}")
    seats: dict[str, Accelerator] = {}
    for accelerator in accelerators:
        other = seats.setdefault(accelerator.seat, accelerator)
        if other is not accelerator:
            raise IncompatibleError(
                f"{other} and {accelerator} both take the {accelerator.seat}; "
                f"the second would only see what the first lets through: keep one of them"
            )
    for at, accelerator in enumerate(accelerators):
        for seat in sorted(accelerator.bars(pipe) & seats.keys()):
            raise IncompatibleError(
                f"{accelerator} does not go with {seats[seat]}, which takes the {seat}: keep one of them"
            )
        for other in accelerators[at + 1 :]:
            if other.seat in accelerator.behind:
                raise IncompatibleError(
                    f"{accelerator} stands before {other} and would learn from its predictions: "
                    f"write {other.name} + {accelerator.name}, in this order"
                )


@contextmanager
def attached(pipe: Any, *accelerators: Accelerator) -> Iterator[Session]:
    """Attach accelerators to a diffusers pipeline until the block ends; the first is the outermost.

    Raises:
        UnsupportedError, IncompatibleError: before anything is touched.
    """
    check(accelerators, pipe)
    with ExitStack() as stack:
        stage = stack.enter_context(staged(pipe))
        for accelerator in accelerators:
            stage.owner = accelerator.name
            stack.enter_context(accelerator.attach(stage))
        yield Session(stage, accelerators)
