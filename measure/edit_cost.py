"""What an edit will cost, from what the edits before it took."""

from dataclasses import dataclass

from .edit_result import Edit

COPYING = 1.3  # what recording a run takes, over the run
MARGIN = 1.1  # expected speed-up below which the dense edit is taken: an expectation may be off by that much


def matching_steps(dense: Edit, sparse: Edit, steps: int) -> int | None:
    """Return with how many steps, at strength 1, the dense edit takes as long as the sparse one.

    None where the sparse edit did not run, or where no fewer than *steps* match. One step is the least that can be.
    """
    computed = max(1, int(steps * dense.strength))
    denoising = dense.stages.get("denoise", 0.0)
    if sparse.lane != "sparse" or not denoising or computed < 2:
        return None
    left = sparse.seconds - (dense.seconds - denoising)
    wanted = min(computed - 1, max(1, round(left * computed / denoising)))
    return next(n for n in range(1, steps) if int(n * dense.strength) == wanted)


@dataclass
class Cost:
    """How the seconds of a denoising step grow with the part of the picture that is computed.

        sparse step = (base + (1 - base) * part) * dense step

    Attributes:
        base: what a window of no size would take, as a part of a dense step; measured once there was an edit.
        fixed: encoding and decoding of a dense edit, in dense steps.
        dense: seconds of a dense step; 0 until one was measured.

    >>> cost = Cost()
    >>> round(cost.speedup(0.05, 16), 1), round(cost.speedup(0.9, 16), 1)
    (5.3, 1.1)
    """

    base: float = 0.15
    fixed: float = 2.0
    dense: float = 0.0

    def speedup(self, part: float, steps: int, computed: int | None = None) -> float:
        """Return the speed-up over the dense edit to expect when this part of the latents is computed.

        Of *steps* of the dense edit the sparse one runs the network at *computed*; None is at all.
        """
        step = self.base + (1 - self.base) * part
        sparse = (steps if computed is None else computed) * step
        return (steps + self.fixed) / (sparse + self.fixed * (0.1 + 0.9 * part))

    def dense_took(self, seconds: float, fixed: float, steps: int) -> None:
        """Learn from a dense edit: its denoising, and its encoding and decoding."""
        step = seconds / steps
        self.dense = step if not self.dense else min(self.dense * 1.2, (self.dense + step) / 2)
        self.fixed = fixed / self.dense

    def recording_took(self, seconds: float, steps: int) -> None:
        """Learn from a recording, as long as no dense edit has run: it is a dense run that also copies."""
        if not self.dense:
            self.dense = seconds / steps / COPYING

    def sparse_took(self, part: float, seconds: float, steps: int) -> None:
        """Learn from a sparse edit whose network ran at so many steps."""
        if self.dense and part < 1:
            found = (seconds / steps / self.dense - part) / (1 - part)
            self.base = (self.base + min(0.9, max(0.01, found))) / 2
