"""Sparse cross attention: FlashEdit's other training-free half (Wu et al. 2025, https://arxiv.org/abs/2509.22244)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..pipelines import (
    Call,
    Link,
    Prompts,
    Recorded,
    SomeTokens,
    Stage,
    around_cross_attention,
    hearing_prompts,
    no_crossing,
    on_device,
    unread_prompts,
)
from .edited_region import WHOLE
from .edited_words import changed, named
from .knobs import knob
from .shield import Made, Shield


@dataclass(frozen=True)
class SparseCrossAttention(Shield):
    """Inside the region, look only at the words that the edit is about; outside it the source's output stays.

    With W the text tokens of the kept words and the start token, and F the image tokens of the region,

        out_F = softmax(Q_F K_W^T / sqrt(d)) V_W,    out_B = out_B of the source.

    The words are ``words``; else those that the prompt ``before`` lacks, each with the noun it leads to (with
    source="batch" the first prompt of the batch is ``before``). The unconditional branch keeps all its words, and so
    does a prompt in which no such word stands. The region hears of nothing else: on pocket-unet the ground behind the
    edited thing lost its colour, so name that too where it matters. Without words, ``region="0 0 1 1"`` changes
    nothing.

    >>> str(SparseCrossAttention(words="blue fox"))
    'sparse-cross-attention:words=blue fox'
    """

    name: ClassVar[str] = "sparse-cross-attention"
    title: ClassVar[str] = "Sparse cross attention (FlashEdit)"
    neutral: ClassVar[dict[str, Any]] = {"region": WHOLE}
    seat: ClassVar[str] = "text tokens in attention"
    excludes: ClassVar[frozenset[str]] = frozenset({"attention and feed-forward"})  # they cache what is whole

    words: str = knob("", "words of the prompt to look at, as in 'blue fox'; else those that before lacks")
    before: str = knob("", "prompt of the picture that is edited")

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        return no_crossing(pipe) or unread_prompts(pipe)

    def reason(self) -> str:
        return "cross attention in the region only"

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        with hearing_prompts(stage) as prompts, around_cross_attention(stage, lambda link: self._start(link, prompts)):
            yield

    def _start(self, link: Link, prompts: Prompts) -> Any:
        kept: dict[Any, Made] = {}
        words: dict[tuple[str | None, int], tuple[int, ...]] = {}
        link.run.holds(kept)

        def around(name: str, call: Call, given: SomeTokens) -> Tensor:
            rows = prompts.of(call)
            each = [words.setdefault((text, given.words), self._places(prompts, text, given.words)) for text in rows]

            def renew(base: Recorded, samples: Tensor | None, tokens: Tensor) -> Tensor:
                return self._renew(link, given, (base, samples, tokens), each)

            if self.region == WHOLE and self.source == "past":
                return self._everywhere(link, given, each)
            done = self.renewed(link, kept, (name, call, given), renew)
            return given.whole().out if done is None else done

        return around

    def _places(self, prompts: Prompts, text: str | None, tokens: int) -> tuple[int, ...]:
        """Return the text tokens that stay of a prompt; all of them where none is meant."""
        before = self.before or (prompts.texts[0] if self.source == "batch" and prompts.texts else "")
        spans: list[tuple[int, int]] = []
        if text and self.words:
            spans = named(text, self.words)
        elif text and before:
            spans = changed(before, text)
        return tuple(prompts.places(text, spans, tokens) if text and spans else ()) or tuple(range(tokens))

    def _everywhere(self, link: Link, given: SomeTokens, each: list[tuple[int, ...]]) -> Tensor:
        if all(len(words) == given.words for words in each):
            return given.whole().out
        tokens = torch.arange(given.hidden.shape[1], device=given.hidden.device)
        nothing = Recorded(torch.empty_like(given.hidden))
        return self._renew(link, given, (nothing, None, tokens), each)

    def _renew(
        self,
        link: Link,
        given: SomeTokens,
        where: tuple[Recorded, Tensor | None, Tensor],
        each: list[tuple[int, ...]],
    ) -> Tensor:
        """Compute the region, the samples that look at the same words together."""
        base, samples, tokens = where
        rows = list(range(len(each))) if samples is None else samples.tolist()
        out = base.out.clone()
        for words in dict.fromkeys(each[row] for row in rows):
            mine = [n for n, row in enumerate(rows) if each[row] == words]
            if len(words) < given.words:
                link.note("partial", f"{len(words)} of {given.words} text tokens in the region")
            out[mine] = given.some(
                tokens,
                base.of(on_device(mine, given.hidden)),
                on_device([rows[n] for n in mine], given.hidden),
                on_device(list(words), given.hidden) if len(words) < given.words else None,
            )
        return out
