"""The dump: any next-token model's distributions of a whole split, shard by shard, into a store.

Batches are cut inside a shard, in corpus order, from (dataset, shard, budget) alone; a sentence across a boundary is
computed whole for both shards. So a shard's bytes depend on nothing else: not on rank, world size, order or
interruptions.

What is kept of a position's distribution is the business of ``pipeline.reduction``.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.batching import consecutive_batches
from pipeline.corpus.dataset import Dataset, Split
from pipeline.dump_config import DumpConfig
from pipeline.next_token import LOGIT_ROWS, NextTokenModel, append_eos
from pipeline.reduction import draw_generator, reduce_logits
from pipeline.runtime.distributed import World, device_model
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_directory import command_line, versions
from storage.layout import sentences_of_range
from storage.positions import Positions
from storage.schema import DumpSchema
from storage.statistics import DumpSummary
from storage.writer import DumpWriter


def dump(
    model: NextTokenModel,
    dataset: Dataset,
    config: DumpConfig,
    *,
    out: Path,
    teacher: str,
    world: World,
    device: torch.device,
) -> DumpSummary | None:
    """Write a split's distributions into the store ``out``, or finish what an interrupted call began.

    Args:
        model: On ``device``, in evaluation mode.
        dataset: The dataset the model was trained on, or another of the same tokenizer and labels.
        config: What to write.
        out: The store; ``OUT.history.jsonl`` beside it records who wrote it when.
        teacher: Fingerprint of the model.
        world: The processes that share the work.
        device: Recorded by its model name, since it can change bits.

    Returns:
        The finished dump's figures on the main rank, None on the others.
    """
    split = dataset.split(config.split)
    schema = _schema(model, dataset, config, teacher=teacher, device=device)
    offsets = split.position_offsets
    eos_id = dataset.tokenizer.eos_id
    with contextlib.ExitStack() as stack:
        todo = torch.zeros(schema.layout.num_shards, dtype=torch.uint8, device=device)
        main_writer = world.on_main(lambda: stack.enter_context(DumpWriter.open(out, schema, offsets, main=True)))
        if main_writer is not None:
            main_writer.log(_event("begin", world))
            todo[main_writer.pending()] = 1
        world.broadcast(todo)
        writer = main_writer or stack.enter_context(DumpWriter.open(out, schema, offsets, main=False))
        shards = todo.nonzero()[:, 0].tolist()[world.rank :: world.size]
        num_positions = sum(len(schema.layout.rows_of(shard)) for shard in shards)
        with Progress("dump", total=num_positions, unit="positions", shown=world.is_main) as progress:
            for shard in shards:
                positions = compute_shard(
                    model, split, schema, shard, eos_id=eos_id, batch_tokens=config.batch_tokens, progress=progress
                )
                writer.write_shard(shard, positions)
        world.barrier()
        if not world.is_main:
            return None
        with Progress("verify", total=len(todo), unit="shards") as progress:
            summary = writer.finish(progress.update)
        writer.log(_event("complete", world))
        return summary


def _schema(
    model: NextTokenModel, dataset: Dataset, config: DumpConfig, *, teacher: str, device: torch.device
) -> DumpSchema:
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
        draw_seed=config.draw_seed if config.select != "topk" else 0,
        tree_source=dataset.tree_source,
        split=config.split,
        fingerprints={
            "dataset": dataset.sha256,
            "split": split.sha256,
            "tokenizer": dataset.tokenizer.sha256,
            "teacher": teacher,
        },
        computation={
            "threads": torch.get_num_threads(),
            "batch_tokens": config.batch_tokens,
            "dtype": "float32",
            "device": device_model(device),
            **versions(),
        },
    )


def _event(what: str, world: World) -> dict[str, str | int]:
    """What happened and by whom: true of this call only, so it never goes into the store."""
    return {
        "event": what,
        "host": socket.gethostname(),
        "world_size": world.size,
        "command": command_line(),
    }


@torch.no_grad()
def compute_shard(
    model: NextTokenModel,
    split: Split,
    schema: DumpSchema,
    shard: int,
    *,
    eos_id: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> Positions:
    """Return all positions of a shard, in order. The model should be in evaluation mode."""
    rows = schema.layout.rows_of(shard)
    ids_dtype = schema.token_dtype
    shape = (len(rows), schema.k)
    num_temperatures = len(schema.temperatures)
    kept = Positions(
        tokens=np.empty(len(rows), ids_dtype),
        ids=np.empty(shape, ids_dtype),
        logp=np.empty(shape, np.float16),
        gold_logp=np.empty(len(rows), np.float32),
        tail=np.empty((len(rows), num_temperatures), np.float32),
        logz=np.empty((len(rows), num_temperatures), np.float32),
        counts=np.empty(shape, np.uint8) if schema.num_draws else None,
    )
    generator: torch.Generator | None = None
    for begin, states, gold in _states_of(model, split, rows, eos_id=eos_id, batch_tokens=batch_tokens):
        generator = generator or draw_generator(schema.draw_seed, shard, states.device)
        for row in range(0, len(states), LOGIT_ROWS):
            part = states[row : row + LOGIT_ROWS]
            target = torch.from_numpy(gold[row : row + LOGIT_ROWS]).to(part.device)
            reduced = reduce_logits(
                model.logits(part).float(),
                target,
                k=schema.k,
                num_top=schema.num_top,
                temperatures=schema.temperatures,
                generator=generator,
            )
            at = slice(begin - rows.start + row, begin - rows.start + row + len(part))
            kept.tokens[at] = gold[row : row + LOGIT_ROWS]
            kept.ids[at] = reduced.ids.cpu().numpy()
            kept.logp[at] = reduced.logp.cpu().numpy()
            kept.gold_logp[at] = reduced.gold_logp.cpu().numpy()
            kept.tail[at] = reduced.tail.cpu().numpy()
            kept.logz[at] = reduced.logz.cpu().numpy()
            if kept.counts is not None and reduced.counts is not None:
                kept.counts[at] = reduced.counts.cpu().numpy()
        if progress is not None:
            progress.update(len(states))
    return kept


def _states_of(
    model: NextTokenModel, split: Split, rows: range, *, eos_id: int, batch_tokens: int
) -> Iterator[tuple[int, Tensor, np.ndarray]]:
    """Yield (position, states, gold tokens) of runs that together cover the positions ``rows``."""
    offsets = split.position_offsets
    sentences = sentences_of_range(offsets, rows)
    lengths = np.diff(offsets[sentences.start : sentences.stop + 1])
    for first, stop in consecutive_batches(lengths, batch_tokens):
        batch = np.arange(sentences.start + first, sentences.start + stop)
        tokens = split.tokens.take(batch)
        states = model.states(tokens, split.actions.take(batch))
        gold = append_eos(tokens, eos_id).values
        begin = int(offsets[batch[0]])
        inside = slice(max(rows.start - begin, 0), rows.stop - begin)
        yield max(begin, rows.start), states[inside], gold[inside]
