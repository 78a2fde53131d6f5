"""What SADA knows of a run: the way of the solver so far, what it expected of it, and which tokens it leaves out."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from ..pipelines import Call, Latents, Level, Link, Network, RunTokens, SolverStep, levels, on_grid
from .predictors import combine, lagrange_weights
from .pruning import Pruning

if TYPE_CHECKING:
    from .sada import SADA

COEFFICIENTS = {"paper": (5 / 6, 5 / 6, -2 / 3), "code": (5 / 8, 3 / 4, -3 / 8)}  # of the slopes, latest first


class Node(NamedTuple):
    """What a step left: where it stands, and a slope or a picture."""

    where: float
    value: Tensor


class Trajectory:
    """One run: the way its solver took so far, and whether the next step may be skipped."""

    def __init__(self, sada: "SADA", link: Link, scheduler: Any, layout: Latents) -> None:
        self.sada, self.link, self.scheduler, self.layout = sada, link, scheduler, layout
        self.levels: list[Level] = []
        self.outputs: dict[Any, Tensor] = {}  # of the network, by guidance branch and shape
        self.slopes: deque[Tensor] = deque(maxlen=3)  # of the last steps, computed or not
        self.computed: deque[Node] = deque(maxlen=2)  # slopes of the last computed steps, by sigma
        self.pictures: deque[Node] = deque(maxlen=sada.terms)  # x0 of the steps of the cadence, by index
        self.ahead: list[Tensor] = []  # x_hat, where there is one
        self.pruning = Pruning(link, sada.tokens, sada.most)
        for container in (self.outputs, self.slopes, self.computed, self.pictures, self.ahead, self.pruning.outputs):
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
            inside = call.step in self.sada.window(call.steps) and not self.sada.multistep(call.step, call.steps)
            self.pruning.begin(call.step, allowed=inside and not self.skipped and not self.stable)
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
        changed = self.asked != self.asked_before  # another guidance, another size: the past does not lead here
        if changed and self.ran:
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
            if self.sada.cadence(self.at) and self.sada.continues_pictures:
                self.pictures.append(Node(float(self.at), x0))
        self.slopes.append(level.slope(x, x0))
        out = solve(now)
        self._judge(level, x, out[0] if isinstance(out, tuple) else out.prev_sample)
        if changed and not self.ran:  # it was skipped before anybody knew
            self._forget()
        return out

    def tokens(self, name: str, call: Call, hidden: Tensor, run: RunTokens) -> Tensor:
        """Answer for a module that works token by token."""
        return self.pruning.around(name, call, hidden, run)

    def _skips(self, step: int, steps: int) -> bool:
        sada = self.sada
        if step not in sada.window(steps) or self.skipped >= sada.most or len(self.slopes) < 3:
            return False
        if sada.multistep(step, steps):
            if not sada.continues_pictures:
                return not sada.cadence(step)
            recent = len(self.pictures) == sada.terms and step - self.pictures[-1].where < sada.every
            return recent and not sada.cadence(step)
        return self.stable and len(self.computed) == 2

    def _picture(self, level: Level, x: Tensor, prediction: Tensor) -> Tensor:
        if self.sada.multistep(self.at, len(self.levels)) and self.sada.continues_pictures:
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
        unstable = -bend if self.sada.criterion == "curvature" else (x_next.float() - self.ahead[0]) * bend
        # what was continued straight has no bend but that of rounding
        straight = self.skipped > 0 and self.sada.fill != "state"
        self.stable = straight or unstable.mean().item() <= 0
        self.pruning.scores = None if self.stable else on_grid(self.layout, unstable)

    def _forget(self) -> None:
        for container in (self.slopes, self.computed, self.pictures, self.ahead, self.outputs):
            container.clear()
        self.pruning.forget()
        self.stable, self.skipped, self.link.stale = False, 0, False


def forecast(level: Level, after: Level, x: Tensor, slopes: tuple[Tensor, ...], weights: tuple[float, ...]) -> Tensor:
    """Return x_hat, the latents that three slopes (latest first) expect at the next noise level."""
    ahead = x / level.scale + (after.sigma - level.sigma) * combine(weights, slopes)
    return ahead * after.scale


def _continued(nodes: deque[Node], where: float) -> Tensor:
    weights = lagrange_weights([node.where for node in nodes], where)
    return combine(weights, [node.value for node in nodes])
