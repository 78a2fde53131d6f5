"""Token merging for diffusion, ToMe-SD (Bolya and Hoffman 2023, https://arxiv.org/abs/2303.17604)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..pipelines import (
    Call,
    Grid,
    ImageTokens,
    Link,
    Stage,
    area,
    around_image_tokens,
    family,
    unseen_modules,
    usual_tokens,
)
from .base import Accelerator
from .knobs import knob

WORTH = 1024  # tokens below which matching costs as much as attention


class Sides(NamedTuple):
    """The two sides of the matching: one random token of each 2x2 cell may be merged into, all others may merge."""

    into: Tensor
    others: Tensor


@dataclass(frozen=True)
class TokenMerging(Accelerator):
    """Merge image tokens that resemble each other before self-attention, and copy the result to all of them behind it.

    One random token of every 2x2 cell is a destination (anew at each step, the same for all layers). Of the N tokens
    x, those floor(``ratio`` N) sources s merge whose best match among the destinations is closest,

        d(s) = argmax over destinations d of cos(x_s, x_d),    x_d <- mean of x_d and every x_s with d(s) = d,

    attention runs on what is left, and each s gets the output of d(s). UNets merge at their finest ``levels``
    resolutions that have attention; transformers have one. The paper matches before the block's norm, this class
    behind it, on what attention itself is given. ``ratio=0`` merges nothing.

    >>> TokenMerging(ratio=0.25).merged(16)
    4
    """

    name: ClassVar[str] = "token-merging"
    title: ClassVar[str] = "Token merging (ToMe-SD)"
    paper: ClassVar[str] = "Bolya and Hoffman 2023, arXiv:2303.17604"
    neutral: ClassVar[dict[str, Any]] = {"ratio": 0.0}
    seat: ClassVar[str] = "image tokens in attention"

    ratio: float = knob(0.5, "share of the tokens that merge into others", low=0.0, high=0.75, unit="fraction")
    levels: int = knob(1, "at how many resolutions of a UNet, from the finest", low=1, high=4, unit="resolutions")

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        if any(row.per_token for row in family(pipe).stacks):
            return "its attention needs the position of every token, and a merged token has none"
        return unseen_modules(pipe)

    def merged(self, tokens: int) -> int:
        """Return how many of so many tokens merge into others."""
        return int(self.ratio * tokens)

    def idle_because(self, steps: int) -> str:
        if self.ratio == 0:
            return f"{self} merges no token"
        return f"{self} found no self-attention over image tokens large enough to merge"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        tokens = usual_tokens(pipe)
        if self.ratio and tokens is not None and tokens < WORTH:
            return [f"this model's usual picture has {tokens} tokens; below {WORTH} plainly fewer steps serve better"]
        return []

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        return around_image_tokens(stage, self._start)

    def _start(self, link: Link) -> Any:
        sides: dict[Grid, tuple[int, Sides]] = {}
        link.run.holds(sides)

        def around(call: Call, tokens: ImageTokens, run: Callable[[Tensor], Any]) -> Any:
            if tokens.level >= self.levels or not self.merged(area(tokens.grid)) or min(tokens.grid[1:]) < 2:
                return run(tokens.hidden)
            step, halves = sides.get(tokens.grid, (-1, None))
            if halves is None or step != call.step:
                halves = split(tokens.grid, call.step, tokens.hidden.device)
                sides[tokens.grid] = (call.step, halves)
            merging = match(tokens.hidden, halves, self.merged(area(tokens.grid)))
            link.note("partial", f"{self.ratio:.0%} of the tokens merged in attention")
            out = run(merging.merge(tokens.hidden))
            return (merging.unmerge(out[0]), *out[1:]) if isinstance(out, tuple) else merging.unmerge(out)

        return around


class Merging(NamedTuple):
    """Which tokens merge into which; all are numbers of tokens, (batch, tokens).

    Attributes:
        stay: sources that stay by themselves.
        go: sources that merge.
        to: for each that goes, which destination it merges into, as its number in ``into``.
        into: destinations.
    """

    stay: Tensor
    go: Tensor
    to: Tensor
    into: Tensor

    def merge(self, x: Tensor) -> Tensor:
        """Return the tokens that stay, then the destinations as means of what merged into them."""
        into, go = _at(x, self.into), _at(x, self.go)
        batch, count, channels = into.shape
        row = (self.to + count * torch.arange(batch, device=x.device)[:, None]).flatten()
        # sums by index_add: unlike a scattered mean it is deterministic on every device
        total = into.flatten(0, 1).float().index_add(0, row, go.flatten(0, 1).float())
        number = torch.ones_like(total[:, :1]).index_add(0, row, torch.ones_like(row, dtype=total.dtype)[:, None])
        means = (total / number).to(x.dtype).view(batch, count, channels)
        return torch.cat([_at(x, self.stay), means], dim=1)

    def unmerge(self, y: Tensor) -> Tensor:
        """Return all tokens in their places; those that merged are copies of their destination."""
        stay, into = y.split([self.stay.shape[1], self.into.shape[1]], dim=1)
        place = torch.cat([self.stay, self.into, self.go], dim=1)
        return _at(torch.cat([stay, into, _at(into, self.to)], dim=1), place.argsort(dim=1))


def split(grid: Grid, seed: int, device: torch.device) -> Sides:
    """Choose one random token of each whole 2x2 cell."""
    _, rows, columns = grid
    token = torch.arange(area(grid)).view(grid)[:, : rows // 2 * 2, : columns // 2 * 2]
    cells = token.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).reshape(-1, 4)
    which = torch.randint(4, (len(cells), 1), generator=torch.Generator().manual_seed(seed))
    others = torch.ones(area(grid), dtype=torch.bool)
    into = cells.gather(1, which).flatten()
    others[into] = False
    return Sides(into.to(device), others.nonzero().flatten().to(device))


def match(x: Tensor, sides: Sides, count: int) -> Merging:
    """Match the *count* sources that are closest to a destination, by the cosine between tokens of *x*."""
    unit = normalize(x, dim=-1)
    closeness, to = (unit[:, sides.others] @ unit[:, sides.into].mT).max(dim=-1)
    order = closeness.argsort(dim=-1, descending=True, stable=True)
    others, into = sides.others.expand(len(x), -1), sides.into.expand(len(x), -1)
    go, stay = order[:, :count], order[:, count:]
    return Merging(others.gather(1, stay), others.gather(1, go), to.gather(1, go), into)


def _at(x: Tensor, tokens: Tensor) -> Tensor:
    return x.gather(1, tokens.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
