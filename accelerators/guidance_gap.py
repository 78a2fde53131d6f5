"""The unconditional branch, rebuilt from the conditional one and from what last separated them, by frequency."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..pipelines import Call, Latents, Link, Network
from ..pipelines.extent import extent


def low_frequencies(pictures: Tensor) -> Tensor:
    """Return what *pictures* (..., h, w) hold at frequencies of up to a fifth of their shorter side.

    >>> flat = torch.ones(1, 5, 5)
    >>> bool(torch.allclose(low_frequencies(flat), flat))
    True
    """
    height, width = pictures.shape[-2:]
    rows = torch.fft.fftfreq(height, 1 / height, device=pictures.device)
    columns = torch.fft.fftfreq(width, 1 / width, device=pictures.device)
    near = torch.hypot(rows[:, None], columns) <= min(height, width) // 5
    return torch.fft.ifft2(torch.fft.fft2(pictures.float()) * near).real.to(pictures.dtype)


@dataclass(eq=False)
class GuidanceGap:
    """Stands around the denoiser for one run, and runs the unconditional branch only now and then.

    The Fourier transform is linear, so the difference of the branches is split once, when both are there.

    Attributes:
        link: the place in the chain.
        latents: how a prediction is laid out.
        computes: whether the unconditional branch is due at a step of a run of so many.
        weights: of the low and of the high frequencies of the difference, at a part of the run.
    """

    link: Link
    latents: Latents
    computes: Callable[[int, int], bool]
    weights: Callable[[float], tuple[float, float]]
    _gap: dict[str, Tensor] = field(default_factory=dict)
    _conditional: list[Tensor] = field(default_factory=list)
    _asked: tuple[int, ...] = ()
    _step: int = -1

    def __post_init__(self) -> None:
        self.link.run.holds(self._gap)
        self.link.run.holds(self._conditional)

    def __call__(self, call: Call, network: Network) -> Tensor:
        if len(call.branches) == 2:
            return self._pair(call, network)
        if call.branches == ("uncond",) and self._conditional:  # two calls a step, the conditional one first
            return self._second(call, network)
        out = network(call)
        self._conditional[:] = [out]
        return out

    def _pair(self, call: Call, network: Network) -> Tensor:
        if not self._due(call):
            conditional = network(call.conditional())
            if not self.link.stale:
                return torch.cat([self._rebuilt(call, conditional), conditional])
        out = network(call)
        self._measure(call, *out.chunk(2))
        return out

    def _second(self, call: Call, network: Network) -> Tensor:
        conditional = self._conditional.pop()
        if not self._due(call):
            return self._rebuilt(call, conditional)
        out = network(call)
        self._measure(call, out, conditional)
        return out

    def _due(self, call: Call) -> bool:
        if not self._gap or self.link.stale or self._asked != call.shape:
            return True
        return any(self.computes(step, call.steps) for step in range(self._step + 1, call.step + 1))

    def _measure(self, call: Call, unconditional: Tensor, conditional: Tensor) -> None:
        gap = unconditional - conditional
        self._gap.clear()
        self._gap["all"] = gap
        if (sides := extent(call, self.latents)) is not None:
            grid = self.latents.to_grid(gap, *sides)
            self._gap["low"] = self.latents.from_grid(low_frequencies(grid))
        self._asked, self._step, self.link.stale = call.shape, call.step, False

    def _rebuilt(self, call: Call, conditional: Tensor) -> Tensor:
        self.link.note("partial", "unconditional branch rebuilt from the conditional one")
        low, high = self.weights(call.progress)
        if "low" not in self._gap or low == high == 1:
            return conditional + self._gap["all"]
        return conditional + high * self._gap["all"] + (low - high) * self._gap["low"]
