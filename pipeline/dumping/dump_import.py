"""Make a dump from the distributions of another program: parquet files with the raw columns of DistillKit.

A row has ``input_ids``, ``token_ids`` and ``top_values`` (github.com/arcee-ai/DistillKit,
``compression/compressor.py``). The compressed columns of DistillKit are not read. ``input_ids`` of row m must be
``<bos>``, the tokens of sentence m of a split and, optionally, ``<eos>``. ``token_ids[i]`` are k distinct tokens that
may follow ``input_ids[i]``, and ``top_values[i]`` are their natural log-probabilities.

The dump has only temperature 1, and its condition is ``none`` (a model without trees). Two arrays of the dump are not
in the files, so they are computed:

- ``tail`` is the log of 1 minus the sum of the k probabilities.
- ``gold_logp`` is the log-probability of the gold token. If this token is not among the k tokens, ``gold_logp`` is
  estimated as log(r / (V - k)). Here V is the vocabulary size, and r is the mass of all tokens outside the k, but at
  least 1e-8. So the perplexity of the dump is an estimate. Training does not read ``gold_logp``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.dataset_store import Dataset, load_dataset
from pipeline.dumping.dump_card import companions
from pipeline.dumping.dump_loop import NO_TREES, fingerprints
from pipeline.dumping.exchange_config import ImportDumpConfig
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_directory import command_line
from storage.dump.dump_statistics import DumpSummary
from storage.dump.positions import Positions, joined_positions
from storage.dump.schema import DumpSchema
from storage.dump.writer import DumpWriter
from storage.errors import InputError
from storage.fingerprints import canonical_json, sha256_bytes, sha256_file
from storage.locations import Location, Place, as_folder

COLUMNS = {"input_ids": 1, "token_ids": 2, "top_values": 2}
"""How deep the lists of each column are nested."""
ROWS = 256
"""Rows of a file that are in memory at a time."""
MOST_MASS = 1.001
"""Largest allowed sum of a position's k probabilities. Rounding to bfloat16 can lift a sum slightly above 1."""
LEAST_TAIL = 1e-8


def import_dump(source: Path, data: Place, out: Location, config: ImportDumpConfig) -> DumpSummary:
    """Write the distributions of parquet files into the store ``out``, or finish a dump that was interrupted there.

    Args:
        source: A parquet file, or a folder with ``*.parquet`` or ``data/*.parquet``, read in the order of names.
        data: The dataset. Row m of the files is sentence m of the split.
        out: Where to write the dump.
        config: The options.

    Raises:
        InputError: If a file cannot be read, or a row does not belong to its sentence or has impossible values.
        StoreError: If ``out`` holds something else, is being written by another process, or cannot be written.
    """
    import pyarrow as pa  # noqa: PLC0415  an extra installs it

    dataset, files = load_dataset(data), _files(source)
    split = dataset.split(config.split)
    digest = sha256_bytes(canonical_json([sha256_file(file) for file in files]))
    schema = DumpSchema(
        num_positions=split.num_positions,
        num_sentences=split.num_sentences,
        vocab_size=dataset.tokenizer.vocab_size,
        k=_num_columns(files),
        temperatures=(1.0,),
        shard_positions=config.shard_positions,
        condition="none",
        tree_source=NO_TREES["none"],
        split=split.name,
        fingerprints=fingerprints(dataset, split.name, [digest]),
        computation={"imported from": "DistillKit's columns", "pyarrow": pa.__version__},
    )
    with DumpWriter.open(as_folder(out), schema, split.position_offsets, main=True) as writer:
        writer.log({"event": "begin", "command": command_line()})
        pending = set(writer.pending())
        with Progress("import", total=schema.num_positions, unit="positions") as progress:
            waiting: list[Positions] = []
            shard, num_waiting = 0, 0
            for rows in _sentences(files, dataset, schema):
                waiting.append(rows)
                num_waiting += len(rows)
                progress.update(len(rows))
                while shard < schema.layout.num_shards and num_waiting >= (size := len(schema.layout.rows_of(shard))):
                    together = joined_positions(waiting)
                    if shard in pending:
                        writer.write_shard(shard, together.slice(0, size))
                    waiting, num_waiting = [together.slice(size, num_waiting)], num_waiting - size
                    shard += 1
        summary = writer.finish(companions=lambda found: companions(schema, found, dataset.tokenizer))
        writer.log({"event": "complete", "command": command_line()})
        return summary


def _files(source: Path) -> list[Path]:
    found = [source] if source.is_file() else sorted(source.glob("*.parquet")) or sorted(source.glob("data/*.parquet"))
    if not found:
        raise InputError(f"{source}: no parquet files, expected a file, or a folder with *.parquet. Check the path")
    return found


def _num_columns(files: list[Path]) -> int:
    """Return k: the number of tokens at the first position of the first row."""
    for _, _, row in _rows(files):
        return max(1, len((row["token_ids"] or [[]])[0] or []))
    return 1


def _rows(files: list[Path]) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Yield each row with its file and its number in the file.

    Raises:
        InputError: If a file is not parquet, or lacks a column.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    for file in files:
        try:
            with pq.ParquetFile(file) as parquet:
                kinds = dict(zip(parquet.schema_arrow.names, parquet.schema_arrow.types, strict=True))
                if wrong := [name for name, depth in COLUMNS.items() if _depth(kinds.get(name)) != depth]:
                    raise InputError(
                        f"{file}: no column {' and no column '.join(wrong)} of the right type, expected input_ids (a "
                        "list of numbers), and token_ids and top_values (k numbers per position). Capture the columns "
                        "without compression"
                    )
                number = 0
                for batch in parquet.iter_batches(ROWS, columns=list(COLUMNS)):
                    for row in batch.to_pylist():
                        yield file, number, row
                        number += 1
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file}: cannot be read as parquet ({error}). Fetch or export the file again") from error


def _depth(kind: Any) -> int:  # noqa: ANN401  a type of pyarrow
    """Return how deep lists are nested in a column; -1 without a column."""
    return 1 + _depth(kind.value_type) if hasattr(kind, "value_type") else -1 if kind is None else 0


def _sentences(files: list[Path], dataset: Dataset, schema: DumpSchema) -> Iterator[Positions]:
    """Yield the positions of each sentence of the split."""
    split, tokenizer = dataset.split(schema.split), dataset.tokenizer
    sentence = 0
    for file, number, row in _rows(files):
        where = f"{file}: row {number}"
        if sentence == split.num_sentences:
            raise InputError(f"{where}: more rows than the {sentence:,} sentences of split {split.name}. {_REMEDY}")
        tokens = split.tokens[sentence].tolist()
        expected = [tokenizer.bos_id, *tokens, tokenizer.eos_id]
        if row["input_ids"] not in (expected, expected[:-1]):
            raise InputError(
                f"{where}: input_ids are {_shown(row['input_ids'])}, expected {_shown(expected)}: <bos> and the "
                f"tokens of sentence {sentence} of split {split.name}. {_REMEDY}"
            )
        yield _positions(row, np.array(expected[1:]), schema, where=where)
        sentence += 1
    if sentence < split.num_sentences:
        raise InputError(
            f"{files[-1]}: {sentence:,} rows in all, expected the {split.num_sentences:,} sentences of split "
            f"{split.name}. {_REMEDY}"
        )


_REMEDY = "Give one row per sentence, in the order of the dataset"


def _positions(row: dict[str, Any], gold: NDArray[np.int64], schema: DumpSchema, *, where: str) -> Positions:
    """Return the positions of a sentence.

    Raises:
        InputError: If lengths, ids or log-probabilities are impossible.
    """
    shape = (len(gold), schema.k)
    try:
        ids = np.array(row["token_ids"][: len(gold)], np.int64)
        log_probs = np.array(row["top_values"][: len(gold)], np.float64)
    except (TypeError, ValueError):  # lists of different lengths, or nulls
        ids, log_probs = np.zeros(0, np.int64), np.zeros(0)
    if ids.shape != shape or log_probs.shape != shape:
        raise InputError(
            f"{where}: token_ids or top_values are not {shape[0]} lists of {shape[1]} numbers, one list for each "
            "position from <bos> on. Capture the same number of tokens at every position"
        )
    by_id = np.sort(ids, axis=1)
    mass = np.exp(log_probs).sum(axis=1)
    if by_id[:, 0].min() < 0 or by_id[:, -1].max() >= schema.vocab_size or (by_id[:, 1:] == by_id[:, :-1]).any():
        raise InputError(f"{where}: token_ids are not distinct ids below {schema.vocab_size}. Check the tokenizer")
    if not (mass <= MOST_MASS).all() or (log_probs > 1e-3).any():
        raise InputError(
            f"{where}: the probabilities of a position add up to {mass.max():.4g}, expected at most 1: top_values must "
            "be natural log-probabilities at temperature 1. Capture log-probabilities, not logits"
        )
    order = np.lexsort((ids, -log_probs), axis=1)
    ids, log_probs = np.take_along_axis(ids, order, 1), np.take_along_axis(log_probs, order, 1)
    rest = np.maximum(0.0, 1 - mass) if schema.k < schema.vocab_size else np.zeros_like(mass)
    is_gold = ids == gold[:, None]
    share = np.log(np.maximum(rest, LEAST_TAIL) / max(1, schema.vocab_size - schema.k))
    gold_logp = np.where(is_gold.any(1), np.where(is_gold, log_probs, 0.0).sum(1), share)
    with np.errstate(divide="ignore"):
        tail = np.log(rest)[:, None]
    return Positions(
        tokens=gold.astype(schema.token_dtype),
        ids=ids.astype(schema.token_dtype),
        logp=np.minimum(log_probs, 0.0).astype(np.float16),
        gold_logp=np.maximum(gold_logp, np.finfo(np.float32).min).astype(np.float32),
        tail=tail.astype(np.float32),
        logz=np.zeros((len(gold), 1), np.float32),
    )


def _shown(ids: object) -> str:
    text = str(ids)
    return text if len(text) <= 60 else f"{text[:60]}…"
