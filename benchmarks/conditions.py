"""Compare two kinds of next-token distributions of a teacher: given the dataset's tree, and by beam search without it.

    python -m benchmarks.conditions --data DATASET --teacher RUN [--split dev] [--beams 10/5,100/20] [--quick]
                                    [--json FILE]

Every position has two distributions over the whole vocabulary. The first is conditioned on the dataset's tree:
p(w | x_<t, y_<t, SHIFT), with the tokens x_<t and the actions y_<t so far. The parser or person that made this tree saw
the whole sentence. The second distribution is the mixture over the trees that a beam search finds for x_<t. The figures
of each beam size (beam and word beam) are:

kl_tree_from_mixture    KL(given the tree || mixture), in nats per position. ``kl_mixture_from_tree`` is the reverse KL.
perplexity_mixture      Perplexity of the gold tokens under the mixture. ``perplexity_tree``: under the distribution
                        given the tree.
perplexity_sum          Perplexity from p(words) of each sentence: the sum of p(words, tree) over the complete trees
                        that the search finds. ``perplexity_parse``: from p(words, best parse).
                        ``perplexity_joint``: from p(words, the dataset's tree).
f1, f1_unlabelled       F1 of the best parses against the dataset's trees, counted as by ``evaluate parses``.
effective               Effective number of candidate trees: exp of the entropy of their weights. Mean over positions.
incomplete              The share of sentences for which the search ends without a complete tree.
tokens_per_s            The rate of the search on one thread.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import parser, report, use_one_thread
from pipeline.corpus.dataset.dataset_store import Split, load_dataset
from pipeline.corpus.dataset.oracle import actions_to_tree
from pipeline.corpus.trees.bracket_scores import score_parses
from pipeline.dumping.next_token import LOGIT_ROWS, append_eos
from pipeline.runtime.progress import Progress
from teacher.beam import BeamTeacher
from teacher.levels import TreeBatch
from teacher.rnng import Rnng
from teacher.teacher_config import BeamConfig
from teacher.train_teacher import load_teacher

BLOCK_SENTENCES = 64


def main() -> None:
    """Measure and print the figures."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="a dataset")
    options.add_argument("--teacher", type=Path, required=True, help="the run of a teacher trained on this dataset")
    options.add_argument("--split", default="dev")
    options.add_argument("--beams", default="10/5,20/10,50/10,100/20", help="beam sizes: BEAM/WORD_BEAM,...")
    given = options.parse_args()
    use_one_thread()
    model, _ = load_teacher(given.teacher, torch.device("cpu"))
    split = load_dataset(given.data).split(given.split)
    rows = np.arange(0, split.num_sentences, max(1, split.num_sentences // 64) if given.quick else 1)
    report(measure(model, split, rows, given), given)


@torch.no_grad()
def measure(model: Rnng, split: Split, rows: np.ndarray, given: argparse.Namespace) -> dict[str, float]:
    """Return the figures of every beam size. ``rows`` are the numbers of the sentences to search."""
    figures: dict[str, float] = {"sentences": len(rows), "tokens": int(split.tokens.lengths[rows].sum())}
    for pair in given.beams.split(","):
        beam, word_beam = map(int, pair.split("/"))
        found = compare(model, split, rows, BeamConfig(beam=beam, word_beam=word_beam))
        figures |= {f"{name}_{beam}_{word_beam}": value for name, value in found.items()}
    return figures


def compare(model: Rnng, split: Split, rows: np.ndarray, config: BeamConfig) -> dict[str, float]:
    """Return the figures of one beam size."""
    teacher = BeamTeacher(model, config)
    sums = dict.fromkeys(("tree", "mixture", "sum", "parse", "joint", "kl_tree", "kl_mixture", "effective"), 0.0)
    gold_trees, parses, seconds, incomplete, positions = [], [], 0.0, 0, 0
    with Progress(f"beam {config.beam}, {config.word_beam}", total=len(rows), unit="sentences") as progress:
        for first in range(0, len(rows), BLOCK_SENTENCES):
            block = rows[first : first + BLOCK_SENTENCES]
            tokens, actions = split.tokens.take(block), split.actions.take(block)
            start = time.perf_counter()
            found = teacher.search.search(tokens, with_states=True)
            seconds += time.perf_counter() - start
            schedule = model.prepare(tokens, actions)
            states, gold = model.states(schedule), torch.from_numpy(append_eos(tokens, model.eos_id).values)
            assert found.states is not None
            for at in range(0, len(gold), LOGIT_ROWS):
                part = slice(at, at + LOGIT_ROWS)
                tree = model.logits(states[part]).log_softmax(1)
                mixture = teacher.logits(found.states[part])
                sums["tree"] += float(tree.gather(1, gold[part, None]).sum())
                sums["kl_tree"] += float((tree.exp() * (tree - mixture)).sum())
                sums["kl_mixture"] += float((mixture.exp() * (mixture - tree)).sum())
            ends = found.prefix_log_probs.values[found.prefix_log_probs.offsets[1:] - 1]
            is_complete = np.isfinite(ends)
            sums["mixture"] += found.token_log_probs.values.sum()
            sums["sum"] += np.where(is_complete, ends, found.parse_log_probs).sum()
            sums["parse"] += found.parse_log_probs.sum()
            sums["joint"] -= float(model(TreeBatch(schedule=schedule, num_positions_global=1))[0])
            sums["effective"] += found.num_effective.values.sum()
            incomplete += int((~is_complete).sum())
            positions += len(gold)
            gold_trees += [actions_to_tree(map(int, row))[0] for row in actions]
            parses += found.phrases
            progress.update(len(block))
    labelled = model.config.strategy == "top-down"
    agreement = score_parses(gold_trees, parses, labelled=labelled)
    perplexities = {
        f"perplexity_{name}": float(np.exp(-sums[name] / positions))
        for name in ("tree", "mixture", "sum", "parse", "joint")
    }
    return {
        "kl_tree_from_mixture": sums["kl_tree"] / positions,
        "kl_mixture_from_tree": sums["kl_mixture"] / positions,
        **perplexities,
        **({"f1": agreement.f1 or 0.0} if labelled else {}),
        "f1_unlabelled": agreement.unlabelled_f1 or 0.0,
        "effective": sums["effective"] / positions,
        "incomplete": incomplete / len(rows),
        "tokens_per_s": float(split.tokens.lengths[rows].sum()) / seconds,
    }


if __name__ == "__main__":
    main()
