"""SADA: stability-guided adaptive diffusion acceleration (Jiang et al. 2025, https://arxiv.org/abs/2507.17135)."""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ..pipelines import Call, KnobError, Level, Link, Network, SolverStep, Stage, around_steps, levels, unsolved
from .base import Accelerator
from .knobs import knob
from .predictors import combine, lagrange_weights

COEFFICIENTS = {"paper": (5 / 6, 5 / 6, -2 / 3), "code": (5 / 8, 3 / 4, -3 / 8)}  # of the slopes, latest first


@dataclass(frozen=True)
class SADA(Accelerator):
    """Skip the call after a step on which the solver stayed on the safe side of its own forecast.

    With x the latents in units in which the solver's ODE is dx/dsigma = y (``pipelines/solver.py``), h the step in
    sigma, and y, y', y'' the slopes of the present step and the two before,

        x_hat = x + h (5/6 y + 5/6 y' - 2/3 y'')           ("code": 5/8, 3/4, -3/8)
        stable  if  mean((x_next - x_hat) (y - 2 y' + y'')) <= 0,

    x_next being what the solver made of the step. A skipped step keeps the last outputs of the network, so that
    guidance is as it was, and then the prediction is replaced: by one that stands for the picture which the last
    prediction e makes of x_hat, x0 = (x_hat - sigma e) / alpha (``fill="state"``, the paper's); by the slope
    2 y - y', and y from the second skip in a row (``"slope"``, the official code's for flow matching, which asks
    mean(y - 2 y' + y'') >= 0: ``criterion="curvature"``); or by the line in sigma through the slopes of the last two
    computed steps (``"line"``). Late in the run every ``every``-th step is computed, stable or not, and x0 is
    continued as a polynomial through the last ``terms`` of them (the paper's multistep approximation).

    One decision holds for all pictures of a batch. ``most=0`` and ``start=stop`` compute everything.

    >>> SADA(start=0.2, stop=0.9).window(20)
    range(4, 18)
    """

    name: ClassVar[str] = "sada"
    title: ClassVar[str] = "SADA"
    paper: ClassVar[str] = "Jiang et al. 2025, arXiv:2507.17135"
    neutral: ClassVar[dict[str, Any]] = {"most": 0}
    seat: ClassVar[str] = "denoiser output"

    criterion: str = knob("residual", "what tells a stable step", choices=("residual", "curvature"))
    coefficients: str = knob("paper", "weights of the three slopes", choices=("paper", "code"))
    fill: str = knob("line", "what a skipped step gets", choices=("line", "state", "slope"))
    most: int = knob(2, "most steps skipped in a row", low=0, high=20, unit="steps")
    start: float = knob(0.2, "part of the run before which nothing is skipped", low=0.0, high=1.0, unit="of the run")
    stop: float = knob(0.94, "part of the run after which nothing is skipped", low=0.0, high=1.0, unit="of the run")
    late: float = knob(1.0, "part of the run after which multistep rules", low=0.0, high=1.0, unit="of the run")
    every: int = knob(2, "multistep: compute once in this many steps", low=1, high=10, unit="steps")
    terms: int = knob(2, "multistep: computed pictures that x0 is continued through", low=1, high=5, unit="pictures")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start > self.stop:
            raise KnobError(f"SADA.start is {self.start}, after stop, which is {self.stop}: swap them")

    def window(self, steps: int) -> range:
        """Return the steps of a run of so many at which a call may be skipped; never the last step."""
        inside = [step for step in range(steps - 1) if self.start * steps <= step < self.stop * steps]
        return range(inside[0], inside[-1] + 1) if inside and self.most else range(0)

    def multistep(self, step: int, steps: int) -> bool:
        """Tell whether the multistep rule holds at *step* of a run of so many."""
        return step >= self.late * steps

    def cadence(self, step: int) -> bool:
        """Tell whether *step* is one that the multistep rule computes."""
        return (step - 1) % self.every == 0

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        return unsolved(pipe.scheduler)

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        said = []
        if steps <= 8 and self.window(steps):
            said.append(f"{steps} steps leave little to skip: the first three and the last always run")
        first_order = pipe.scheduler.config.get("solver_order", 1) == 1
        if first_order and self.coefficients == "code" and self.criterion == "residual":
            said.append(f'after {type(pipe.scheduler).__name__} every step looks stable to coefficients="code"')
        return said

    def idle_because(self, steps: int) -> str:
        if not self.window(steps):
            return f"{self} may skip none of {steps} steps"
        return f"{self} found no stable step where it may skip one, in {steps} steps"

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        return around_steps(stage, lambda link: Trajectory(self, link, stage.pipe.scheduler))


class Node(NamedTuple):
    """What a step left: where it stands, and a slope or a picture."""

    where: float
    value: Tensor


class Trajectory:
    """One run: the way its solver took so far, and whether the next step may be skipped."""

    def __init__(self, sada: SADA, link: Link, scheduler: Any) -> None:
        self.sada, self.link, self.scheduler = sada, link, scheduler
        self.levels: list[Level] = []
        self.outputs: dict[Any, Tensor] = {}  # of the network, by guidance branch and shape
        self.slopes: deque[Tensor] = deque(maxlen=3)  # of the last steps, computed or not
        self.computed: deque[Node] = deque(maxlen=2)  # slopes of the last computed steps, by sigma
        self.pictures: deque[Node] = deque(maxlen=sada.terms)  # x0 of the steps of the cadence, by index
        self.ahead: list[Tensor] = []  # x_hat, where there is one
        for container in (self.outputs, self.slopes, self.computed, self.pictures, self.ahead):
            link.run.holds(container)
        self.stable = self.skips = self.ran = False
        self.at, self.skipped = -1, 0
        self.asked: list[Any] = []
        self.asked_before: list[Any] = []

    def call(self, call: Call, network: Network) -> Tensor:
        """Answer a call with the network's last output of its kind, if the step is to be skipped."""
        if call.step != self.at:
            self.at, self.ran, self.asked, self.asked_before = call.step, False, [], self.asked
            self.skips = self._skips(call.step, call.steps)
        kind = (call.branches, call.shape)
        self.asked.append(kind)
        if self.skips and kind in self.outputs:
            late = self.sada.multistep(call.step, call.steps)
            self.link.note("extrapolated", "multistep" if late else "stable")
            return self.outputs[kind]
        self.ran = True
        out = network(call)
        if self.link.stale:
            self._forget()
        self.outputs[kind] = out
        return out

    def step(self, now: SolverStep, solve: Callable[[SolverStep], Any]) -> Any:
        """Give a skipped step its prediction, and judge from what the solver makes of it."""
        self.levels = self.levels or levels(self.scheduler, now.run.sigmas)
        if self.asked != self.asked_before:  # another guidance, another size: the past does not lead here
            self._forget()
        if self.at >= len(self.levels) - 1:  # nothing comes after the last step
            return solve(now)
        level, x = self.levels[self.at], now.latents.float()
        if self.skips and not self.ran:
            x0 = self._picture(level, x, now.prediction.float())
            now = replace(now, prediction=level.prediction(x, x0).to(now.prediction.dtype))
            self.skipped += 1
        else:
            x0 = level.x0(x, now.prediction.float())
            self.skipped = 0
            self.computed.append(Node(level.sigma, level.slope(x, x0)))
            if self.sada.cadence(self.at):
                self.pictures.append(Node(float(self.at), x0))
        self.slopes.append(level.slope(x, x0))
        out = solve(now)
        self._judge(level, x, out[0] if isinstance(out, tuple) else out.prev_sample)
        return out

    def _skips(self, step: int, steps: int) -> bool:
        sada = self.sada
        if step not in sada.window(steps) or self.skipped >= sada.most or len(self.slopes) < 3:
            return False
        if sada.multistep(step, steps):
            recent = len(self.pictures) == sada.terms and step - self.pictures[-1].where < sada.every
            return recent and not sada.cadence(step)
        return self.stable and len(self.computed) == 2

    def _picture(self, level: Level, x: Tensor, prediction: Tensor) -> Tensor:
        if self.sada.multistep(self.at, len(self.levels)):
            return _continued(self.pictures, float(self.at))
        match self.sada.fill:
            case "state":
                return level.x0(self.ahead[0], prediction)
            case "slope":
                before, last = list(self.slopes)[-2:]
                return level.on_slope(x, last if self.skipped else 2 * last - before)
            case _:
                return level.on_slope(x, _continued(self.computed, level.sigma))

    def _judge(self, level: Level, x: Tensor, x_next: Tensor) -> None:
        if len(self.slopes) < 3:
            return
        old, before, last = self.slopes
        after = self.levels[self.at + 1]
        self.ahead[:] = [forecast(level, after, x, (last, before, old), COEFFICIENTS[self.sada.coefficients])]
        bend = last - 2 * before + old
        if self.skipped and self.sada.fill != "state":
            self.stable = True  # what was continued straight has no bend but that of rounding
        elif self.sada.criterion == "curvature":
            self.stable = bend.mean().item() >= 0
        else:
            self.stable = ((x_next.float() - self.ahead[0]) * bend).mean().item() <= 0

    def _forget(self) -> None:
        for container in (self.slopes, self.computed, self.pictures, self.ahead, self.outputs):
            container.clear()
        self.stable, self.skipped, self.link.stale = False, 0, False


def forecast(level: Level, after: Level, x: Tensor, slopes: tuple[Tensor, ...], weights: tuple[float, ...]) -> Tensor:
    """Return x_hat, the latents that three slopes (latest first) expect at the next noise level."""
    ahead = x / level.scale + (after.sigma - level.sigma) * combine(weights, slopes)
    return ahead * after.scale


def _continued(nodes: deque[Node], where: float) -> Tensor:
    weights = lagrange_weights([node.where for node in nodes], where)
    return combine(weights, [node.value for node in nodes])
