"""AB-Cache: Adams-Bashforth cached feature reuse (Yu et al. 2025, https://arxiv.org/abs/2504.10540)."""

from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import comb
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..pipelines import Around, Call, Link, Network, Stage
from .base import Accelerator
from .knobs import knob

STOCHASTIC = ("Ancestral", "SDE", "DDPM", "SASolver", "LCM", "TCD")


@dataclass(frozen=True)
class ABCache(Accelerator):
    """Skip network calls, and continue the network's past outputs as a polynomial instead.

    With e(u) the output at position u (the noise level sigma, or the index of the step), a skipped step gets

        e(u) = sum over a of e(u_a) * product over b != a of (u - u_b) / (u_a - u_b)

    over the last ``order`` computed steps a: Lagrange extrapolation, the paper's order-k rule carried to nodes that
    are not evenly spaced. The paper itself sets the k-th backward difference to zero (section 3.2),

        e[n] = sum over j = 1..k of (-1)^(j+1) C(k, j) e[n-j],

    which is the same where the nodes are consecutive and evenly spaced (``weights="binomial"``). Order 1 repeats the
    last output, order 2 continues a line. ``every=1`` computes everything.

    >>> binomial_weights(3)
    (3, -3, 1)
    >>> ABCache(every=3).computed(14)
    (0, 1, 2, 3, 4, 7, 10, 13)
    """

    name: ClassVar[str] = "ab-cache"
    title: ClassVar[str] = "AB-Cache"
    paper: ClassVar[str] = "Yu et al. 2025, arXiv:2504.10540"
    neutral: ClassVar[dict[str, Any]] = {"every": 1}
    seat: ClassVar[str] = "denoiser output"

    order: int = knob(2, "how many past outputs predict a skipped one", low=1, high=5, unit="outputs")
    every: int = knob(3, "run the network once in this many steps", low=1, high=10, unit="steps")
    warmup: int = knob(4, "first steps that always run", low=1, high=50, unit="steps")
    axis: str = knob("sigma", "along what the outputs are continued", choices=("sigma", "index"))
    weights: str = knob("lagrange", "true distances, or the paper's even ones", choices=("lagrange", "binomial"))
    feed_back: bool = knob(False, "count a prediction as a past output, as if it had been computed")

    def computes(self, step: int, steps: int) -> bool:
        """Tell whether the network runs at *step* (from 0): warm-up, then every so often, and the last step."""
        warmup = max(self.warmup, self.order)
        return step < warmup or (step - warmup) % self.every == 0 or step >= steps - 1

    def computed(self, steps: int) -> tuple[int, ...]:
        """Return the steps at which the network runs in a run of so many steps."""
        return tuple(step for step in range(steps) if self.computes(step, steps))

    def idle_because(self, steps: int) -> str:
        if self.every == 1:
            return f"{self} runs the network at every step"
        return f"{self} runs all {steps} steps: {max(self.warmup, self.order)} to warm up, and the last"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        said = []
        scheduler = type(pipe.scheduler).__name__
        stochastic = any(word in scheduler for word in STOCHASTIC) or "sde" in str(
            pipe.scheduler.config.get("algorithm_type", "")
        )
        if stochastic and self.order > 1:
            said.append(f"{scheduler} adds noise at every step, which order {self.order} amplifies: use order=1")
        if steps <= 8 and self.every > 1:
            said.append(f"{steps} steps leave little to skip: a cache seldom pays below about 10")
        if self.feed_back and self.every > 2:
            said.append("feed_back with every > 2 multiplies errors from skip to skip: use every=2")
        return said

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        return stage.around_denoiser(self._start)

    def _start(self, link: Link) -> Around:
        past: dict[str, Past] = defaultdict(lambda: deque(maxlen=self.order))
        link.run.holds(past)

        def forget_if(changed: bool) -> None:
            if changed:
                past.clear()
                link.stale = False

        def around(call: Call, network: Network) -> Tensor:
            forget_if(any(seen and seen[-1].asked != call.shape for seen in past.values()))
            known = all(len(past[branch]) == self.order for branch in call.branches)
            where = call.sigma if self.axis == "sigma" else float(call.step)
            if self.computes(call.step, call.steps) or not known:
                out = network(call)
                forget_if(link.stale)  # the first output of its kind: nothing older leads up to it
                _remember(past, call, where, out)
                return out
            out = torch.cat([self._predict(past[branch], where) for branch in call.branches])
            link.note("reused" if self.order == 1 else "extrapolated", f"order {self.order}, every {self.every}")
            if self.feed_back:
                _remember(past, call, where, out)
            return out

        return around

    def _predict(self, past: "Past", where: float) -> Tensor:
        nodes = [node.where for node in past]
        weights = lagrange_weights(nodes, where) if self.weights == "lagrange" else binomial_weights(self.order)[::-1]
        return combine(weights, [node.output for node in past])


class Node(NamedTuple):
    """A computed output, where it stands, and the shape of the latents it was asked for."""

    where: float
    output: Tensor
    asked: tuple[int, ...]


Past = deque[Node]


def _remember(past: dict[str, Past], call: Call, where: float, out: Tensor) -> None:
    for branch, part in zip(call.branches, out.chunk(len(call.branches)), strict=True):
        seen = past[branch]
        if (
            seen and seen[-1].where == where
        ):  # a two-call solver asks twice at one noise level: the later answer counts
            seen.pop()
        seen.append(Node(where, part, call.shape))


def binomial_weights(order: int) -> tuple[int, ...]:
    """Weights of the last outputs, latest first, that set the backward difference of this order to zero."""
    return tuple((-1) ** (j + 1) * comb(order, j) for j in range(1, order + 1))


def lagrange_weights(nodes: Sequence[float], where: float) -> tuple[float, ...]:
    """Weights of the values at *nodes* that continue their polynomial to *where*.

    >>> lagrange_weights([1.0, 2.0], 3.0)
    (-1.0, 2.0)
    """
    weights = []
    for a, node in enumerate(nodes):
        weight = 1.0
        for b, other in enumerate(nodes):
            if a != b:
                weight *= (where - other) / (node - other)
        weights.append(weight)
    return tuple(weights)


def combine(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum, in float32 where the values are half precision: the weights cancel each other."""
    if len(values) == 1:
        return values[0]
    exact = torch.float32 if values[0].dtype in (torch.float16, torch.bfloat16) else values[0].dtype
    total = weights[0] * values[0].to(exact)
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total.add(value.to(exact), alpha=weight)
    return total.to(values[0].dtype)
