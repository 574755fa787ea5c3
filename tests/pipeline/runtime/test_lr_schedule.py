"""Schedules rise to the peak, and fall as they are named."""

import math

import pytest

from pipeline.runtime.lr_schedule import lr_factor
from pipeline.runtime.train_config import TrainConfig
from storage.errors import ConfigError


def factors(schedule, *, warmup=10, steps=110, **more):
    return [lr_factor(step, num_steps=steps, warmup_steps=warmup, schedule=schedule, **more) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
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


def test_warm_up_stable_decay_is_constant_until_its_last_share_falls_linearly_to_zero():
    found = factors("wsd")  # 22 of 110 steps
    assert set(found[10:88]) == {1.0}
    assert found[88:] == pytest.approx([(22 - i) / 22 for i in range(22)])
    assert factors("wsd", decay_share=0.5)[55:] == pytest.approx([(55 - i) / 55 for i in range(55)])
    assert factors("wsd", decay_share=1) == pytest.approx(factors("linear"))


def test_a_decay_longer_than_what_the_warm_up_leaves_begins_at_its_end():
    assert factors("wsd", warmup=100) == pytest.approx(factors("linear", warmup=100))
    assert all(0 < factor <= 1 for factor in factors("wsd", warmup=200))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_decay_share_without_wsd_is_refused_in_one_line(schedule):
    with pytest.raises(
        ConfigError, match=f"decay-share is 0.1, but schedule {schedule} has no such share; give"
    ) as error:
        TrainConfig(schedule=schedule, decay_share=0.1)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"decay-share is 1\.5, expected 0 to 1"):
        TrainConfig(schedule="wsd", decay_share=1.5)
    assert TrainConfig(schedule="wsd", decay_share=0.1).decay_share == 0.1
