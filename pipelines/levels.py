"""The noise levels of a scheduler's run: read them, and let steps start and end elsewhere than planned.

A noise level here is s in [0, 1], whatever the scheduler counts in: latents are a multiple of x0 + n eps with the
noise-to-signal ratio n = s / (1 - s). For flow matching s is sigma itself.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIGMAS = (  # schedulers that read each step's ends from ``sigmas``
    "FlowMatchEulerDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)
ALPHAS = ("DDIMScheduler", "DDPMScheduler")  # schedulers that look both ends up in ``alphas_cumprod``
UNSCALED = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")  # latents are x0 + n eps itself
REPLACED = ("timesteps", "sigmas", "alphas_cumprod")
_LEAST = 2.0**-12  # of the signal, where a schedule begins with none: a ratio to it must stay finite
_STANDS = (*REPLACED, "_step_index", "_begin_index")


def fixed_levels(scheduler: Any) -> str | None:
    """Return why the noise levels of *scheduler* cannot be replaced, or None if they can."""
    kind, config = type(scheduler).__name__, scheduler.config
    if kind not in SIGMAS + ALPHAS:
        return f"{kind} cannot change its noise level between steps; use one of {', '.join(SIGMAS + ALPHAS)}"
    if config.get("invert_sigmas") or config.get("timestep_type") == "continuous":
        return f"this {kind} counts its noise levels in a way of its own (invert_sigmas, continuous timesteps)"
    return None


@dataclass(eq=False)
class Levels:
    """The noise levels of one run, over a scheduler that has just planned it.

    Attributes:
        scheduler: the scheduler.
        starts, ends: noise level before and after each step, once replaced.
        timesteps: what the denoiser is to be told at each step; empty where the pipeline tells it itself.
    """

    scheduler: Any
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)
    _fresh: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config, self._kind = self.scheduler.config, type(self.scheduler).__name__
        self._flow = self._kind.startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))
        self._predicts = "flow_prediction" if self._kind.startswith("FlowMatch") else config.prediction_type
        self._train = config.num_train_timesteps
        if not self._flow:
            self._table = _of_alphas(self.scheduler.alphas_cumprod)

    def planned(self) -> list[float]:
        """Return the noise levels that the scheduler planned: before each step, and after the last."""
        if self._kind in ALPHAS:
            last = self._after(len(self.scheduler.timesteps) - 1)
            beyond = getattr(self.scheduler, "final_alpha_cumprod", 1.0)
            end = beyond if last < 0 else self.scheduler.alphas_cumprod[last]
            at = self._table[self.scheduler.timesteps.long().cpu().numpy()]
            planned = [*at.tolist(), *_of_alphas(torch.as_tensor([float(end)])).tolist()]
            return [min(s, 1 - _LEAST) for s in planned]  # with a zero terminal SNR they begin at 1: noise alone
        sigmas = torch.as_tensor(self.scheduler.sigmas).double().cpu()
        return (sigmas if self._flow else sigmas / (1 + sigmas)).tolist()

    def replace(self, starts: Sequence[float], ends: Sequence[float]) -> None:
        """Let each step start and end at these levels instead; where one starts, the one before need not end."""
        scheduler = self.scheduler
        self.starts, self.ends = list(starts), list(ends)
        told = [self._timestep(s) for s in starts]
        if self._kind in ALPHAS:
            self.timesteps = told
            scheduler.alphas_cumprod = scheduler.alphas_cumprod.clone()
            for timestep, s in zip(scheduler.timesteps.tolist(), starts, strict=True):
                scheduler.alphas_cumprod[timestep] = _alpha(s)
        else:
            sigmas = [self._sigma(s) for s in (*starts, ends[-1])]
            scheduler.timesteps = torch.tensor(told, dtype=torch.float32, device=scheduler.timesteps.device)
            scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float32, device=scheduler.sigmas.device)
        self._fresh = {
            name: copy(value) if isinstance(value, list) else value
            for name, value in vars(scheduler).items()
            if name not in _STANDS and not callable(value)
        }

    def before(self, step: int) -> None:
        """Show the scheduler both ends of a step that it is about to take."""
        if self._kind in ALPHAS:
            alphas, at, after = self.scheduler.alphas_cumprod, int(self.scheduler.timesteps[step]), self._after(step)
            alphas[at] = _alpha(self.starts[step])
            if after >= 0 and step < len(self.starts) - 1:
                alphas[after] = _alpha(self.ends[step])
        elif step < len(self.starts) - 1 and self.ends[step] != self.starts[step + 1]:
            self.scheduler.sigmas[step + 1] = self._sigma(self.ends[step])

    def restart(self, step: int) -> None:
        """Let the scheduler begin anew at *step*: what it remembers of the steps before belongs to other latents."""
        if self._kind in SIGMAS:
            self.scheduler.sigmas[step] = self._sigma(self.starts[step])
        vars(self.scheduler).update({k: copy(v) if isinstance(v, list) else v for k, v in self._fresh.items()})

    def signal(self, s: float) -> float:
        """Return what x0 is multiplied by in latents of noise level *s*."""
        if self._kind in UNSCALED:
            return 1.0
        return 1 - s if self._flow else float((1 - s) / np.hypot(1 - s, s))

    def clean(self, latents: Tensor, prediction: Tensor, s: float) -> Tensor:
        """Return the x0 that the denoiser's *prediction* for *latents* of noise level *s* implies."""
        if self._predicts == "sample":
            return prediction
        if self._predicts == "flow_prediction":
            return latents - s * prediction
        n, scaled = s / (1 - s), latents / self.signal(s)
        if self._predicts == "epsilon":
            return scaled - n * prediction
        return (scaled / (1 + n * n)) - prediction * (n / np.sqrt(1 + n * n))  # v = alpha eps - sigma x0

    def _sigma(self, s: float) -> float:
        return s if self._flow else s / (1 - s)

    def _timestep(self, s: float) -> float:
        if self._flow:
            return s * self._train
        with np.errstate(divide="ignore"):
            table, at = np.log(self._table / (1 - self._table)), np.log(s / np.float64(1 - s))
        return float(np.interp(at, table, np.arange(len(table))))

    def _after(self, step: int) -> int:
        """Return the timestep at which a scheduler of alphas looks up the end of *step*; -1 or less: in no table."""
        timesteps = self.scheduler.timesteps
        if self._kind == "DDIMScheduler":
            return int(timesteps[step]) - self._train // self.scheduler.num_inference_steps
        return int(timesteps[step + 1]) if step + 1 < len(timesteps) else -1


def _of_alphas(alphas: Tensor) -> Any:
    kept = alphas.double().cpu().numpy()
    signal, noise = np.sqrt(kept), np.sqrt(1 - kept)
    return noise / (signal + noise)


def _alpha(s: float) -> float:
    return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)
