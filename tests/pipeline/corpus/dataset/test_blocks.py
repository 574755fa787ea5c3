"""Test that the number of processes does not change a dataset, and that a killed worker gives a one-line error."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.corpus.dataset.blocks import BLOCK_SENTENCES, Block, BlockBuilder, BlockPool
from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.trees.raw_trees import RawTree
from pipeline.corpus.trees.readers import RawPair
from pipeline.runtime.workers import WorkerError
from storage.errors import InputError
from tests.pipeline.corpus.corpora import flat_pair
from tests.processes import ROOT, store_digest

NUM_SENTENCES = 6 * BLOCK_SENTENCES
LABELS = ("S", "NP", "VP", "FRAG", "INTJ")
TOKENIZER = Tokenizer.train(["the dog barks at 3 cats"] * 3, 270)
DOG = Block(
    path=Path("x"), pairs=[RawPair(0, RawTree(1, "(TOP (X dog))"), "dog")], document_ids=np.array([7], np.int32)
)


def write(stem: Path, number: int, bad: tuple[int, ...] = ()) -> Path:
    """Write sentences. Some labels first occur in a late block, and the trees ``bad`` are malformed."""
    with stem.with_suffix(".mrg").open("w") as trees, stem.with_suffix(".txt").open("w") as texts:
        for i in range(number):
            label = LABELS[(i // BLOCK_SENTENCES + i % 2) % len(LABELS)]
            trees.write(f"(TOP ({label} (XX dog) (NP (XX {i}))){')' * (i not in bad)}\n")
            texts.write(f"dog {i}\n" if i % 97 else "other words\n")
    return stem


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks")
    write(folder / "train", NUM_SENTENCES)
    write(folder / "dev", 20)
    write(folder / "broken", NUM_SENTENCES, bad=(5 * BLOCK_SENTENCES + 1, 2 * BLOCK_SENTENCES + 3))
    TOKENIZER.save(folder / "tokenizer.json")
    return folder


def config(folder: Path, out: Path, workers: int, train: str = "train", on_error: str = "stop") -> BuildConfig:
    return BuildConfig(
        train=(folder / train,),
        dev=(folder / "dev",),
        tokenizer=folder / "tokenizer.json",
        out=out,
        workers=workers,
        folds=4,
        on_error=on_error,  # type: ignore[arg-type]
    )


@pytest.mark.processes
def test_the_bytes_do_not_depend_on_the_number_of_processes(folder: Path, tmp_path: Path) -> None:
    summaries = []
    for workers in (1, 2, 3):
        seen: list[int] = []
        out = tmp_path / str(workers)
        summaries.append(build_dataset(config(folder, out, workers, "broken", "skip"), seen.append) | {"dataset": ""})
        assert sum(seen) == NUM_SENTENCES + 20
    assert summaries[0] == summaries[1] == summaries[2]
    assert summaries[0]["train"]["dropped"] == {"unbalanced brackets": 2, "words are not those of the text": 31}  # type: ignore[call-overload, index]
    assert store_digest(tmp_path / "1") == store_digest(tmp_path / "2") == store_digest(tmp_path / "3")


@pytest.mark.processes
def test_the_error_names_the_first_malformed_line_for_any_number_of_processes(folder: Path, tmp_path: Path) -> None:
    messages = []
    for workers in (1, 2):
        with pytest.raises(InputError, match=rf"broken\.mrg:{2 * BLOCK_SENTENCES + 4}: unbalanced") as raised:
            build_dataset(config(folder, tmp_path / "out", workers, "broken"))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.processes
def test_a_killed_worker_ends_the_build_with_a_one_line_error(tmp_path: Path) -> None:
    def blocks() -> Iterator[Block]:
        while True:
            yield DOG

    with BlockPool(BlockBuilder(TOKENIZER, config(tmp_path, tmp_path / "out", 2))) as pool:
        built = pool.build(blocks())
        assert next(built).text == b"dog\n"
        assert pool._executor is not None
        os.kill(next(iter(pool._executor._processes)), signal.SIGKILL)
        with pytest.raises(WorkerError, match="a worker process was killed"):
            for _ in built:
                pass


@pytest.mark.processes
def test_workers_end_when_the_main_process_is_killed(folder: Path) -> None:
    script = f"""
import itertools, pathlib
from pipeline.corpus.dataset.blocks import BlockBuilder, BlockPool
from tests.pipeline.corpus.dataset.test_blocks import DOG, TOKENIZER, config
folder = pathlib.Path({str(folder)!r})
with BlockPool(BlockBuilder(TOKENIZER, config(folder, folder / "out", 2))) as pool:
    for _ in pool.build(itertools.repeat(DOG)):
        print(*pool._executor._processes, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [Path(f"/proc/{pid}") for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        process.kill()
    deadline = time.monotonic() + 20
    while any(map(_is_running, workers)):
        assert time.monotonic() < deadline, "workers outlive the main process"
        time.sleep(0.05)


def _is_running(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_small_corpus_starts_no_worker(tmp_path: Path) -> None:
    with BlockPool(BlockBuilder(TOKENIZER, config(tmp_path, tmp_path / "out", 2))) as pool:
        assert list(pool.build([])) == []
        (built,) = pool.build([DOG])
        assert built.columns["document_ids"].tolist() == [7]
        assert pool._executor is None


def test_workers_load_neither_torch_nor_zarr() -> None:
    script = "import pipeline.corpus.dataset.blocks, sys; assert not {'torch', 'zarr'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_sentences_are_dropped_by_length(tmp_path: Path) -> None:
    texts = ("dog", "the dog", "the dog barks at", "the dog 12345")
    pairs = [RawPair(i, RawTree(1, tree), text) for i, (tree, text) in enumerate(map(flat_pair, texts))]
    block = Block(path=tmp_path, pairs=pairs, document_ids=np.arange(len(pairs), dtype=np.int32))
    given = config(tmp_path, tmp_path / "out", 1)
    sizes = {"min_words": 2, "max_words": 3, "max_tokens": len(TOKENIZER.encode("the dog"))}
    built = BlockBuilder(TOKENIZER, replace(given, **sizes)).build(block)
    assert built.columns["document_ids"].tolist() == [1]
    assert built.counts.dropped == {
        "fewer than 2 words": 1,
        "more than 3 words": 1,
        f"more than {sizes['max_tokens']} tokens": 1,
    }
    assert len(BlockBuilder(TOKENIZER, given).build(block)) == len(texts)


def test_select_keeps_the_rows_of_the_selected_sentences(tmp_path: Path) -> None:
    trees = [(f"(TOP (X{i} {'(NN dog) ' * (i + 1)}))", " ".join(["dog"] * (i + 1))) for i in range(4)]
    pairs = [RawPair(i, RawTree(1, tree), text) for i, (tree, text) in enumerate(trees)]
    builder = BlockBuilder(TOKENIZER, config(tmp_path, tmp_path / "out", 1))
    ids = np.arange(4, dtype=np.int32)
    whole = builder.build(Block(path=tmp_path, pairs=pairs, document_ids=ids))
    found = whole.select(np.array([False, True, False, True]))
    expected = builder.build(Block(path=tmp_path, pairs=pairs[1::2], document_ids=ids[1::2]))
    assert found.text == expected.text
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert {name: column.tolist() for name, column in found.columns.items()} == {
        name: column.tolist() for name, column in expected.columns.items()
    }
    assert [found.labels[i - 2] if i >= 2 else i for i in found.actions.tolist()] == [
        expected.labels[i - 2] if i >= 2 else i for i in expected.actions.tolist()
    ]
    assert found.hashes.texts.tolist() == expected.hashes.texts.tolist()
    assert found.hashes.shingles.offsets.tolist() == expected.hashes.shingles.offsets.tolist()
    assert whole.select(np.ones(4, bool)) is whole
