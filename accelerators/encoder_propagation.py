"""Encoder propagation, from Faster Diffusion (Li et al. 2023, https://arxiv.org/abs/2312.09608)."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..pipelines import (
    Around,
    Call,
    Link,
    Network,
    SolverStep,
    Stage,
    around_control,
    around_encoder,
    asked,
    denoisers,
)
from .knobs import knob
from .schedules import periodic, stretched
from .unet_cache import Kind, Past, UNetCache, kind

PUBLISHED, OF = (0, 1, 2, 3, 5, 10, 15, 25, 35), 50  # the paper's key steps

_BY_STEP = frozenset({  # what stands inside the network and does something else at every step
    "attention and feed-forward", "image tokens in attention", "text tokens in attention", "resolution of the latents",
})  # fmt: skip


@dataclass(frozen=True)
class EncoderPropagation(UNetCache):
    """Run a UNet's encoder at key steps only; between, its decoder runs on the features of the last of them.

    With E the encoder (first convolution, down blocks, mid block) and D the decoder, the prediction at a step t is

        D(E(x(k), k), t),     k the last key step up to t,

    so that only the timestep is new between key steps, and not the latents. ``keys="uniform"`` makes one step in
    ``every`` a key step, "published" takes the nine that the paper found for 50 steps, carried over to the steps of
    the run. A ControlNet too runs at key steps only, unless its strength changes. With ``noise`` a step in the second
    half of the timesteps is made from x(t) + noise x(T), x(T) the noise that the run began with: the paper's remedy
    for what its skips smooth away, at 0.003. As no decoder between two key steps waits for another's latents,
    ``together`` runs them as one batch: less time on a GPU, more memory (with a ControlNet they run one by one all the
    same). ``every=1`` computes everything, whatever the rest. TiUE trains a student for what this does without
    training, with one key step in four.

    >>> EncoderPropagation(keys="published").computed(28)
    (0, 1, 2, 3, 6, 8, 14, 19)
    """

    name: ClassVar[str] = "encoder-propagation"
    title: ClassVar[str] = "Encoder propagation"
    paper: ClassVar[str] = "Li et al. 2023, arXiv:2312.09608"
    neutral: ClassVar[dict[str, Any]] = {"every": 1}
    seat: ClassVar[str] = "deep part of the UNet"
    order: ClassVar[int] = 1  # type: ignore[misc]

    every: int = knob(2, "run the encoder once in this many steps", low=1, high=10, unit="steps")
    keys: str = knob("uniform", "one step in every, or the paper's key steps", choices=("uniform", "published"))
    warmup: int = knob(0, "first steps that run whole", low=0, high=50, unit="steps")
    noise: float = knob(0.0, "part of the first noise that is added again; the paper's is 0.003", low=0.0, high=0.1)
    together: bool = knob(False, "run all decoders between two key steps as one batch")

    def computes(self, step: int, steps: int) -> bool:
        """Tell whether the encoder runs at *step* (from 0) of a run of so many."""
        if self.keys == "uniform" or self.every == 1 or step < self.warmup:
            return periodic(step, steps, self.every, self.warmup, last=0)
        return step in stretched(PUBLISHED, OF, steps)

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        said = super().cautions(pipe, steps)
        if self.every > 2 and self.keys == "uniform" and 8 < steps <= 30:
            said.append(f"at {steps} steps the latents move far in {self.every}: every=2 suits 30 and fewer")
        if self.every > 1 and self.keys == "published" and steps < OF:
            said.append(f'the published key steps were found for {OF} steps: with {steps} try keys="uniform"')
        return said

    def reason(self) -> str:
        return "decoder only, on the encoder's last features"

    def bars(self, pipe: Any) -> frozenset[str]:
        return self.excludes | (_BY_STEP if self.together and self.every > 1 else frozenset())

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        if (why := super().supports(pipe)) is not None:
            return why
        if any(network.mid_block is None for network in denoisers(pipe).values()):
            return "its UNet has no mid block, at which the encoder would end"
        return None

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        now: list[weakref.ref[_Encoder]] = []

        def start(link: Link) -> "_Encoder":
            past = _Encoder(self, link)
            now[:] = [weakref.ref(past)]  # the run's chain alone holds it, so that it dies with the run
            return past

        def stirred(step: SolverStep, solve: Callable[[SolverStep], Any]) -> Any:
            past = now[0]() if now else None
            return solve(step if past is None else past.stirred(step, stage.pipe.scheduler, self.noise))

        def begin(link: Link) -> Around:
            ahead = _Ahead(self, link)
            return lambda call, network: ahead(call, network, now[0]())

        with ExitStack() as stack:
            if self.together and self.every > 1:
                stack.enter_context(stage.around_denoiser(begin, innermost=True))
            stack.enter_context(around_encoder(stage, start))
            stack.enter_context(around_control(stage, lambda: now[0]() if now else None))
            if self.noise and self.every > 1:
                stack.enter_context(stage.around_solver(stirred))
            yield


class _Encoder(Past):
    """What encoder and ControlNet gave in one run."""

    def __init__(self, cache: UNetCache, link: Link) -> None:
        super().__init__(cache, link)
        self.control: dict[tuple[Any, ...], tuple[int, Any]] = {}
        self.began: list[Tensor] = []  # the first noise
        self.batched: Call | None = None  # the call whose decoders are on their way together
        link.run.holds(self.control)
        link.run.holds(self.began)

    def instead(self, call: Call, hidden: Tensor) -> Any:
        """Return the features of the last key step, as often as decoders run on them."""
        if self.batched is None:
            return super().instead(call, hidden)
        parts = super().instead(self.batched, hidden)
        return tuple(part.repeat(call.batch // self.batched.batch, 1, 1, 1) for part in parts)

    def instead_of_control(self, step: int, asked: tuple[Any, ...]) -> Any | None:
        """Return the residuals of the last key step; None where the ControlNet has to run."""
        since, out = self.control.get(asked, (None, None))
        return None if since is None or self.due(since, step, self.link.run.total) else out

    def stirred(self, step: SolverStep, scheduler: Any, noise: float) -> SolverStep:
        """Return a step that begins with some of the first noise added, in the second half of the timesteps."""
        if not self.began:
            self.began.append(step.latents / float(scheduler.init_noise_sigma))
        if float(step.timestep) >= scheduler.config.num_train_timesteps / 2:
            return step
        return replace(step, latents=step.latents + noise * self.began[0])

    def learn_control(self, step: int, asked: tuple[Any, ...], out: Any) -> None:
        """Remember the residuals."""
        self.control[asked] = (step, out)


class _Ahead:
    """Runs the decoders of all steps up to the next key step as one batch, and gives their predictions one by one."""

    def __init__(self, cache: EncoderPropagation, link: Link) -> None:
        self.cache, self.link = cache, link
        self.made: dict[tuple[int, Kind], Tensor] = {}
        link.run.holds(self.made)

    def __call__(self, call: Call, network: Network, past: _Encoder | None) -> Tensor:
        if (out := self.made.pop((call.step, kind(call)), None)) is not None:
            self.link.note("partial", "decoded together with an earlier step")
            return out
        self.made.clear()
        steps = self._steps(call)
        controlled = call.kwargs.get("down_block_additional_residuals") is not None
        if past is None or controlled or len(steps) < 2 or not past.serving(call):
            return network(call)
        past.batched = call
        try:
            outs = network(self._tiled(call, steps)).chunk(len(steps))
        finally:
            past.batched = None
        self.made.update({(step, kind(call)): out for step, out in zip(steps[1:], outs[1:], strict=True)})
        return outs[0]

    def _steps(self, call: Call) -> list[int]:
        """Return this step and those after it, up to the next key step."""
        steps = range(call.step, call.steps)
        end = next((step for step in steps if self.cache.computes(step, call.steps)), call.steps)
        return list(range(call.step, end))

    def _tiled(self, call: Call, steps: list[int]) -> Call:
        """Return the same call for all of those steps, each with a timestep of its own."""
        pipe = self.link.run.pipe
        plan, begin = pipe.scheduler.timesteps, getattr(pipe.scheduler, "begin_index", None) or 0
        if asked(pipe, "denoising_end") is None:  # a run that begins late has the end of the plan
            begin = len(plan) - call.steps
        times = plan[begin:][torch.tensor(steps)].repeat_interleave(call.batch)
        tiled = call.tiled(len(steps))
        return replace(tiled, kwargs={**tiled.kwargs, "timestep": times})
