"""Every position of every sentence is dumped once, wherever sentences and shards begin and end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor

from pipeline.corpus.dataset.dataset_store import Split
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_loop import DumpJob, dump
from pipeline.runtime.distributed import World
from storage.dump.reader import DumpReader, verify_dump
from storage.ragged import Ragged

VOCAB_SIZE, EOS, SHARD = 20, 1, 8
CPU = torch.device("cpu")


class Bigrams:
    """A bigram model: the previous token selects a row of a table of logits; ``<bos>`` is 0."""

    vocab_size = VOCAB_SIZE

    def __init__(self) -> None:
        self.table = 3 * torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))

    def prepare(self, tokens: Ragged, actions: Ragged | None) -> np.ndarray:
        assert actions is not None
        assert actions.lengths.tolist() == tokens.lengths.tolist()
        return np.concatenate([[0, *row] for row in tokens]).astype(np.int64)

    def states(self, inputs: np.ndarray) -> Tensor:
        return self.table[torch.from_numpy(inputs)]

    def logits(self, states: Tensor) -> Tensor:
        return states


def dataset_of(lengths: list[int]) -> Any:
    generator = np.random.default_rng(4)
    tokens = Ragged.from_lengths(generator.integers(2, VOCAB_SIZE, sum(lengths)).astype(np.uint16), lengths)
    nothing = np.zeros(len(lengths), np.int32)
    split = Split(
        name="train",
        tokens=tokens,
        actions=tokens,
        document_ids=nothing,
        num_words=nothing,
        num_bytes=nothing,
        text_sha256="1" * 64,
        sha256="2" * 64,
    )
    tokenizer = SimpleNamespace(data=b"{}", eos_id=EOS, sha256="3" * 64)
    return SimpleNamespace(split=lambda _: split, tokenizer=tokenizer, sha256="4" * 64, tree_source="none")


def write(path: Path, lengths: list[int], **options: Any) -> DumpReader:
    config = DumpConfig(k=5, temperatures=(1.0, 2.0), shard_positions=SHARD, **({"batch_tokens": 6} | options))
    job = DumpJob(models=[Bigrams()], dataset=dataset_of(lengths), config=config, teachers=["5" * 64], device=CPU)
    summary = dump(job, path, World())
    assert verify_dump(path) == summary
    return DumpReader(path)


@pytest.mark.parametrize("profile", ["exact", "compact"])
@pytest.mark.parametrize(
    "lengths",
    [[], [0], [0, 0, 0], [SHARD - 1], [SHARD], [2 * SHARD - 1], [3, 5 * SHARD, 2], [1] * 40, [SHARD - 1] * 3, [30, 30]],
    ids=str,
)
def test_all_positions_are_dumped_for_any_sentences_and_shards(
    tmp_path: Path, lengths: list[int], profile: str
) -> None:
    reader = write(tmp_path / "dump", lengths, profile=profile)
    tokens = dataset_of(lengths).split("train").tokens
    before = [token for row in tokens for token in (0, *row.tolist())]
    gold = [token for row in tokens for token in (*row.tolist(), EOS)]
    found = reader.read_range(0, reader.schema.num_positions)
    assert (len(reader), reader.schema.num_positions) == (len(lengths), sum(lengths) + len(lengths))
    assert found.tokens.tolist() == gold
    log_probs = Bigrams().table[before].log_softmax(1)
    top = log_probs.topk(5, dim=1)
    assert found.ids.tolist() == top.indices.tolist()
    # The bound for compact is half a step of 1/16, and 1 % of wide gaps. The bound for exact is that of float16.
    np.testing.assert_allclose(found.logp, top.values, atol=0.1 if profile == "compact" else 0.01)
    expected = log_probs[torch.arange(len(gold)), torch.tensor(gold, dtype=torch.int64)]
    np.testing.assert_allclose(found.gold_logp, expected, atol=1e-5)
    assert {name for name, _ in zarr.open_group(tmp_path / "dump", mode="r").arrays()} == {
        *(spec.name for spec in reader.schema.stored_arrays),
        "offsets",
    }


def test_the_batch_budget_does_not_change_the_values(tmp_path: Path) -> None:
    lengths = [3, 17, 1, 0, 9, 24]
    one, other = (write(tmp_path / str(budget), lengths, batch_tokens=budget) for budget in (1, 1000))
    for name, array in one.read_range(0, 60).arrays().items():
        assert np.array_equal(array, other.read_range(0, 60).arrays()[name])


def test_an_error_ends_the_dump_and_finished_shards_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    logits = Bigrams.logits

    def failing(self: Bigrams, states: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise ZeroDivisionError
        return logits(self, states)

    with monkeypatch.context() as patch:
        patch.setattr(Bigrams, "logits", failing)
        with pytest.raises(ZeroDivisionError):
            write(tmp_path / "dump", [10] * 10)
    finished = sorted(path.name for path in (tmp_path / "dump" / "finished").iterdir())
    assert finished[0] == "0.json"
    write(tmp_path / "dump", [10] * 10)
    write(tmp_path / "whole", [10] * 10)
    for file in (path for path in (tmp_path / "whole").rglob("*") if path.is_file()):
        assert file.read_bytes() == (tmp_path / "dump" / file.relative_to(tmp_path / "whole")).read_bytes()
