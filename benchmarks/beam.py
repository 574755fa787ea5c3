"""Measure how fast the beam search is, on one thread: beam 10, word beam 5.

    python -m benchmarks.beam [--quick] [--json FILE] [--data DATASET --teacher RUN [--split dev]]

Without --data and --teacher, sentences are 5 to 39 random tokens, and a model of size 256 with a vocabulary of 12,000
has random weights. This is slower than a trained model: all actions are about equally probable, so most positions end
only at the limit on actions. With a trained model a position ends when its best candidates are found.
"""

from pathlib import Path

import numpy as np
import torch

from benchmarks.common import interleaved, parser, report
from pipeline.corpus.dataset.dataset_store import load_dataset
from storage.ragged import Ragged
from teacher.beam import BeamSearch
from teacher.rnng import Rnng
from teacher.teacher_config import BeamConfig, TeacherConfig
from teacher.train_teacher import load_teacher

VOCAB_SIZE = 12_000
NUM_LABELS = 27
"""The number of labels in GUM."""
EOS_ID = 1


def main() -> None:
    """Measure and print the figures."""
    options = parser(__doc__ or "")
    options.add_argument("--data", type=Path, help="a dataset, with --teacher")
    options.add_argument("--teacher", type=Path, help="the run of a teacher of this dataset")
    options.add_argument("--split", default="dev")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    num_sentences, rounds = (32, 1) if chosen.quick else (256, 3)
    if chosen.data is not None:
        model, _ = load_teacher(chosen.teacher, torch.device("cpu"))
        tokens = load_dataset(chosen.data).split(chosen.split).tokens
        rows = np.random.default_rng(1).choice(len(tokens), min(num_sentences, len(tokens)), replace=False)
        tokens = tokens.take(rows)
    else:
        torch.manual_seed(1)
        model = Rnng(TeacherConfig(), vocab_size=VOCAB_SIZE, num_labels=NUM_LABELS, eos_id=EOS_ID).eval()
        generator = np.random.default_rng(1)
        lengths = generator.integers(5, 40, num_sentences)
        tokens = Ragged.from_lengths(generator.integers(2, VOCAB_SIZE, int(lengths.sum())), lengths)
    report(measure(model, tokens, rounds=rounds), chosen)


def measure(model: Rnng, tokens: Ragged, *, rounds: int) -> dict[str, float]:
    """Return the figures, medians over rounds. ``<eos>`` does not count as a token."""
    search = BeamSearch(model, BeamConfig(beam=10, word_beam=5))
    found = search.search(tokens)
    seconds = interleaved({"beam": lambda: search.search(tokens)}, rounds)["beam"]
    ended = found.prefix_log_probs.values[found.prefix_log_probs.offsets[1:] - 1]
    return {
        "sentences": len(tokens),
        "tokens": len(tokens.values),
        "beam_tokens_per_s": len(tokens.values) / float(np.median(seconds)),
        "mean_num_effective": float(found.num_effective.values.mean()),
        "share_without_complete_candidate": float(np.isneginf(ended).mean()),
        "perplexity": float(np.exp(-found.token_log_probs.values.mean())),
    }


if __name__ == "__main__":
    main()
