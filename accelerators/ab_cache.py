"""AB-Cache: Adams-Bashforth cached feature reuse (Yu et al. 2025, https://arxiv.org/abs/2504.10540)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from .knobs import knob
from .output_cache import PLACE, PLACES, OutputCache
from .predictors import WEIGHTS, weights_of
from .schedules import periodic

SINCE = ("warmup", "start")


@dataclass(frozen=True)
class ABCache(OutputCache):
    """Skip network calls, and continue the network's past outputs as a polynomial instead.

    With e(u) the output at position u (the noise level sigma, or the index of the step), a skipped step gets

        e(u) = sum over a of e(u_a) * product over b != a of (u - u_b) / (u_a - u_b)

    over the last ``order`` computed steps a: Lagrange extrapolation, the paper's order-k rule carried to nodes that
    are not evenly spaced. The paper itself sets the k-th backward difference to zero (section 3.2),

        e[n] = sum over j = 1..k of (-1)^(j+1) C(k, j) e[n-j],

    which is the same where the nodes are consecutive and evenly spaced (``weights="binomial"``). For comparison there
    are TaylorSeer's differences for derivatives (``"taylor"``), and a polynomial that is held beyond ``horizon`` times
    the last distance (``"damped"``). Order 1 repeats the last output, order 2 continues a line. ``place="stack"``
    does so with what the transformer blocks add to their input, all but the ``first`` and ``last`` of them;
    ``place="deep"`` with what a UNet's low resolutions give, ``"modules"`` with every attention and feed-forward.
    ``since="start"`` computes the multiples of ``every`` behind the warm-up, as the authors do, who also
    skip the last step. ``every=1`` computes everything.

    >>> ABCache(every=3).computed(14), ABCache(every=3, since="start").computed(14)
    ((0, 1, 2, 3, 4, 7, 10, 13), (0, 1, 2, 3, 6, 9, 12, 13))
    """

    name: ClassVar[str] = "ab-cache"
    title: ClassVar[str] = "AB-Cache"
    paper: ClassVar[str] = "Yu et al. 2025, arXiv:2504.10540"
    neutral: ClassVar[dict[str, Any]] = {"every": 1}
    seat: ClassVar[str] = "denoiser output"

    order: int = knob(2, "how many past outputs predict a skipped one", low=1, high=5, unit="outputs")
    every: int = knob(3, "run the network once in this many steps", low=1, high=10, unit="steps")
    warmup: int = knob(4, "first steps that always run", low=1, high=50, unit="steps")
    since: str = knob("warmup", "from where every is counted: the end of the warm-up, or step 0", choices=SINCE)
    axis: str = knob("sigma", "along what the outputs are continued", choices=("sigma", "index"))
    weights: str = knob("lagrange", "how past outputs are continued", choices=WEIGHTS)
    horizon: float = knob(2.0, "damped: how many last distances a line goes on", low=0.0, high=20.0)
    place: str = knob("output", PLACE, choices=PLACES)
    first: int = knob(0, "first blocks that always run, where the stack is replaced", low=0, high=20, unit="blocks")
    last: int = knob(0, "last blocks that always run, where the stack is replaced", low=0, high=20, unit="blocks")
    feed_back: bool = knob(False, "count a prediction as a past output, as if it had been computed")

    @property
    def feeds_back(self) -> bool:  # type: ignore[override]
        """Whether a prediction counts as a past output."""
        return self.feed_back

    def computes(self, step: int, steps: int) -> bool:
        """Tell whether the network runs at *step* (from 0): warm-up, then every so often, and the last step."""
        warmup = max(self.warmup, self.order)
        return periodic(step, steps, self.every, warmup, since=0 if self.since == "start" else warmup)

    def weights_at(self, nodes: list[float], where: float) -> tuple[float, ...]:
        return weights_of(self.weights, nodes, where, self.horizon)

    def reason(self) -> str:
        return f"order {self.order}, every {self.every}"

    def idle_because(self, steps: int) -> str:
        if self.every == 1:
            return f"{self} runs the network at every step"
        return f"{self} runs all {steps} steps: {max(self.warmup, self.order)} to warm up, and the last"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        said = super().cautions(pipe, steps)
        if self.feed_back and self.every > 2:
            said.append("feed_back with every > 2 multiplies errors from skip to skip: use every=2")
        if self.feed_back and self.every > 1 and self.order > 2:
            said.append(f"feed_back with order {self.order} multiplies errors even at every=2: use order=2")
        return said
