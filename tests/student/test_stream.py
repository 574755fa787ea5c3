import dataclasses
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.corpus.dataset.dataset_store import Split
from pipeline.dumping.next_token import append_eos
from pipeline.runtime.background import DEPTH, ReadAhead
from pipeline.runtime.distributed import World
from pipeline.runtime.train_config import TrainConfig
from pipeline.training.batching import BatchPlan
from storage.dump.positions import Positions
from storage.dump.reader import DumpReader
from storage.dump.schema import DumpSchema
from storage.dump.writer import DumpWriter
from storage.errors import CorruptStoreError, FingerprintMismatchError, StoreError
from storage.ragged import Ragged
from student.rows import Rows
from student.stream import StudentBatch, student_batches
from student.targets import DumpTargets, TargetOptions

BOS, EOS, VOCAB_SIZE, K = 0, 1, 50, 4
FINGERPRINTS = {name: name[0] * 64 for name in ("dataset", "split", "tokenizer", "teacher")}


def make_split(num_sentences: int = 40) -> Split:
    generator = np.random.default_rng(2)
    lengths = generator.integers(0, 9, num_sentences)
    tokens = Ragged.from_lengths(generator.integers(2, VOCAB_SIZE, lengths.sum()).astype(np.uint16), lengths)
    nothing = np.zeros(num_sentences, np.int32)
    return Split(
        name="train",
        tokens=tokens,
        actions=tokens,
        document_ids=nothing,
        num_words=nothing,
        num_bytes=nothing,
        sha256=FINGERPRINTS["split"],
        text_sha256="1" * 64,
    )


def write_dump(path: Path, split: Split, *, seed: int = 3, **changes: Any) -> DumpReader:
    gold = append_eos(split.tokens, EOS)
    generator = np.random.default_rng(seed)
    num_positions = len(gold.values)
    logits = generator.normal(size=(num_positions, VOCAB_SIZE)).astype(np.float32)
    ids = np.argsort(-logits, kind="stable")[:, :K]
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    logp = np.take_along_axis(log_probs, ids, 1)
    tail = generator.uniform(-2, -1, (num_positions, 2)).astype(np.float32)
    positions = Positions(
        tokens=gold.values.astype(np.uint16),
        ids=ids.astype(np.uint16),
        logp=logp.astype(np.float16),
        gold_logp=np.full(num_positions, -1, np.float32),
        tail=tail,
        logz=np.stack([np.log(np.exp(log_probs / t).sum(1)) for t in (1, 2)], axis=1),
    )
    settings = {
        "num_positions": num_positions,
        "num_sentences": len(gold),
        "vocab_size": VOCAB_SIZE,
        "k": K,
        "temperatures": (1.0, 2.0),
        "shard_positions": 64,
        "chunk_positions": 16,
        "tree_source": "none",
        "split": "train",
        "fingerprints": FINGERPRINTS,
        "computation": {},
    }
    schema = DumpSchema(**(settings | changes))
    with DumpWriter.open(path, schema, gold.offsets, main=True) as writer:
        for shard in writer.pending():
            rows = schema.layout.rows_of(shard)
            writer.write_shard(shard, positions.slice(rows.start, rows.stop))
        writer.finish()
    return DumpReader(path)


@pytest.fixture(scope="module")
def split() -> Split:
    return make_split()


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory, split: Split) -> DumpReader:
    return write_dump(tmp_path_factory.mktemp("store") / "dump", split)


def targets_of(dump: Any, split: Split, **changes: Any) -> DumpTargets:
    options = {"tokenizer_sha256": FINGERPRINTS["tokenizer"], "eos_id": EOS, "temperature": 1.0} | changes
    return DumpTargets(dump, split, TargetOptions(**options))


def plan_of(split: Split, world: World | None = None) -> list[tuple[np.ndarray, int]]:
    plan = BatchPlan(split.tokens.lengths + 1, TrainConfig(seed=1, batch_tokens=25), world or World())
    return list(plan.slices(epoch=0))


def batches_of(
    slices: Iterable[tuple[np.ndarray, int]], split: Split, rows: Rows | None = None, **options: Any
) -> Iterator[StudentBatch]:
    rows = rows or Rows(split, context="sentence", max_length=99)
    return student_batches(slices, split, rows, bos_id=BOS, eos_id=EOS, device=torch.device("cpu"), **options)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_batches_hold_the_planned_sentences_and_their_rows_of_the_dump(
    split: Split, dump: DumpReader, temperature: float
) -> None:
    plan = plan_of(split)
    batches = list(batches_of(plan, split, targets=targets_of(dump, split, temperature=temperature)))
    assert len(batches) == len(plan)
    for (sentences, _), batch in zip(plan, batches, strict=True):
        tokens = [split.tokens[m].tolist() for m in sentences]
        assert batch.gold.tolist() == [token for row in tokens for token in (*row, EOS)]
        inputs = batch.inputs.input_ids.flatten()[batch.inputs.valid]
        assert inputs.tolist() == [token for row in tokens for token in (BOS, *row)]
        assert batch.num_positions_global == len(batch.gold)
        rows = [p for m in sentences for p in range(dump.offsets[m], dump.offsets[m + 1])]
        whole = dump.read_range(0, dump.schema.num_positions)
        index = dump.temperature_index(temperature)
        assert batch.targets is not None
        assert batch.targets.ids.tolist() == whole.ids[rows].tolist()
        assert batch.targets.log_probs.tolist() == whole.logp[rows].tolist()
        assert batch.targets.tail.tolist() == whole.tail[rows, index].tolist()
        assert batch.targets.logz.tolist() == whole.logz[rows, index].tolist()


def test_ranks_divide_every_batch_and_know_its_size(split: Split, dump: DumpReader) -> None:
    size = 3
    by_rank: list[list[StudentBatch]] = []
    for rank in range(size):
        plan = plan_of(split, World(rank=rank, size=size))
        by_rank.append(list(batches_of(plan, split, targets=targets_of(dump, split))))
    for shares in zip(*by_rank, strict=True):
        assert {batch.num_positions_global for batch in shares} == {sum(len(batch.gold) for batch in shares)}
    assert sum(len(batch.gold) for batches in by_rank for batch in batches) == split.num_positions


@pytest.mark.parametrize("with_dump", [True, False])
def test_an_empty_share_is_still_a_batch(split: Split, dump: DumpReader, with_dump: bool) -> None:
    targets = targets_of(dump, split) if with_dump else None
    (batch,) = batches_of([(np.empty(0, np.int64), 7)], split, targets=targets)
    assert (len(batch.inputs.valid), batch.num_positions_global) == (0, 7)
    assert batch.gold.shape == (0,)
    assert batch.gold.dtype == torch.int64
    assert (batch.targets is not None) == with_dump
    if batch.targets is not None:
        assert batch.targets.ids.shape == (0, K)


def test_without_a_dump_there_are_no_targets(split: Split) -> None:
    assert all(batch.targets is None for batch in batches_of(plan_of(split), split))


def test_a_dump_of_another_tokenizer_is_refused(split: Split, dump: DumpReader) -> None:
    with pytest.raises(FingerprintMismatchError, match="tokenizer: sha256 is tttttttttttt, expected 777777777777"):
        targets_of(dump, split, tokenizer_sha256="7" * 64)


def test_a_dump_of_another_split_is_refused(split: Split, dump: DumpReader) -> None:
    other = dataclasses.replace(split, sha256="9" * 64)
    with pytest.raises(FingerprintMismatchError, match="split train: sha256 is ssssssssssss, expected 999999999999"):
        targets_of(dump, other)


def test_a_dump_with_other_sentence_boundaries_is_refused(split: Split, dump: DumpReader) -> None:
    offsets = split.tokens.offsets.copy()
    offsets[1] += 1
    other = dataclasses.replace(split, tokens=Ragged(split.tokens.values, offsets))
    with pytest.raises(FingerprintMismatchError, match="boundaries of its 40 sentences differ from those of the 40"):
        targets_of(dump, other)


def test_a_temperature_that_the_dump_does_not_have_is_refused(split: Split, dump: DumpReader) -> None:
    with pytest.raises(StoreError, match=r"temperature 3 is not declared.*--temperatures 1,2,3"):
        targets_of(dump, split, temperature=3.0)


@pytest.mark.parametrize("tail", ["renormalise", "drop"])
def test_draws_refuse_another_tail_than_the_default(split: Split, dump: DumpReader, tail: str) -> None:
    schema = SimpleNamespace(fingerprints=FINGERPRINTS, selection="sampled", num_draws=4)
    other = SimpleNamespace(folder=dump.folder, schema=schema, offsets=dump.offsets)
    with pytest.raises(StoreError, match=f"selection is sampled, expected topk for --tail {tail}.*Leave out --tail"):
        targets_of(other, split, tail=tail)
    targets_of(dump, split, tail=tail)


def test_a_dump_with_other_gold_tokens_is_refused_in_the_batch(split: Split, dump: DumpReader) -> None:
    values = split.tokens.values.copy()
    values[0] = 2 if values[0] != 2 else 3
    other = dataclasses.replace(split, tokens=Ragged(values, split.tokens.offsets))
    changed = np.flatnonzero(split.tokens.lengths)[0]
    batches = batches_of([(np.array([changed]), 1)], other, targets=targets_of(dump, other))
    with pytest.raises(FingerprintMismatchError, match=f"gold token {split.tokens.values[0]} where split train has"):
        next(batches)


def test_damage_found_while_reading_ahead_surfaces_in_the_consumer(split: Split, tmp_path: Path) -> None:
    write_dump(tmp_path / "dump", split)
    shard = tmp_path / "dump" / "logp" / "c" / "1" / "0"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    targets = targets_of(DumpReader(tmp_path / "dump"), split)
    with (
        ReadAhead(batches_of(plan_of(split), split, targets=targets)) as batches,
        pytest.raises(CorruptStoreError, match="logp"),
    ):
        list(batches)


def test_the_next_batches_are_read_while_the_consumer_works_but_no_more(split: Split, dump: DumpReader) -> None:
    read_sentences, enough, num_reads = dump.read_sentences, threading.Event(), 0

    def counted(sentences: np.ndarray) -> Positions:
        nonlocal num_reads
        num_reads += 1
        if num_reads == 1 + DEPTH:
            enough.set()
        return read_sentences(sentences)

    watched = SimpleNamespace(
        folder=dump.folder,
        schema=dump.schema,
        offsets=dump.offsets,
        temperature_index=dump.temperature_index,
        prefetch=dump.prefetch,
        read_sentences=counted,
    )
    targets = targets_of(watched, split)
    with ReadAhead(batches_of(plan_of(split), split, targets=targets)) as batches:
        next(iter(batches))
        assert enough.wait(10), "nothing was read ahead"
    assert num_reads == 1 + DEPTH
