"""A row is a sentence, or the sentences of a document that fit. A sentence that does not fit is cut or refused."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.dataset.dataset_store import Split
from pipeline.runtime.distributed import World
from pipeline.runtime.train_config import TrainConfig
from pipeline.training.batching import BatchPlan
from storage.dump.reader import DumpReader
from storage.errors import InputError
from storage.ragged import Ragged
from student.model import Student
from student.rows import Rows, StudentInputs
from student.stream import StudentBatch, student_batches
from student.student_config import StudentConfig
from tests.student.test_stream import BOS, EOS, make_split, targets_of, write_dump

CPU = torch.device("cpu")


def with_documents(split: Split, lengths: list[int]) -> Split:
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)[: split.num_sentences]
    return dataclasses.replace(split, document_ids=np.pad(ids, (0, split.num_sentences - len(ids)), mode="edge"))


def batches(split: Split, rows: Rows, *, world: World | None = None, **options: object) -> list[StudentBatch]:
    plan = BatchPlan(rows.lengths, TrainConfig(batch_tokens=60), world or World())
    return list(student_batches(plan.slices(0), split, rows, bos_id=BOS, eos_id=EOS, device=CPU, **options))


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(9, 70))
def test_rows_of_a_document_hold_its_sentences_in_order_as_many_as_fit(lengths: list[int], max_length: int) -> None:
    split = with_documents(make_split(), lengths)
    rows = Rows(split, context="document", max_length=max_length)
    whole = split.tokens.lengths + 1
    seen = []
    for row in range(len(rows.lengths)):
        sentences, offsets = rows.sentences(np.array([row]))
        assert offsets.tolist() == [0, len(sentences)]
        assert len(set(split.document_ids[sentences])) == 1
        assert rows.lengths[row] == whole[sentences].sum() <= max_length
        after = sentences[-1] + 1
        if after < split.num_sentences and split.document_ids[after] == split.document_ids[sentences[0]]:
            assert rows.lengths[row] + whole[after] > max_length
        seen += sentences.tolist()
    assert seen == list(range(split.num_sentences))


@pytest.mark.parametrize("context", ["sentence", "document"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_position_comes_once_per_epoch_at_any_world_size(context: str, size: int) -> None:
    split = make_split()
    # Each token is the number of its position in the split, so that positions can be identified.
    values = np.arange(len(split.tokens.values), dtype=np.uint32) + 100
    split = with_documents(dataclasses.replace(split, tokens=Ragged(values, split.tokens.offsets)), [7, 1, 20, 5])
    rows = Rows(split, context=context, max_length=50)
    gold: list[int] = []
    for rank in range(size):
        for batch in batches(split, rows, world=World(rank=rank, size=size)):
            gold += batch.gold.tolist()
    assert sorted(gold) == sorted([*values.tolist(), *[EOS] * split.num_sentences])


def test_in_a_document_a_position_sees_the_sentences_before_it_and_keeps_its_targets(tmp_path) -> None:
    split = with_documents(make_split(), [40])
    dump = write_dump(tmp_path / "dump", split)
    rows = Rows(split, context="document", max_length=64)
    student = Student(StudentConfig(vocab_size=50, embed_dim=8, num_heads=2, max_length=64), bos_id=BOS, seed=1).eval()
    for batch in batches(split, rows, targets=targets_of(dump, split)):
        assert batch.targets is not None
        states = student.states(batch.inputs)
        assert len(states) == len(batch.gold) == len(batch.targets.ids)
    (whole,) = student_batches(
        [(np.array([1]), 1)], split, rows, bos_id=BOS, eos_id=EOS, device=CPU, targets=targets_of(dump, split)
    )
    sentences, _ = rows.sentences(np.array([1]))
    flat = [token for m in sentences for token in (BOS, *split.tokens[m].tolist())]
    expected = student.hidden(torch.tensor([flat]))[0]
    torch.testing.assert_close(student.states(whole.inputs), expected)
    stored = dump.read_sentences(sentences)
    assert whole.targets is not None
    assert whole.targets.ids.tolist() == stored.ids.tolist()
    alone = student.states(StudentInputs.of(split.tokens.take(sentences[1:2]), np.array([0, 1]), bos_id=BOS))
    assert not torch.allclose(expected[rows.num_positions[sentences[0]] :][: len(alone)], alone)


def test_a_truncated_sentence_keeps_its_first_positions_and_their_targets(tmp_path) -> None:
    split = make_split()
    dump = write_dump(tmp_path / "dump", split)
    with pytest.raises(InputError, match=r"of 40 sentences have more than 5 positions, .*--long-sentences truncate"):
        Rows(split, context="sentence", max_length=5)
    rows = Rows(split, context="sentence", max_length=5, truncate=True)
    lengths = split.tokens.lengths + 1
    assert rows.num_truncated == (lengths > 5).sum() > 0
    assert rows.num_lost == (lengths - 5)[lengths > 5].sum()
    numbers = np.array([int(np.argmax(lengths)), int(np.argmin(lengths))])
    (batch,) = student_batches(
        [(numbers, 9)], split, rows, bos_id=BOS, eos_id=EOS, device=CPU, targets=targets_of(dump, split)
    )
    first = split.tokens[numbers[0]].tolist()
    assert batch.gold[:5].tolist() == first[:5]
    assert batch.inputs.input_ids[0].tolist() == [BOS, *first[:4]]
    start = int(dump.offsets[numbers[0]])
    assert batch.targets is not None
    assert batch.targets.ids[:5].tolist() == dump.read_range(start, start + 5).ids.tolist()
    assert len(batch.gold) == len(batch.targets.ids) == len(batch.inputs.valid)


def test_shuffled_targets_are_one_permutation_that_all_ranks_share(tmp_path) -> None:
    split = make_split()
    dump = write_dump(tmp_path / "dump", split)
    rows = Rows(split, context="sentence", max_length=99)

    def targets_by_position(size: int, seed: int) -> dict[int, list[float]]:
        """Return the targets' log-probabilities by position of the split."""
        found = {}
        for rank in range(size):
            world = World(rank=rank, size=size)
            plan = BatchPlan(rows.lengths, TrainConfig(batch_tokens=60), world)
            targets = targets_of(dump, split, shuffle_seed=seed)
            options = {"bos_id": BOS, "eos_id": EOS, "device": CPU, "targets": targets}
            for (numbers, _), batch in zip(
                plan.slices(0), student_batches(plan.slices(0), split, rows, **options), strict=True
            ):
                at = [p for m in numbers for p in range(dump.offsets[m], dump.offsets[m + 1])]
                found |= dict(zip(at, batch.targets.log_probs.tolist(), strict=True))
        return found

    once = targets_by_position(1, seed=1)
    assert once == targets_by_position(3, seed=1)
    assert once != targets_by_position(1, seed=2)
    stored = dump.read_range(0, dump.schema.num_positions).logp.tolist()
    assert sorted(once.values()) == sorted(stored)
    assert sum(once[p] == row for p, row in enumerate(stored)) < 0.1 * len(stored)


def test_context_document_without_documents_is_refused() -> None:
    with pytest.raises(InputError, match=r"split train: the dataset has no documents, .*--documents"):
        Rows(make_split(), context="document", max_length=99)


def test_positions_of_a_dump_are_read_in_any_order(tmp_path) -> None:
    split = make_split()
    dump: DumpReader = write_dump(tmp_path / "dump", split)
    order = np.random.default_rng(0).integers(0, dump.schema.num_positions, 300)
    whole = dump.read_range(0, dump.schema.num_positions)
    found = dump.read_positions(order)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array[order])
    assert len(dump.read_positions([])) == 0
    with pytest.raises(IndexError, match="not all in"):
        dump.read_positions([dump.schema.num_positions])
