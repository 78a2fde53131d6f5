"""Which tokens SADA runs at an unstable step, and what the others keep."""

from math import ceil
from typing import Any

import torch
from torch import Tensor

from ..pipelines import Call, Link, RunTokens, on_tokens, put

ROUND = 9  # one token in so many runs whatever its score, another one each step: none waits longer


class Pruning:
    """One run: the scores of the tokens, and the last output of every module that works token by token.

    Attributes:
        most: largest part of the tokens that run.
        longest: most steps in a row without one that runs them all.
        scores: how unstable every place of the latents is, (samples, frames, h, w); above 0 it is unstable.
        outputs: of the modules, by path, guidance branch and shape.
    """

    def __init__(self, link: Link, most: float, longest: int) -> None:
        self.link, self.most, self.longest = link, most, longest
        self.scores: Tensor | None = None
        self.outputs: dict[Any, Tensor] = {}
        self.step = self.pruned = 0
        self.on = False
        self._kept: dict[int, Tensor | None] = {}

    def begin(self, step: int, allowed: bool) -> None:
        """Decide whether tokens are left out at this step."""
        self.step, self._kept = step, {}
        self.on = allowed and self.most < 1 and self.scores is not None and self.pruned < self.longest
        self.pruned = self.pruned + 1 if self.on else 0

    def around(self, name: str, call: Call, hidden: Tensor, run: RunTokens) -> Tensor:
        """Run a module on the tokens that are kept, and take the others from its last output."""
        key = (name, call.branches, tuple(hidden.shape))
        kept = self._of(call, hidden) if self.on and key in self.outputs else None
        if kept is None:
            out = run(None)
        else:
            self.link.note("partial", f"{kept.shape[1]} of {hidden.shape[1]} tokens")
            out = put(self.outputs[key], kept, run(kept))
        self.outputs[key] = out
        return out

    def forget(self) -> None:
        """Begin anew."""
        self.outputs.clear()
        self.scores, self.on = None, False

    def _of(self, call: Call, hidden: Tensor) -> Tensor | None:
        samples, tokens = hidden.shape[:2]
        if tokens not in self._kept:
            assert self.scores is not None
            scores = on_tokens(self.scores, tokens)
            self._kept[tokens] = None if scores is None else chosen(scores, self.most, self.step)
        kept = self._kept[tokens]
        if kept is None or kept.shape[0] * len(call.branches) != samples:
            return None
        return kept.repeat(len(call.branches), 1)


def chosen(scores: Tensor, most: float, step: int) -> Tensor:
    """Return the indices of the tokens that run, rising, as many of each sample.

    Those are the unstable ones and one in ``ROUND``; the least unstable ones are left out beyond *most* of all.

    >>> chosen(torch.tensor([[-1.0, 3.0, 2.0, -1.0]]), most=0.75, step=0)
    tensor([[0, 1, 2]])
    """
    tokens = scores.shape[1]
    turn = torch.arange(tokens, device=scores.device) % ROUND == step % ROUND
    wanted = int(((scores >= 0) | turn).sum(1).max())
    ranked = scores.masked_fill(turn, torch.inf)
    return ranked.topk(max(1, min(wanted, ceil(most * tokens))), dim=1).indices.sort(dim=1).values
