"""The dump: any next-token model's distributions of a whole split, shard by shard, into a store.

Batches are cut inside a shard, in corpus order, from (dataset, shard, budget) alone; a sentence across a boundary is
computed whole for both shards. So a shard's bytes depend on nothing else: not on rank, world size, order or
interruptions. Processes claim one shard after another, so a slow one does not hold up the others.

While the model computes a batch, a thread prepares the next ones and another encodes and writes the shard before. What
that holds in memory is two shards of rows (26 MB each at k = 64 and 65,536 positions, ids being int32), the ids of one
of them in their final type and one array of it encoded (8 MB each), two batches, and the logits of 1,024 rows a few
times over; nothing grows with the corpus.

What is kept of a position's distribution is the business of ``pipeline.dumping.reduction``.
"""

import contextlib
import functools
import itertools
import operator
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.corpus.dataset.dataset import Dataset, Split
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
from storage.dump.schema import DumpSchema
from storage.dump.writer import DumpWriter
from storage.locations import Location, as_folder

NO_TREES = {"beam": "none: marginal by beam search", "none": "none: the words before alone"}
"""The source of trees where the condition is not ``tree``."""


def dump(
    model: NextTokenModel,
    dataset: Dataset,
    config: DumpConfig,
    *,
    out: Location,
    teacher: str,
    world: World,
    device: torch.device,
    search: Mapping[str, int] | None = None,
) -> DumpSummary | None:
    """Write a split's distributions into the store ``out``, or finish what an interrupted call began.

    Args:
        model: On ``device``, in evaluation mode.
        dataset: The dataset the model was trained on, or another of the same tokenizer and labels.
        config: What to write.
        out: Where the store lies or will; ``OUT.history.jsonl`` beside it records who wrote it when.
        teacher: Fingerprint of the model.
        world: The processes that share the work.
        device: Recorded by its model name, since it can change bits.
        search: Sizes of the beam search that the model makes where the condition is ``beam``; recorded with the device.

    Returns:
        The finished dump's figures on the main rank, None on the others.
    """
    split = dataset.split(config.split)
    schema = dump_schema(model, dataset, config, teacher=teacher, device=device, search=search)
    eos_id = dataset.tokenizer.eos_id
    with contextlib.ExitStack() as stack:
        todo = torch.zeros(schema.layout.num_shards, dtype=torch.uint8)
        opened = functools.partial(DumpWriter.open, as_folder(out), schema, split.position_offsets)
        main_writer = world.on_main(lambda: stack.enter_context(opened(main=True)))
        if main_writer is not None:
            main_writer.log(_event("begin", world))
            todo[main_writer.pending()] = 1
        world.broadcast(todo)
        turns = torch.tensor([secrets.randbits(62)])  # claims of this call alone, whatever was dumped before
        world.broadcast(turns)
        claims = f"shards of {int(turns)}"
        writer = main_writer or stack.enter_context(opened(main=False))
        pending = todo.nonzero()[:, 0].tolist()
        num_positions = sum(len(schema.layout.rows_of(shard)) for shard in pending)

        def claimed_batches() -> Iterator[ShardBatch]:
            while (turn := world.claim(claims)) < len(pending):
                yield from shard_batches(model, split, schema, pending[turn], eos_id=eos_id)

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
                rows = compute_shard(model, schema, shard, counted(batches), device=device)
                behind.submit(functools.partial(_write, writer, shard, rows))
            behind.wait()
            world.barrier()
            progress.reached(num_positions)
        if not world.is_main:
            return None
        with Progress("verify", total=len(todo), unit="shards") as progress:
            summary = writer.finish(progress.update)
        writer.log(_event("complete", world))
        return summary


def dump_schema(
    model: NextTokenModel,
    dataset: Dataset,
    config: DumpConfig,
    *,
    teacher: str,
    device: torch.device,
    search: Mapping[str, int] | None = None,
) -> DumpSchema:
    """Return what the dump of a split will hold and depend on; arguments as in ``dump``."""
    split = dataset.split(config.split)
    return DumpSchema(
        num_positions=split.num_positions,
        num_sentences=split.num_sentences,
        vocab_size=model.vocab_size,
        k=config.k,
        num_top=config.num_exact,
        temperatures=(1.0, *(t for t in config.temperatures if t != 1)),
        shard_positions=config.shard_positions,
        selection=config.select,
        profile=config.profile,
        draw_seed=config.draw_seed if config.select != "topk" else 0,
        condition=config.condition,
        tree_source=NO_TREES.get(config.condition, dataset.tree_source),
        split=config.split,
        fingerprints=fingerprints(dataset, config.split, teacher),
        computation={
            "threads": torch.get_num_threads(),
            "batch_tokens": config.batch_tokens,
            "dtype": "float32",
            "device": device_model(device),
            **versions(),
            **(search or {}),
        },
    )


def fingerprints(dataset: Dataset, split: str, teacher: str) -> dict[str, str]:
    """Return sha256 of all that the dump of a split is made from.

    Raises:
        InputError: If the dataset has no such split.
    """
    return {
        "dataset": dataset.sha256,
        "split": dataset.split(split).sha256,
        "tokenizer": dataset.tokenizer.sha256,
        "teacher": teacher,
    }


def _event(what: str, world: World) -> dict[str, str | int]:
    """What happened and by whom: true of this call only, so it never goes into the store."""
    return {
        "event": what,
        "host": socket.gethostname(),
        "world_size": world.size,
        "command": command_line(),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardBatch:
    """Some positions of one shard, ready for the model."""

    shard: int
    first: int
    """The first position, within the shard."""
    inputs: Any
    """What the model prepared of whole sentences."""
    inside: slice
    """Which of their positions lie in the shard."""
    gold: np.ndarray
    """int64 ``[P]``: the gold tokens of those."""


def shard_batches(
    model: NextTokenModel, split: Split, schema: DumpSchema, shard: int, *, eos_id: int
) -> Iterator[ShardBatch]:
    """Yield the batches of a shard, in order: a function of the dataset, the shard and the batch budget alone."""
    for sentences in batch_sentences(split, schema, shard):
        yield prepare_batch(model, split, schema, shard, sentences, eos_id=eos_id)


def batch_sentences(split: Split, schema: DumpSchema, shard: int) -> list[range]:
    """Return the sentences of each batch of a shard."""
    offsets = split.position_offsets
    sentences = sentences_of_range(offsets, schema.layout.rows_of(shard))
    lengths = np.diff(offsets[sentences.start : sentences.stop + 1])
    cuts = consecutive_batches(lengths, int(schema.computation["batch_tokens"]))
    return [sentences[low:high] for low, high in cuts]


def prepare_batch(
    model: NextTokenModel, split: Split, schema: DumpSchema, shard: int, sentences: range, *, eos_id: int
) -> ShardBatch:
    """Return the batch of some sentences of a shard."""
    rows = schema.layout.rows_of(shard)
    batch = np.arange(sentences.start, sentences.stop)
    tokens = split.tokens.take(batch)
    begin = int(split.tokens.offsets[sentences.start]) + sentences.start
    inside = slice(max(rows.start - begin, 0), rows.stop - begin)
    return ShardBatch(
        shard=shard,
        first=max(begin, rows.start) - rows.start,
        inputs=model.prepare(tokens, split.actions.take(batch)),
        inside=inside,
        gold=append_eos(tokens, eos_id).values[inside],
    )


class ShardRows:
    """Where the rows of a shard are collected on the CPU while the device computes on.

    A GPU copies into page-locked memory by itself; ``positions`` waits until it has.
    """

    def __init__(self, schema: DumpSchema, shard: int, device: torch.device, *, of_mixtures: bool) -> None:
        self._schema = schema
        num_rows = len(schema.layout.rows_of(shard))
        of_device = device.type != "cpu"
        shapes = {"ids": (schema.k,), "logp": (schema.k,), "gold_logp": ()}
        shapes |= dict.fromkeys(("tail", "logz"), (len(schema.temperatures),))
        if schema.num_draws:
            shapes["counts"] = (schema.k,)
        dtypes = {"ids": torch.int32, "logp": torch.float16, "counts": torch.uint8}
        self._gold = np.empty(num_rows, schema.token_dtype)
        self._kept = {
            name: torch.empty((num_rows, *shape), dtype=dtypes.get(name, torch.float32), pin_memory=of_device)
            for name, shape in shapes.items()
        }
        self._num_effective = torch.empty(num_rows, pin_memory=of_device) if of_mixtures else None
        self._copied = torch.Event(device) if of_device else None

    def put(self, first: int, gold: np.ndarray, reduced: Reduced, num_effective: torch.Tensor | None) -> None:
        """Take what is kept of the rows from ``first`` on; ``num_effective`` where they are mixtures."""
        at = slice(first, first + len(gold))
        self._gold[at] = gold
        for name, kept in self._kept.items():
            # Converted where it is: a copy that also converts would wait for itself.
            kept[at].copy_(getattr(reduced, name).to(kept.dtype), non_blocking=True)
        if self._num_effective is not None and num_effective is not None:
            self._num_effective[at].copy_(num_effective, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def positions(self) -> Positions:
        """Return the rows as a writer takes them."""
        if self._copied is not None:
            self._copied.synchronize()
        kept = {name: tensor.numpy() for name, tensor in self._kept.items()}
        return Positions(tokens=self._gold, **kept | {"ids": kept["ids"].astype(self._schema.token_dtype)})

    def num_effective(self) -> np.ndarray | None:
        """Return float32 ``[n]``: how many hypotheses each row mixes in effect; None where rows are no mixtures."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._num_effective.numpy() if self._num_effective is not None else None


@torch.no_grad()
def compute_shard(
    model: NextTokenModel, schema: DumpSchema, shard: int, batches: Iterable[ShardBatch], *, device: torch.device
) -> ShardRows:
    """Return all positions of a shard from its batches. The model should be in evaluation mode."""
    kept = ShardRows(schema, shard, device, of_mixtures=isinstance(model, MixtureModel))
    generator = draw_generator(schema.draw_seed, shard, device)
    for batch in batches:
        states = model.states(batch.inputs)[batch.inside]
        for row in range(0, len(states), LOGIT_ROWS):
            part = slice(row, row + LOGIT_ROWS)
            gold = torch.from_numpy(batch.gold[part]).to(device, non_blocking=True)
            logits = model.logits(states[part]).float()
            reduced = reduce_logits(
                logits,
                gold,
                k=schema.k,
                num_top=schema.num_top,
                temperatures=schema.temperatures,
                generator=generator,
            )
            num_effective = model.num_effective(states[part]) if isinstance(model, MixtureModel) else None
            kept.put(batch.first + row, batch.gold[part], reduced, num_effective)
    return kept


def _write(writer: DumpWriter, shard: int, rows: ShardRows) -> None:
    writer.write_shard(shard, rows.positions(), rows.num_effective())
