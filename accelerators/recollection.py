"""What a cache remembers of one run, and what a skipped call gets of it."""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..pipelines import Action, Call, Link
from .schedules import due

if TYPE_CHECKING:
    from .output_cache import OutputCache


class Node(NamedTuple):
    """A computed value, where it stands, and the shape of the latents it was asked for."""

    where: float
    output: Tensor
    asked: tuple[int, ...]


Past = deque[Node]
Memory = dict[str, Tensor]


@dataclass
class Rule:
    """Decides call by call whether the network runs, here as planned; born with its run, and anew when it forgets."""

    cache: "OutputCache"
    since: dict[str, int] = field(default_factory=dict, init=False)  # by branch, the step that was learnt of last

    def see(self, call: Call, modulated: Callable[[], Tensor]) -> None:
        """Look at what the first block's attention will see of its input; only at the block stack."""

    def computes(self, call: Call) -> bool:
        """Tell whether the network runs for *call*; asked once a call, of a module that is used twice, twice."""
        since = min(self.since.get(branch, -1) for branch in call.branches)
        return due(min(since, call.step - 1), call.step, lambda step: self.cache.computes(step, call.steps))

    def learn(self, call: Call, out: Tensor) -> None:
        """Take note of what the network gave."""
        self.since.update(dict.fromkeys(call.branches, call.step))


class Recollection:
    """What one run remembers, and what a skipped call gets of it."""

    def __init__(self, cache: "OutputCache", link: Link) -> None:
        self.cache, self.link = cache, link
        self.past: dict[str, Past] = defaultdict(lambda: deque(maxlen=cache.order))
        self.memory: Memory = {}
        self.rule = cache.rule(self.memory)
        self.entering: Callable[[], Tensor] | None = None
        link.run.holds(self.past)
        link.run.holds(self.memory)

    def enter(self, call: Call, hidden: Tensor, modulated: Callable[[], Tensor]) -> None:
        """Keep the view into the first block until the rule asks for it."""
        self.entering = modulated

    def instead(self, call: Call, hidden: Any) -> Tensor | None:
        """Return the prediction that stands in for this call, or None if it is computed."""
        cache, past = self.cache, self.past
        self._forget_if(any(seen and seen[-1].asked != call.shape for seen in past.values()))
        if self.entering is not None:
            self.rule.see(call, self.entering)
            self.entering = None
        known = all(cache.enough(len(past[branch])) for branch in call.branches)
        if self.rule.computes(call) or not known:
            return None
        where = self._where(call)
        predicted = torch.cat([cache.predict(past[branch], where, call.steps) for branch in call.branches])
        whole: Action = "reused" if cache.order == 1 else "extrapolated"
        self.link.note(whole if cache.place == "output" else "partial", cache.reason())
        if cache.feeds_back:
            remember(past, call, where, predicted)
        return cache.given(call, predicted)

    def learn(self, call: Call, out: Tensor) -> None:
        """Remember what the network gave."""
        if self.cache.place == "output":
            self._forget_if(self.link.stale)  # the first output of its kind: nothing older leads up to it
        remember(self.past, call, self._where(call), self.cache.kept(call, out))
        self.rule.learn(call, out)

    def _where(self, call: Call) -> float:
        return call.sigma if self.cache.axis == "sigma" else float(call.step)

    def _forget_if(self, changed: bool) -> None:
        if changed:
            self.past.clear()
            self.memory.clear()
            self.rule, self.link.stale = self.cache.rule(self.memory), False


class OfModule:
    """Remembers one module of a block; joint attention gives two tensors, of image tokens and of text."""

    def __init__(self, cache: "OutputCache", link: Link) -> None:
        self.recollection = Recollection(cache, link)
        self.lengths: dict[str, list[int]] = {}

    def __call__(self, call: Call, run: Callable[[], Any]) -> Any:
        """Return what the module gives at this call, or the prediction that stands in for it."""
        if (known := self.recollection.instead(call, None)) is not None:
            parts = known.split(self.lengths[call.branches[0]], 1)
            return parts if len(parts) > 1 else parts[0]
        out = run()
        parts = out if isinstance(out, tuple) else (out,)
        self.lengths |= {branch: [part.shape[1] for part in parts] for branch in call.branches}
        self.recollection.learn(call, torch.cat(parts, 1) if len(parts) > 1 else parts[0])
        return out


def remember(past: dict[str, Past], call: Call, where: float, out: Tensor) -> None:
    """Add what a call gave to the past of each of its branches."""
    for branch, part in zip(call.branches, out.chunk(len(call.branches)), strict=True):
        seen = past[branch]
        if seen and seen[-1].where == where:  # a two-call solver asks twice at one noise level: the later counts
            seen.pop()
        seen.append(Node(where, part, call.shape))
