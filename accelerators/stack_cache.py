"""What caches of the block stack share: its residual is predicted, what surrounds the blocks runs at every step."""

from typing import Any, ClassVar

from ..pipelines import why_no_stack
from .output_cache import OutputCache


class StackCache(OutputCache):
    """Skips all transformer blocks at once, and adds the residual they are expected to add: output = input + r.

    The embedding of the latents and of the timestep, and the modulated projection behind the blocks, stay current:
    that is what a repeated residual has over a repeated output.
    """

    seat: ClassVar[str] = "block stack"
    place = "stack"
    axis = "sigma"

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        return why_no_stack(pipe)

    def enough(self, known: int) -> bool:
        return known > 0  # with one past residual the first skip repeats it, whatever the order
