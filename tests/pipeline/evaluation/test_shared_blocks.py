"""Test blocks of sentences: nothing that was finished is computed again, and nothing that is damaged is believed."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.evaluation.block_file import BlockFile
from pipeline.evaluation.shared_blocks import Job, Rows, shared_blocks
from pipeline.runtime.distributed import World
from pipeline.runtime.run_directory import open_run
from pipeline.runtime.run_end import StoppedBySignal
from pipeline.training.model_files import ModelFiles
from storage.errors import StoreBusyError, StoreError
from storage.ragged import Ragged
from tests.processes import describe

SENTENCES = [np.arange(n) + 3 for n in (2, 5, 0, 3, 5, 1, 4)]
NUM_BLOCKS = 4


class Squares:
    """Squares each token. Counts the blocks, and does something before one of them."""

    def __init__(self, at: int = -1, action: Callable[[], object] = lambda: None) -> None:
        self.num_computed, self._at, self._action = 0, at, action

    def __call__(self, inputs: Rows, _: NDArray[np.int64]) -> Rows:
        self.num_computed += 1
        if self.num_computed == self._at:
            self._action()
        return {"squares": Ragged.from_lists([np.append(row, 9.0) ** 2 for row in inputs["tokens"]], np.float64)}


@contextmanager
def blocks_of(folder: Path, squares: Squares, **settings: Any) -> Iterator[Any]:
    if not folder.exists():
        describe(folder)
    files = ModelFiles(path=folder, loaded="a" * 64, tokenizer_sha256=open_run(folder).fingerprints["tokenizer"])
    job = Job(squares, per_position=("squares",), max_sentences=2)
    with shared_blocks({"square": job}, World(), files=files, settings=settings, device=torch.device("cpu")) as blocks:
        yield blocks


def computed(folder: Path, squares: Squares, **settings: Any) -> list[NDArray[Any]]:
    with blocks_of(folder, squares, **settings) as blocks:
        return [row["squares"] for row in blocks.rows("square", {"tokens": Ragged.from_lists(SENTENCES, np.int64)})]


def check(rows: list[NDArray[Any]]) -> None:
    for row, sentence in zip(rows, SENTENCES, strict=True):
        assert np.array_equal(row, np.append(sentence, 9.0) ** 2)


def raising(error: BaseException) -> Callable[[], object]:
    def raise_it() -> None:
        raise error

    return raise_it


def interrupted(run: Path, after: int = 2) -> Path:
    """Leave a file of ``after`` finished blocks."""
    with pytest.raises(KeyboardInterrupt):
        computed(run, Squares(after + 1, raising(KeyboardInterrupt())))
    return next(run.glob("results/*.blocks"))


@pytest.mark.parametrize(
    ("action", "expected", "num_kept"),
    [
        (lambda: signal.raise_signal(signal.SIGTERM), StoppedBySignal, 3),  # the block that has begun is finished
        (raising(KeyboardInterrupt()), KeyboardInterrupt, 2),
        (raising(StoreError("no room")), StoreError, 2),
    ],
)
def test_an_interrupted_evaluation_computes_only_the_rest(
    tmp_path: Path, action: Callable[[], object], expected: type[BaseException], num_kept: int
) -> None:
    run, first, second = tmp_path / "run", Squares(3, action), Squares()
    with pytest.raises(expected):
        computed(run, first)
    assert list(run.glob("results/*.blocks"))
    check(computed(run, second))
    assert second.num_computed == NUM_BLOCKS - num_kept
    assert not list(run.glob("results/*"))


def test_what_was_computed_is_kept_if_the_result_cannot_be_written(tmp_path: Path) -> None:
    run, again = tmp_path / "run", Squares()

    def evaluate() -> None:
        with blocks_of(run, Squares()) as blocks:
            list(blocks.rows("square", {"tokens": Ragged.from_lists(SENTENCES, np.int64)}))
            raise StoreError("no room")

    with pytest.raises(StoreError, match="no room"):
        evaluate()
    check(computed(run, again))
    assert again.num_computed == 0


def test_an_error_before_the_first_block_leaves_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(StoreError):
        computed(run, Squares(1, raising(StoreError("no room"))))
    assert not list(run.glob("results/*"))


@pytest.mark.parametrize(
    ("damage", "num_kept"),
    [
        (lambda data: data[:-1], 1),  # as a killed process leaves the file
        (lambda data: data[: len(data) * 2 // 3] + bytes(100) + data[len(data) * 2 // 3 + 100 :], 1),
        (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], 1),
        (lambda data: data + b'{"block":3,"sha', 2),
        (lambda data: data + data[-300:], 2),
        (lambda data: data + data[data.index(b'{"block"') :], 2),
        (lambda data: data.replace(b'"block":1', b'"block":9'), 1),
        (lambda data: b"\0" + data[1:], 0),
        (lambda data: data.replace(b'"fingerprint":"', b'"fingerprint":"0')[:-1], 0),
        (lambda _: b"", 0),
    ],
)
def test_a_damaged_file_is_kept_up_to_the_damage(
    tmp_path: Path, damage: Callable[[bytes], bytes], num_kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    run, again = tmp_path / "run", Squares()
    file = interrupted(run)
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        check(computed(run, again))
    assert again.num_computed == NUM_BLOCKS - num_kept
    kept = (
        f". Finished blocks before the damage: {num_kept}. They are kept, and all others"
        if num_kept
        else ". All blocks"
    )
    assert [m.endswith(f"{kept} are computed again") for m in caplog.messages] == [True] * bool(damaged)


def test_a_file_of_other_options_is_not_used_and_not_lost(tmp_path: Path) -> None:
    run, other, same = tmp_path / "run", Squares(), Squares()
    file = interrupted(run)
    check(computed(run, other, beam=3))
    assert other.num_computed == NUM_BLOCKS
    # Even under the name that the other options would have.
    with pytest.raises(KeyboardInterrupt):
        computed(run, Squares(1, raising(KeyboardInterrupt())), beam=3)
    assert list(run.glob("results/*")) == [file]
    check(computed(run, same))
    assert same.num_computed == NUM_BLOCKS - 2


def test_rows_of_other_lengths_are_refused_even_with_a_digest(tmp_path: Path) -> None:
    run = tmp_path / "run"
    file = interrupted(run)
    fingerprint = file.read_bytes().split(b'"')[3].decode()
    kept = BlockFile(file.parent, "square", fingerprint=fingerprint, num_blocks=NUM_BLOCKS)
    of_other_sentences = kept.read(0)
    kept.append(3, of_other_sentences)
    kept.close()
    with pytest.raises(StoreError, match="block 3 does not have the values of its 1 sentences; remove the file"):
        computed(run, Squares())


def test_the_same_evaluation_cannot_run_twice_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def second() -> None:
        with pytest.raises(StoreBusyError, match="another process is doing the same evaluation"):
            computed(run, Squares())

    check(computed(run, Squares(2, second)))


@given(
    lengths=st.lists(st.integers(1, 30), max_size=40),
    max_sentences=st.integers(1, 9),
    max_positions=st.integers(1, 60),
    window=st.integers(1, 50),
)
def test_each_sentence_is_in_one_block_with_sentences_of_its_window(
    lengths: list[int], max_sentences: int, max_positions: int, window: int
) -> None:
    job = Job(Squares(), per_position=(), max_sentences=max_sentences, max_positions=max_positions, window=window)
    num_tokens = np.array(lengths, np.int64) - 1
    tokens = Ragged.from_lengths(np.arange(num_tokens.sum()) % 3, num_tokens)
    windows = job.blocks_of({"tokens": tokens})
    for number, blocks in enumerate(windows):
        assert sorted(np.concatenate(blocks).tolist()) == list(range(number * window, len(lengths))[:window])
        for block in blocks:
            assert len(block) <= max_sentences
            assert len(block) == 1 or sum(lengths[sentence] for sentence in block) <= max_positions
    assert sum(len(block) for blocks in windows for block in blocks) == len(lengths)
