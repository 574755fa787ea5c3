"""Schedules rise to the peak, and fall as they are named."""

import math

import pytest

from pipeline.runtime.lr_schedule import lr_factor


def factors(schedule, *, warmup=10, steps=110):
    return [lr_factor(step, num_steps=steps, warmup_steps=warmup, schedule=schedule) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warm_up_is_linear_and_ends_at_the_peak(schedule):
    assert factors(schedule)[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors(schedule)[10] == 1
    assert all(0 < factor <= 1 for factor in factors(schedule))


def test_each_falls_as_it_is_named():
    assert factors("linear")[60] == pytest.approx(0.5)
    assert factors("cosine")[60] == pytest.approx(0.5)
    assert factors("cosine")[35] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert set(factors("constant")[10:]) == {1.0}
    assert factors("linear")[-1] == pytest.approx(0.01)


def test_no_warm_up_starts_at_the_peak():
    assert factors("cosine", warmup=0)[0] == 1
