"""What FlashEdit's two training-free parts share: where the edit is, and from where the rest of the picture comes."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ..pipelines import Call, Link, Recorded, SomeTokens, few_step_model, on_device, usual_tokens
from .base import Accelerator
from .edited_region import WHOLE, check_region, chosen
from .knobs import knob

MIDDLE = "0.25 0.25 0.75 0.75"
WORTH = 1024  # tokens below which gathering and scattering cost more than they save
MUCH = 0.6  # share of the picture from which keeping the rest saves next to nothing
Renew = Callable[[Recorded, Tensor | None, Tensor], Tensor]


class Made(NamedTuple):
    """What a module gave when it last ran for the whole picture, and at which step."""

    step: int
    recorded: Recorded


@dataclass(frozen=True)
class Shield(Accelerator):
    """Runs modules for the tokens of a region; all other tokens keep what the source picture has there.

    The source is the picture itself at its last whole step (source="past"), or, as in FlashEdit, the first picture of
    the batch at the same step (source="batch"): then the pipeline is called with a list of prompts, the first of
    which describes the source, and with the same noise for each.
    """

    paper: ClassVar[str] = "Wu et al. 2025, arXiv:2509.22244"

    region: str = knob(MIDDLE, "what changes: boxes 'left top right bottom' in parts of the picture, joined by ';'")
    source: str = knob("past", "where the rest comes from: an earlier step, or the batch's first picture",
                       choices=("past", "batch"))  # fmt: skip
    warmup: int = knob(2, "source=past: first steps that run whole", low=1, high=50, unit="steps")
    every: int = knob(4, "source=past: run whole again once in this many steps", low=1, high=100, unit="steps")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_region(type(self).__name__, self.region)

    def whole(self, step: int) -> bool:
        """Tell whether *step* (from 0) records the whole picture, where the source is the past.

        >>> from deadheat.accelerators import BackgroundShield
        >>> [step for step in range(12) if BackgroundShield(warmup=2, every=4).whole(step)]
        [0, 1, 5, 9]
        """
        return step < self.warmup or (step - self.warmup + 1) % self.every == 0

    def idle_because(self, steps: int) -> str:
        if self.region == WHOLE:
            return f"{self} has nothing outside its region"
        if self.source == "batch":
            return f"{self} wants a batch whose first picture is the source; there was one picture, or another size"
        return f"{self} found no step of {steps} that does not run whole"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        said = []
        part = len(chosen(self.region, (1, 32, 32))) / 32**2
        if self.region != WHOLE and part > MUCH:
            said.append(f"the region is {part:.0%} of the picture: keeping so little of it saves next to nothing")
        if self.source == "past" and (steps <= self.warmup + 2 or few_step_model(pipe)):
            said.append("in so few steps each is unlike the last: give source and edit as a batch, source=batch")
        tokens = usual_tokens(pipe)
        if self.region != WHOLE and tokens is not None and tokens < WORTH:
            said.append(
                f"a picture of this model's usual size has {tokens} tokens: below {WORTH} picking them costs more "
                "seconds than it saves, though the background stays as well (pocket-unet: 0.9x)"
            )
        return said

    def renewed(
        self, link: Link, kept: dict[Any, Made], at: tuple[str, Call, SomeTokens], renew: Renew
    ) -> Tensor | None:
        """Return a module's output with the region renewed and the rest the source's; None where it must run whole.

        *renew* computes the region: from the record of the rest, for these samples (None: all) and tokens.
        """
        name, call, given = at
        inside = on_device(list(chosen(self.region, given.grid)), given.hidden)
        if self.source == "batch":
            return self._of_batch(call, given, inside, renew)
        key = (name, call.branches, given.hidden.shape)  # another shape is another past
        made = kept.get(key)
        if made is None or any(self.whole(step) for step in range(made.step + 1, call.step + 1)):
            kept.pop(key, None)  # before the new tensors come, not after
            kept[key] = Made(call.step, given.whole())
            return kept[key].recorded.out.clone()
        link.note("partial", self.reason())
        return renew(made.recorded, None, inside)

    def _of_batch(self, call: Call, given: SomeTokens, inside: Tensor, renew: Renew) -> Tensor | None:
        each = call.batch // len(call.branches)
        if each < 2:
            return None
        sources = [branch * each for branch in range(len(call.branches))]
        edits = [sample for sample in range(call.batch) if sample not in sources]
        base = given.whole(on_device(sources, given.hidden))
        whose = on_device([sample // each for sample in edits], given.hidden)
        edited = renew(base.of(whose), on_device(edits, given.hidden), inside)
        out = edited.new_empty(call.batch, *edited.shape[1:])
        out[sources], out[edits] = base.out, edited
        call.run.note("partial", self.reason())
        call.run.acted.add(self.name)
        return out

    @abstractmethod
    def reason(self) -> str:
        """Return what the strip says of a step that ran in the region only."""
