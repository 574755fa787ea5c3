"""Numbers of words are read and named as people and BabyLM write them."""

import pytest

from pipeline.runtime.train_config import TrainConfig
from pipeline.runtime.word_counts import num_words_of, word_thresholds, words_name
from storage.errors import ConfigError


def test_a_list_is_sorted_and_each_number_stands_once():
    assert word_thresholds(["2M", "500k", "2000k", "1B", "7"]) == [7, 500_000, 2_000_000, 10**9]
    assert word_thresholds([]) == []


def test_babylm_is_every_million_to_10_every_10_to_100_every_100_to_1000():
    found = word_thresholds(["babylm"])
    millions = [*range(1, 11), *range(20, 101, 10), *range(200, 1001, 100)]
    assert found == [each * 1_000_000 for each in millions]
    assert words_name(found[-1]) == "words_1000M"
    assert word_thresholds(["500k", "babylm", "1M"]) == [500_000, *found]


@pytest.mark.parametrize(
    ("number", "name"), [(7, "words_7"), (500_000, "words_500k"), (10**6, "words_1M"), (1_500_000, "words_1500k")]
)
def test_a_name_is_the_number(number, name):
    assert words_name(number) == name
    assert num_words_of(name) == number
    assert num_words_of("best") == 0


@pytest.mark.parametrize("entry", ["", "0", "1m", "1.5M", "-1", "M", "1 M", "words_1M", "BABYLM", "1M\n", "٣"])
def test_what_is_no_number_of_words_is_refused_in_one_line(entry):
    with pytest.raises(ConfigError) as error:
        TrainConfig(word_checkpoints=("1M", entry))
    assert f"word-checkpoints has {entry!r}, expected numbers of words such as 500k, 1M or 1B, or babylm" in str(
        error.value
    )
    assert "\n" not in str(error.value)
