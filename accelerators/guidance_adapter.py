"""Adapter guidance distillation (Perez Jensen & Sadat 2025, https://arxiv.org/abs/2503.07274)."""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..pipelines import (
    PAIR,
    Adapter,
    Call,
    Link,
    Network,
    Now,
    Stage,
    asked,
    guidance_scale,
    inserted,
    load_adapter,
    misfit,
    model_name,
    shipped,
    why_no_adapter,
)
from .guidance import Planned
from .knobs import knob


@dataclass(frozen=True)
class GuidanceAdapter(Planned):
    """Guide in one pass: small trained residuals make the conditional output what guidance would make it.

    At every module that has a residual, with tokens h and the guidance scale w that the pipeline was called with,

        y = module(h) + (w - 1) A(h, w, t, prompt),

    where A was trained so that the whole network gives u + w (c - u) (section 3 of the paper, which has residuals at
    attention; the factor w - 1, and those at feed-forwards and before the last layer, are ours). The
    unconditional half never runs, so that a negative prompt has no effect, and a report says so. The base weights are
    untouched.

    ``after=0.2`` guides the first fifth of the run for real; ``after=1`` all of it, which is the pipeline as it was.

    Adapters for the pocket models ship with Deadheat; ``python -m training.guidance`` trains one for any other.

    >>> GuidanceAdapter(after=0.2).guides(0.1), GuidanceAdapter(after=0.2).guides(0.2)
    (True, False)
    """

    name: ClassVar[str] = "guidance-adapter"
    title: ClassVar[str] = "Guidance adapter"
    paper: ClassVar[str] = "Adapter Guidance Distillation, Perez Jensen & Sadat 2025, arXiv:2503.07274"
    neutral: ClassVar[dict[str, Any]] = {"after": 1.0}

    weights: str = knob("", "a trained adapter's folder; empty: the one that ships with the model", unit="path")
    after: float = knob(0.0, "part of the run that is guided for real first", low=0.0, high=1.0, unit="of the run")

    def __post_init__(self) -> None:
        if hasattr(self.weights, "__fspath__"):  # a Path is as good as its text
            object.__setattr__(self, "weights", str(self.weights))
        super().__post_init__()

    def guides(self, progress: float) -> bool:
        return progress < self.after

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        if (why := why_no_adapter(pipe)) is not None:
            return why
        if (folder := shipped(pipe)) is None:
            return (
                f"no guidance adapter is trained for {model_name(pipe)}: train one with "
                f"`python -m training.guidance`, and give its folder as weights"
            )
        return misfit(pipe, folder)

    def refusal(self, pipe: Any) -> str | None:
        if not self.weights:
            return self.supports(pipe)
        return why_no_adapter(pipe) or misfit(pipe, self.weights)

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        if self.after == 1:
            return []
        return [
            "it keeps most of what the prompt asks for, not the picture; for the same one take fewer steps "
            "(pocket-dit, 28 steps: 1.32x and 27 dB of PSNR, where 16 plain ones were 1.74x and kept 45.5 dB)"
        ]

    def reason(self) -> str:
        return "guided by the adapter"

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        network = next(iter(stage.denoisers.values()))
        first = next(p for p in network.parameters() if p.is_floating_point())
        adapter, _ = load_adapter(self.weights or str(shipped(stage.pipe)))
        adapter.to(first.device, first.dtype if first.dtype.itemsize > 1 else torch.bfloat16)
        with ExitStack() as stack:
            stack.enter_context(super().attach(stage))
            now = stack.enter_context(inserted(network, adapter))
            # innermost: where a cache answers the call, no residual listens
            listening = functools.partial(_Telling, self, stage, adapter, now)
            stack.enter_context(stage.around_denoiser(listening, innermost=True))
            yield


class _Telling:
    """Tells the residuals of every conditional call of one run that they are to guide."""

    def __init__(self, method: GuidanceAdapter, stage: Stage, adapter: Adapter, now: Now, link: Link) -> None:
        self.method, self.stage, self.adapter, self.now, self.link = method, stage, adapter, now, link
        self.warned = False

    def __call__(self, call: Call, network: Network) -> Tensor:
        scale = guidance_scale(self.stage.pipe)
        if scale > 1 and call.branches not in {PAIR, ("uncond",), ("cond",)} and not self.method.guides(call.progress):
            self.link.warn(
                f"{self.method.name} stands in for classifier-free guidance alone: beside what else guides here "
                "(skipped layers, perturbed attention, an image), the picture is another than with real guidance"
            )
        if scale <= 1 or call.branches != ("cond",) or self.method.guides(call.progress):
            return network(call)
        self._warn(scale)
        self.link.run.acted.add(self.link.owner)  # also where the pipeline asks for no unconditional half
        place = call.latents[0].device
        if next(self.adapter.parameters()).device != place:  # offloading brought the denoiser there after we came
            self.adapter.to(place)
        self.now.told = self.adapter.told(torch.full((call.batch,), scale, device=place), call.kwargs)
        try:
            return network(call)
        finally:
            self.now.told = None

    def _warn(self, scale: float) -> None:
        if self.warned:
            return
        self.warned = True
        low, high = self.adapter.shape.scales
        part = " where it guides" if self.method.after else ""
        if self.stage.negative:
            self.link.warn(
                f"{self.method.name} never asks what the negative prompt says, so the negative prompt has no "
                f"effect{part}; leave it out, or use real guidance"
            )
        if asked(self.stage.pipe, "guidance_rescale"):
            self.link.warn(f"guidance_rescale has no effect{part}: {self.method.name} leaves nothing to rescale")
        if not low <= scale <= high:
            self.link.warn(
                f"{self.method.name} was trained for guidance scales from {low:g} to {high:g}: {scale:g} is outside"
            )
