"""The equation that a scheduler solves: one row a scheduler class; and the place around whole steps.

A diffusion's latents are x = alpha x0 + sigma n, with the picture x0 and the noise n, in the units of each scheduler.
Whatever a network predicts there is linear in x and x0, so two numbers a step describe it. After division by
``scale`` the ODE of every class below has slopes that its own first-order step (Euler, DDIM) follows exactly.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar
from weakref import ref

from torch import Tensor

from .call import Around, Call, Link, Network, SolverStep
from .stage import Stage

Units = Literal["exploding", "preserving", "flow"]


@dataclass(frozen=True)
class Level:
    """How latents, picture and prediction hang together at one noise level.

        x0 = keep x + turn prediction,      d(x / scale) / d sigma = (x / scale - x0) / sigma

    Attributes:
        sigma: the noise level, which is also the solver's time; it falls.
        scale: what the latents are divided by so that only the noise in them changes.
        keep, turn: weights of the latents and of the prediction in the picture.

    >>> import torch
    >>> x, out = torch.tensor([3.0]), torch.tensor([1.0])
    >>> level = Level(0.5, 1.0, 1.0, -0.5)  # flow matching
    >>> level.x0(x, out), level.prediction(x, level.x0(x, out)), level.slope(x, level.x0(x, out))
    (tensor([2.5000]), tensor([1.]), tensor([1.]))
    """

    sigma: float
    scale: float
    keep: float
    turn: float

    def x0(self, x: Tensor, prediction: Tensor) -> Tensor:
        """Return the picture that a prediction at *x* stands for."""
        return self.keep * x + self.turn * prediction

    def prediction(self, x: Tensor, x0: Tensor) -> Tensor:
        """Return what a network must predict at *x* so that it stands for the picture *x0*."""
        return (x0 - self.keep * x) / self.turn

    def slope(self, x: Tensor, x0: Tensor) -> Tensor:
        """Return how fast ``x / scale`` changes with sigma on the way between *x* and *x0*."""
        return (x / self.scale - x0) / self.sigma

    def on_slope(self, x: Tensor, slope: Tensor) -> Tensor:
        """Return the picture on the straight way through *x* with this slope."""
        return x / self.scale - self.sigma * slope


@dataclass(frozen=True)
class Solver:
    """What there is to know of a scheduler class.

    Attributes:
        units: "exploding": x = x0 + sigma n; "preserving": that, divided by sqrt(1 + sigma^2);
            "flow": x = (1 - sigma) x0 + sigma n.
        predictions: the prediction types whose algebra is known.
        refused: settings (name -> values) with which it solves another equation, or adds noise.
    """

    units: Units
    predictions: tuple[str, ...]
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


_DPM = {"algorithm_type": ("sde-dpmsolver", "sde-dpmsolver++"), "variance_type": ("learned", "learned_range")}
_FLOW = {"stochastic_sampling": (True,), "invert_sigmas": (True,)}
SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {
        "DDIMScheduler": Solver("preserving", ("epsilon", "v_prediction", "sample")),
        "DPMSolverMultistepScheduler": Solver("preserving", ("epsilon", "v_prediction", "sample"), _DPM),
        "EulerDiscreteScheduler": Solver("exploding", ("epsilon", "v_prediction")),
        "FlowMatchEulerDiscreteScheduler": Solver("flow", ("flow_prediction",), _FLOW),
    }
)
_LEAST = 2.0**-12  # of alpha, where a schedule begins with pure noise; DPMSolverMultistep takes the same


def unsolved(scheduler: Any) -> str | None:
    """Return a sentence that says why the equation of *scheduler* is not known, or None if it is."""
    kind = type(scheduler).__name__
    if (solver := SOLVERS.get(kind)) is None:
        return f"the equation that {kind} solves is not described; switch to one of {', '.join(SOLVERS)}"
    for name, values in solver.refused.items():
        if scheduler.config.get(name) in values:
            return f"{kind} with {name}={scheduler.config.get(name)!r} is not described; change that setting"
    units, predicts = _read(scheduler)
    known = ("flow_prediction",) if units == "flow" else solver.predictions
    if predicts not in known:
        return f"{kind} with prediction_type={predicts!r} is not described, only with {', '.join(known)}"
    return None


def levels(scheduler: Any, sigmas: Sequence[float]) -> list[Level]:
    """Describe the steps of a run from the noise levels before them (``Run.sigmas``)."""
    units, predicts = _read(scheduler)
    return [_level(units, predicts, sigma) for sigma in sigmas]


def _read(scheduler: Any) -> tuple[Units, str]:
    units = "flow" if scheduler.config.get("use_flow_sigmas") else SOLVERS[type(scheduler).__name__].units
    return units, scheduler.config.get("prediction_type", "flow_prediction")


def _level(units: Units, predicts: str, sigma: float) -> Level:
    if units == "flow":
        return Level(sigma, 1.0, 1.0, -sigma)
    alpha = max((1 + sigma**2) ** -0.5, _LEAST)
    sigma = min(sigma, 1 / _LEAST)
    scale = alpha if units == "preserving" else 1.0
    keep, turn = {
        "epsilon": (1 / scale, -sigma),
        "v_prediction": (alpha**2 / scale, -sigma * alpha),
        "sample": (0.0, 1.0),
    }[predicts]
    return Level(sigma, scale, keep, turn)


class Walk(Protocol):
    """Goes through a run step by step, and sees of each step the calls, and then the solver."""

    def call(self, call: Call, network: Network) -> Tensor:
        """Answer a call of the pipeline to its denoiser."""

    def step(self, now: SolverStep, solve: Callable[[SolverStep], Any]) -> Any:
        """Answer the pipeline's ``scheduler.step``."""


W = TypeVar("W", bound=Walk)


@contextmanager
def around_steps(stage: Stage, start: Callable[[Link], W]) -> Iterator[Callable[[], W | None]]:
    """Send the calls and the solver of every step through a ``Walk`` that is made anew for each run.

    Yields:
        A function that returns the walk of the run that is under way, if one is.
    """
    walks: list[ref[W]] = []  # weak: the run's chain alone holds the walk, so that it dies with the run

    def present() -> W | None:
        return walks[0]() if walks else None

    def begin(link: Link) -> Around:
        walk = start(link)
        walks[:] = [ref(walk)]
        return walk.call

    def around(now: SolverStep, solve: Callable[[SolverStep], Any]) -> Any:
        return solve(now) if (walk := present()) is None else walk.step(now, solve)

    with stage.around_denoiser(begin), stage.around_solver(around):
        yield present
