"""How noisy latents change their size: two transitions, shared by the methods that run steps at a lower resolution."""

from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..pipelines import Change, Leg, Resize, family, fixed_size
from .base import Accelerator


def shrinking(large: int, small: int, blocks: bool) -> Tensor:
    """Return the matrix A that takes a line of length *large* to *small* and leaves constants as they are.

    It averages blocks, or keeps the slowest cosines. A A^T = (small / large) I, so white noise stays white, and
    (large / small) A^T stretches back what A has shrunk.
    """
    if blocks:
        return torch.eye(small).repeat_interleave(large // small, 1) * (small / large)
    return sqrt(small / large) * _cosines(small).T @ _cosines(large)[:small]


def _cosines(length: int) -> Tensor:
    """Return the orthonormal cosine transform (DCT-II), slowest first."""
    line = torch.arange(length, dtype=torch.float64)
    rows = torch.cos(torch.pi / length * torch.outer(line, line + 0.5)) * sqrt(2 / length)
    rows[0] /= sqrt(2)
    return rows.float()


@dataclass(frozen=True)
class Lens(Resize):
    """Takes noisy latents from one size to another and leaves their noise white.

    Attributes:
        blocks: whether a smaller size averages blocks; possible where all sizes of a run divide each other. Other
            sizes keep the slowest cosines. Within a run it must be the same, or noise would be counted twice.
    """

    blocks: bool

    def start(self, noise: Tensor, size: tuple[int, int]) -> Tensor:
        return self.shrunk(noise, size) * sqrt(noise.shape[-2] * noise.shape[-1] / (size[0] * size[1]))

    def shrunk(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return x0 + n eps, (..., h, w), at a smaller size; its n becomes n sqrt(h' w' / h w)."""
        rows, columns = (shrinking(a, b, self.blocks).to(x) for a, b in zip(x.shape[-2:], size, strict=True))
        return rows @ x @ columns.T

    def stretched(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return x at a larger size, with nothing but zero in the detail that it does not have."""
        area = (size[0] * size[1]) / (x.shape[-2] * x.shape[-1])
        rows, columns = (shrinking(b, a, self.blocks).to(x) for a, b in zip(x.shape[-2:], size, strict=True))
        return area * (rows.T @ x @ columns)


class Keep(Lens):
    """Keep the noisy state: what is too fine for the smaller size is dropped, and later filled with noise again.

    With A of ``shrinking``, B = r^2 A^T its way back (r the ratio of the sides), and the state x0 + n eps,

        down:  x' = A x,                           n' = n / r
        up:    x' = B x + r n (1 - B A) eps,       n' = r n

    Both leave the noise exactly white, and both signals as they were. eps is the noise that the run began with, so
    that the detail comes from where a plain run takes it: on pocket-dit worth 0.6 to 3 dB over fresh noise.
    """

    def change(self, change: Change) -> Tensor:
        height, width = change.state.shape[-2:]
        if change.size[0] <= height:
            return self.shrunk(change.state, change.size)
        eps = self.start(change.noise, change.size)
        fine = eps - self.stretched(self.shrunk(eps, (height, width)), change.size)
        return self.stretched(change.state, change.size) + change.next_ratio * fine


class Renoise(Lens):
    """Resize the predicted clean latents, and add fresh noise: x' = resize(x0) + n' eps, as the papers do."""

    def change(self, change: Change) -> Tensor:
        frames = change.clean.transpose(1, 2).flatten(0, 1)
        resized = functional.interpolate(frames, change.size, mode="bicubic", antialias=True, align_corners=False)
        clean = resized.unflatten(0, (change.clean.shape[0], -1)).transpose(1, 2)
        return clean + change.next_ratio * _fresh(change)


def _fresh(change: Change) -> Tensor:
    """Return unit noise of the new size, sample by sample from the noise the run began with: a seed, a picture."""
    noise = []
    for sample in change.noise:
        seed = int(sample.flatten()[:1].cpu().view(torch.int32)) + change.step
        shape = (*sample.shape[:-2], *change.size)
        noise.append(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(noise).to(change.state)


class LowResolution(Accelerator):
    """Takes some steps of a run at a lower resolution; the last always at the full one.

    Attributes:
        transition: "keep" or "renoise".
    """

    seat: ClassVar[str] = "resolution of the latents"
    transition: str

    @abstractmethod
    def legs(self, steps: int) -> list[Leg]:
        """Return the legs of a run of so many steps; one leg is the plain run."""

    @abstractmethod
    def parts(self) -> list[Fraction]:
        """Return the sizes below the full one, rising."""

    @property
    def resize(self) -> Resize:
        """How the latents get from one size to the next."""
        blocks = all((above / below).denominator == 1 for below, above in pairwise([*self.parts(), Fraction(1)]))
        return Keep(blocks) if self.transition == "keep" else Renoise(blocks)

    def cost(self, steps: int) -> float:
        """Return what a run of so many steps costs, in steps at full size, if a step costs as its pixels."""
        return float(sum(leg.steps * leg.size**2 for leg in self.legs(steps)))

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        return fixed_size(pipe)

    def idle_because(self, steps: int) -> str:
        return f"{self} leaves none of {steps} steps for a lower resolution"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        if len(self.legs(steps)) < 2:
            return []
        said = [
            "a lower resolution draws another picture; for the same one take fewer steps (pocket-dit, 28 steps: "
            "18 plain ones took a little less time than bottleneck, and kept 46 dB of PSNR instead of 28)"
        ]
        if steps <= 8:
            said.append(f"{steps} steps leave each resolution too few to settle in")
        if family(pipe).unet:
            said.append("below the size it was trained at, a UNet repeats and crops things: ask for larger pictures")
        return said
