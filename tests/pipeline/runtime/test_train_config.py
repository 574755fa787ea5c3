"""Learning-rate schedules have their shape, and word counts are read and named as BabyLM writes them."""

import math

import pytest

from pipeline.runtime.train_config import TrainConfig, lr_factor, num_words_of, word_thresholds, words_name
from storage.errors import ConfigError


def factors(schedule, *, warmup=10, steps=110, **more):
    return [lr_factor(step, num_steps=steps, warmup_steps=warmup, schedule=schedule, **more) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_warm_up_is_linear_and_ends_at_the_peak(schedule):
    assert factors(schedule)[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors(schedule)[10] == 1
    assert all(0 < factor <= 1 for factor in factors(schedule))


def test_each_schedule_falls_by_its_name():
    assert factors("linear")[60] == pytest.approx(0.5)
    assert factors("cosine")[60] == pytest.approx(0.5)
    assert factors("cosine")[35] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert set(factors("constant")[10:]) == {1.0}
    assert factors("linear")[-1] == pytest.approx(0.01)


def test_no_warm_up_starts_at_the_peak():
    assert factors("cosine", warmup=0)[0] == 1


def test_wsd_is_constant_and_falls_linearly_to_zero_over_its_last_share():
    found = factors("wsd")  # 22 of 110 steps
    assert set(found[10:88]) == {1.0}
    assert found[88:] == pytest.approx([(22 - i) / 22 for i in range(22)])
    assert factors("wsd", decay_share=0.5)[55:] == pytest.approx([(55 - i) / 55 for i in range(55)])
    assert factors("wsd", decay_share=1) == pytest.approx(factors("linear"))


def test_a_decay_that_reaches_into_the_warm_up_begins_at_its_end():
    assert factors("wsd", warmup=100) == pytest.approx(factors("linear", warmup=100))
    assert all(0 < factor <= 1 for factor in factors("wsd", warmup=200))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_decay_share_without_wsd_is_refused_in_one_line(schedule):
    with pytest.raises(
        ConfigError, match=f"decay-share is 0.1, but schedule {schedule} has no decay phase. Give"
    ) as error:
        TrainConfig(schedule=schedule, decay_share=0.1)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"decay-share is 1\.5, expected 0 to 1"):
        TrainConfig(schedule="wsd", decay_share=1.5)
    assert TrainConfig(schedule="wsd", decay_share=0.1).decay_share == 0.1


def test_a_list_of_word_counts_is_sorted_without_repetitions():
    assert word_thresholds(["2M", "500k", "2000k", "1B", "7"]) == [7, 500_000, 2_000_000, 10**9]
    assert word_thresholds([]) == []


def test_babylm_means_every_million_to_10_every_10_to_100_every_100_to_1000():
    found = word_thresholds(["babylm"])
    millions = [*range(1, 11), *range(20, 101, 10), *range(200, 1001, 100)]
    assert found == [each * 1_000_000 for each in millions]
    assert words_name(found[-1]) == "words_1000M"
    assert word_thresholds(["500k", "babylm", "1M"]) == [500_000, *found]


@pytest.mark.parametrize(
    ("number", "name"), [(7, "words_7"), (500_000, "words_500k"), (10**6, "words_1M"), (1_500_000, "words_1500k")]
)
def test_the_name_of_a_word_checkpoint_gives_its_number_of_words(number, name):
    assert words_name(number) == name
    assert num_words_of(name) == number
    assert num_words_of("best") == 0


@pytest.mark.parametrize("entry", ["", "0", "1m", "1.5M", "-1", "M", "1 M", "words_1M", "BABYLM", "1M\n", "٣"])
def test_an_entry_that_is_not_a_number_of_words_is_refused_in_one_line(entry):
    with pytest.raises(ConfigError) as error:
        TrainConfig(word_checkpoints=("1M", entry))
    assert f"word-checkpoints has {entry!r}, expected numbers of words such as 500k, 1M or 1B, or babylm" in str(
        error.value
    )
    assert "\n" not in str(error.value)
