"""Predictors are exact where they claim to be."""

import pytest
import torch
from deadheat.accelerators.predictors import (
    binomial_weights,
    combine,
    damped_weights,
    lagrange_weights,
    taylor_weights,
)

NODES = (1.0, 0.9, 0.75, 0.55)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_weights_sum_to_one(order: int):
    nodes = NODES[:order]
    for weights in (lagrange_weights(nodes, 0.4), binomial_weights(order), taylor_weights(nodes, 0.4)):
        assert sum(weights) == pytest.approx(1)


def test_polynomials_are_continued():
    weights = lagrange_weights(NODES, 0.4)
    assert sum(w * u**3 for w, u in zip(weights, NODES, strict=True)) == pytest.approx(0.4**3)


def test_even_nodes_make_them_equal():
    assert lagrange_weights((3.0, 2.0, 1.0), 4.0) == pytest.approx(binomial_weights(3))


def test_half_precision_is_summed_in_float32():
    values = [torch.full((1,), v, dtype=torch.float16) for v in (1000.0, 1001.0)]
    assert combine((-1.0, 2.0), values).item() == 1002.0
    assert combine((1.0,), values[:1]) is values[0]


def continued(weights, nodes, degree: int) -> float:
    return sum(w * u**degree for w, u in zip(weights, nodes, strict=True))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_taylor_with_differences_is_exact_for_lines_only(order: int):
    nodes = (0.0, 1.0, 3.0, 6.0)[: order + 1]
    weights = taylor_weights(nodes, 9.0)
    assert continued(weights, nodes, 1) == pytest.approx(9.0)
    assert abs(continued(weights, nodes, 2) - 81.0) > 1


def test_damped_continues_up_to_its_horizon_and_holds():
    nodes = (0.0, 1.0, 3.0)
    for where, reached in ((5.0, 5.0), (7.0, 7.0), (20.0, 7.0)):
        assert continued(damped_weights(nodes, where, 2.0), nodes, 2) == pytest.approx(reached**2)
    assert continued(damped_weights((1.0, 0.5), 0.1, 1.0), (1.0, 0.5), 1) == pytest.approx(0.1)
    assert continued(damped_weights((1.0, 0.9), 0.1, 1.0), (1.0, 0.9), 1) == pytest.approx(0.8)
    assert damped_weights((1.0,), 0.1, 1.0) == (1.0,)
