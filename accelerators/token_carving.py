"""Token carving: the block-sparse attention of Jenga (Zhang et al. 2025, https://arxiv.org/abs/2505.16864)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

from torch import Tensor

from ..pipelines import Call, Grid, Link, SelfAttention, Stage, around_attention, unseen_attention, usual_tokens
from .base import Accelerator
from .block_attention import Blocks, best, carved, cut, importance
from .knobs import knob

WORTH = 2048  # tokens below which choosing and gathering cost as much as they save


@dataclass(frozen=True)
class TokenCarving(Accelerator):
    """Let each block of image tokens attend only to the blocks that matter to it, to its neighbours, and to all text.

    The image tokens are taken in the order of a Hilbert curve and cut into M blocks of ``block`` tokens. With q_i and
    k_j the mean query and key of a block, query block i keeps the n_i blocks j of largest

        R_ij = softmax over j of q_i . k_j / sqrt(d),
        n_i  = max(ceil(keep M), 1 + number of largest R_ij that together stay within mass),

    and every block that touches block i. Attention over what is kept is exact, text queries see everything. Over the
    first ``warmup`` of the run the share that is dropped, 1 - ``keep``, grows from 0; from the part ``late`` of the
    run on, ``keep_late`` stands for ``keep`` (the paper drops more in its second stage). ``keep=1, late=1`` carves
    nothing.

    >>> [round(TokenCarving(keep=0.2, warmup=0.5).kept(step, 9), 2) for step in range(6)]
    [1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
    """

    name: ClassVar[str] = "token-carving"
    title: ClassVar[str] = "Token carving (Jenga)"
    paper: ClassVar[str] = "Zhang et al. 2025, arXiv:2505.16864"
    neutral: ClassVar[dict[str, Any]] = {"keep": 1.0, "late": 1.0}
    seat: ClassVar[str] = "image tokens in attention"

    keep: float = knob(0.25, "share of the key blocks that each query block keeps", low=0.0, high=1.0, unit="fraction")
    mass: float = knob(0.3, "keep more until they hold this much attention", low=0.0, high=1.0, unit="fraction")
    block: int = knob(128, "tokens in a block", low=1, high=1024, unit="tokens")
    neighbours: bool = knob(True, "always keep the blocks that touch a block; without, seams may show")
    late: float = knob(1.0, "part of the run from which keep_late counts", low=0.0, high=1.0, unit="fraction")
    keep_late: float = knob(0.15, "share that is kept from then on", low=0.0, high=1.0, unit="fraction")
    warmup: float = knob(0.1, "part of the run over which carving grows", low=0.0, high=1.0, unit="fraction")
    dense_above: float = knob(0.5, "carve nothing where more would stay", low=0.0, high=1.0, unit="fraction")

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        return unseen_attention(pipe)

    def kept(self, step: int, steps: int) -> float:
        """Return the share of blocks that importance alone keeps at *step* (from 0) of a run of so many."""
        grown = min(1.0, step / max(steps - 1, 1) / self.warmup) if self.warmup else 1.0
        return 1.0 - grown * (1.0 - (self.keep_late if step >= self.late * steps else self.keep))

    @property
    def carves(self) -> bool:
        """Whether any block may be left out at all."""
        return self.mass < 1 and min(self.keep, self.keep_late if self.late < 1 else 1.0) < 1

    def idle_because(self, steps: int) -> str:
        if not self.carves:
            return f"{self} keeps every block"
        return (
            f"{self} would have kept more than {self.dense_above:g} of the keys everywhere (too few tokens for blocks "
            f"of {self.block}), or met only attention that is masked or sliced"
        )

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        tokens = usual_tokens(pipe)
        if self.carves and tokens is not None and tokens < WORTH:
            return [f"this model's usual picture has {tokens} tokens; below {WORTH} plainly fewer steps serve better"]
        return []

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        return around_attention(stage, self._start)

    def _start(self, link: Link) -> Any:
        cuts: dict[Grid, Blocks] = {}
        link.run.holds(cuts)

        def around(call: Call, asked: SelfAttention, plain: Callable[[], Tensor]) -> Tensor:
            keep = self.kept(call.step, call.steps)
            if keep == 1 or self.mass == 1:
                return plain()
            blocks = cuts.get(asked.grid)
            if blocks is None:
                blocks = cuts[asked.grid] = cut(asked.grid, self.block, asked.key.device)
            mask = self._mask(asked, blocks, keep)
            share = float(mask.float().mean())
            if share == 1 or share > self.dense_above:
                return plain()
            link.note("partial", f"attention to {share:.0%} of the image")
            return carved(asked, blocks, mask)

        return around

    def _mask(self, asked: SelfAttention, blocks: Blocks, keep: float) -> Tensor:
        count = max(1, ceil(keep * len(blocks.tokens) - 1e-9))
        mask = best(importance(asked, blocks), count, self.mass)
        return mask | blocks.touching if self.neighbours else mask
