"""Schedules run the steps they say."""

from deadheat.accelerators.schedules import Mask, Periodic, Threshold


def test_periodic_and_mask():
    assert all(Periodic(1, 1).computes(step, 9) for step in range(9))
    assert [s for s in range(9) if Periodic(4, 2).computes(s, 9)] == [0, 1, 2, 6, 8]
    assert [s for s in range(9) if Mask((0, 3, 8)).computes(s, 9)] == [0, 3, 8]


def ran(threshold: Threshold, changes: list[float]) -> list[int]:
    return [s for s, change in enumerate(changes) if threshold.computes(s, len(changes), change)]


def test_threshold():
    assert ran(Threshold(0.0), [0.0] * 5) == [0, 1, 2, 3, 4]
    assert ran(Threshold(2.5), [1.0] * 8) == [0, 3, 6, 7]
    assert ran(Threshold(2.5, accumulate=False), [1, 1, 3, 1, 1]) == [0, 2, 4]
    assert ran(Threshold(9.0, warmup=2, most=2), [1.0] * 9) == [0, 1, 4, 7, 8]
    assert ran(Threshold(9.0), [1.0, float("nan"), 1.0, 1.0]) == [0, 1, 3]
