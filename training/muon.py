"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum made orthogonal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Each row is one step x <- a x + b (x x') x + c (x x')^2 x that pulls singular values towards 1; the first rows pull
# hardest, so that four steps do for the matrices' usual spread.
_STEPS = ((8.2872, -23.5959, 17.3004), (4.1070, -2.9478, 0.5448), (3.9487, -2.9089, 0.5518), (3.3184, -2.4885, 0.5100))


def orthogonal(x: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows, roughly, of a batch (N, rows <= columns)."""
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] * 1.01 + 1e-8)
    for a, b, c in _STEPS:
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return x


class Muon(torch.optim.Optimizer):
    """For hidden matrices and convolutions (taken as matrices). Equal shapes share one batched computation.

    The update is scaled to the root mean square that AdamW's usually has, so both live with the same learning rate.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    rows, columns = p.shape[0], p[0].numel()
                    alike[min(rows, columns), max(rows, columns)].append(p)
            for shape, params in alike.items():
                self._update(group, shape, params)

    def _update(self, group: dict[str, float], shape: tuple[int, int], params: list[nn.Parameter]) -> None:
        past = []
        for p in params:
            buffer = self.state[p].setdefault("past", torch.zeros_like(p))
            buffer.lerp_(p.grad, 1 - group["momentum"])
            past.append(p.grad.lerp(buffer, group["momentum"]).flatten(1))
        lying = [m if m.shape[0] <= m.shape[1] else m.T for m in past]
        stacked = torch.stack(lying)
        updates = orthogonal(stacked.bfloat16() if stacked.is_cuda else stacked).to(stacked.dtype)
        for p, flat, update in zip(params, past, updates, strict=True):
            turned = update if flat.shape[0] <= flat.shape[1] else update.T
            p.mul_(1 - group["lr"] * group["decay"])
            p.add_(turned.reshape(p.shape), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)
