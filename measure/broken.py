"""Runs that fail, and pictures that hold no numbers: what is said of them."""

import torch

from ..pipelines import DeadheatError

BROKEN = (
    "its pictures hold values that are no numbers, and have no score: a step overflowed. Take another dtype, or skip "
    "less"
)


def sentence(error: Exception) -> str:
    """Return what went wrong, on one line."""
    said = " ".join(str(error).split())[:500]
    return said if isinstance(error, DeadheatError) else f"{type(error).__name__}: {said}"


def tidy_up(error: Exception) -> None:
    """Give back what an allocator still holds after it had too little."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        torch.cuda.empty_cache()
