"""A CLIP tokenizer for a small vocabulary: bytes, plus merges until every word of the pictures' world is one token."""

from __future__ import annotations

from deadheat.pipelines.scenes import WORDS
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

LENGTH = 24
"""Tokens per caption, padding included; the longest caption has 19 words and marks."""


def build() -> CLIPTokenizer:
    """The tokenizer of all pocket models. Words it does not know fall to pieces, as in CLIP's own."""
    merges: list[tuple[str, str]] = []
    tokenizer = _assemble(merges)
    while True:
        pieces = [tokenizer.tokenize(word) for word in sorted(WORDS)]
        missing = {(p[0], p[1]): None for p in pieces if len(p) > 1}
        new = [pair for pair in missing if pair not in merges]
        if not new:
            return tokenizer
        merges += new
        tokenizer = _assemble(merges)


def _assemble(merges: list[tuple[str, str]]) -> CLIPTokenizer:
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for mark in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[mark] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=LENGTH)
