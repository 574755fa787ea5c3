"""An epoch visits every sentence once, within the budgets. The order depends only on seed and epoch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.distributed import World
from pipeline.runtime.train_config import TrainConfig
from pipeline.training.batching import SAMPLE_SIZE, BatchPlan, consecutive_batches, longest_first, plan_epoch
from storage.ragged import Ragged

lengths_of_splits = st.lists(st.integers(1, 60), max_size=300).map(lambda lengths: np.array(lengths, np.int64))
budgets = {"batch_tokens": st.integers(1, 200), "batch_sentences": st.integers(0, 20)}


@given(
    lengths=lengths_of_splits,
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
    shuffle_window=st.sampled_from([0, 1, 100, 1000, 10**6]),
    **budgets,
)
def test_every_sentence_is_in_one_batch_within_the_budgets(
    lengths, seed, epoch, batch_tokens, batch_sentences, shuffle_window
):
    config = TrainConfig(
        seed=seed, batch_tokens=batch_tokens, batch_sentences=batch_sentences, shuffle_window=shuffle_window
    )
    plan = plan_epoch(lengths, config, epoch)
    assert sorted(np.concatenate([*plan, []]).tolist()) == list(range(len(lengths)))
    for batch in plan:
        assert len(batch) == 1 or lengths[batch].sum() <= batch_tokens
        assert not batch_sentences or len(batch) <= batch_sentences
        assert (np.diff(lengths[batch]) <= 0).all()
    again = plan_epoch(lengths, config, epoch)
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in plan]


def test_a_shuffle_window_reads_only_a_part_of_the_split_at_a_time():
    lengths = np.random.default_rng(1).integers(1, 60, 20_000)
    blocks = (np.cumsum(lengths) - lengths) // 4096
    window = 16 * 4096
    config = TrainConfig(seed=1, batch_tokens=2000, shuffle_window=window)
    plan = plan_epoch(lengths, config, 0)
    num_batches = len(plan) * window // lengths.sum()
    for first in range(0, len(plan) - num_batches, num_batches // 2):
        together = np.concatenate(plan[first : first + num_batches // 2])
        assert len(np.unique(blocks[together])) <= 2 * 16
    orders = {tuple(np.concatenate(plan_epoch(lengths, config, epoch))[:50]) for epoch in range(3)}
    assert len(orders) == 3


def test_each_epoch_and_each_seed_has_its_own_order():
    lengths = np.arange(1, 200)
    orders = {
        tuple(np.concatenate(plan_epoch(lengths, TrainConfig(seed=seed, batch_tokens=300), epoch)))
        for seed in range(2)
        for epoch in range(2)
    }
    assert len(orders) == 4


@given(lengths=lengths_of_splits, size=st.integers(1, 5), **budgets)
def test_the_ranks_divide_every_batch_and_know_its_size(lengths, size, batch_tokens, batch_sentences):
    config = TrainConfig(seed=1, batch_tokens=batch_tokens, batch_sentences=batch_sentences)
    plan = plan_epoch(lengths, config, 3)
    plans = [BatchPlan(lengths, config, World(rank=rank, size=size)) for rank in range(size)]
    for one in plans:
        assert one.batch_positions(3).tolist() == [lengths[batch].sum() for batch in plan]
    slices = [list(one.slices(3)) for one in plans]
    for i, batch in enumerate(plan):
        shares = [slices[rank][i] for rank in range(size)]
        assert sorted(np.concatenate([rows for rows, _ in shares]).tolist()) == sorted(batch.tolist())
        assert {positions for _, positions in shares} == {int(lengths[batch].sum())}
        for rank in range(size):
            [rows, _], *_ = plans[rank].slices(3, first=i)
            assert rows.tolist() == slices[rank][i][0].tolist()


@given(lengths=lengths_of_splits, budget=st.integers(1, 200))
def test_consecutive_batches_cover_the_sequence_greedily(lengths, budget):
    runs = consecutive_batches(lengths, budget)
    assert [i for first, stop in runs for i in range(first, stop)] == list(range(len(lengths)))
    for first, stop in runs[:-1]:
        assert lengths[first : stop + 1].sum() > budget


def test_the_training_sample_is_fixed_evenly_spaced_and_shared_by_all_ranks():
    lengths = np.random.default_rng(1).integers(1, 30, 2 * SAMPLE_SIZE)
    config = TrainConfig(batch_tokens=300)
    ranks = [list(BatchPlan(lengths, config, World(rank=rank, size=2)).sample_slices()) for rank in range(2)]
    assert [positions for _, positions in ranks[0]] == [positions for _, positions in ranks[1]]
    found = np.sort(np.concatenate([rows for slices in ranks for rows, _ in slices]))
    assert len(found) == SAMPLE_SIZE
    assert set(np.diff(found)) <= {2, 3}
    assert (found[0], found[-1]) == (0, len(lengths) - 1)
    assert sum(positions for _, positions in ranks[0]) == lengths[found].sum()
    few = BatchPlan(lengths[:7], config, World())
    assert sorted(np.concatenate([rows for rows, _ in few.sample_slices()])) == list(range(7))


def test_sentences_that_begin_alike_are_neighbours_among_those_of_equal_length():
    rows = Ragged.from_lists([[5, 1], [7, 2, 3], [5, 300], [4, 9], [7, 2, 4], [], [7, 2, 3]], np.int64)
    order = [rows[i].tolist() for i in longest_first(rows.lengths, rows)]
    assert [len(row) for row in order] == [3, 3, 3, 2, 2, 2, 0]
    assert order.index([5, 1]) - order.index([5, 300]) in {-1, 1}
    assert order[:2] == [[7, 2, 3]] * 2 or order[1:3] == [[7, 2, 3]] * 2
