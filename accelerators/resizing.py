"""How noisy latents change their size: two transitions, shared by the methods that run steps at a lower resolution."""

from abc import abstractmethod
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..pipelines import Change, Leg, Resize, fixed_size
from .base import Accelerator


def shrinking(large: int, small: int) -> Tensor:
    """Return the matrix A that takes a line of length *large* to *small* and leaves constants as they are.

    Whole ratios average blocks, others keep the slowest cosines. A A^T = (small / large) I, so white noise stays white, and (large / small) A^T
    stretches back what A has shrunk.
    """
    if large % small == 0:
        return torch.eye(small).repeat_interleave(large // small, 1) * (small / large)
    return sqrt(small / large) * _cosines(small).T @ _cosines(large)[:small]


def _cosines(length: int) -> Tensor:
    """Return the orthonormal cosine transform (DCT-II), slowest first."""
    line = torch.arange(length, dtype=torch.float64)
    rows = torch.cos(torch.pi / length * torch.outer(line, line + 0.5)) * sqrt(2 / length)
    rows[0] /= sqrt(2)
    return rows.float()


def shrunk(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return x0 + n eps, (..., h, w), at a smaller size; its n becomes n sqrt(hw' / hw)."""
    rows, columns = (shrinking(a, b).to(x) for a, b in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ columns.T


def stretched(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return x at a larger size, with nothing but zero in the detail that it does not have."""
    area = (size[0] * size[1]) / (x.shape[-2] * x.shape[-1])
    rows, columns = (shrinking(b, a).to(x) for a, b in zip(x.shape[-2:], size, strict=True))
    return area * (rows.T @ x @ columns)


def unit(noise: Tensor, size: tuple[int, int]) -> Tensor:
    """Return unit white noise of a smaller size, made of the slow part of *noise*."""
    return shrunk(noise, size) * sqrt(noise.shape[-2] * noise.shape[-1] / (size[0] * size[1]))


@dataclass(frozen=True)
class Keep(Resize):
    """Keep the noisy state: what is too fine for the smaller size is dropped, and later filled with noise again.

    With A of ``shrinking``, B = r^2 A^T its way back (r the ratio of the sides), and the state x0 + n eps,

        down:  x' = A x,                           n' = n / r
        up:    x' = B x + r n (1 - B A) eps,       n' = r n

    Both leave the noise exactly white, and both signals as they were. eps is the noise that the run began with, so
    that the detail comes from where a plain run takes it.
    """

    def start(self, noise: Tensor, size: tuple[int, int]) -> Tensor:
        return unit(noise, size)

    def change(self, change: Change) -> Tensor:
        old, new = change.state.shape[-2:], change.size
        if new[0] <= old[0]:
            return shrunk(change.state, new)
        eps = unit(change.noise, new)
        fine = eps - stretched(shrunk(eps, (old[0], old[1])), new)
        return stretched(change.state, new) + change.next_ratio * fine


@dataclass(frozen=True)
class Renoise(Resize):
    """Resize the predicted clean latents, and add fresh noise: x' = resize(x0) + n' eps, as the papers do."""

    def start(self, noise: Tensor, size: tuple[int, int]) -> Tensor:
        return unit(noise, size)

    def change(self, change: Change) -> Tensor:
        frames = change.clean.transpose(1, 2).flatten(0, 1)
        resized = functional.interpolate(frames, change.size, mode="bicubic", antialias=True, align_corners=False)
        clean = resized.unflatten(0, (change.clean.shape[0], -1)).transpose(1, 2)
        return clean + change.next_ratio * fresh(change)


def fresh(change: Change) -> Tensor:
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

    seat = "resolution of the latents"
    transition: str

    @abstractmethod
    def legs(self, steps: int) -> list[Leg]:
        """Return the legs of a run of so many steps; one leg is the plain run."""

    @property
    def resize(self) -> Resize:
        """How the latents get from one size to the next."""
        return Keep() if self.transition == "keep" else Renoise()

    def cost(self, steps: int) -> float:
        """Return what a run of so many steps costs, in steps at full size, if a step costs as its pixels."""
        return float(sum(leg.steps * leg.size**2 for leg in self.legs(steps)))

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        return fixed_size(pipe)

    def idle_because(self, steps: int) -> str:
        return f"{self} leaves none of {steps} steps for a lower resolution"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        return []
