"""What stands in for a skipped output: weighted sums of past outputs. The weights of one prediction add up to one."""

from collections.abc import Sequence
from math import comb, factorial

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


def taylor_weights(nodes: Sequence[float], where: float) -> tuple[float, ...]:
    """Weights of the values at *nodes*, oldest first, in a Taylor expansion with differences for derivatives.

    What TaylorSeer does: exact for lines, and for nothing of a higher degree, whatever the order.

    >>> taylor_weights([0.0, 1.0], 3.0)
    (-2.0, 3.0)
    """
    # every difference is itself a weighted sum of the values, so the recursion runs on rows of weights
    differences: list[list[float]] = []
    for at, node in enumerate(nodes):
        fresh = [[float(other == at) for other in range(len(nodes))]]
        for older in differences:
            gap = node - nodes[at - 1]
            fresh.append([(new - old) / gap for new, old in zip(fresh[-1], older, strict=True)])
        differences = fresh
    k = where - nodes[-1]
    terms = [[k**order / factorial(order) * w for w in row] for order, row in enumerate(differences)]
    return tuple(map(sum, zip(*terms, strict=True)))


def damped_weights(nodes: Sequence[float], where: float, horizon: float) -> tuple[float, ...]:
    """Weights that continue the polynomial no further than *horizon* times the last distance, and then hold it.

    >>> damped_weights([0.0, 1.0], 9.0, horizon=2.0)
    (-2.0, 3.0)
    """
    if len(nodes) == 1:
        return (1.0,)
    last, reach = nodes[-1], horizon * (nodes[-1] - nodes[-2])
    return lagrange_weights(nodes, last + min(where - last, reach, key=abs))


WEIGHTS = ("lagrange", "binomial", "taylor", "damped")


def weights_of(kind: str, nodes: Sequence[float], where: float, horizon: float) -> tuple[float, ...]:
    """Return the weights of the values at *nodes*, oldest first, by one of the rules above; damped needs a horizon.

    >>> weights_of("binomial", [0.0, 1.0], 2.0, horizon=2.0)
    (-1, 2)
    """
    match kind:
        case "binomial":
            return binomial_weights(len(nodes))[::-1]
        case "taylor":
            return taylor_weights(nodes, where)
        case "damped":
            return damped_weights(nodes, where, horizon)
        case _:
            return lagrange_weights(nodes, where)


def combine(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum, in float32 where the values are half precision: the weights cancel each other."""
    if len(values) == 1:
        return values[0]
    exact = torch.float32 if values[0].dtype in (torch.float16, torch.bfloat16) else values[0].dtype
    total = weights[0] * values[0].to(exact)
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total.add(value.to(exact), alpha=weight)
    return total.to(values[0].dtype)
