"""Dump the next-token distributions of a model for a whole split, shard by shard, into a store.

A shard is a range of positions that is written as a whole. A batch holds sentences of one shard only, in the order of
the corpus. A sentence that crosses a shard boundary is computed for both shards. So the bytes of a shard do not depend
on rank, world size, the order of the shards or interruptions. Each process claims the next free shard.

A fold is a part of the split's sentences. A cross-fitted dump has one model per fold. Each model computes only the
sentences of one fold, on which it was not trained. The sentences of a shard are computed fold by fold.

While the model computes, one thread prepares the next batches, and another encodes and writes the previous shard.
Memory holds:

- the rows of two shards, one row per position (26 MB per shard at k = 64 and 65,536 positions),
- for the shard that is being written, a copy of its ids in the dump's integer type, and one encoded array (8 MB each),
- two batches, and a few arrays as large as the logits of ``LOGIT_ROWS`` rows.

A cross-fitted dump needs one more copy of the rows of a shard.
"""

import contextlib
import functools
import itertools
import operator
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pipeline.corpus.dataset.dataset_store import Dataset, Split
from pipeline.dumping.dump_card import companions
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.next_token import LOGIT_ROWS, MixtureModel, NextTokenModel, append_eos
from pipeline.dumping.reduction import Reduced, draw_generator, reduce_logits
from pipeline.runtime.background import ReadAhead, WriteBehind
from pipeline.runtime.distributed import World, device_model
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_directory import command_line, versions
from pipeline.training.batching import consecutive_batches
from storage.dump.dump_statistics import DumpSummary
from storage.dump.layout import sentences_of_range
from storage.dump.positions import Positions
from storage.dump.schema import DumpSchema, teacher_names
from storage.dump.writer import DumpWriter
from storage.fingerprints import Json
from storage.locations import Location, as_folder
from storage.ragged import concatenated_ranges

NO_TREES = {
    "beam": "none: marginal by beam search",
    "none": "none: the words before alone",
    "exact": "none: exact sum over the grammar's trees",
}
"""The text that a dump records as its ``tree_source``, for each condition except ``tree``. A dump with condition
``tree`` records the ``tree_source`` of its dataset, which says where the trees come from."""


@dataclass(frozen=True, kw_only=True)
class DumpJob:
    """Everything that decides the content of a dump."""

    models: Sequence[NextTokenModel]
    """The model, or one model per fold of the split in the order of the folds; on ``device`` and in evaluation mode."""
    dataset: Dataset
    """The training dataset of the models, or another dataset with the same tokenizer and labels."""
    config: DumpConfig
    teachers: Sequence[str]
    """Fingerprints of the models."""
    device: torch.device
    search: Mapping[str, int | str] = field(default_factory=dict)
    """More settings for the dump to record: the sizes of a beam search, or the version of a library."""
    trained_on: Sequence[Json] = ()
    """The texts that the models were trained on, as ``pipeline.corpus.text.word_budget.to_json`` returns them. They are
    written into the dump's history."""

    @functools.cached_property
    def split(self) -> Split:
        """The split to dump.

        Raises:
            InputError: If the dataset has no such split.
        """
        return self.dataset.split(self.config.split)

    @functools.cached_property
    def schema(self) -> DumpSchema:
        """The schema of the dump."""
        return DumpSchema(
            **self.config.schema_fields(),
            num_positions=self.split.num_positions,
            num_sentences=self.split.num_sentences,
            vocab_size=self.models[0].vocab_size,
            tree_source=NO_TREES.get(self.config.condition, self.dataset.tree_source),
            fingerprints=fingerprints(self.dataset, self.config.split, self.teachers),
            computation={
                "threads": torch.get_num_threads(),
                "batch_tokens": self.config.batch_tokens,
                "dtype": "float32",
                "device": device_model(self.device),
                **versions(),
                **self.search,
            },
        )


def fingerprints(dataset: Dataset, split: str, teachers: Sequence[str]) -> dict[str, str]:
    """Return the sha256 of what a dump is made from, by name: dataset, split, tokenizer and each teacher.

    Raises:
        InputError: If the dataset has no such split.
    """
    return {
        "dataset": dataset.sha256,
        "split": dataset.split(split).sha256,
        "tokenizer": dataset.tokenizer.sha256,
        **dict(zip(teacher_names(len(teachers)), teachers, strict=True)),
    }


def dump(job: DumpJob, out: Location, world: World) -> DumpSummary | None:
    """Write a dump into the store ``out``, or finish a dump that was interrupted there.

    All processes share the work. ``OUT.history.jsonl`` next to the store records when and where the dump was written.

    Returns:
        The statistics of the finished dump on the main rank, None on the other ranks.
    """
    schema = job.schema
    with contextlib.ExitStack() as stack:
        todo = torch.zeros(schema.layout.num_shards, dtype=torch.uint8)
        opened = functools.partial(DumpWriter.open, as_folder(out), schema, job.split.position_offsets)
        main_writer = world.on_main(lambda: stack.enter_context(opened(main=True)))
        if main_writer is not None:
            main_writer.log({**_event("begin", world), "trained_on": list(job.trained_on)})
            todo[main_writer.pending()] = 1
        world.broadcast(todo)
        # Processes claim shards with a counter. Its name is random, so that an earlier dump's counter is not continued.
        claims = world.share(secrets.token_bytes(8)).hex()
        writer = main_writer or stack.enter_context(opened(main=False))
        pending = todo.nonzero()[:, 0].tolist()
        num_positions = sum(len(schema.layout.rows_of(shard)) for shard in pending)

        def claimed_batches() -> Iterator[ShardBatch]:
            while (turn := world.claim(claims)) < len(pending):
                yield from shard_batches(job, pending[turn])

        with (
            Progress("dump", total=num_positions, unit="positions", shown=world.is_main) as progress,
            ReadAhead(claimed_batches()) as stream,
            WriteBehind() as behind,
        ):

            def counted(batches: Iterable[ShardBatch]) -> Iterator[ShardBatch]:
                for batch in batches:
                    yield batch
                    progress.reached(world.tally(claims, len(batch.gold)))

            for shard, batches in itertools.groupby(stream, key=operator.attrgetter("shard")):
                rows = compute_shard(job.models, schema, shard, counted(batches), device=job.device)
                behind.submit(functools.partial(_write, writer, shard, rows))
            behind.wait()
            world.barrier()
            progress.reached(num_positions)
        if not world.is_main:
            return None
        with Progress("verify", total=len(todo), unit="shards") as progress:
            summary = writer.finish(progress.update, lambda found: companions(schema, found, job.dataset.tokenizer))
        writer.log(_event("complete", world))
        return summary


def _event(what: str, world: World) -> dict[str, str | int]:
    """Return a line for the dump's history."""
    return {"event": what, "host": socket.gethostname(), "world_size": world.size, "command": command_line()}


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardBatch:
    """Some positions of one shard, ready for the model."""

    shard: int
    """Index of the shard."""
    model: int
    """Index of the model that computes the batch."""
    rows: np.ndarray
    """int64 ``[P]``, rising: the positions to store, counted from the start of the shard."""
    inputs: Any
    """What the model's ``prepare`` returned for the whole sentences of the batch."""
    inside: slice
    """Which positions of these sentences are in the shard."""
    gold: np.ndarray
    """int64 ``[P]``: the gold tokens of the positions in ``rows``."""


def shard_batches(job: DumpJob, shard: int) -> Iterator[ShardBatch]:
    """Yield the batches of a shard in order. They depend only on the dataset, the shard and ``batch_tokens``."""
    for sentences in batch_sentences(job, shard):
        yield prepare_batch(job, shard, sentences)


def batch_sentences(job: DumpJob, shard: int) -> list[np.ndarray]:
    """Return the sentences of each batch of a shard, as int64 indices in rising order."""
    offsets = job.split.position_offsets
    sentences = np.array(sentences_of_range(offsets, job.schema.layout.rows_of(shard)), np.int64)
    groups = [sentences]
    if len(job.models) > 1:
        folds = job.split.folds[sentences]
        groups = [sentences[folds == fold] for fold in range(1, len(job.models) + 1)]
    return [
        group[low:high]
        for group in groups
        for low, high in consecutive_batches(offsets[group + 1] - offsets[group], job.config.batch_tokens)
    ]


def prepare_batch(job: DumpJob, shard: int, sentences: np.ndarray) -> ShardBatch:
    """Return the batch of some sentences of a shard. In a cross-fitted dump they must be of one fold."""
    rows, split = job.schema.layout.rows_of(shard), job.split
    tokens = split.tokens.take(sentences)
    positions = concatenated_ranges(split.tokens.offsets[sentences] + sentences, tokens.lengths + 1)
    inside = slice(*np.searchsorted(positions, [rows.start, rows.stop]).tolist())
    model = int(split.folds[sentences[0]]) - 1 if len(job.models) > 1 else 0
    return ShardBatch(
        shard=shard,
        model=model,
        rows=positions[inside] - rows.start,
        inputs=job.models[model].prepare(tokens, split.actions.take(sentences)),
        inside=inside,
        gold=append_eos(tokens, job.dataset.tokenizer.eos_id).values[inside],
    )


class ShardRows:
    """Collect the rows of a shard on the CPU. A GPU copies them in the background; ``finished`` waits for this."""

    def __init__(self, schema: DumpSchema, shard: int, device: torch.device, *, of_mixtures: bool) -> None:
        self._schema = schema
        num_rows = len(schema.layout.rows_of(shard))
        on_gpu = device.type != "cpu"
        shapes = {"ids": (schema.k,), "logp": (schema.k,), "gold_logp": ()}
        shapes |= dict.fromkeys(("tail", "logz"), (len(schema.temperatures),))
        if schema.num_draws:
            shapes["counts"] = (schema.k,)
        dtypes = {"ids": torch.int32, "logp": torch.float16, "counts": torch.uint8}
        self._gold = np.empty(num_rows, schema.token_dtype)
        self._rows = np.empty(num_rows, np.int64)
        self._num_put = 0
        self._kept = {
            name: torch.empty((num_rows, *shape), dtype=dtypes.get(name, torch.float32), pin_memory=on_gpu)
            for name, shape in shapes.items()
        }
        self._num_effective = torch.empty(num_rows, pin_memory=on_gpu) if of_mixtures else None
        self._copied = torch.Event(device) if on_gpu else None

    def put(self, rows: np.ndarray, gold: np.ndarray, reduced: Reduced, num_effective: torch.Tensor | None) -> None:
        """Store computed rows.

        Args:
            rows: int64 ``[n]``, indices within the shard.
            gold: int64 ``[n]``, gold tokens.
            reduced: The n distributions.
            num_effective: ``[n]``, the effective number of hypotheses of each row (``MixtureModel.num_effective``);
                None without a beam search.
        """
        at = slice(self._num_put, self._num_put + len(gold))
        self._num_put = at.stop
        self._rows[at] = rows
        self._gold[at] = gold
        for name, kept in self._kept.items():
            # Convert on the device first: a copy that also converts would block.
            kept[at].copy_(getattr(reduced, name).to(kept.dtype), non_blocking=True)
        if self._num_effective is not None and num_effective is not None:
            self._num_effective[at].copy_(num_effective, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def finished(self) -> tuple[Positions, np.ndarray | None]:
        """Return the rows in the order of the shard, and their effective numbers of hypotheses.

        The effective numbers are float32 ``[n]``; None without a beam search.
        """
        if self._copied is not None:
            self._copied.synchronize()
        arrays = {"tokens": self._gold} | {name: tensor.numpy() for name, tensor in self._kept.items()}
        num_effective = self._num_effective.numpy() if self._num_effective is not None else None
        if (np.diff(self._rows) < 0).any():  # only if the shard was computed fold by fold
            order = np.argsort(self._rows)
            arrays = {name: array[order] for name, array in arrays.items()}
            num_effective = num_effective[order] if num_effective is not None else None
        return Positions(**arrays | {"ids": arrays["ids"].astype(self._schema.token_dtype)}), num_effective


@torch.no_grad()
def compute_shard(
    models: Sequence[NextTokenModel],
    schema: DumpSchema,
    shard: int,
    batches: Iterable[ShardBatch],
    *,
    device: torch.device,
) -> ShardRows:
    """Return all rows of a shard, computed from its batches. The models must be in evaluation mode."""
    kept = ShardRows(schema, shard, device, of_mixtures=isinstance(models[0], MixtureModel))
    generator = draw_generator(schema.draw_seed, shard, device)
    for batch in batches:
        model = models[batch.model]
        states = model.states(batch.inputs)[batch.inside]
        for row in range(0, len(states), LOGIT_ROWS):
            part = slice(row, row + LOGIT_ROWS)
            gold = torch.from_numpy(batch.gold[part]).to(device, non_blocking=True)
            logits = model.logits(states[part]).float()
            reduced = reduce_logits(
                logits, gold, k=schema.k, num_top=schema.num_top, temperatures=schema.temperatures, generator=generator
            )
            num_effective = model.num_effective(states[part]) if isinstance(model, MixtureModel) else None
            kept.put(batch.rows[part], batch.gold[part], reduced, num_effective)
    return kept


def _write(writer: DumpWriter, shard: int, rows: ShardRows) -> None:
    writer.write_shard(shard, *rows.finished())
