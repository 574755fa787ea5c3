"""Compare the speed of beam search with that of matrix products alone, and with that of another version of its code.

    python -m benchmarks.beam [--quick] [--json FILE] [--data DATASET --teacher RUN [--split dev]] [--before CHECKOUT]

One process with one thread searches. Without --data and --teacher, it searches sentences of 5 to 39 random tokens, with
a model of size 256 that has random weights and a vocabulary of 12,000. With random weights a search rarely ends early,
so it is slower than with a trained model.

The name of each figure ends with the beam and the word beam: _50_10 or _10_5. A position is a token or ``<eos>``.
Figures per token do not count ``<eos>``.

beam_floor_*       Operations per second of the search / operations per second of a float32 product of two 2,048 x 2,048
                   matrices. Only matrix products count as operations of the search, but its seconds include all other
                   work. So the figure is always below 1. It is the median of three rounds (``--quick``: one).
vocabulary_share_* An estimate of the share of these operations that compute logits of the vocabulary. It assumes that
                   every position has ``beam`` candidates and no two sentences begin alike.
before_ratio_*     Tokens per CPU second with this code / with the code in CHECKOUT, another checkout of this project.
before_largest_difference_*  The largest absolute difference between the log-probabilities that the two codes give a
                   gold token, in nats.
before_mean_difference_*  The absolute difference between the means of these log-probabilities, in nats.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import ROOT, interleaved, parser, report, use_one_thread
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
MATRIX = 2048
BEAMS = ((50, 10), (10, 5))


def main() -> None:
    """Measure and print the figures."""
    options = parser(__doc__ or "")
    options.add_argument("--data", type=Path, help="a dataset; needs --teacher")
    options.add_argument("--teacher", type=Path, help="the run of a teacher trained on this dataset")
    options.add_argument("--split", default="dev")
    options.add_argument("--before", type=Path, help="another checkout of this project to compare with")
    options.add_argument(
        "--search", nargs=3, metavar=("OUT", "BEAM", "WORD_BEAM"), help="used by --before: search once, write to OUT"
    )
    chosen = options.parse_args()
    use_one_thread()
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
    if chosen.search:
        out, beam, word_beam = chosen.search
        search_once(model, tokens, BeamConfig(beam=int(beam), word_beam=int(word_beam)), Path(out))
        return
    figures: dict[str, float] = {"sentences": len(tokens), "tokens": len(tokens.values)}
    for beam, word_beam in BEAMS:
        found = measure(model, tokens, BeamConfig(beam=beam, word_beam=word_beam), rounds=rounds)
        if chosen.before:
            found |= compare(chosen.before, (beam, word_beam), rounds=rounds)
        figures |= {f"{name}_{beam}_{word_beam}": value for name, value in found.items()}
    report(figures, chosen)


def measure(model: Rnng, tokens: Ragged, config: BeamConfig, *, rounds: int) -> dict[str, float]:
    """Return the figures that concern this code alone."""
    search = BeamSearch(model, config)
    with FlopCounterMode(display=False) as counter:
        found = search.search(tokens)
    flops = counter.get_total_flops()
    square = torch.randn(MATRIX, MATRIX)
    seconds = interleaved({"beam": lambda: search.search(tokens), "matrix": lambda: square @ square}, rounds)
    shares = [flops / a * b / (2 * MATRIX**3) for a, b in zip(seconds["beam"], seconds["matrix"], strict=True)]
    ended = found.prefix_log_probs.values[found.prefix_log_probs.offsets[1:] - 1]
    num_positions = len(found.token_log_probs.values)
    return {
        "beam_floor": statistics.median(shares),
        "beam_tokens_per_s": len(tokens.values) / statistics.median(seconds["beam"]),
        "mflop_per_position": 1e-6 * flops / num_positions,
        "vocabulary_share": config.beam * 2 * model.token_embedding.numel() * num_positions / flops,
        "matrix_gflops": 2e-9 * MATRIX**3 / statistics.median(seconds["matrix"]),
        "mean_num_effective": float(found.num_effective.values.mean()),
        "share_without_complete_candidate": float(np.isneginf(ended).mean()),
        "perplexity": float(np.exp(-found.token_log_probs.values.mean())),
    }


def search_once(model: Rnng, tokens: Ragged, config: BeamConfig, out: Path) -> None:
    """Search once, and write the CPU seconds and the log-probabilities of all positions to a file."""
    start = time.process_time()
    found = BeamSearch(model, config).search(tokens)
    np.savez(out, seconds=time.process_time() - start, log_probs=found.token_log_probs.values)


def compare(checkout: Path, beams: tuple[int, int], *, rounds: int) -> dict[str, float]:
    """Return the figures that compare this code with the code in another checkout."""
    typed = sys.argv[1:]
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, root in (("after", ROOT), ("before", checkout)):
                # -P: this file imports the search from ``root`` and not from its own folder.
                command = [sys.executable, "-P", __file__, *typed, "--search", f"{folder}/{name}.npz", *map(str, beams)]
                subprocess.run(command, env=os.environ | {"PYTHONPATH": str(root)}, check=True)
            after, before = (dict(np.load(f"{folder}/{name}.npz")) for name in ("after", "before"))
            ratios.append(float(before["seconds"] / after["seconds"]))
    difference = after["log_probs"] - before["log_probs"]
    return {
        "before_ratio": statistics.median(ratios),
        "before_largest_difference": float(np.abs(difference).max()),
        "before_mean_difference": float(abs(difference.mean())),
    }


if __name__ == "__main__":
    main()
