"""Predictors are exact where they claim to be."""

import pytest
import torch
from deadheat.accelerators.predictors import binomial_weights, combine, lagrange_weights

NODES = (1.0, 0.9, 0.75, 0.55)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_weights_sum_to_one(order: int):
    for weights in (lagrange_weights(NODES[:order], 0.4), binomial_weights(order)):
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
