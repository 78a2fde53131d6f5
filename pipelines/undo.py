"""What a recording needs to be that of the picture before again."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Undo:
    """Calls that take back what was learned, and the bytes that they keep for it.

    >>> Undo.of(lambda: print("as before"), [])()
    as before
    """

    calls: tuple[Callable[[], None], ...]
    nbytes: int

    @classmethod
    def of(cls, call: Callable[[], None], kept: Iterable[Tensor]) -> "Undo":
        """Return what takes one thing back, with the tensors that only it keeps."""
        return cls((call,), sum(tensor.nbytes for tensor in kept))

    def __call__(self) -> None:
        for call in self.calls:
            call()

    def __add__(self, other: "Undo") -> "Undo":
        return Undo(self.calls + other.calls, self.nbytes + other.nbytes)
