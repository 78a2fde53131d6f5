"""Predictors are exact where they claim to be."""

import pytest
from deadheat.accelerators.predictors import binomial_weights, damped_weights, lagrange_weights, taylor_weights

NODES = (1.0, 0.9, 0.75, 0.55)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_weights_sum_to_one(order: int):
    for weights in (lagrange_weights(NODES[:order], 0.4), taylor_weights(NODES[:order], 0.4), binomial_weights(order)):
        assert sum(weights) == pytest.approx(1)


def test_polynomials_are_continued():
    weights = lagrange_weights(NODES, 0.4)
    assert sum(w * u**3 for w, u in zip(weights, NODES, strict=True)) == pytest.approx(0.4**3)


def test_taylor_is_exact_to_first_order_only():
    assert taylor_weights(NODES[:2], 0.4) == pytest.approx(lagrange_weights(NODES[:2], 0.4))
    assert taylor_weights(NODES[:3], 0.4) != pytest.approx(lagrange_weights(NODES[:3], 0.4))


def test_damped():
    assert damped_weights((-1.0, 2.0), 0.0) == (0.0, 1.0)
    assert damped_weights((-1.0, 2.0), 1.0) == (-1.0, 2.0)
