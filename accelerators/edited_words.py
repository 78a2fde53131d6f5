"""Which words of a prompt an edit is about."""

import difflib
import re

Span = tuple[int, int]
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_GLUE = frozenset(
    """
    a an the of to in on at and or with without by from for into over under above below beside near next between
    left right front behind is are as its his her their that which
    """.split()  # noqa: SIM905 - a list of words, not of strings
)


def named(prompt: str, words: str) -> list[Span]:
    """Return where the words stand that are asked for, whatever their case.

    >>> named("A red fox, a blue Fox", "fox")
    [(6, 9), (18, 21)]
    """
    wanted = {word.lower() for word in _WORD.findall(words)}
    return [found.span() for found in _WORD.finditer(prompt) if found[0].lower() in wanted]


def changed(before: str, after: str) -> list[Span]:
    """Return where the words of *after* stand that *before* lacks, with the noun that they lead to.

    >>> text = "a cat in a blue woollen hat on a table"
    >>> [text[a:b] for a, b in changed("a cat in a red hat on a table", text)]
    ['blue', 'woollen', 'hat']
    """
    words = list(_WORD.finditer(after))
    texts = [word[0].lower() for word in words]
    matcher = difflib.SequenceMatcher(None, _WORD.findall(before.lower()), texts, autojunk=False)
    kept: list[int] = []
    for tag, _, _, begin, end in matcher.get_opcodes():
        if tag in ("replace", "insert"):
            while end < len(texts) and texts[end - 1] not in _GLUE and texts[end] not in _GLUE:
                end += 1
            kept += range(begin, end)
    return [words[n].span() for n in dict.fromkeys(kept)]
