"""Export a dump as parquet files with the columns that other programs read.

    OUT/data/SPLIT-00000-of-00002.parquet, …       one row per sentence, in the order of the split
    OUT/tokenizer.json, OUT/README.md              the tokenizer, and a card that names the columns

``datasets.load_dataset("OUT")`` loads the files. The columns have one of three formats. k is the number of tokens that
the dump keeps per position, and a sentence of n tokens has n + 1 positions.

- ``datasets``: ``input_ids`` (``<bos>`` and the tokens), and the arrays of the dump under their names in
  docs/format.md, with n + 1 entries each. An entry of ``tail`` or ``logz`` has one value per temperature.
  ``logp`` becomes float32, and integers become int32.
- ``distillkit`` (github.com/arcee-ai/DistillKit, ``compression/compressor.py``): ``input_ids`` (``<bos>`` and the
  tokens), ``token_ids``, and ``top_values`` (the log-probabilities at T = 1). Entry i is the distribution after
  ``input_ids[i]``. ``input_ids`` has no ``<eos>``, so DistillKit's cross-entropy does not cover ``<eos>``; its KL does.
- ``axolotl`` (github.com/axolotl-ai-cloud/axolotl, ``integrations/kd``): ``input_ids`` with ``<bos>`` and ``<eos>``,
  ``attention_mask``, ``labels``, ``target_token_ids``, ``target_logprobs`` and ``target_mask``, n + 2 entries each.
  The log-probabilities are renormalised over the k tokens. The last entry, after ``<eos>``, is masked.

``distillkit`` and ``axolotl`` lose the mass of the other tokens and the temperatures other than 1.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.dumping.dump_card import tokenizer_of_dump
from pipeline.dumping.exchange_config import ExportFormat
from pipeline.runtime.progress import Progress
from storage.dump.layout import sentence_blocks
from storage.dump.manifest import CARD, TOKENIZER
from storage.dump.positions import Positions
from storage.dump.reader import DumpReader
from storage.errors import StoreError
from storage.files import cannot_write, fsync, make_directory, new_folder, write_atomically
from storage.fingerprints import check_fingerprint
from storage.locations import Location
from storage.ragged import concatenated_ranges

POSITIONS_PER_FILE = 1 << 20
"""Positions per file: about 400 MB before compression at k = 64."""
POSITIONS_PER_BLOCK = 1 << 14
"""Positions that are in memory at a time. They make one row group of a file."""
IGNORED, NO_LOGP = -100, -1e9
"""The label and the log-probability of positions that do not count in axolotl."""

Columns = dict[str, tuple[NDArray[np.int64], NDArray[Any]]]
"""For each column, two arrays: the number of entries of each sentence, and the entries of all sentences one after the
other, ``[N]`` or ``[N, k]``. N is the number of entries of all sentences together."""


def export_dump(dump: Location, out: Path, *, form: ExportFormat, tokenizer: Path | None = None) -> dict[str, Any]:
    """Write a dump as a folder of parquet files; return the summary that ``export-dump`` prints.

    Args:
        dump: A complete dump.
        out: The folder to make. If the export fails, it leaves no folder.
        form: The format of the columns.
        tokenizer: The tokenizer.json of the dump's dataset; only for a dump that an older version wrote without one.

    Raises:
        StoreError: If ``out`` exists, if the dump is incomplete, or if ``tokenizer`` is None and the dump holds no
            tokenizer. Also if the dump holds randomly drawn tokens and the format is not ``datasets``.
        CorruptStoreError: If a checksum is wrong.
        FingerprintMismatchError: If the tokenizer is not that of the dump.
    """
    import pyarrow as pa  # noqa: PLC0415  an extra installs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    reader = DumpReader(dump)
    chosen = tokenizer_of_dump(reader.folder) if tokenizer is None else Tokenizer.load(tokenizer)
    expected, remedy = reader.schema.fingerprints["tokenizer"], "Give the tokenizer.json of the dump's dataset"
    check_fingerprint(f"{tokenizer or reader.folder}: tokenizer", found=chosen.sha256, expected=expected, remedy=remedy)
    if reader.schema.num_draws and form != "datasets":
        raise StoreError(
            f"{reader.folder}: selection is {reader.schema.selection}, expected topk for --format {form}. Give "
            "--format datasets, or a dump of the top k"
        )
    split, total = reader.schema.split, reader.schema.num_positions
    num_files = max(1, -(-total // POSITIONS_PER_FILE))
    columns: Mapping[str, str] = {}
    with new_folder(out) as partial, Progress("export", total=total, unit="positions") as progress:
        make_directory(partial / "data")
        try:
            for number in range(num_files):
                file = partial / "data" / f"{split}-{number:05d}-of-{num_files:05d}.parquet"
                writer = None
                for sentences in _blocks(reader, number, num_files):
                    found = _COLUMNS[form](sentences, reader, chosen)
                    table = pa.table({name: _lists(pa, *values) for name, values in found.items()})
                    writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
                    writer.write_table(table)
                    columns = {field.name: str(field.type) for field in table.schema}
                    progress.update(int(reader.offsets[sentences.stop] - reader.offsets[sentences.start]))
                if writer is not None:
                    writer.close()
                    fsync(file)
            fsync(partial / "data")
        except OSError as error:
            raise cannot_write(out, error) from error
        write_atomically(partial / TOKENIZER, chosen.data)
        write_atomically(partial / CARD, _card(reader, form, columns).encode())
    return {
        "exported": str(out), "format": form, "num_sentences": len(reader), "num_positions": total, "columns": columns
    }  # fmt: skip


def _blocks(reader: DumpReader, file: int, num_files: int) -> Iterator[range]:
    """Yield the sentences of a file, in ranges of about ``POSITIONS_PER_BLOCK`` positions.

    The positions of the split are divided evenly among the files.
    """
    edges = sentence_blocks(reader.offsets, POSITIONS_PER_BLOCK).tolist()
    per_file = -(-reader.schema.num_positions // num_files)
    for first, stop in itertools.pairwise(edges):
        if int(reader.offsets[first]) // max(1, per_file) == file:
            yield range(first, stop)


def _read(sentences: range, reader: DumpReader) -> tuple[Positions, NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of some sentences, and the number of positions and the first position of each sentence."""
    offsets = reader.offsets[sentences.start : sentences.stop + 1]
    return reader.read_range(int(offsets[0]), int(offsets[-1])), np.diff(offsets), offsets[:-1] - offsets[0]


def _inputs(gold: NDArray[Any], starts: NDArray[np.int64], bos_id: int) -> NDArray[np.int32]:
    """Return ``<bos>`` and the tokens of each sentence."""
    inputs = np.empty(len(gold), np.int32)
    inputs[1:] = gold[:-1]
    inputs[starts] = bos_id
    return inputs


def _for_datasets(sentences: range, reader: DumpReader, tokenizer: Tokenizer) -> Columns:
    rows, lengths, starts = _read(sentences, reader)
    columns: Columns = {"input_ids": (lengths, _inputs(rows.tokens, starts, tokenizer.bos_id))}
    for name, values in rows.arrays().items():
        dtype = {"f": np.float32, "u": np.int32}[values.dtype.kind]
        columns[name] = (lengths, values.astype(dtype))
    # If tokens were drawn at random, a position may have fewer than k tokens. The dump then fills up the ids with the
    # highest value of their type, which may not fit into int32. Here these values become -1.
    if rows.counts is not None:
        columns["ids"] = (lengths, np.where(np.isnan(rows.logp), -1, rows.ids.astype(np.int64)).astype(np.int32))
    return columns


def _for_distillkit(sentences: range, reader: DumpReader, tokenizer: Tokenizer) -> Columns:
    rows, lengths, starts = _read(sentences, reader)
    return {
        "input_ids": (lengths, _inputs(rows.tokens, starts, tokenizer.bos_id)),
        "token_ids": (lengths, rows.ids.astype(np.int32)),
        "top_values": (lengths, rows.logp.astype(np.float32)),
    }


def _for_axolotl(sentences: range, reader: DumpReader, tokenizer: Tokenizer) -> Columns:
    rows, lengths, starts = _read(sentences, reader)
    longer = lengths + 1
    begins = np.cumsum(longer) - longer
    own = concatenated_ranges(begins, lengths)  # all entries except the <eos> of each sentence
    input_ids = np.full(int(longer.sum()), tokenizer.eos_id, np.int32)
    input_ids[own] = _inputs(rows.tokens, starts, tokenizer.bos_id)
    labels = input_ids.copy()
    labels[begins] = IGNORED
    logp = rows.logp.astype(np.float32)
    logp -= np.logaddexp.reduce(logp, axis=1, keepdims=True)
    shape = (len(input_ids), reader.schema.k)
    ids, log_probs, mask = np.zeros(shape, np.int32), np.full(shape, NO_LOGP, np.float32), np.zeros(shape, np.int32)
    ids[own], log_probs[own], mask[own] = rows.ids, logp, 1
    return {
        "input_ids": (longer, input_ids),
        "attention_mask": (longer, np.ones_like(input_ids)),
        "labels": (longer, labels),
        "target_token_ids": (longer, ids),
        "target_logprobs": (longer, log_probs),
        "target_mask": (longer, mask),
    }


_COLUMNS: dict[ExportFormat, Callable[[range, DumpReader, Tokenizer], Columns]] = {
    "datasets": _for_datasets,
    "distillkit": _for_distillkit,
    "axolotl": _for_axolotl,
}


def _lists(pa: Any, lengths: NDArray[np.int64], values: NDArray[Any]) -> Any:  # noqa: ANN401  pyarrow's
    """Return a pyarrow array with one list per sentence. The items of a list are numbers or lists of k numbers."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    inner = pa.array(values.reshape(-1))
    if values.ndim == 2:
        ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
        inner = pa.ListArray.from_arrays(pa.array(ends), inner)
    return pa.ListArray.from_arrays(pa.array(offsets), inner)


def _card(reader: DumpReader, form: ExportFormat, columns: Mapping[str, str]) -> str:
    schema = reader.schema
    lines = "".join(f"| `{name}` | {kind} |\n" for name, kind in columns.items())
    return f"""---
tags:
- knowledge-distillation
configs:
- config_name: default
  data_files:
  - split: {schema.split}
    path: data/{schema.split}-*.parquet
---

# Next-token distributions of a teacher, for {form}

{schema.num_sentences:,} sentences, one per row, with {schema.num_positions:,} positions. k = {schema.k} tokens per
position. Temperatures: {", ".join(f"{each:g}" for each in schema.temperatures)}. Log-probabilities are those at T = 1.
rnng-distill exported these files from the dump whose manifest has the sha256 `{reader.manifest_sha256}`.
The docs/format.md of rnng-distill describes the columns.

| column | type |
| --- | --- |
{lines}
The corpus can be read back from the token ids with `tokenizer.json`. So share the folder only if the licence of the
corpus allows it.
"""
