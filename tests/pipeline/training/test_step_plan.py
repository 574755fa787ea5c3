"""Training can begin at any step. The steps that follow are those of the whole training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.train_config import TrainConfig
from pipeline.training.step_plan import StepPlan
from storage.errors import InputError


class Epochs:
    """A task with a given number of batches per epoch. A batch is the tuple of its epoch and index."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes

    def batch_positions(self, epoch: int) -> np.ndarray:
        return 10 * (1 + np.arange(self.sizes[epoch % len(self.sizes)]))

    def batch_words(self, epoch: int) -> np.ndarray:
        return (7 * np.arange(self.sizes[epoch % len(self.sizes)]) + epoch) % 5  # some have none

    def batch_flops(self, epoch: int) -> np.ndarray:
        return 100.0 * self.batch_positions(epoch)

    def train_batches(self, epoch: int, first: int) -> list[tuple[int, int]]:
        return [(epoch, index) for index in range(first, self.sizes[epoch % len(self.sizes)])]


def test_training_ends_after_its_epochs_or_its_steps():
    def ends(**options: int) -> list[int]:
        plan = StepPlan(Epochs(4, 5), TrainConfig(**options))  # dev is evaluated at the end of each epoch
        return [step for step in range(1, plan.num_steps + 1) if plan.is_evaluated(step)]

    assert ends(num_epochs=3) == [4, 9, 13]
    assert ends(num_epochs=3, max_steps=6) == [4, 6]
    assert ends(num_epochs=1, max_steps=14) == [4, 9, 13, 14]
    assert ends(num_epochs=1, max_steps=4) == [4]
    assert ends(num_epochs=3, accumulate_batches=3) == [2, 4, 6]
    assert ends(num_epochs=3, accumulate_batches=9) == [1, 2, 3]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    accumulate=st.integers(1, 4),
    max_steps=st.integers(0, 15),
    after=st.integers(0, 20),
)
def test_the_steps_after_any_step_are_those_of_the_whole(sizes, accumulate, max_steps, after):
    config = TrainConfig(num_epochs=2, accumulate_batches=accumulate, max_steps=max_steps)
    plan = StepPlan(Epochs(*sizes), config)
    whole = list(plan.batches(after_step=0))
    assert list(plan.batches(after_step=after)) == [one for one in whole if one.step > after]
    assert [one.step for one in whole if one.closes_step] == list(range(1, plan.num_steps + 1))
    for one in whole:
        assert one.batch == (one.epoch, one.index)
        together = [other for other in whole if other.step == one.step]
        assert len(together) <= accumulate
        assert {other.epoch for other in together} == {one.epoch}
        assert one.num_flops == 1000 * (one.index + 1)
        assert one.num_positions_step == sum(10 * (other.index + 1) for other in together)
        assert [other.opens_step for other in together] == [True] + [False] * (len(together) - 1)
        assert plan.place(one.step) == (one.epoch, range(together[0].index, together[-1].index + 1))


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    accumulate=st.integers(1, 4),
    max_steps=st.integers(0, 15),
    thresholds=st.sets(st.integers(1, 60), max_size=8),
)
def test_words_are_counted_over_batches_and_epochs_and_the_first_step_that_reaches_a_number_is_found(
    sizes, accumulate, max_steps, thresholds
):
    task = Epochs(*sizes)
    plan = StepPlan(task, TrainConfig(num_epochs=3, accumulate_batches=accumulate, max_steps=max_steps))
    seen, after = 0, {0: 0}
    for place in plan.batches(after_step=0):
        seen += int(task.batch_words(place.epoch)[place.index])
        after[place.step] = seen
        if place.closes_step:
            assert place.num_words == seen
    assert {step: plan.words_after(step) for step in after} == after
    reached = {
        number: min(step for step, words in after.items() if words >= number)
        for number in thresholds
        if after[plan.num_steps] >= number
    }
    assert plan.steps_reaching(list(thresholds)) == reached


@pytest.mark.timeout(20)
def test_a_billion_steps_are_planned_epoch_by_epoch():
    plan = StepPlan(Epochs(4, 5), TrainConfig(max_steps=10**9))
    assert plan.num_steps == 10**9
    assert [next(plan.batches(after_step=step)).step for step in (0, 9, 900)] == [1, 10, 901]
    assert plan.steps_reaching([50])[50] < 50


@pytest.mark.timeout(20)
@pytest.mark.parametrize("max_steps", [0, 5])
def test_a_train_split_without_a_sentence_is_refused_in_one_line(max_steps):
    with pytest.raises(InputError, match="split train of the dataset has no sentence, expected at least one") as error:
        StepPlan(Epochs(0), TrainConfig(max_steps=max_steps))
    assert "\n" not in str(error.value)
