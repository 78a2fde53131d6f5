"""What an edit of a picture gave: the picture, what it cost, and how far it is from the dense edit."""

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import Tensor

from .metrics import psnr

APART = 22.0  # dB inside the mask below which two edits may show different things


@dataclass(eq=False)
class Edit:
    """One edit of a picture.

    Attributes:
        image: the new picture, (3, H, W) in [0, 1]; outside ``mask`` bit-identical to ``base``.
        base: the picture before.
        mask: the pixels that could change, (H, W): the painted mask, grown, and widened to whole latent cells.
        lane: "sparse", "dense", or "none" where nothing was to be done.
        reason: why it took this lane; empty where it was asked for.
        prompt, mode, strength: what was asked for.
        seconds: wall clock of the edit, without ``stages["record"]``.
        stages: seconds of "record" (the base picture's activations, once a picture), "text", "encode", "denoise",
            "decode".
        active: part of the latent pixels, or image tokens, that the network computed.
        calls: samples that went through the denoiser for the edit.
        memory: bytes of the base picture's activations.
        warnings: sentences that the user should read.
        expected_speedup: what was predicted before it ran, over the dense edit.
        recipe: what was to skip steps; empty for none.
        drawn: what the session needs to go on from here; gone once it has.
    """

    image: Tensor
    base: Tensor
    mask: Tensor
    lane: str
    reason: str
    prompt: str
    mode: str
    strength: float
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    active: float = 0.0
    calls: int = 0
    memory: int = 0
    warnings: list[str] = field(default_factory=list)
    expected_speedup: float = 1.0
    recipe: str = ""
    drawn: Any = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pictures, as plain JSON-able data."""
        apart = ("image", "base", "mask", "drawn")
        said = {name: value for name, value in vars(self).items() if name not in apart}
        return said | {"area": float(self.mask.float().mean())}


@dataclass(frozen=True)
class Cover:
    """What a mask would cost, known before anything runs.

    Attributes:
        area: part of the pixels that are painted.
        active: part of the latent pixels, or image tokens, that the network would compute.
        speedup: expected speed-up over the dense edit; 1 where the dense edit is the better choice.
        lane: "sparse", "dense" or "none".
        reason: why that lane.
        recorded: whether the base picture's activations are there already; if not, the first edit takes a plain run
            more.
        mask: the pixels that could change, (H, W).
    """

    area: float
    active: float
    speedup: float
    lane: str
    reason: str
    recorded: bool
    mask: Tensor


@dataclass(eq=False)
class EditComparison:
    """The same edit dense, sparse, and dense with plainly fewer steps.

    Attributes:
        dense, sparse: the last edit of either lane.
        seconds: wall clock of every timed run, by lane; interleaved.
        first_seconds: what the first sparse edit of this picture took, recording included; None where the recording
            was there before.
        control: the dense edit with as many steps as take as long as the sparse one; None where there is none.
        control_steps: how many these are, at strength 1.
    """

    dense: Edit
    sparse: Edit
    seconds: dict[str, list[float]]
    first_seconds: float | None
    control: Edit | None = None
    control_steps: int | None = None

    @property
    def speedup(self) -> float:
        """Median seconds of the dense edit over those of the sparse one, wall clock."""
        return self._speedup("sparse")

    def _speedup(self, lane: str) -> float:
        dense, other = median(self.seconds["dense"]), median(self.seconds[lane])
        return dense / other if other else 1.0

    @property
    def inside(self) -> float:
        """PSNR in dB between both edits over the pixels of the mask; infinite where they are equal."""
        return self._psnr(self.sparse, self.dense.mask)

    @property
    def control_inside(self) -> float | None:
        """PSNR in dB between the control and the dense edit over the pixels of the mask; None without a control."""
        return None if self.control is None else self._psnr(self.control, self.dense.mask)

    @property
    def control_speedup(self) -> float | None:
        """Median seconds of the dense edit over those of the control, wall clock; None without a control."""
        return None if self.control is None else self._speedup("control")

    @property
    def outside(self) -> float:
        """PSNR in dB between both edits over the pixels outside the mask; infinite where they are equal."""
        return self._psnr(self.sparse, ~self.dense.mask)

    @property
    def warnings(self) -> list[str]:
        """What the user should know of this pair, as sentences."""
        said = []
        if self.inside < APART:
            said.append(
                f"inside the mask the sparse edit is {self.inside:.1f} dB from the dense one, far enough to show "
                "something else: it knows the rest of the picture only as it was before. Look at both, and take the "
                "dense one if you like it better"
            )
        near, fast = self.control_inside, self.control_speedup
        if near is not None and fast is not None and near > self.inside and fast >= self.speedup:
            said.append(
                f"plainly fewer steps do better here: a dense edit of {self.control_steps} took no longer, and is "
                f"closer inside the mask ({near:.1f} dB instead of {self.inside:.1f} dB)"
            )
        return said

    @property
    def largest(self) -> float:
        """Largest difference of a pixel between both edits, in [0, 1]."""
        return float((self.dense.image - self.sparse.image).abs().max())

    def _psnr(self, edit: Edit, where: Tensor) -> float:
        if not where.any():
            return float("inf")
        return psnr(edit.image[:, where], self.dense.image[:, where])

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pictures, as plain JSON-able data.

        An infinite "inside" or "outside" is None; where both are, "identical" is true. "control" is None without one.
        """
        same = {"inside": self.inside == math.inf, "outside": self.outside == math.inf}
        return {
            "speedup": self.speedup,
            "inside": None if same["inside"] else self.inside,
            "outside": None if same["outside"] else self.outside,
            "identical": all(same.values()),
            "largest": self.largest,
            "seconds": self.seconds,
            "first_seconds": self.first_seconds,
            "warnings": self.warnings,
            "dense": self.dense.to_dict(),
            "sparse": self.sparse.to_dict(),
            "control": None if self.control is None else self._controlled(self.control),
        }

    def _controlled(self, control: Edit) -> dict[str, Any]:
        near = self.control_inside
        about = {"steps": self.control_steps, "speedup": self.control_speedup}
        return about | {"inside": None if near == math.inf else near} | control.to_dict()
