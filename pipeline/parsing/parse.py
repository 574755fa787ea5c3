"""Parse raw text into trees, shard by shard, with any number of processes. A shard is a group of successive sentences.

Under torchrun each process takes the next shard that no process has taken. Without torchrun, ``--workers`` processes on
one machine do the same. Every process computes on one CPU thread or one GPU.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.corpus.text.documents import (
    COMPANION_SUFFIXES,
    DOCS_SUFFIX,
    DROPPED_SUFFIX,
    FAILURES_SUFFIX,
    PARSE_RECORD_SUFFIX,
    SPEAKERS_SUFFIX,
    TABLE_SUFFIX,
    read_document_table,
    write_document_table,
)
from pipeline.corpus.text.table_forms import as_cell
from pipeline.corpus.text.text_files import check_replaces_no_input
from pipeline.corpus.text.word_budget import (
    PARSER,
    TrainingText,
    count_words,
    parser_not_known,
    read_record,
    to_json,
)
from pipeline.corpus.trees.trees import shortened
from pipeline.parsing.parse_config import ParseConfig
from pipeline.parsing.sentence_parser import SentenceParser, fingerprint, versions
from pipeline.parsing.text_input import gather, input_files
from pipeline.parsing.text_shards import TextShard, TextShards
from pipeline.runtime.distributed import World, device_model, joined, worker_devices
from pipeline.runtime.progress import Progress
from pipeline.runtime.workers import WorkerError, start_pool
from storage.errors import ConfigError, InputError, RunError, StoreError
from storage.files import beside, remove_partial_files, written_whole
from storage.fingerprints import Json, sha256_file

_TREES_DEPEND_ON: Final = ("language", "max_words", "doc_sentences", "shard_sentences")
"""Some of the options that must not change when an interrupted parse continues. ``_prepare`` adds the others."""


def parse_texts(texts: Sequence[Path], out_stem: Path, config: ParseConfig) -> dict[str, Json] | None:
    """Write the trees of texts to ``OUT.mrg``, one per line, and their sentences to ``OUT.txt``.

    If the documents or speakers of the sentences are known, their names are written to ``OUT.docs`` or
    ``OUT.speakers``. ``OUT.failures.tsv`` lists every sentence without a parse. ``OUT.parse.json`` records everything
    that the trees depend on. If the command is interrupted, run it again, with any number of processes: it continues,
    and the output is byte-identical.

    Args:
        texts: Without ``config.source``, files ``NAME.txt`` with one sentence per line. The files that ``clean-text``
            wrote next to NAME.txt are read as well. With ``config.source``, files and folders of raw text.
        out_stem: OUT.
        config: Model, cleaning and processes.

    Returns:
        Counts and speed on the main rank, None on the other ranks.

    Raises:
        ConfigError: If ``config.workers`` is above 1 under torchrun, there are fewer GPUs than processes, or an output
            would replace an input.
        InputError: If a text or the model cannot be read, or a sentence has no parse and ``on_failure`` is "stop".
        RunError: If an interrupted parse at OUT was started with other texts or options.
        WorkerError: If a worker is killed.
        StoreBusyError: If another process parses into OUT.
        StoreError: If OUT exists already, or cannot be written.
    """
    store = TextShards(beside(out_stem, ".parts"))

    with joined(config.device, threads=1) as (world, own_device):
        if world.size > 1 and config.workers > 1:
            raise ConfigError(
                f"--workers is {config.workers}, but torchrun started {world.size} processes; use only one of the two"
            )
        world.on_main(lambda: _check_paths(store, out_stem, texts, config))
        with store.held() if world.is_main else nullcontext():
            world.on_main(lambda: _prepare(store, texts, config, own_device))
            shards = store.shards()
            todo = [shards[number] for number in _unfinished(store, world)]
            num_sentences = sum(shard.num_sentences for shard in shards)
            before = num_sentences - sum(shard.num_sentences for shard in todo)
            start = time.monotonic()
            with Progress(
                "parse", total=num_sentences, initial=before, unit="sentences", shown=world.is_main
            ) as progress:
                if config.workers > 1:
                    _parse_by_workers(store, todo, config, progress)
                else:
                    _parse_by_ranks(_ShardParser(store, config, own_device), todo, world, progress)
            world.barrier()
            elapsed_s = time.monotonic() - start
            summary = world.on_main(lambda: _finish(store, shards, out_stem, texts, config))
        if summary is None:
            return None
        store.remove()
        return {**summary, "elapsed_s": elapsed_s, "sentences_per_s": (num_sentences - before) / elapsed_s}


def _check_paths(store: TextShards, out_stem: Path, texts: Sequence[Path], config: ParseConfig) -> None:
    """Check that the outputs would replace neither existing trees nor an input.

    Raises:
        StoreError: If ``OUT.mrg`` exists, and ``OUT.parts`` does not show that an interrupted ``parse`` wrote it.
        ConfigError: If an output would replace an input.
    """
    trees = beside(out_stem, ".mrg")
    outputs = (beside(out_stem, ".txt"), *(beside(out_stem, suffix) for suffix in COMPANION_SUFFIXES), trees)
    check_replaces_no_input("parse", outputs, input_files(texts, is_raw=bool(config.source)))
    if trees.exists() and store.description() is None:
        raise StoreError(f"{trees}: already exists; remove it, or give another --out")


def _prepare(store: TextShards, texts: Sequence[Path], config: ParseConfig, device: torch.device) -> None:
    """Gather the text, or check that the same command started the interrupted parse."""
    remove_partial_files(store.path)
    try:
        digests = {str(file): sha256_file(file) for file in input_files(texts, is_raw=bool(config.source))}
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); expected a file of text") from error
    depends_on = {
        "texts": digests,
        "source": config.source or None,
        "column": config.column or None,
        "wrapped": config.wrapped or None,
        "licence": config.licence,
        "on_error": config.on_error,
        "model": fingerprint(config),
        "versions": versions(),
        "device": device_model(device),
        **{name: getattr(config, name) for name in _TREES_DEPEND_ON},
    }
    _words_of_parser(config, str(depends_on["model"]))  # fails here if the record of the parser's texts is damaged
    if (found := store.description()) is None:
        SentenceParser(config, device)  # a model that cannot be loaded fails here, before anything is kept
        store.clear()
        store.describe(depends_on, gather(texts, store.text, config), config.shard_sentences)
    elif differing := sorted(name for name, value in depends_on.items() if found["depends_on"].get(name) != value):
        raise RunError(
            f"{store.path}: started with another {', '.join(differing)}; run the command that started it to "
            "continue, remove the folder to start again, or give another --out"
        )
    else:
        store.check_text()


def _unfinished(store: TextShards, world: World) -> list[int]:
    """Return the numbers of the shards that the main rank finds unfinished."""
    numbers = sorted({shard.number for shard in store.shards()} - store.finished())
    found: list[int] = json.loads(world.share(json.dumps(numbers).encode()))
    return found


@dataclass(slots=True)
class _ShardParser:
    """Parse shards. Load the model at the first one, because an error at a worker's start would not reach the user."""

    store: TextShards
    config: ParseConfig
    device: torch.device
    parser: SentenceParser | None = None

    def parse(self, shard: TextShard) -> int:
        """Parse and write a shard. Return the number of sentences without a parse."""
        self.parser = self.parser or SentenceParser(self.config, self.device)
        texts = self.store.read_text(shard)
        outcomes = self.parser.parse(texts)
        failed = [number for number, outcome in enumerate(outcomes) if outcome.reason is not None]
        if failed and self.config.on_failure == "stop":
            number = failed[0]
            failure = outcomes[number]
            raise InputError(
                f"{self.store.text}.txt:{shard.first + number + 1}: "
                f"{' '.join(filter(None, [failure.reason, failure.detail]))} ({shortened(texts[number])}); expected a "
                "sentence that can be parsed. Use --on-failure flat or skip"
            )
        self.store.write(shard, outcomes)
        return len(failed)


def _parse_by_ranks(parser: _ShardParser, shards: Sequence[TextShard], world: World, progress: Progress) -> None:
    counted = 0
    while (number := world.claim("shard")) < len(shards):
        num_failed = parser.parse(shards[number])
        total_failed = world.tally("failed", num_failed)
        done = world.tally("parsed", shards[number].num_sentences)
        progress.figures(failures=total_failed)
        progress.update(done - counted)
        counted = done


_worker: _ShardParser


def _start_worker(number: int, store: TextShards, config: ParseConfig, devices: Sequence[torch.device]) -> None:
    global _worker  # noqa: PLW0603  each worker process has one parser
    torch.set_flush_denormal(True)  # see `subnormals_as_zero`
    torch.set_num_threads(1)
    _worker = _ShardParser(store, config, devices[number])


def _parse_in_worker(shard: TextShard) -> tuple[int, int]:
    return shard.num_sentences, _worker.parse(shard)


def _parse_by_workers(store: TextShards, shards: Sequence[TextShard], config: ParseConfig, progress: Progress) -> None:
    num_failed = 0
    pool = start_pool(config.workers, _start_worker, store, config, worker_devices(config.device, config.workers))
    try:
        for finished in as_completed([pool.submit(_parse_in_worker, shard) for shard in shards]):
            num_sentences, failed = finished.result()
            num_failed += failed
            progress.figures(failures=num_failed)
            progress.update(num_sentences)
    except BrokenProcessPool as error:
        raise WorkerError(
            "parse: a worker process was killed (out of memory?); the finished shards are kept. Run the same command "
            "again, with fewer --workers if memory is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _words(texts: Sequence[Path], config: ParseConfig, depends_on: dict[str, Any]) -> dict[str, Json]:
    """Return the number of words of each text, by its sha256, and the texts that the parser was trained on."""
    files = input_files(texts, is_raw=True) if config.source else texts
    return {
        "files": {depends_on["texts"][str(file)]: count_words(file) for file in files},
        PARSER: to_json(_words_of_parser(config, depends_on["model"])),
    }


def _words_of_parser(config: ParseConfig, model: str) -> list[TrainingText]:
    """Return the texts that the parser was trained on."""
    found = [] if config.flat else read_record(Path(config.model), ".json", of=PARSER, sha256=model)
    is_known = [text.num_words for text in found] != [None]
    return found if is_known else [parser_not_known(config.model, sha256=model)]


def _finish(
    store: TextShards, shards: Sequence[TextShard], out_stem: Path, texts: Sequence[Path], config: ParseConfig
) -> dict[str, Json]:
    """Join the shards into the files of OUT and return the summary."""
    on_failure = config.on_failure
    description = store.description() or {}
    words = _words(texts, config, description["depends_on"])
    optional = [
        suffix
        for suffix in (DOCS_SUFFIX, SPEAKERS_SUFFIX, TABLE_SUFFIX, DROPPED_SUFFIX)
        if beside(store.text, suffix).exists()
    ]
    # OUT.mrg gets its final name last. So if it exists, all files are complete.
    suffixes = [".txt", FAILURES_SUFFIX, PARSE_RECORD_SUFFIX, *optional, ".mrg"]
    stale = [beside(out_stem, suffix) for suffix in COMPANION_SUFFIXES]
    reasons: Counter[str] = Counter()
    num_trees = 0
    documents: set[str] = set()
    with written_whole([beside(out_stem, suffix) for suffix in suffixes], stale=stale) as files:
        out = dict(zip(suffixes, files, strict=True))
        out[FAILURES_SUFFIX].write("sentence\tdocument\treason\tdetail\tnow\ttext\n")
        rows = (row for shard in shards for row in store.rows(shard))
        num_lines = sum(shard.num_sentences for shard in shards)
        columns = [_read_lines(store.text, suffix, num_lines) for suffix in (".txt", DOCS_SUFFIX, SPEAKERS_SUFFIX)]
        for number, (row, text, document, speaker) in enumerate(zip(rows, *columns, strict=True), 1):
            if (reason := row.get("reason")) is not None:
                reasons[reason] += 1
                now = "left out" if on_failure == "skip" else "flat"
                fields = (str(number), document, reason, row["detail"], now, text)
                out[FAILURES_SUFFIX].write("\t".join(as_cell(" ".join(field.split())) for field in fields) + "\n")
                if on_failure == "skip":
                    continue
            num_trees += 1
            documents.add(document)
            out[".mrg"].write(row["tree"] + "\n")
            out[".txt"].write(text + "\n")
            for suffix, value in (DOCS_SUFFIX, document), (SPEAKERS_SUFFIX, speaker):
                if suffix in out:
                    out[suffix].write(value + "\n")
        if reasons.total() == num_lines:
            raise InputError(
                f"{out_stem}: no sentence has a parse: {dict(reasons)}; expected sentences that can be parsed. Use "
                "another --model, raise --max-words, or use --flat for flat trees"
            )
        if not num_trees:
            raise InputError(f"{out_stem}: no tree left: {dict(reasons)}; expected sentences that can be parsed")
        if TABLE_SUFFIX in out:
            kept = [row for row in read_document_table(beside(store.text, TABLE_SUFFIX)) if row.document in documents]
            write_document_table(out[TABLE_SUFFIX], kept)
        if DROPPED_SUFFIX in out:
            out[DROPPED_SUFFIX].write(beside(store.text, DROPPED_SUFFIX).read_bytes().decode())
        summary: dict[str, Any] = {
            "num_sentences": num_lines,
            "num_trees": num_trees,
            "failures": dict(sorted(reasons.items())),
            "on_failure": on_failure,
        }
        about = {**summary, "text": description["gathered"], "made_from": description["depends_on"], "words": words}
        out[PARSE_RECORD_SUFFIX].write(json.dumps(about, indent=2) + "\n")
    return {"trees": str(beside(out_stem, ".mrg")), "text": description["gathered"], **summary}


def _read_lines(stem: Path, suffix: str, num_lines: int) -> Iterator[str]:
    """Yield the lines of a file of the gathered text. Without the file, yield ``num_lines`` empty lines."""
    path = beside(stem, suffix)
    if not path.exists():
        yield from repeat("", num_lines)
        return
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")
