"""Which words a denoiser call is about, and at which of its text tokens each of them stands."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .call import Call
from .patch import patched
from .stage import Stage

Span = tuple[int, int]


@dataclass(eq=False)
class Prompts:
    """What the text encoder of a pipeline was last asked to encode.

    Attributes:
        pipe: the pipeline.
        texts: the prompts of the run, one a picture; empty where only their embeddings were given.
    """

    pipe: Any
    texts: tuple[str, ...] = ()

    def of(self, call: Call) -> list[str | None]:
        """Return the prompt of each sample of *call*; None for the branch without it, and where nobody knows."""
        each = call.batch // len(call.branches)
        copies, odd = divmod(each, len(self.texts)) if self.texts else (0, 1)
        own = [None] * each if odd or not copies else [text for text in self.texts for _ in range(copies)]
        rows = {"cond": own}
        return [text for branch in call.branches for text in rows.get(branch, [None] * each)]

    def places(self, text: str, spans: list[Span], tokens: int) -> list[int]:
        """Return the places, of so many, of the first special token and of those that overlap *spans* of *text*.

        The first one, where the tokenizer has one, is what attention rests on when no word is meant. Empty if no
        token lies in a span.
        """
        told = tokenizer(self.pipe)(text, truncation=True, max_length=tokens, return_offsets_mapping=True)
        offsets = told["offset_mapping"]
        found = [n for n, (a, b) in enumerate(offsets) if any(a < end and b > begin for begin, end in spans)]
        start = [0] if offsets and offsets[0][0] == offsets[0][1] else []
        return [*start, *found] if found else []


def tokenizer(pipe: Any) -> Any:
    """Return the tokenizer whose tokens the denoiser's cross attention reads, or None."""
    return getattr(pipe, "tokenizer", None) or getattr(pipe, "tokenizer_2", None)


def unread_prompts(pipe: Any) -> str | None:
    """Return a sentence that says why nobody can tell which word a text token belongs to, or None."""
    if not hasattr(pipe, "encode_prompt"):
        return "its pipeline has no encode_prompt that could be heard"
    if not getattr(tokenizer(pipe), "is_fast", False):
        return "its tokenizer does not tell which word a token belongs to; load a fast one"
    return None


@contextmanager
def hearing_prompts(stage: Stage) -> Iterator[Prompts]:
    """Listen to what the pipeline has encoded."""
    heard = Prompts(stage.pipe)
    signature = inspect.signature(stage.pipe.encode_prompt)

    def wrap(encode_prompt: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            text = signature.bind(*args, **kwargs).arguments.get("prompt")
            heard.texts = (text,) if isinstance(text, str) else tuple(text or ())
            return encode_prompt(*args, **kwargs)

        return wrapped

    with patched(stage.pipe, "encode_prompt", wrap):
        yield heard
