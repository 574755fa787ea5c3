"""What a trained teacher says of a split with its trees: figures that must never be taken for each other.

given the tree    -log p(w_t | x_<t, y_<t, SHIFT), the distribution that is dumped; the tree may come from a parser
that saw the whole sentence, so it can leak what is to come
joint             -log p(x, y), words and actions: an upper bound on -log p(x)

What it says of text without trees is in ``teacher.beam_scoring``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.corpus.dataset.dataset import Split, load_dataset
from pipeline.corpus.dataset.oracle import SHIFT
from pipeline.dumping.next_token import log_probs_of
from pipeline.evaluation.perplexity import GIVEN_TREE, JOINT
from pipeline.evaluation.sentence_models import evaluate_split
from pipeline.runtime.distributed import joined
from pipeline.runtime.run_directory import Which
from pipeline.training.batching import consecutive_batches
from pipeline.training.model_files import ModelFiles
from storage.locations import Place
from storage.ragged import Ragged
from teacher.beam_scoring import marginal_log_probs
from teacher.rnng import Rnng
from teacher.teacher_config import BeamConfig
from teacher.teacher_source import check_reads
from teacher.train_teacher import load_teacher

BATCH_TOKENS = 8192


def evaluate_perplexity(
    model: Path,
    data: Place,
    *,
    split: str,
    floor: Path | None,
    device: str,
    marginal: BeamConfig | None = None,
    which: Which = "best",
) -> dict[str, Any]:
    """Measure both figures of a split, write them beside the run, return a summary.

    With ``marginal`` the figures of the text without its trees are added, by a beam search of these sizes.
    """
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate perplexity")
        teacher, run = load_teacher(model, where, which)
        dataset = load_dataset(data)
        check_reads(run, dataset)
        ModelFiles.of_run(run, which).check_writable()
        sentences = dataset.split(split)
        teacher.cache_inputs()
        token_log_probs, action_shares = _log_probs(teacher, sentences)
        log_probs = {
            GIVEN_TREE: token_log_probs,
            JOINT: Ragged(token_log_probs.values + action_shares, token_log_probs.offsets),
        }
        settings: dict[str, Any] = {"batch_tokens": BATCH_TOKENS, "device": where.type, "dtype": "float32"}
        settings |= {"tree_source": dataset.tree_source, "context": "sentence by sentence"}
        if marginal is not None:
            more, search = marginal_log_probs(teacher, marginal, sentences.tokens)
            log_probs, settings = log_probs | more, settings | search
        return evaluate_split(ModelFiles.of_run(run, which), sentences, log_probs, floor=floor, settings=settings)


@torch.no_grad()
def _log_probs(model: Rnng, split: Split) -> tuple[Ragged, np.ndarray]:
    """Return log-probabilities by position: of its token, and float32 ``[P]`` of the actions since the one before.

    The actions after the last token belong to ``<eos>``.
    """
    token_log_probs, shares = (np.zeros(split.num_positions, np.float32) for _ in range(2))
    offsets = split.position_offsets
    for first, stop in consecutive_batches(np.diff(offsets), BATCH_TOKENS):
        rows = np.arange(first, stop)
        schedule = model.prepare(split.tokens.take(rows), split.actions.take(rows))
        states, action_log_probs = model.states_and_action_log_probs(schedule)
        token_log_probs[offsets[first] : offsets[stop]] = log_probs_of(model, states, schedule.gold)
        is_shift = schedule.actions.values == SHIFT
        # A SHIFT closes its position; only the REDUCE of TOP, which is certain, comes after a sentence's last one.
        position = np.cumsum(is_shift) - is_shift
        position[schedule.actions.offsets[1:] - 1] -= 1
        np.add.at(shares, offsets[first] + position, action_log_probs.values)
    return Ragged(token_log_probs, offsets), shares
