"""The rows of a sequence that run: taking them out, putting them back."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Rows:
    """The rows of a sequence that run.

    Attributes:
        at: their indices, (rows,), or (batch, rows) where they differ from sample to sample.
        of: how many rows the whole sequence has.
    """

    at: Tensor
    of: int
    _wider: dict[tuple[int, bool], "Rows"] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return self.at.shape[-1]

    def beside(self, text: int, last: bool) -> "Rows":
        """Return the rows of a sequence that has so many more rows for text, which all run, before or behind it."""
        if not text:
            return self
        if (text, last) not in self._wider:
            more = torch.arange(text, device=self.at.device) + (self.of if last else 0)
            more = more.expand(*self.at.shape[:-1], text)
            parts = [self.at, more] if last else [more, self.at + text]
            self._wider[text, last] = Rows(torch.cat(parts, -1), self.of + text)
        return self._wider[text, last]

    def of_argument(self, value: Any, dim: int) -> Any:
        """Return the rows of a block's argument, tensor or tuple; text stands first, and one row is for all."""
        if isinstance(value, (tuple, list)):
            return type(value)(self.of_argument(part, dim) for part in value)
        if value is None or value.shape[dim] == 1:
            return value
        return self.beside(value.shape[dim] - self.of, last=False).take(value, dim)

    def take(self, whole: Tensor, dim: int) -> Tensor:
        """Return these rows of a tensor."""
        if self.at.ndim == 1:
            return whole.index_select(dim, self.at)
        return whole.gather(dim, self._spread(whole, dim))

    def put(self, whole: Tensor, part: Tensor, dim: int) -> Tensor:
        """Write these rows into a tensor, and return it."""
        if self.at.ndim == 1:
            return whole.index_copy_(dim, self.at, part)
        return whole.scatter_(dim, self._spread(whole, dim), part)

    def _spread(self, whole: Tensor, dim: int) -> Tensor:
        dim %= whole.ndim
        shape = [self.count if d == dim else len(self.at) if d == 0 else 1 for d in range(whole.ndim)]
        return self.at.view(shape).expand(*whole.shape[:dim], self.count, *whole.shape[dim + 1 :])
