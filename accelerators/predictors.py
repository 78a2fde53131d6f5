"""What stands in for a skipped output: weighted sums of past outputs. The weights of one prediction add up to one."""

from collections.abc import Sequence
from math import comb

import torch
from torch import Tensor


def binomial_weights(order: int) -> tuple[int, ...]:
    """Weights of the last outputs, latest first, that set the backward difference of this order to zero.

    >>> binomial_weights(3)
    (3, -3, 1)
    """
    return tuple((-1) ** (j + 1) * comb(order, j) for j in range(1, order + 1))


def lagrange_weights(nodes: Sequence[float], where: float) -> tuple[float, ...]:
    """Weights of the values at *nodes* that continue their polynomial to *where*.

    >>> lagrange_weights([1.0, 2.0], 3.0)
    (-1.0, 2.0)
    """
    weights = []
    for a, node in enumerate(nodes):
        weight = 1.0
        for b, other in enumerate(nodes):
            if a != b:
                weight *= (where - other) / (node - other)
        weights.append(weight)
    return tuple(weights)


def combine(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum, in float32 where the values are half precision: the weights cancel each other."""
    if len(values) == 1:
        return values[0]
    exact = torch.float32 if values[0].dtype in (torch.float16, torch.bfloat16) else values[0].dtype
    total = weights[0] * values[0].to(exact)
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total.add(value.to(exact), alpha=weight)
    return total.to(values[0].dtype)
