"""Write small random dumps for the tests of this folder: real distributions, reduced in an obvious, slow way."""

import mmap
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.dump.positions import Positions
from storage.dump.schema import DumpSchema
from storage.dump.writer import DumpWriter

LENGTHS = [5, 1, 7, 30, 40, 2, 9]
"""Positions of the sentences of a dump that most tests use: three shards of 32."""
FINGERPRINTS = {name: name[0] * 64 for name in ("dataset", "split", "tokenizer", "teacher")}


def make_schema(lengths: list[int], **changes: object) -> DumpSchema:
    options: dict[str, object] = {
        "num_positions": sum(lengths),
        "num_sentences": len(lengths),
        "vocab_size": 50,
        "k": 6,
        "temperatures": (1.0, 2.0),
        "shard_positions": 32,
        "chunk_positions": 8,
        "tree_source": "treebank",
        "split": "train",
        "fingerprints": FINGERPRINTS,
        "computation": {"threads": 1, "dtype": "float32"},
        **changes,
    }
    return DumpSchema(**options)  # type: ignore[arg-type]


def make_offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def full_distributions(schema: DumpSchema, seed: int = 0) -> NDArray[np.float64]:
    """Return natural log-probabilities over the whole vocabulary, ``[N, V]`` float64."""
    logits = np.random.default_rng(seed).normal(0, 2, (schema.num_positions, schema.vocab_size))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def make_positions(schema: DumpSchema, seed: int = 0) -> Positions:
    log_probs = full_distributions(schema, seed)
    tokens = np.random.default_rng(seed + 1).integers(0, schema.vocab_size, schema.num_positions)
    ids = np.argsort(-log_probs, axis=1, kind="stable")
    if schema.num_draws:
        return _with_draws(schema, log_probs, tokens, ids, seed)
    rows = np.arange(schema.num_positions)
    tempered = [np.exp(log_probs / temperature) for temperature in schema.temperatures]
    with np.errstate(divide="ignore"):
        tail = [np.log(np.take_along_axis(p, ids[:, schema.k :], 1).sum(1) / p.sum(1)) for p in tempered]
    return Positions(
        tokens=tokens.astype(schema.token_dtype),
        ids=ids[:, : schema.k].astype(schema.token_dtype),
        logp=np.take_along_axis(log_probs, ids[:, : schema.k], 1).astype(np.float16),
        gold_logp=log_probs[rows, tokens].astype(np.float32),
        tail=np.stack(tail, axis=1).astype(np.float32),
        logz=np.stack([np.log(p.sum(1)) for p in tempered], axis=1).astype(np.float32),
    )


def _with_draws(
    schema: DumpSchema, log_probs: NDArray[np.float64], tokens: NDArray[np.int64], order: NDArray[np.int64], seed: int
) -> Positions:
    """Return the rows of a sampled or stratified dump, computed one after the other."""
    generator = np.random.default_rng(seed + 2)
    shape = (schema.num_positions, schema.k)
    ids, logp = np.full(shape, np.iinfo(schema.token_dtype).max, schema.token_dtype), np.full(shape, np.nan, np.float16)
    counts, tail = np.zeros(shape, np.uint8), np.zeros((schema.num_positions, len(schema.temperatures)), np.float32)
    for row, (log_p, ranked) in enumerate(zip(log_probs, order, strict=True)):
        top, others = ranked[: schema.num_top], ranked[schema.num_top :]
        p = np.exp(log_p[others])
        drawn = generator.choice(others, schema.num_draws, p=p / p.sum())
        distinct = [token for token in others if token in drawn]
        kept = np.array([*top, *distinct])
        ids[row, : len(kept)], logp[row, : len(kept)] = kept, log_p[kept]
        counts[row, schema.num_top : len(kept)] = [(drawn == token).sum() for token in distinct]
        if schema.num_top:
            for t, temperature in enumerate(schema.temperatures):
                tempered = np.exp(log_p / temperature)
                tail[row, t] = np.log(tempered[others].sum() / tempered.sum())
    return Positions(
        tokens=tokens.astype(schema.token_dtype),
        ids=ids,
        logp=logp,
        gold_logp=log_probs[np.arange(len(tokens)), tokens].astype(np.float32),
        tail=tail,
        logz=np.stack([np.log(np.exp(log_probs / t).sum(1)) for t in schema.temperatures], axis=1).astype(np.float32),
        counts=counts,
    )


def write_shards(writer: DumpWriter, positions: Positions, shards: list[int]) -> None:
    for shard in shards:
        rows = writer.schema.layout.rows_of(shard)
        writer.write_shard(shard, positions.slice(rows.start, rows.stop))


def write_dump(path: Path, schema: DumpSchema, lengths: list[int], positions: Positions | None = None) -> Positions:
    rows = make_positions(schema) if positions is None else positions
    with DumpWriter.open(path, schema, make_offsets(lengths), main=True) as writer:
        write_shards(writer, rows, writer.pending())
        writer.finish()
    return rows


def store_bytes(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def assert_same(found: Positions, expected: Positions) -> None:
    assert found.arrays().keys() == expected.arrays().keys()
    for name, mine in found.arrays().items():
        theirs = getattr(expected, name)
        assert mine.dtype == theirs.dtype, name
        assert mine.shape == theirs.shape, name
        assert mine.tobytes() == np.ascontiguousarray(theirs).tobytes(), name


def pick(positions: Positions, rows: NDArray[np.int64]) -> Positions:
    return Positions(**{name: array[rows] for name, array in positions.arrays().items()})


def mapped(file: FileIO) -> mmap.mmap:
    """Map a file, close it and return its bytes."""
    with file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
