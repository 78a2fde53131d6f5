"""Region-Adaptive Sampling, RAS (Liu et al. 2025, https://arxiv.org/abs/2502.10389)."""

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..pipelines import (
    Call,
    KnobError,
    Link,
    SolverStep,
    Stage,
    around_tokens,
    denoisers,
    patch_size,
    why_whole,
)
from .base import Accelerator
from .knobs import knob
from .schedules import beyond, stretched
from .worth import parameters, stochastic

MANY = 1024  # image tokens from which the numbers of active tokens are multiples of 64: fewer shapes for a GPU
SMALL = 500e6  # parameters below which a step is so cheap that plainly fewer of them are the better bargain


@dataclass(frozen=True)
class RegionAdaptive(Accelerator):
    """Run the network only on the regions that need it; the others move on along the velocity they last had.

    After ``warmup`` full steps, a step computes n of N image tokens; the others keep their output, and their keys and
    values for the attention of the rest. With m a token's metric in the last (guided) output, averaged over its latent
    pixels and the batch, and gap the number of steps since it ran, the n tokens with the largest

        rank(m) + starvation * gap,                     m = std over channels, least first (focus="low-std"),
                                                        m = std over channels, greatest first ("high-std"),
                                                        m = norm over channels, greatest first ("update-size")

    run, rank going from 0 to 1. Tokens that would otherwise exceed ``max_gap`` go first. The paper's own rule
    (focus="published", section 3.3 and its code) sorts by m = std * exp(starvation * drops), drops counting all skips,
    and of the N - n tokens to skip takes the part ``high`` from the top and the rest from the bottom. With j from 0 to
    1 over the sparse steps, n / N = ratio + tilt * (1/2 - j). ``ratio=1`` computes everything.

    The defaults are what kept most on pocket-dit (28 steps, guidance 4, 8 prompts): "update-size" 40 dB of PSNR,
    the published rule 33, and with starvation=0.1 "update-size" 35, "low-std" 30. But 20 plain steps took no longer
    and kept 49: this is for models whose every step is dear.

    >>> RegionAdaptive(ratio=0.5, warmup=2, resets="4", of=8).counts(8, 100)
    [100, 100, 50, 50, 100, 50, 50, 50]
    """

    name: ClassVar[str] = "region-adaptive"
    title: ClassVar[str] = "Region-Adaptive Sampling"
    paper: ClassVar[str] = "Liu et al. 2025, arXiv:2502.10389"
    neutral: ClassVar[dict[str, Any]] = {"ratio": 1.0}
    seat: ClassVar[str] = "image tokens"
    excludes: ClassVar[frozenset[str]] = frozenset(
        {"block stack", "attention and feed-forward", "image tokens in attention"}
    )

    ratio: float = knob(0.5, "part of the image tokens that a step computes on average", low=0.05, high=1.0)
    focus: str = knob(
        "update-size", "which tokens come first", choices=("low-std", "high-std", "update-size", "published")
    )
    starvation: float = knob(1.0, "how much each step without it moves a token forward", low=0.0, high=2.0)
    max_gap: int = knob(6, "a token runs at least once in this many steps", low=1, high=100, unit="steps")
    warmup: int = knob(4, "first steps that compute all tokens", low=1, high=50, unit="steps")
    resets: str = knob("12 20", "later steps that compute all tokens, from 0, as in '12 20'")
    of: int = knob(28, "how many steps the resets were made for", low=2, high=1000, unit="steps")
    tilt: float = knob(0.0, "how much larger the part is at first than at last", low=-1.0, high=1.0)
    high: float = knob(0.3, "focus=published: part of the skipped tokens with the highest metric", low=0.0, high=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._resets()
        least, most = self.ratio - abs(self.tilt) / 2, self.ratio + abs(self.tilt) / 2
        if most > 1 or least <= 0:
            raise KnobError(
                f"RegionAdaptive.tilt is {self.tilt}, so that the part goes from {least:g} to {most:g} around ratio "
                f"{self.ratio}: keep it between 0 and 1, with a tilt of at most "
                f"{2 * min(self.ratio, 1 - self.ratio):g}"
            )
        if least * self.max_gap < 1 - 1e-9:
            raise KnobError(
                f"RegionAdaptive.max_gap is {self.max_gap}, but with a part of {least:g} a token's turn comes only "
                f"once in {math.ceil(1 / least - 1e-9)} steps: make max_gap at least that, or ratio larger"
            )

    def _resets(self) -> tuple[int, ...]:
        words = self.resets.split()
        if not all(word.isdecimal() and not beyond(word, self.of) for word in words):
            raise KnobError(
                f"RegionAdaptive.resets is {self.resets!r}, not numbers of steps below of={self.of}, as in '12 20'"
            )
        return tuple(sorted(map(int, words)))

    def counts(self, steps: int, tokens: int) -> list[int]:
        """Return how many of so many image tokens run at each step."""
        whole = set(range(self.warmup)) | set(stretched(self._resets(), self.of, steps))
        sparse = [step for step in range(steps) if step not in whole]
        grain = 64 if tokens >= MANY else 1
        found = [tokens] * steps
        for nth, step in enumerate(sparse):
            at = nth / (len(sparse) - 1) if len(sparse) > 1 else 0.5
            wanted = round((self.ratio + self.tilt * (0.5 - at)) * tokens / grain) * grain
            found[step] = min(tokens, max(wanted, math.ceil(tokens / self.max_gap)))
        return found

    def order(self, metric: Tensor, gap: Tensor, drops: Tensor, count: int) -> Tensor:
        """Return for each token how early it comes: the *count* largest run."""
        tokens = len(metric)
        if self.focus != "published":
            place = metric.argsort(descending=self.focus == "low-std", stable=True).argsort()
            return place / max(1, tokens - 1) + self.starvation * gap
        place = (metric.log() + self.starvation * drops).argsort(stable=True).argsort()
        below = tokens - count - round(self.high * (tokens - count))
        return -(place - (below + (count - 1) / 2)).abs()  # nearest to the middle of the band that runs

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        return why_whole(pipe)

    def idle_because(self, steps: int) -> str:
        if self.ratio == 1:
            return f"{self} computes all tokens"
        return f"{self} found no step of {steps} past warm-up and resets at which it held what resting tokens need"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        if self.ratio == 1:
            return []
        said = []
        size = parameters(pipe)
        if size < SMALL:
            said.append(
                f"a denoiser of {size / 1e6:.0f} million parameters does better with plainly fewer steps: pocket-dit "
                "kept 49 dB with 21 of 28 steps, and 40 dB with this at half its tokens, which took a little longer"
            )
        if steps <= 10:
            said.append(f"{steps} steps change the picture too much from one to the next to reuse parts of it")
        if stochastic(pipe.scheduler):
            said.append(f"{type(pipe.scheduler).__name__} adds noise at every step, under resting tokens too")
        return said

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        if self.ratio == 1:
            yield
            return
        patch = patch_size(next(iter(denoisers(stage.pipe).values())))
        turns: weakref.WeakSet[_Turns] = weakref.WeakSet()

        def start(link: Link) -> _Turns:
            turns.add(made := _Turns(self, link))
            return made

        def solver(now: SolverStep, step: Callable[[SolverStep], Any]) -> Any:
            for one in turns:
                one.learn(stage.family.latents.per_token(now.prediction, patch))
            return step(now)

        with ExitStack() as stack:
            stack.enter_context(stage.around_solver(solver))
            stack.enter_context(around_tokens(stage, start))
            yield


@dataclass(eq=False)
class _Turns:
    """Whose turn it is, for one run; both guidance branches compute the same tokens.

    Attributes:
        gap: steps since each token ran, counting those at which the network was asked.
        drops: how often each token was skipped.
    """

    knobs: RegionAdaptive
    link: Link
    metric: Tensor = field(default_factory=lambda: torch.empty(0))
    gap: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    drops: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    step: int = -1
    chosen: Tensor | None = None

    def learn(self, prediction: Tensor) -> None:
        """Take note of the guided output, (batch, tokens, pixels, channels)."""
        values = prediction.float()
        each = values.norm(dim=-1) if self.knobs.focus == "update-size" else values.std(dim=-1)
        self.metric = each.mean(dim=(0, 2)).cpu()

    def active(self, call: Call, tokens: int, known: bool) -> Tensor | None:
        if call.step != self.step:
            self.step, self.chosen = call.step, self._choose(call, tokens, known)
        if self.chosen is None or not known:
            return None
        self.link.note("partial", f"{len(self.chosen)} of {tokens} image tokens")
        return self.chosen

    def _choose(self, call: Call, tokens: int, known: bool) -> Tensor | None:
        counts = self.knobs.counts(call.steps, tokens)[call.step :]
        if len(self.gap) != tokens:
            self.gap = self.drops = torch.zeros(tokens, dtype=torch.long)
        if not known or counts[0] >= tokens or len(self.metric) != tokens:
            self.gap = torch.zeros_like(self.gap)
            return None
        self.gap = self.gap + 1
        order = self.knobs.order(self.metric, self.gap, self.drops, counts[0])
        runs = first_in_time(order, self.gap, counts, self.knobs.max_gap)
        self.gap, self.drops = self.gap.masked_fill(runs, 0), self.drops + ~runs
        return runs.nonzero()[:, 0]


def first_in_time(order: Tensor, gap: Tensor, counts: list[int], most: int) -> Tensor:
    """Return which tokens run: the first in *order*, but so that no gap exceeds *most* at this step or later.

    Args:
        order: for each token, how early it comes.
        gap: for each token, the steps since it ran, this one included.
        counts: how many tokens run at this step, and at those after it; all behind the last.
        most: the largest gap.

    >>> gap = torch.tensor([1, 1, 3, 2, 2])
    >>> first_in_time(torch.tensor([5, 4, 3, 2, 1]), gap, [2, 1, 2], most=3).tolist()
    [False, False, True, True, False]
    """
    runs = torch.zeros(len(gap), dtype=torch.bool)

    def add(among: Tensor, more: int) -> None:
        if more > 0:
            runs[order.double().masked_fill(~among | runs, -math.inf).topk(more).indices] = True

    later = 0
    for ahead in range(most):
        if ahead >= len(counts):
            break
        later += counts[ahead] if ahead else 0
        due = gap >= most - ahead  # they must run within so many steps, of which the later ones have room for some
        add(due, int(due.sum()) - later - int((due & runs).sum()))
    add(torch.ones_like(runs), counts[0] - int(runs.sum()))
    return runs
