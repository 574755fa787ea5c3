"""A dataset built by several processes is the one built by one, and a process that dies ends it with one line."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.corpus.dataset.blocks import (
    BLOCK_SENTENCES,
    Block,
    BlockBuilder,
    BlockPool,
    SentenceFilter,
)
from pipeline.corpus.dataset.build import BuildConfig, build_dataset
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.trees.readers import RawPair, RawTree
from pipeline.runtime.workers import WorkerError, usable_cores
from storage.errors import InputError
from tests.processes import ROOT, store_digest

NUM_SENTENCES = 6 * BLOCK_SENTENCES
LABELS = ("S", "NP", "VP", "FRAG", "INTJ")
TOKENIZER = Tokenizer.train(["the dog barks at 3 cats"] * 3, 270)


def write(stem: Path, number: int, bad: tuple[int, ...] = ()) -> Path:
    """Write sentences in which labels come up late, and broken trees."""
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
        train=folder / train,
        dev=folder / "dev",
        tokenizer=folder / "tokenizer.json",
        out=out,
        workers=workers,
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
def test_the_first_malformed_line_is_the_one_named(folder: Path, tmp_path: Path) -> None:
    messages = []
    for workers in (1, 2):
        with pytest.raises(InputError, match=rf"broken\.mrg:{2 * BLOCK_SENTENCES + 4}: unbalanced") as raised:
            build_dataset(config(folder, tmp_path / "out", workers, "broken"))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.processes
def test_a_killed_process_ends_it_with_one_line(tmp_path: Path) -> None:
    def blocks() -> Iterator[Block]:
        while True:
            yield Block(path=tmp_path, pairs=[RawPair(0, RawTree(1, "(TOP (X dog))"), "dog")])

    with BlockPool(BlockBuilder(tokenizer=TOKENIZER, on_error="stop"), 2) as pool:
        built = pool.build(blocks())
        assert next(built).texts == ["dog"]
        assert pool._executor is not None
        os.kill(next(iter(pool._executor._processes)), signal.SIGKILL)
        with pytest.raises(WorkerError, match="a worker process was killed"):
            for _ in built:
                pass


@pytest.mark.processes
def test_workers_end_with_a_main_process_that_is_killed(folder: Path) -> None:
    script = f"""
import itertools, pathlib, sys
from pipeline.corpus.dataset.blocks import *
from pipeline.corpus.trees.readers import RawPair, RawTree
builder = BlockBuilder(tokenizer=Tokenizer.load(pathlib.Path({str(folder / "tokenizer.json")!r})), on_error="stop")
block = Block(path=pathlib.Path("x"), pairs=[RawPair(0, RawTree(1, "(TOP (X dog))"), "dog")])
with BlockPool(builder, 2) as pool:
    for _ in pool.build(itertools.repeat(block)):
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


def test_small_corpora_start_no_process(tmp_path: Path) -> None:
    with BlockPool(BlockBuilder(tokenizer=TOKENIZER, on_error="stop"), 2) as pool:
        assert list(pool.build([])) == []
        built = list(pool.build([Block(path=tmp_path, pairs=[RawPair(7, RawTree(1, "(TOP (X dog))"), "dog")])]))
        assert built[0].numbers.tolist() == [7]
        assert pool._executor is None


def test_workers_do_not_load_torch() -> None:
    script = "import pipeline.corpus.dataset.blocks, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_sentences_are_left_out_by_length() -> None:
    keep = SentenceFilter(min_words=2, max_words=3, max_tokens=4)
    found = [keep.reason(*sizes) for sizes in ((1, 1), (2, 4), (4, 4), (3, 5))]
    assert found == ["fewer than 2 words", None, "more than 3 words", "more than 4 tokens"]
    assert SentenceFilter().reason(0, 10_000) is None
    assert usable_cores() >= 1
