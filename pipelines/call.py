"""What goes through a stage: calls of the denoiser, steps of the solver, and accelerators in their chain."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .run import Action, Run

PAIR = ("uncond", "cond")
MIXED = ("mixed",)


@dataclass(frozen=True)
class Call:
    """One request of the pipeline to its denoiser.

    Attributes:
        kwargs: the denoiser's arguments, all by name.
        first: name of the argument that holds the latents.
        step: number of the step within the run, from 0.
        steps: number of steps of the run.
        sigma: noise level before the step, in the scheduler's own units.
        branches: what the batch holds: ("uncond", "cond") for a batched guidance pair, else one name. "mixed" has more
            than the two halves (perturbed attention, an image as a second condition), "call 1" is a further call.
        batch: samples in the call.
        run: the run it belongs to.
    """

    kwargs: dict[str, Any]
    first: str
    step: int
    steps: int
    sigma: float
    branches: tuple[str, ...]
    batch: int
    run: Run

    @property
    def progress(self) -> float:
        """Part of the run that is done before this step, in [0, 1)."""
        return self.step / self.steps

    @property
    def latents(self) -> Any:
        """The latents that the denoiser is asked about; a tensor, or a list of one tensor a sample (Z-Image)."""
        return self.kwargs[self.first]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the latents of one branch: what must stay the same for the past to be of use."""
        return (self.batch // len(self.branches), *self.latents[0].shape)

    @property
    def last(self) -> bool:
        return self.step >= self.steps - 1

    def conditional(self) -> "Call":
        """Return the same call for the conditional half of a guidance pair."""
        half = self.batch // 2
        return replace(self, kwargs=self._each(lambda x: x[half:], self.kwargs), branches=("cond",), batch=half)

    def tiled(self, times: int) -> "Call":
        """Return the same call with the whole batch so many times, one after the other."""
        kwargs = self._each(lambda x: x.repeat(times, *[1] * (x.ndim - 1)), self.kwargs)
        return replace(self, kwargs=kwargs, batch=self.batch * times)

    def _each(self, change: Callable[[Tensor], Tensor], x: Any) -> Any:
        """Change every tensor that has one row a sample, inside dicts, lists and tuples too."""
        if isinstance(x, dict):
            return {key: self._each(change, value) for key, value in x.items()}
        if isinstance(x, (list, tuple)):
            return type(x)(self._each(change, part) for part in x)
        return change(x) if isinstance(x, Tensor) and x.ndim and len(x) == self.batch else x


Network = Callable[[Call], Tensor]
Around = Callable[[Call, Network], Tensor]


@dataclass(eq=False)
class Link:
    """One accelerator's place in the chain around the denoiser, for one run.

    Attributes:
        owner: name of the accelerator.
        run: the run.
        outer: the links before this one.
        stale: set by an accelerator further in when what it returns no longer continues what it returned before
            (guidance switched): forget the past.
    """

    owner: str
    run: Run
    outer: tuple["Link", ...] = ()
    stale: bool = False

    def note(self, action: Action, reason: str) -> None:
        """Say what the present step does instead of running the whole network, and why."""
        self.run.acted.add(self.owner)
        self.run.note(action, reason)

    def idle(self, reason: str) -> None:
        """Say why there was nothing to save, should it stay so until the end; empty for the usual reason."""
        self.run.idle[self.owner] = reason

    def warn(self, sentence: str) -> None:
        """Say what the user should know about this run, once."""
        if sentence not in self.run.warned:
            self.run.warned.append(sentence)

    def disturb(self) -> None:
        """Tell the accelerators further out that the output of this one has just changed its nature."""
        for link in self.outer:
            link.stale = True


Start = Callable[[Link], Around]


@dataclass(frozen=True)
class SolverStep:
    """What the pipeline hands to ``scheduler.step``: the (guided) prediction, the timestep, the latents."""

    prediction: Tensor
    timestep: Any
    latents: Tensor
    run: Run


Watcher = Callable[[Run, Tensor], None]
Solver = Callable[[SolverStep, Callable[[SolverStep], Any]], Any]
