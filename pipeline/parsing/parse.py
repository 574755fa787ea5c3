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
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.corpus.cleaning import DROPPED_SUFFIX, SPEAKERS_SUFFIX, clean_texts
from pipeline.corpus.documents import SUFFIX, TABLE_SUFFIX, read_document_table, write_document_table
from pipeline.corpus.import_trees import written_whole
from pipeline.corpus.text import OnError
from pipeline.parsing.config import ParseConfig
from pipeline.parsing.sentence_parser import SentenceParser, fingerprint, versions
from pipeline.parsing.shards import Parts, Shard
from pipeline.parsing.text_input import gather_sentences
from pipeline.runtime.config import to_json
from pipeline.runtime.distributed import World, joined, worker_devices
from pipeline.runtime.progress import Progress
from pipeline.runtime.workers import worker_pool
from storage.errors import ConfigError, InputError, RunError, StoreError
from storage.files import make_directory, remove_partial_files, write_atomically
from storage.fingerprints import Json, sha256_file

FAILURES_SUFFIX: Final = ".failures.tsv"
DESCRIPTION_SUFFIX: Final = ".parse.json"
_FREE: Final = ("doc_sentences",)
"""Options that may differ when a parse goes on: which sentences are computed together."""


def parse_texts(
    texts: Sequence[Path],
    out_stem: Path,
    config: ParseConfig,
    *,
    model: str | None,
    source: str | None = None,
    licence: str = "",
    on_error: OnError = "stop",
    workers: int = 1,
    device: str = "auto",
) -> dict[str, Json] | None:
    """Write ``OUT.mrg``, a tree a line, and ``OUT.txt``, its sentence, with documents and speakers where known.

    ``OUT.failures.tsv`` lists every sentence without a parse, ``OUT.parse.json`` says what made the trees. Interrupted,
    the same command goes on, with any number of processes, to the same bytes.

    Args:
        texts: Files of a sentence a line, ``NAME.txt``, with what ``clean-text`` wrote beside them; or, with a
            ``source``, what ``clean_texts`` takes.
        out_stem: OUT.
        config: How.
        model: Name of an installed benepar model or path of one; None: every tree is flat.
        source: How to read and clean raw text; None: it is cleaned already.
        licence: Of raw text, for the table of documents.
        on_error: What a line that is not UTF-8 does.
        workers: Processes, without torchrun.
        device: ``auto``, ``cpu`` or ``cuda``: a GPU a process.

    Returns:
        What was done, on the main rank; None on the others.

    Raises:
        ConfigError: If both torchrun and workers are asked for, or there are fewer GPUs than processes.
        InputError: If a text or the model cannot be read, or a sentence has no parse and ``on_failure`` is "stop".
        RunError: If what is under way at OUT was begun otherwise, or a worker ends by itself.
        StoreBusyError: If another process parses there.
        StoreError: If OUT is there already, or cannot be written.
    """
    with joined(device, threads=1) as (world, own_device):
        if world.size > 1 and workers > 1:
            raise ConfigError(f"--workers {workers}: started by torchrun in {world.size} processes; give one or the other")
        parts = Parts(out_stem.with_name(out_stem.name + ".parts"))

        def refuse() -> None:
            if (there := _beside(out_stem, ".mrg")).exists():
                raise StoreError(f"{there}: already exists; remove it, or give another --out")

        def prepare() -> bytes:
            remove_partial_files(parts.path)
            depends_on = {
                "texts": {str(path): _digest(path) for path in texts},
                "source": source,
                "licence": licence,
                "on_error": on_error,
                "model": fingerprint(model),
                "versions": versions(),
                **{name: value for name, value in to_json(config).items() if name not in _FREE},
            }
            if (found := parts.description()) is None:
                gathered = _gather(texts, parts.text, source=source, licence=licence, on_error=on_error)
                parts.describe(depends_on, gathered, config.shard_sentences)
            elif differing := _differing(found["depends_on"], depends_on):
                raise RunError(
                    f"{parts.path}: begun with another {', '.join(differing)}; give the same command to go on, remove "
                    "the folder to begin again, or give another --out"
                )
            waiting = sorted({shard.number for shard in parts.shards()} - parts.finished())
            return json.dumps(waiting).encode()

        def run() -> dict[str, Json] | None:
            waiting: list[int] = json.loads(world.share(world.on_main(prepare) or b""))
            shards = parts.shards()
            num_sentences = sum(shard.num_sentences for shard in shards)
            todo = [shards[number] for number in waiting]
            before = num_sentences - sum(shard.num_sentences for shard in todo)
            shown = world.is_main
            start = time.monotonic()
            with Progress("parse", total=num_sentences, initial=before, unit="sentences", shown=shown) as progress:
                if workers > 1:
                    _parse_by_workers(parts, todo, config, model, device, workers, progress)
                else:
                    _parse_by_ranks(parts, todo, config, model, own_device, world, progress, before)
            world.barrier()
            elapsed_s = time.monotonic() - start
            summary = world.on_main(lambda: _finish(parts, shards, out_stem, config.on_failure))
            if summary is None:
                return None
            return {**summary, "elapsed_s": elapsed_s, "sentences_per_s": (num_sentences - before) / elapsed_s}

        world.on_main(refuse)
        if not world.is_main:
            return run()
        make_directory(parts.path)
        with parts.held():
            done = run()
        shutil.rmtree(parts.path)
        return done


def _gather(texts: Sequence[Path], stem: Path, *, source: str | None, licence: str, on_error: OnError) -> dict[str, Json]:
    with Progress("read", total=None, unit="lines") as progress:
        if source is None:
            return gather_sentences(texts, stem, on_error=on_error, progress=progress.update)
        return clean_texts(texts, stem, source=source, licence=licence, on_error=on_error, progress=progress.update)


def _parse_by_ranks(
    parts: Parts,
    shards: Sequence[Shard],
    config: ParseConfig,
    model: str | None,
    device: torch.device,
    world: World,
    progress: Progress,
    before: int,
) -> None:
    parser = None
    while (number := world.claim("shard")) < len(shards):
        parser = parser or _parser(config, model, device)
        num_failed = _parse_shard(parts, shards[number], parser, config)
        total_failed = world.tally("failed", num_failed)
        done = world.tally("parsed", shards[number].num_sentences)
        progress.figures(failures=total_failed)
        progress.reached(before + done)


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
    device: str,
    workers: int,
    progress: Progress,
) -> None:
    devices = worker_devices(device, workers)
    num_failed = 0
    with worker_pool(min(workers, max(1, len(shards))), _start_worker, parts, config, model, devices) as pool:
        for finished in as_completed([pool.submit(_parse_in_worker, shard) for shard in shards]):
            num_sentences, failed = finished.result()
            num_failed += failed
            progress.figures(failures=num_failed)
            progress.update(num_sentences)


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
        raise InputError(
            f"{parts.text}.txt:{shard.first + number + 1}: {outcomes[number].reason} {outcomes[number].detail}"
            f"({texts[number][:60]!r}); expected a sentence that can be parsed. Shorten it, or use --on-failure flat or skip"
        )
    parts.write(shard, outcomes)
    return len(failed)


def _finish(parts: Parts, shards: Sequence[Shard], out_stem: Path, on_failure: str) -> dict[str, Json]:
    """Put the shards together and return the summary."""
    description = parts.description() or {}
    there = [suffix for suffix in (SUFFIX, SPEAKERS_SUFFIX) if _beside(parts.text, suffix).exists()]
    table = _beside(parts.text, TABLE_SUFFIX)
    # Trees come last: where they are, everything is.
    suffixes = [".txt", FAILURES_SUFFIX, *there, *[TABLE_SUFFIX] * table.exists(), ".mrg"]
    reasons: Counter[str] = Counter()
    num_trees = 0
    documents: set[str] = set()
    with written_whole([_beside(out_stem, suffix) for suffix in suffixes]) as files:
        out = dict(zip(suffixes, files, strict=True))
        out[FAILURES_SUFFIX].write("sentence\tdocument\treason\tdetail\tnow\ttext\n")
        lines = zip(*(_read(parts.text, suffix, there) for suffix in (".txt", SUFFIX, SPEAKERS_SUFFIX)), strict=False)
        rows = (row for shard in shards for row in parts.rows(shard))
        for number, (row, (text, document, speaker)) in enumerate(zip(rows, lines, strict=False), 1):
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
        if (dropped := _beside(parts.text, DROPPED_SUFFIX)).exists():
            write_atomically(_beside(out_stem, DROPPED_SUFFIX), dropped.read_bytes())
        summary: dict[str, Any] = {
            "num_sentences": sum(shard.num_sentences for shard in shards),
            "num_trees": num_trees,
            "failures": dict(sorted(reasons.items())),
            "on_failure": on_failure,
        }
        about = {**summary, "text": description["gathered"], "made_from": description["depends_on"]}
        write_atomically(_beside(out_stem, DESCRIPTION_SUFFIX), (json.dumps(about, indent=2) + "\n").encode())
    return {"trees": str(_beside(out_stem, ".mrg")), "text": description["gathered"], **summary}


def _read(stem: Path, suffix: str, there: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a file beside the text; nothing but empty ones where there is none."""
    if suffix != ".txt" and suffix not in there:
        yield from repeat("")  # without end
    with _beside(stem, suffix).open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def _digest(path: Path) -> str:
    """Return the sha256 of a file, or of the names and sizes of a folder's files."""
    if path.is_dir():
        return json.dumps({str(file.relative_to(path)): file.stat().st_size for file in sorted(path.rglob("*"))})
    try:
        return sha256_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file of text") from error


def _differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    wanted = json.loads(json.dumps(wanted))
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)
