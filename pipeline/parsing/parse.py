"""``parse``: raw text to trees, shard by shard, by any number of processes, each shard once.

Under torchrun each process takes the next shard that nobody has; without it ``--workers`` processes of one machine do
the same. Every process computes on one CPU thread or one GPU. A sentence that has no parse is never silent: it is
counted by reason, listed with its text, and becomes what ``--on-failure`` says.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.corpus.text.cleaning import DROPPED_SUFFIX
from pipeline.corpus.text.documents import (
    SPEAKERS_SUFFIX,
    SUFFIX,
    TABLE_SUFFIX,
    read_document_table,
    write_document_table,
)
from pipeline.corpus.trees.parse_record import SUFFIX as RECORD_SUFFIX
from pipeline.corpus.trees.trees import shortened
from pipeline.parsing.parse_config import ParseConfig
from pipeline.parsing.parse_shards import Parts, Shard
from pipeline.parsing.sentence_parser import SentenceParser, fingerprint, versions
from pipeline.parsing.text_input import TextInput
from pipeline.runtime.distributed import World, device_model, joined, worker_devices
from pipeline.runtime.options import to_json
from pipeline.runtime.progress import Progress
from pipeline.runtime.workers import WorkerError, start_pool
from storage.errors import ConfigError, InputError, RunError, StoreError
from storage.files import beside, remove_partial_files, write_atomically, written_whole
from storage.fingerprints import Json

FAILURES_SUFFIX: Final = ".failures.tsv"
COMPANIONS: Final = (SUFFIX, TABLE_SUFFIX, SPEAKERS_SUFFIX, DROPPED_SUFFIX)
"""Files beside OUT.txt that are there only where their contents are known."""
_FREE: Final = ("on_failure",)
"""Options that may differ when a parse goes on, since no shard depends on them."""


def parse_texts(
    text: TextInput, out_stem: Path, config: ParseConfig, *, model: str | None, workers: int = 1, device: str = "auto"
) -> dict[str, Json] | None:
    """Write ``OUT.mrg``, a tree a line, and ``OUT.txt``, its sentence, with documents and speakers where known.

    ``OUT.failures.tsv`` lists every sentence without a parse, ``OUT.parse.json`` says what made the trees. Interrupted,
    the same command goes on, with any number of processes, to the same bytes.

    Args:
        text: What to read.
        out_stem: OUT.
        config: How.
        model: Name of an installed benepar model or path of one; None: every tree is flat.
        workers: Processes, without torchrun.
        device: ``auto``, ``cpu`` or ``cuda``: a GPU a process.

    Returns:
        What was done, on the main rank; None on the others.

    Raises:
        ConfigError: If both torchrun and workers are asked for, or there are fewer GPUs than processes.
        InputError: If a text or the model cannot be read, or a sentence has no parse and ``on_failure`` is "stop".
        RunError: If what is under way at OUT was begun otherwise.
        WorkerError: If a worker is killed.
        StoreBusyError: If another process parses there.
        StoreError: If OUT is there already, or cannot be written.
    """
    parts = Parts(beside(out_stem, ".parts"))

    with joined(device, threads=1) as (world, own_device):
        if world.size > 1 and workers > 1:
            raise ConfigError(f"--workers {workers}: torchrun started {world.size} processes; give one or the other")
        world.on_main(lambda: _refuse(out_stem, text))
        with parts.held() if world.is_main else nullcontext():
            world.on_main(lambda: _prepare(parts, text, config, model, own_device))
            shards = parts.shards()
            todo = [shards[number] for number in _waiting(parts, world)]
            num_sentences = sum(shard.num_sentences for shard in shards)
            before = num_sentences - sum(shard.num_sentences for shard in todo)
            start = time.monotonic()
            with Progress(
                "parse", total=num_sentences, initial=before, unit="sentences", shown=world.is_main
            ) as progress:
                if workers > 1:
                    _parse_by_workers(parts, todo, config, model, worker_devices(device, workers), progress)
                else:
                    _parse_by_ranks(parts, todo, config, model, own_device, world, progress)
            world.barrier()
            elapsed_s = time.monotonic() - start
            summary = world.on_main(lambda: _finish(parts, shards, out_stem, config.on_failure))
        if summary is None:
            return None
        shutil.rmtree(parts.path)
        return {**summary, "elapsed_s": elapsed_s, "sentences_per_s": (num_sentences - before) / elapsed_s}


def _refuse(out_stem: Path, text: TextInput) -> None:
    """Refuse to write over trees, or over what is read.

    Raises:
        StoreError: If ``OUT.mrg`` is there.
        ConfigError: If an output would replace an input.
    """
    inputs = {file.resolve() for file in text.files()}
    for suffix in (".txt", FAILURES_SUFFIX, RECORD_SUFFIX, *COMPANIONS, ".mrg"):
        if (path := beside(out_stem, suffix)).resolve() in inputs:
            raise ConfigError(f"parse: {path} is read and would be replaced; give another --out")
    if (there := beside(out_stem, ".mrg")).exists():
        raise StoreError(f"{there}: already exists; remove it, or give another --out")


def _prepare(parts: Parts, text: TextInput, config: ParseConfig, model: str | None, device: torch.device) -> None:
    """Gather the text, or see that what is there was begun by the same command."""
    remove_partial_files(parts.path)
    depends_on = {
        **text.depends_on(),
        "model": fingerprint(model),
        "versions": versions(),
        "device": device_model(device),
        **{name: value for name, value in to_json(config).items() if name not in _FREE},
    }
    if (found := parts.description()) is None:
        _parser(config, model, device)  # a model that cannot be loaded is told before anything is kept
        parts.clear()
        parts.describe(depends_on, text.gather(parts.text), config.shard_sentences)
    elif differing := sorted(name for name, value in depends_on.items() if found["depends_on"].get(name) != value):
        raise RunError(
            f"{parts.path}: begun with another {', '.join(differing)}; give the same command to go on, remove the "
            "folder to begin again, or give another --out"
        )


def _waiting(parts: Parts, world: World) -> list[int]:
    """Return the shards that are not finished, as the main rank finds them."""
    numbers = sorted({shard.number for shard in parts.shards()} - parts.finished())
    found: list[int] = json.loads(world.share(json.dumps(numbers).encode()))
    return found


def _parse_by_ranks(
    parts: Parts,
    shards: Sequence[Shard],
    config: ParseConfig,
    model: str | None,
    device: torch.device,
    world: World,
    progress: Progress,
) -> None:
    parser, counted = None, 0
    while (number := world.claim("shard")) < len(shards):
        parser = parser or _parser(config, model, device)
        num_failed = _parse_shard(parts, shards[number], parser, config)
        total_failed = world.tally("failed", num_failed)
        done = world.tally("parsed", shards[number].num_sentences)
        progress.figures(failures=total_failed)
        progress.update(done - counted)
        counted = done


@dataclass(frozen=True, slots=True)
class _Worker:
    """What a worker process parses with; the parser is loaded with its first shard, so that its error is told."""

    parts: Parts
    config: ParseConfig
    model: str | None
    device: torch.device
    loaded: list[SentenceParser] = field(default_factory=list)

    def parse(self, shard: Shard) -> int:
        if not self.loaded:
            self.loaded.append(_parser(self.config, self.model, self.device))
        return _parse_shard(self.parts, shard, self.loaded[0], self.config)


_worker: _Worker


def _start_worker(
    number: int, parts: Parts, config: ParseConfig, model: str | None, devices: Sequence[torch.device]
) -> None:
    global _worker  # noqa: PLW0603  a worker process is one of these
    torch.set_num_threads(1)
    _worker = _Worker(parts, config, model, devices[number])


def _parse_in_worker(shard: Shard) -> tuple[int, int]:
    return shard.num_sentences, _worker.parse(shard)


def _parse_by_workers(
    parts: Parts,
    shards: Sequence[Shard],
    config: ParseConfig,
    model: str | None,
    devices: Sequence[torch.device],
    progress: Progress,
) -> None:
    num_failed = 0
    pool = start_pool(len(devices), _start_worker, parts, config, model, devices)
    try:
        for finished in as_completed([pool.submit(_parse_in_worker, shard) for shard in shards]):
            num_sentences, failed = finished.result()
            num_failed += failed
            progress.figures(failures=num_failed)
            progress.update(num_sentences)
    except BrokenProcessPool as error:
        raise WorkerError(
            "parse: a worker process was killed (out of memory?); what was finished is kept. Run the same command "
            "again, with fewer --workers if memory is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _parser(config: ParseConfig, model: str | None, device: torch.device) -> SentenceParser:
    return SentenceParser(
        model,
        language=config.language,
        max_words=config.max_words,
        doc_sentences=config.doc_sentences,
        device=device,
    )


def _parse_shard(parts: Parts, shard: Shard, parser: SentenceParser, config: ParseConfig) -> int:
    """Parse and write a shard; return how many sentences have no parse."""
    texts = parts.read_text(shard)
    outcomes = parser.parse(texts)
    failed = [number for number, outcome in enumerate(outcomes) if outcome.reason is not None]
    if failed and config.on_failure == "stop":
        number = failed[0]
        failure = outcomes[number]
        raise InputError(
            f"{parts.text}.txt:{shard.first + number + 1}: {' '.join(filter(None, [failure.reason, failure.detail]))} "
            f"({shortened(texts[number])}); expected a sentence that can be parsed. Use --on-failure flat or skip"
        )
    parts.write(shard, outcomes)
    return len(failed)


def _finish(parts: Parts, shards: Sequence[Shard], out_stem: Path, on_failure: str) -> dict[str, Json]:
    """Put the shards together and return the summary."""
    description = parts.description() or {}
    there = [suffix for suffix in (SUFFIX, SPEAKERS_SUFFIX) if beside(parts.text, suffix).exists()]
    table = beside(parts.text, TABLE_SUFFIX)
    # Trees come last: where they are, everything is.
    suffixes = [".txt", FAILURES_SUFFIX, *there, *[TABLE_SUFFIX] * table.exists(), ".mrg"]
    reasons: Counter[str] = Counter()
    num_trees = 0
    documents: set[str] = set()
    with written_whole([beside(out_stem, suffix) for suffix in suffixes]) as files:
        out = dict(zip(suffixes, files, strict=True))
        out[FAILURES_SUFFIX].write("sentence\tdocument\treason\tdetail\tnow\ttext\n")
        rows = (row for shard in shards for row in parts.rows(shard))
        num_lines = sum(shard.num_sentences for shard in shards)
        columns = [_read(parts.text, suffix, num_lines) for suffix in (".txt", SUFFIX, SPEAKERS_SUFFIX)]
        for number, (row, text, document, speaker) in enumerate(zip(rows, *columns, strict=True), 1):
            if (reason := row.get("reason")) is not None:
                reasons[reason] += 1
                now = "left out" if on_failure == "skip" else "flat"
                fields = (str(number), document, reason, row["detail"], now, text)
                out[FAILURES_SUFFIX].write("\t".join(" ".join(field.split()) for field in fields) + "\n")
                if on_failure == "skip":
                    continue
            num_trees += 1
            documents.add(document)
            out[".mrg"].write(row["tree"] + "\n")
            out[".txt"].write(text + "\n")
            for suffix, value in (SUFFIX, document), (SPEAKERS_SUFFIX, speaker):
                if suffix in out:
                    out[suffix].write(value + "\n")
        if not num_trees:
            raise InputError(f"{out_stem}: no tree left: {dict(reasons)}; expected sentences that can be parsed")
        if table.exists():
            kept = [row for row in read_document_table(table) if row.document in documents]
            write_document_table(out[TABLE_SUFFIX], kept)
        for suffix in set(COMPANIONS) - set(suffixes):  # of a text that was there before
            beside(out_stem, suffix).unlink(missing_ok=True)
        if (dropped := beside(parts.text, DROPPED_SUFFIX)).exists():
            write_atomically(beside(out_stem, DROPPED_SUFFIX), dropped.read_bytes())
        summary: dict[str, Any] = {
            "num_sentences": sum(shard.num_sentences for shard in shards),
            "num_trees": num_trees,
            "failures": dict(sorted(reasons.items())),
            "on_failure": on_failure,
        }
        about = {**summary, "text": description["gathered"], "made_from": description["depends_on"]}
        write_atomically(beside(out_stem, RECORD_SUFFIX), (json.dumps(about, indent=2) + "\n").encode())
    return {"trees": str(beside(out_stem, ".mrg")), "text": description["gathered"], **summary}


def _read(stem: Path, suffix: str, num_lines: int) -> Iterator[str]:
    """Yield the lines of a file beside the text; as many empty ones where there is none."""
    path = beside(stem, suffix)
    if not path.exists():
        yield from repeat("", num_lines)
        return
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")
