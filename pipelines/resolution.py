"""The place where latents change their size between the steps of a running pipeline, written once for all families.

A pipeline hands the latents on from ``scheduler.step`` to its denoiser without looking at their size. What it does
tell the denoiser of the size (ids of places, height and width) is told anew here, as the family's description says.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import signature
from math import gcd
from typing import Any, Protocol

import torch
from torch import Tensor

from .call import Around, Call, Link, Network, SolverStep
from .errors import InputError
from .families import Size, family
from .legs import Leg, levels_of
from .levels import REPLACED, Levels, fixed_levels
from .patch import preserved
from .stage import Stage

PICTURES = ("image", "images", "video", "mask_image", "control_image", "conditions", "pose_video")


@dataclass(frozen=True)
class Change:
    """Latents that are about to change their size; all tensors are float32 grids, (B, C, F, h, w).

    Attributes:
        state: the latents as x0 + n eps, at the old size.
        clean: the prediction of x0 at the old size.
        ratio: n, the noise-to-signal ratio of the state.
        next_ratio: the noise-to-signal ratio at which the next step starts.
        size: (h, w) to come.
        noise: the unit noise with which the run began, at the full size.
        step: number of the step that comes next.
    """

    state: Tensor
    clean: Tensor
    ratio: float
    next_ratio: float
    size: tuple[int, int]
    noise: Tensor
    step: int


class Resize(Protocol):
    """Changes the size of latents."""

    def start(self, noise: Tensor, size: tuple[int, int]) -> Tensor:
        """Return unit noise of this size, made of the full-size *noise* of a run."""

    def change(self, change: Change) -> Tensor:
        """Return the state x0 + n eps at the new size, with the next step's n."""


Plan = Callable[[int], Sequence[Leg]]


def fixed_size(pipe: Any) -> str | None:
    """Return why latents of *pipe* cannot change their size on the way, or None if they can."""
    described, takes = family(pipe), signature(type(pipe).__call__).parameters
    if not described.known:
        return "what its denoiser must be told of the size is not described in pipelines/families.py"
    if hasattr(pipe, "get_timesteps") or any(name in takes for name in PICTURES):
        return "it starts from a picture, which it keeps at full size beside the latents"
    if pipe.config.get("expand_timesteps"):
        return "its denoiser gets a timestep for every token of the full size"
    return fixed_levels(pipe.scheduler)


@dataclass(eq=False)
class _Course:
    """One run, on its way through the sizes."""

    stage: Stage
    link: Link
    legs: Sequence[Leg]
    resize: Resize
    levels: Levels
    full: Size | None = None
    noise: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.at = [leg.size for leg in self.legs for _ in range(leg.steps)]
        self.levels.replace(*levels_of(self.levels.planned(), self.legs))
        self.link.run.holds(self.noise)

    def size(self, step: int) -> Size:
        """Return the size of the latents at *step*."""
        assert self.full is not None
        return self.full[0], int(self.full[1] * self.at[step]), int(self.full[2] * self.at[step])

    def around(self, call: Call, network: Network) -> Tensor:
        layout, kwargs = self.stage.family.latents, dict(call.kwargs)
        if self.full is None:
            self._measure(call)
        full, size = self.full, self.size(call.step)
        assert full is not None
        if size != full:
            if call.step == 0:  # the pipeline has just made them, at the full size
                kwargs[call.first] = self._started(call.latents)
            kwargs |= layout.told(call.kwargs, full, size)
            self.link.note("partial", f"{self.at[call.step]} of the width and height")
        if self.levels.timesteps:
            told = kwargs["timestep"]
            kwargs["timestep"] = told.new_full(told.shape, self.levels.timesteps[call.step], dtype=torch.float32)
        return network(replace(call, kwargs=kwargs))

    def solve(self, now: SolverStep, inner: Callable[[SolverStep], Any]) -> Any:
        step, scheduler = len(now.run.steps) - 1, self.levels.scheduler
        if step == 0:
            whole = self._grid(now.latents, self.full) / float(getattr(scheduler, "init_noise_sigma", 1.0))
            self.noise[:] = [whole]
            if self.at[0] != 1:
                now = replace(now, latents=self._started(now.latents))
        self.levels.before(step)
        out = inner(now)
        if step + 1 == len(self.at) or self.at[step + 1] == self.at[step]:
            return out
        after = out[0] if isinstance(out, tuple) else out.prev_sample
        changed = self._changed(step, now, after)
        self.levels.restart(step + 1)
        if isinstance(out, tuple):
            return (changed, *out[1:])
        out.prev_sample = changed
        return out

    def _changed(self, step: int, now: SolverStep, after: Tensor) -> Tensor:
        levels, size = self.levels, self.size(step + 1)
        ends, starts = levels.ends[step], levels.starts[step + 1]
        clean = levels.clean(now.latents.float(), now.prediction.float(), levels.starts[step])
        old = self.size(step)
        change = Change(
            state=self._grid(after, old) / levels.signal(ends),
            clean=self._grid(clean, old),
            ratio=ends / (1 - ends),
            next_ratio=starts / (1 - starts),
            size=size[1:],
            noise=self.noise[0],
            step=step + 1,
        )
        if self.at[step + 1 :].count(self.at[step + 1]) == len(self.at) - step - 1:  # the last change
            self.noise.clear()
        grid = self.resize.change(change) * levels.signal(starts)
        return self.stage.family.latents.from_grid(grid).to(after.dtype)

    def _started(self, latents: Tensor) -> Tensor:
        grid = self.resize.start(self._grid(latents, self.full), self.size(0)[1:])
        return self.stage.family.latents.from_grid(grid).to(latents.dtype)

    def _grid(self, latents: Tensor, size: Size | None) -> Tensor:
        assert size is not None
        return self.stage.family.latents.to_grid(latents, *size).float()

    def _measure(self, call: Call) -> None:
        if call.steps != len(self.at):
            raise InputError(
                f"{self.link.owner} planned {len(self.at)} steps, but the pipeline takes {call.steps}: "
                "let it run to the end, so that the picture gets its full size back"
            )
        self.full = self.stage.family.latents.size(call.latents, call.kwargs)
        for size in set(self.at):
            unit = _multiple(self.stage) * size.denominator
            unit //= gcd(unit, size.numerator)
            if self.full[1] % unit or self.full[2] % unit:
                pixels = unit * int(getattr(self.stage.pipe, "vae_scale_factor", 0) or 0)
                raise InputError(
                    f"latents of {self.full[2]} x {self.full[1]} cannot be {size} as wide and high: width and height "
                    f"must be multiples of {f'{pixels} pixels' if pixels else f'{unit} latent pixels'}"
                )


def _multiple(stage: Stage) -> int:
    """Return what the sides of latents must be multiples of, in latent pixels."""
    network = next(iter(stage.denoisers.values()))
    if stage.family.unet:
        return 1 << (len(network.config.down_block_types) - 1)
    if stage.family.latents.layout == "packed":
        return 2
    patch = getattr(network.config, "patch_size", 1)
    return int(patch if isinstance(patch, int) else patch[-1])


@contextmanager
def around_resolution(stage: Stage, plan: Plan, resize: Resize) -> Iterator[None]:
    """Let every run go through the sizes that *plan* says for its number of steps; the last must be the full one.

    A plan of one leg leaves the run alone. The scheduler begins anew at every size, at the noise level of the same
    information. Whatever else stands around the denoiser stands further in, wherever its recipe has it: it sees
    latents of the size that is drawn, and forgets the past when their shape changes.
    """
    scheduler = stage.pipe.scheduler
    alphas = getattr(scheduler, "alphas_cumprod", None)
    now: list[weakref.ref[_Course]] = []  # the run's chain alone holds it, so that it dies with the run

    def begin(link: Link) -> Around:
        now.clear()
        if alphas is not None:
            scheduler.alphas_cumprod = alphas  # the last run's were its own
        legs = plan(len(scheduler.timesteps))
        if len(legs) < 2:
            return lambda call, network: network(call)
        course = _Course(stage, link, legs, resize, Levels(scheduler))
        now.append(weakref.ref(course))
        return course.around

    def solve(step: SolverStep, inner: Callable[[SolverStep], Any]) -> Any:
        course = now[0]() if now else None
        return inner(step) if course is None else course.solve(step, inner)

    with (
        preserved([scheduler], REPLACED),
        stage.around_denoiser(begin, outermost=True),
        stage.around_solver(solve, outermost=True),
    ):
        yield
